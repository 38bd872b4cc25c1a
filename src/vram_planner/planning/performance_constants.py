"""Constants of the speed model as data: one file an engine, each with its sources and its fit error."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.engines.llama_cpp_builds import before
from vram_planner.engines.versions import parse_version
from vram_planner.errors import RequestError
from vram_planner.planning.performance_model import Constants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.hardware_profiles import Gpu

_FILES = Path(__file__).parent / "constants"
_NAMES = frozenset(field.name for field in fields(Constants))
# Generations of cards that behave alike, by the catalogue's architecture and compute capability.
_BY_CAPABILITY = {"8.0": "ampere", "8.6": "ampere-8.6", "8.9": "ada", "9.0": "hopper", "12.0": "blackwell-12"}
_BY_ARCHITECTURE = {
    "Volta": "volta",
    "Turing": "turing",
    "Blackwell": "blackwell",
    "CDNA3": "cdna-3",
    "CDNA4": "cdna-4",
    "RDNA3.5": "rdna-unified",
}
# Their GeForce cards multiply at half rate with float32 accumulation and come close to it; the others have the
# full rate and not the power for it.
_TWO_KINDS = frozenset({"ampere-8.6", "ada", "blackwell-12"})


def generation(gpu: Gpu) -> str:
    """The generation whose factors hold for a card."""
    capability, architecture = gpu.compute_capability or "", gpu.architecture or ""
    if capability in _BY_CAPABILITY:
        name = _BY_CAPABILITY[capability]
        return f"{name}-pro" if name in _TWO_KINDS and "GeForce" not in gpu.name else name
    if capability == "12.1":
        return "blackwell-unified"
    if architecture in _BY_ARCHITECTURE:
        return _BY_ARCHITECTURE[architecture]
    if architecture.startswith("RDNA"):
        return "rdna"
    return "apple" if gpu.vendor.lower() == "apple" else "other"


@lru_cache(maxsize=8)
def load(engine: str) -> dict[str, Any]:
    """The file of an engine: base values, and factors by era, generation, kernels and link."""
    document: dict[str, Any] = json.loads((_FILES / f"{engine}.json").read_text(encoding="utf-8"))
    return document


def era(document: dict[str, Any], version: str | None) -> str:
    """The span of versions that a version falls in; the newest where none is known."""
    return str(span(document, version)["name"])


def graph_tokens(document: dict[str, Any], version: str | None) -> int | None:
    """The longest sequence that a version decodes in graphs; None where it has no bound."""
    bound = span(document, version).get("graph_tokens")
    return None if bound is None else int(bound)


def span(document: dict[str, Any], version: str | None) -> dict[str, Any]:
    """The entry of `eras` that a version or build falls in, with what it says of the engine then; the newest if not known."""
    spans: list[dict[str, Any]] = document["eras"]
    return next((each for each in spans[:-1] if version and _is_older(version, each["below"])), spans[-1])


@lru_cache(maxsize=256)
def span_of(engine: str, version: str | None) -> dict[str, Any]:
    """The same of an engine by its name."""
    return span(load(engine), version)


def _is_older(version: str, below: str) -> bool:
    if below.startswith("b"):
        return before(version, int(below[1:]))
    try:
        return parse_version(version.removesuffix("+v0")) < parse_version(below)
    except RequestError:
        return False


@lru_cache(maxsize=256)
def constants(engine: str, span: str, cards: str, kernels: str, link: str) -> Constants:
    """
    Base value × factor of the era × of the generation × of the kernels × of the link, for each constant.

    What a file has no factor for keeps the base value: a generation that was never measured is planned as
    the average of those that were. `limits` keep a product of factors within what is physically possible.
    """
    document = load(engine)
    values = dict(document["base"])
    for table, key in (("era", span), ("generation", cards), ("kernels", kernels), ("link", link)):
        for name, factor in document["factors"].get(table, {}).get(key, {}).items():
            values[name] *= factor
    for name, (least, most) in document.get("limits", {}).items():
        values[name] = min(most, max(least, values[name]))
    return Constants(**{name: value for name, value in values.items() if name in _NAMES})


def spread(engine: str, figure: str, kind: str, setting: str) -> tuple[float, float]:
    """
    Factors from the best value to the low and high end of the band of a figure.

    They bound nine of ten measured rows of that kind whose source was left out of the fit; wider where nobody
    measured the engine with that `setting`: generation of cards, and what is served.
    """
    document = load(engine)
    return chosen(document["bands"], figure, kind, known=setting in document["settings"])


def chosen(bands: Mapping[str, list[float]], figure: str, kind: str, *, known: bool) -> tuple[float, float]:
    """The entry of a table of bands."""
    low, high = bands[f"{figure}, {kind}" if known else f"{figure}, {kind}, new"]
    return float(low), float(high)
