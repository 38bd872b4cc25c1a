"""Modules that a quantised checkpoint leaves in 16 bits: their names and patterns, matched against our tensors."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.precision import Except
from vram_planner.architecture.weight import Role
from vram_planner.errors import PrecisionError
from vram_planner.model_profiles.patterns import pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vram_planner.architecture.model import Layer
    from vram_planner.architecture.precision import Uniform
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.patterns import Pattern

    # A layer's number, our name of a matrix in it, and its path in the model.
    _Listed = tuple[int, str, str]

_LONGEST_PATTERN: Final = 256
_MOST_STARS: Final = 6
_MOST_PATTERNS: Final = 20_000
_MOST_WORK: Final = 1_000_000
_SPECIAL: Final = re.compile(r"[*?\[]")
_OF_LAYER: Final = re.compile(r"layers\.(\d+)\.")
# Digits and classes, or a dot that stands for a single character: such an expression may mean certain layers.
_TELLS_NUMBERS: Final = re.compile(r"[0-9\[]|\\[dwDW]|(?<!\\)\.(?![*+])")
_AROUND: Final = re.compile(r"\*[^*?\[]+\*")
# What may stand before `layers.`: text models, and those inside a larger one. What lies elsewhere is no tensor of ours.
BEFORE: Final = ("model.", "model.language_model.", "language_model.model.", "")
# Never quantised by any of the formats, so that naming them changes nothing.
_ANYWAY: Final = (
    "norm",
    "lm_head",
    "embed",
    "router",
    "vision",
    "visual",
    "audio",
    "projector",
    ".gate",
    "correction_bias",
)


def without(
    precision: Uniform | Except, patterns: tuple[str, ...], layers: tuple[Layer, ...]
) -> Uniform | Except:
    """
    The precision, with the matrices that any of the patterns names left in 16 bits.

    A pattern is a module's name or the end or beginning of one, with `*` as in a shell (ModelOpt), or a
    regular expression after `re:` that matches from the name's beginning (compressed-tensors).
    """
    # A bare `gate` is the router's name (MiniMax-M2): the experts' own gates are called otherwise there.
    # Patterns of draft layers name layers by numbers of their own (Qwen 3.5: mtp.layers.0*).
    listed = {
        each for each in patterns if not is_draft(each) and each != "gate" and not each.endswith(_ANYWAY)
    }
    wanted = {_normal(each) for each in listed if not each.startswith("re:")}
    told = tuple(each.removeprefix("re:") for each in sorted(listed) if each.startswith("re:"))
    if not listed:
        return precision
    starred = tuple(sorted(each for each in wanted if "*" in each))
    if len(wanted) > _MOST_PATTERNS or (len(starred) + len(told)) * len(layers) > _MOST_WORK:
        raise PrecisionError(
            f"{len(listed):,} patterns of unquantised modules",
            hint="the list of the quantization_config is too long",
        )
    modules = _listed(layers)
    found = _named(wanted, modules) | _matched(starred, modules) | _expressed(told, modules)
    return _as_precision(precision, found, modules)


def _expressed(sources: tuple[str, ...], modules: list[_Listed]) -> frozenset[tuple[int, str]]:
    """What regular expressions name. Those that cannot tell one layer's number from another's are asked once a path."""
    expressions = tuple(pattern(source) for source in sources)
    if not expressions:
        return frozenset()
    numbered = any(_TELLS_NUMBERS.search(source) for source in sources)
    known: dict[tuple[str, str], bool] = {}
    found = []
    for index, name, path in modules:
        key = (path if numbered else path[len(f"layers.{index}.") :], name)
        hit = known.get(key)
        if hit is None:
            hit = known[key] = _matches(expressions, path, name)
        if hit:
            found.append((index, name))
    return frozenset(found)


def _matches(expressions: tuple[Pattern, ...], path: str, name: str) -> bool:
    """Whether an expression matches one of the names that the module may have, as vLLM's `re.match` would."""
    names = [before + path for before in BEFORE]
    if name.startswith("experts."):
        names += [f"{each}_proj" for each in names]
    return any(each.starts(full) for each in expressions for full in names)


def is_draft(pattern: str) -> bool:
    """Whether it names a module of the layers for multi-token prediction."""
    return pattern.removeprefix("re:").removeprefix("model.").startswith("mtp")


def _as_precision(
    precision: Uniform | Except, found: frozenset[tuple[int, str]], listed: list[_Listed]
) -> Uniform | Except:
    if not found:
        return precision
    if isinstance(precision, Except):
        mixed = ((stored, places - found) for stored, places in precision.mixed)
        return replace(precision, in_layers=precision.in_layers | found, mixed=tuple(mixed))
    names = {name for _, name in found}
    everywhere = all((index, name) in found for index, name, _ in listed if name in names)
    if everywhere:
        return Except(inner=precision, names=frozenset(names))
    return Except(inner=precision, in_layers=found)


def _normal(text: str) -> str:
    """From `layers.` on, where it is in the name."""
    if len(text) > _LONGEST_PATTERN:
        raise PrecisionError(
            f"the pattern {text[:40]!r}… is too long", hint="shorten the list of ignored modules"
        )
    text = re.sub(r"\*+", "*", text)
    if text.count("*") > _MOST_STARS:
        raise PrecisionError(f"the pattern {text[:60]!r} has too many stars", hint="write simpler patterns")
    start = text.find("layers.")
    return text[start:] if start >= 0 else text


def _blocks(layer: Layer) -> Iterator[tuple[str, tuple[Weight, ...]]]:
    """The names that a layer's two blocks go by; a layer with a single one calls it `mixer` (Nemotron-H)."""
    mixing, feeding = layer.mixer.weights, layer.feed_forward.weights
    yield "self_attn", mixing
    if isinstance(layer.feed_forward, MixtureOfExperts) and layer.feed_forward.beside:
        yield "", tuple(weight for weight in feeding if weight.role is Role.EXPERT)
        feeding = tuple(weight for weight in feeding if weight.role is not Role.EXPERT)
    yield "mlp", feeding
    if not (mixing and feeding):
        yield "mixer", (*mixing, *feeding)
    if layer.mixer.state is not None:
        for name in ("linear_attn", "mamba", "conv"):
            yield name, mixing


def module_paths(index: int, layer: Layer) -> Iterator[tuple[str, str]]:
    """Our name of each matrix, and the paths that transformers may give it."""
    return ((name, f"layers.{index}.{inside}") for name, inside in _inside(layer))


def _listed(layers: Iterable[Layer]) -> list[_Listed]:
    """All matrices. Layers of one kind are mostly one object, whose own names are listed once."""
    known: dict[int, tuple[tuple[str, str], ...]] = {}
    found = []
    for index, layer in enumerate(layers):
        inside = known.get(id(layer)) or known.setdefault(id(layer), _inside(layer))
        found += [(index, name, f"layers.{index}.{path}") for name, path in inside]
    return found


def _inside(layer: Layer) -> tuple[tuple[str, str], ...]:
    """Names of matrices and their paths inside a layer: layers of one kind are one and the same object."""
    found = []
    for block, weights in _blocks(layer):
        for weight in weights:
            if weight.role in (Role.LINEAR, Role.EXPERT):
                inner = (
                    weight.name.replace("experts.", "experts.0.", 1)
                    if weight.role is Role.EXPERT
                    else weight.name
                )
                found.append((weight.name, f"{block}.{inner}" if block else inner))
    return tuple(found)


def _named(wanted: set[str], listed: list[_Listed]) -> frozenset[tuple[int, str]]:
    """
    What is named by its path, or by any beginning, end or single step of it: a name stands for all inside it.

    What does not depend on the layer's number is looked up once for each path inside a layer.
    """
    numbered = any(name.startswith("layers.") or name[:1].isdigit() for name in wanted)
    known: dict[str, bool] = {}
    found = []
    for index, name, path in listed:
        inside = path[len(f"layers.{index}.") :]
        hit = known.get(inside)
        if hit is None:
            hit = known[inside] = not wanted.isdisjoint(_spellings(inside))
        if hit or (numbered and not wanted.isdisjoint(_with_number(index, inside))):
            found.append((index, name))
    return frozenset(found)


def _spellings(inside: str) -> Iterator[str]:
    steps = inside.split(".")
    yield "layers"
    yield from steps
    for cut in range(len(steps)):
        yield ".".join(steps[cut:])


def _with_number(index: int, inside: str) -> Iterator[str]:
    beginning = f"layers.{index}"
    yield str(index)
    yield f"{index}.{inside}"
    yield beginning
    for step in inside.split("."):
        beginning = f"{beginning}.{step}"
        yield beginning


def _matched(patterns: tuple[str, ...], listed: list[_Listed]) -> frozenset[tuple[int, str]]:
    """What starred patterns name. `beginning*` and `*middle*`, which long lists are made of, need no regular expression."""
    if not patterns:
        return frozenset()
    begins = tuple(p[:-1] for p in patterns if p.endswith("*") and not _SPECIAL.search(p[:-1]))
    within = tuple(p[1:-1] for p in patterns if _AROUND.fullmatch(p))
    other = [
        p for p in patterns if (not p.endswith("*") or _SPECIAL.search(p[:-1])) and not _AROUND.fullmatch(p)
    ]
    of_layer: dict[int, list[str]] = {}
    anywhere: list[str] = []
    for begin in begins:
        layer = _OF_LAYER.match(begin)
        (anywhere if layer is None else of_layer.setdefault(int(layer[1]), [])).append(begin)
    general = tuple(anywhere)
    by_layer = {index: tuple(each) for index, each in of_layer.items()}
    rest = re.compile(
        "|".join(f"(?:{fnmatch.translate(p)})|(?:{fnmatch.translate(p + '.*')})" for p in other) or r"(?!)"
    )

    def named(index: int, path: str) -> bool:
        return (
            path.startswith(general)
            or path.startswith(by_layer.get(index, ()))
            or any(middle in path for middle in within)
            or (bool(other) and rest.match(path) is not None)
        )

    return frozenset(
        (index, name) for index, name, path in listed if named(index, path) or named(index, f"model.{path}")
    )
