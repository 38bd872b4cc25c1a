"""
llama.cpp's `--override-tensor PATTERN=BUFFER,…`: tensors whose names match a pattern lie where it says.

The first pattern that is found anywhere in a tensor's name wins; `--n-cpu-moe` and `--cpu-moe` are patterns too.
Sources (b11434): common/arg.cpp, parse_tensor_buffer_overrides; src/llama-model-loader.cpp, buft_for_tensor.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.gguf import gguf_facts, rope_factor_bytes, rope_factor_tensors
from vram_planner.architecture.gguf_tensors import (
    LONG_ROPE_FACTORS,
    ROPE_FACTORS,
    layer_tensor,
    outside_tensor,
)
from vram_planner.architecture.precision import Place
from vram_planner.engines.llama_cpp_layer_inputs import with_first_layer
from vram_planner.engines.llama_cpp_layout import (
    HOST,
    device_of,
    is_experts,
    outside,
    sizes_of,
)
from vram_planner.errors import RequestError

if TYPE_CHECKING:
    from vram_planner.architecture.gguf import GgufMix
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.engines.llama_cpp_layout import Setting

Overrides = tuple[tuple[str, int], ...]
_CUDA = re.compile(r"CUDA(\d{1,3})")
_ONLY_IN_PYTHON = re.compile(r"(?<!\\)(?:\\\\)*\(\?(?![:=!])|\\[AZ]|\\Q|\\p")
_EMBEDDING = "token_embd.weight"
_LONGEST = 4096


class Moved(NamedTuple):
    """A tensor with a place of its own: our name of it, the file's, and its bytes on CUDA and on the host."""

    ours: str
    name: str
    gpu: int
    host: int


def parse(text: str | None, gpus: int) -> Overrides:
    """
    Patterns with their device, HOST for CPU, as llama.cpp takes them apart: at commas, then at the first '='.

    So a pattern has neither. Raises RequestError for what it refuses, and for a card that is not used.
    """
    if not text:
        return ()
    if len(text) > _LONGEST:
        raise RequestError("--override-tensor is too long", hint=f"at most {_LONGEST} characters")
    return tuple(_one(part, gpus) for part in text.split(","))


def _one(part: str, gpus: int) -> tuple[str, int]:
    pattern, equals, buffer = part.partition("=")
    if not equals or not pattern:
        raise RequestError(
            f"--override-tensor {part[:40]!r} is no PATTERN=BUFFER",
            hint=r"as in 'blk\.[0-9]\.ffn_.*_exps=CPU'; llama.cpp ends a pattern at ',' and '='",
        )
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        raise RequestError(
            f"--override-tensor: {pattern[:40]!r} is no regular expression", hint="check its brackets"
        ) from None
    if _ONLY_IN_PYTHON.search(pattern):
        raise RequestError(
            f"--override-tensor: {pattern[:40]!r} is not what C++'s regular expressions know",
            hint="write it without (?…) groups other than (?:…), (?=…) and (?!…)",
        )
    if buffer == "CPU":
        return pattern, HOST
    card = _CUDA.fullmatch(buffer)
    if card is None or int(card[1]) >= gpus:
        raise RequestError(
            f"--override-tensor: no buffer type {buffer[:20]!r} on {gpus} GPU{'s' * (gpus > 1)}",
            hint="CPU, " + ", ".join(f"CUDA{index}" for index in range(min(gpus, 4))),
        )
    return pattern, int(card[1])


def place_of(name: str, overrides: Overrides) -> int | None:
    """The device that the first matching pattern gives to a tensor; None where none matches."""
    return next((device for pattern, device in overrides if re.search(pattern, name)), None)


def tensors_of(architecture: Architecture, mix: GgufMix, index: int | None) -> tuple[Moved, ...]:
    """All tensors of a layer, or of the output (None), with their names in the file; kept beside the architecture."""
    kept: dict[tuple[str, int | None], tuple[Moved, ...]] = vars(architecture).setdefault(
        "_llama_cpp_tensors", {}
    )
    if (mix.name, index) not in kept:
        kept[mix.name, index] = _tensors(architecture, mix, index)
    return kept[mix.name, index]


def _tensors(architecture: Architecture, mix: GgufMix, index: int | None) -> tuple[Moved, ...]:
    weights = outside(architecture) if index is None else architecture.layers[index].weights
    found = _named(mix, weights, Place(architecture, index))
    if index == 0:
        found += _named(mix, with_first_layer(architecture), Place(architecture, None))
    return found


def _named(mix: GgufMix, weights: tuple[Weight, ...], place: Place) -> tuple[Moved, ...]:
    architecture, pieces = place.architecture, []
    names: list[str] = []
    for weight in weights:
        for stored, piece in mix.stored(weight, place):
            names.append(piece.name if piece.name not in names else f"mixer.{piece.name}")
            pieces.append(sizes_of(stored, piece))
    beside = {*names, *(("qkv_proj",) if gguf_facts(architecture)["fused"] else ())}
    kind = architecture.model_type
    return tuple(
        Moved(
            name,
            (
                outside_tensor(name, kind)
                if place.layer is None
                else layer_tensor(name, place.layer, kind, beside)
            )
            or "",
            *sizes,
        )
        for name, sizes in zip(names, pieces, strict=True)
    )


def moved(architecture: Architecture, mix: GgufMix, setting: Setting, index: int | None) -> dict[str, int]:
    """
    Of a layer's tensors, or the output's, those that do not lie with it: our name -> the device, or HOST.

    The patterns come first, then --n-cpu-moe, as the command has them.
    """
    kept: dict[tuple[object, ...], dict[str, int]] = vars(architecture).setdefault("_llama_cpp_moved", {})
    count = len(architecture.layers)
    home = device_of(count if index is None else index, count, setting)
    apart = index is not None and index < setting.moe_on_host
    key = (mix.name, setting.overrides, index, home, apart)
    if key not in kept:
        found = {}
        for tensor in tensors_of(architecture, mix, index):
            place = place_of(tensor.name, setting.overrides)
            if place is None and apart and is_experts(tensor.ours):
                place = HOST
            if place is not None and place != home:
                found[tensor.ours] = place
        kept[key] = found
    return kept[key]


def overridden_bytes(architecture: Architecture, mix: GgufMix, setting: Setting, device: int) -> int:
    """Bytes that patterns bring to a GPU or the host, less those that they take from it."""
    total, count = 0, len(architecture.layers)
    plain = setting.without_overrides
    for index in (*range(count), None):
        home = device_of(count if index is None else index, count, setting)
        before, after = moved(architecture, mix, plain, index), moved(architecture, mix, setting, index)
        if before == after:
            continue
        for tensor in tensors_of(architecture, mix, index):
            size = tensor.host if device == HOST else tensor.gpu
            was, now = before.get(tensor.ours, home), after.get(tensor.ours, home)
            if index is None and tensor.ours == "embed_tokens" and device == HOST:
                continue  # the tied head on the host is the embedding itself
            total += size * ((now == device) - (was == device))
    return total


def check_overrides(architecture: Architecture, overrides: Overrides) -> None:
    """Refuse what is not modelled: an embedding, or rotary factors, on another device than llama.cpp's own choice."""
    place = place_of(_EMBEDDING, overrides)
    if place is not None and place != HOST:
        raise RequestError(
            "--override-tensor: the token embedding on a GPU is not modelled",
            hint="write patterns that do not match token_embd.weight: 'blk…'",
        )
    names = LONG_ROPE_FACTORS if rope_factor_tensors(architecture) > 1 else (ROPE_FACTORS,)
    if rope_factor_bytes(architecture) and any(place_of(name, overrides) is not None for name in names):
        raise RequestError(
            "--override-tensor: rotary factors on another device are not modelled",
            hint=f"write patterns that do not match {names[0]}: 'blk…'",
        )
