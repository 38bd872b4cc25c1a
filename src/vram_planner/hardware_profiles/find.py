"""A card by any of its names, a count of them, a slice of one, or one that you describe yourself."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING
from unicodedata import normalize

from vram_planner.errors import RequestError, SizeError, UnknownGpuError
from vram_planner.hardware_profiles.gpu import Gpu
from vram_planner.hardware_profiles.links import AS_BUILT, Servers
from vram_planner.hardware_profiles.mig import slice_of
from vram_planner.hardware_profiles.rows import all_gpus
from vram_planner.units import GIB, parse_size

if TYPE_CHECKING:
    from vram_planner.hardware_profiles.machine import DetectedGpu, Machine

_LONGEST_NAME = 120
_MOST_GPUS = 4096
_LARGEST_CUSTOM_BYTES = 16 * 1024 * GIB
_COUNT_FIRST = re.compile(r"([+-]?[0-9]+) ?[x*] ?(.+)", re.IGNORECASE)
_COUNT_LAST = re.compile(r"(.+?) +x ?([0-9]+)", re.IGNORECASE)
_SLICE = re.compile(r"(.+?)[ :/_-]+(?:mig[ -]*)?([0-9]g\.[0-9]+gb)([+-][a-z.]+)?", re.IGNORECASE)
_WORD = re.compile(r"[a-z0-9]+")
# Words that tell nothing apart: makers, families that are sold once, and the decorations of driver names.
_MAKERS = ("nvidia", "geforce", "amd", "apple", "intel", "tesla", "instinct", "radeon")
_NOISE = frozenset((*_MAKERS, "r", "tm", "gpu", "graphics", "generation", "edition", "card"))
_GLUED = ("nvidia", "geforce", "amd", "radeon")
_SUGGESTIONS = 5


@dataclass(frozen=True, slots=True)
class GpuChoice:
    """What a --gpu option stood for: a card, how many of it, and the text as it was asked; and how they stand."""

    gpu: Gpu
    count: int
    asked: str
    servers: Servers = AS_BUILT


def find_gpu(text: str) -> GpuChoice:
    """
    Read 'RTX 4090', '2x h100', 'A100 80GB 3g.40gb' or 'custom:24GiB@1008GB/s'.

    Case, spaces, hyphens and the maker's name do not matter. A short name stands for the product whose
    catalogue row lists it as an alias: the most common one. Listed by several rows, or printed by the
    drivers of several products and listed by none, it is refused with the products to choose from.
    """
    asked = text.strip()
    plain = " ".join(normalize("NFKC", asked[: _LONGEST_NAME + 1]).replace("\u00d7", "x").split())
    if not plain or len(plain) > _LONGEST_NAME or len(asked) > _LONGEST_NAME:
        raise UnknownGpuError(
            f"not the name of a GPU: {asked[:40]!r}{' …' if len(asked) > _LONGEST_NAME else ''}",
            hint=_LIST_THEM,
        )
    name, count = _split_count(plain)
    return GpuChoice(_find_one(name), count, asked)


def find_gpus(texts: list[str] | tuple[str, ...]) -> tuple[GpuChoice, ...]:
    """Each of several --gpu options; the first that cannot be read is refused."""
    return tuple(find_gpu(text) for text in texts)


def gpu_by_nvml_name(name: str, total_bytes: int | None) -> Gpu:
    """
    The product that NVML calls `name`, with the memory that NVML counts.

    Of several with one name (the RTX 3080 of 10 and of 12 GB) it is the one with the nearest total. A total
    that differs by more than 1 % from the catalogue's (ECC switched on, a modified card) replaces it.
    A name that the catalogue lacks gives a card of which only name and memory are known.
    """
    same_name = tuple(gpu for gpu in _index().get(_key(name), ()) if _is_device_name(gpu, name))
    same_name = same_name or _index().get(_key(name), ())
    if not same_name:
        return Gpu(name=name, reported_bytes=total_bytes, notes="not in the catalogue; as NVML named it")
    if total_bytes is None:
        return same_name[0]
    known = min(same_name, key=lambda gpu: abs(_nvml_bytes(gpu) - total_bytes))
    if known.reported_bytes is not None and abs(known.reported_bytes - total_bytes) <= total_bytes // 100:
        return known
    return replace(known, reported_bytes=total_bytes, torch_total_bytes=None)


def choices_on(machine: Machine) -> tuple[GpuChoice, ...]:
    """The usable cards of a machine, equal ones counted together, MIG slices as the devices that they are."""
    counts: dict[Gpu, int] = {}
    for detected in machine.usable_gpus:
        for gpu in _devices_of(detected):
            counts[gpu] = counts.get(gpu, 0) + 1
    return tuple(GpuChoice(gpu, count, "auto") for gpu, count in counts.items())


def _devices_of(detected: DetectedGpu) -> list[Gpu]:
    # The four Jetson Orin share one name: there the machine's RAM tells which it is.
    card = gpu_by_nvml_name(detected.name, detected.total_bytes or detected.assumed_total_bytes)
    if detected.mig_enabled:
        return [_detected_slice(card, piece.name, piece.total_bytes) for piece in detected.mig_slices]
    if detected.total_bytes is None and detected.assumed_total_bytes is not None:
        detail = detected.memory_note or "the machine's own memory"
        return [
            replace(
                card,
                reported_bytes=None,
                torch_total_bytes=None,
                given_total_bytes=detected.assumed_total_bytes,
                given_total_detail=detail,
            )
        ]
    return [card]


def _detected_slice(card: Gpu, name: str, total_bytes: int | None) -> Gpu:
    """The slice by its profile where the tables have it, with the memory that NVML counts for it."""
    match = _SLICE.fullmatch(name)
    try:
        gpu = slice_of(card, match[2].lower(), (match[3] or "").lower()) if match else None
    except UnknownGpuError:
        gpu = None
    gpu = gpu or Gpu(name=name, vendor=card.vendor, slice_of=card.name)
    if total_bytes is None:
        return gpu
    return replace(
        gpu,
        torch_total_bytes=None,
        given_total_bytes=total_bytes,
        given_total_detail="what NVML counts for this MIG slice",
    )


def _split_count(text: str) -> tuple[str, int]:
    if _is_custom(text) or _key(text) in _index():
        # A Radeon "7900 XTX" is not 7900 cards called TX.
        return text, 1
    first, last = _COUNT_FIRST.fullmatch(text), _COUNT_LAST.fullmatch(text)
    # "4090 x2" reads both ways; it is not 4090 cards called 2.
    if last and (first is None or _key(first[2]) not in _index()):
        name, count = last[1], last[2]
    elif first:
        name, count = first[2], first[1]
    else:
        return text, 1
    # Longer numbers are refused before int() sees them: it takes its time over thousands of digits.
    if len(count) > len(str(_MOST_GPUS)) + 1 or not 1 <= int(count) <= _MOST_GPUS:
        raise RequestError(
            f"{count[:12]} GPUs cannot be planned for",
            hint=f"write 1x to {_MOST_GPUS}x before the name, as in 2x RTX 4090",
        )
    return name, int(count)


def _find_one(name: str) -> Gpu:
    if _is_custom(name):
        return _custom(name.partition(":")[2])
    match = _SLICE.fullmatch(name)
    if match:
        return slice_of(_find_product(match[1]), match[2].lower(), (match[3] or "").lower())
    return _find_product(name)


def _is_custom(text: str) -> bool:
    return text[: len("custom:")].lower() == "custom:"


def _custom(text: str) -> Gpu:
    size, _, rate = text.partition("@")
    total_bytes = parse_size(size)
    if not 0 < total_bytes <= _LARGEST_CUSTOM_BYTES:
        raise SizeError(
            f"no card has {size[:32]} of memory", hint="write the total as the engine sees it: custom:24GiB"
        )
    return Gpu(
        name=f"custom:{text}",
        given_total_bytes=total_bytes,
        given_total_detail="as given",
        bandwidth_bytes_per_s=_rate(rate) if rate or "@" in text else None,
        notes="described by the user: only what was given is known",
    )


def _rate(text: str) -> int:
    try:
        rate = parse_size(text.removesuffix("/s")) if text.endswith("/s") else 0
    except SizeError:
        rate = 0
    if rate <= 0:
        raise SizeError(
            f"cannot read the bandwidth {text[:32]!r}",
            hint="write custom:24GiB@1008GB/s, with 10**9 bytes in a GB",
        )
    return rate


def _find_product(name: str) -> Gpu:
    found = _index().get(_key(name), ())
    claiming = tuple(gpu for gpu in found if _claims(gpu, name)) or found
    if len(claiming) == 1:
        return claiming[0]
    if claiming:
        raise UnknownGpuError(
            f"{name!r} is the name of {len(claiming)} products",
            hint=f"say which: {', '.join(gpu.name for gpu in claiming)}",
        )
    raise UnknownGpuError(f"no GPU {name!r} in the catalogue", hint=_nearest(name))


_LIST_THEM = "vram-plan gpus lists them; custom:24GiB describes any card"


def _nearest(name: str) -> str:
    # difflib takes 10 ms to import, and only a misspelt name needs it.
    from difflib import get_close_matches  # noqa: PLC0415

    near = get_close_matches(_key(name), _index(), n=3 * _SUGGESTIONS, cutoff=0.5)
    names = list(dict.fromkeys(gpu.name for key in near for gpu in _index()[key]))[:_SUGGESTIONS]
    return f"nearest: {', '.join(names)}; {_LIST_THEM}" if names else _LIST_THEM


def _key(name: str) -> str:
    """The letters and digits that tell products apart: 'GeForce RTX 4090' and 'rtx-4090' are rtx4090."""
    lowered = name.lower()
    if not lowered.isascii():
        # Other scripts are not just dropped: a 4090 with foreign letters around it is no name that we know.
        return lowered
    key = "".join(word for word in _WORD.findall(lowered) if word not in _NOISE)
    for word in _GLUED:
        key = key.removeprefix(word)
    return key


@cache
def _index() -> dict[str, tuple[Gpu, ...]]:
    """Every name of every product, with the products that have it."""
    index: dict[str, tuple[Gpu, ...]] = {}
    for gpu in all_gpus():
        # A dict, not a set: the order of strings in a set changes from run to run.
        for key in dict.fromkeys(map(_key, (gpu.name, *gpu.aliases, *gpu.device_names))):
            index[key] = (*index.get(key, ()), gpu)
    return index


def _claims(gpu: Gpu, name: str) -> bool:
    key = _key(name)
    return key == _key(gpu.name) or key in map(_key, gpu.aliases)


def _is_device_name(gpu: Gpu, name: str) -> bool:
    return _key(name) in map(_key, gpu.device_names)


def _nvml_bytes(gpu: Gpu) -> int:
    return gpu.reported_bytes or gpu.nameplate_bytes or 0
