"""ModelOpt's mixed checkpoints: a list of modules, each with the format that its matrix is stored in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture import storage
from vram_planner.architecture.precision import Except, Uniform
from vram_planner.errors import PrecisionError
from vram_planner.model_profiles.left_out import is_draft, module_paths
from vram_planner.model_profiles.stored import MODELOPT

if TYPE_CHECKING:
    from vram_planner.architecture.model import Layer
    from vram_planner.architecture.storage import Plain, Storage
    from vram_planner.model_profiles.config import Config

_MOST_MODULES: Final = 1_000_000
_GROUP: Final = 16


def mixed_precision(base: Plain, quantisation: Config, layers: tuple[Layer, ...]) -> Except:
    """
    What `quantized_layers` names in its format, all else in `base`. Raises PrecisionError for what we do not know.

    Source: ModelOpt's hf_quant_config.json with quant_algo MIXED_PRECISION.
    """
    listed = quantisation.sub("quantized_layers")
    names = listed.names()
    if not names or len(names) > _MOST_MODULES:
        raise PrecisionError(
            f"a mixed checkpoint that lists {len(names):,} modules",
            hint="quantized_layers names each module with its quant_algo",
        )
    tensors = _tensors(layers)
    found: dict[Storage, set[tuple[int | None, str]]] = {}
    for name in names:
        if is_draft(name):
            continue
        places = tensors.get(_from_layers(name))
        if places is None:
            raise PrecisionError(
                f"quantized_layers names {name[:60]!r}, which this model does not have",
                hint="is it the quantisation of another model?",
            )
        found.setdefault(_format(listed.sub(name)), set()).update(places)
    inner = Uniform(name="mixed", base=base)
    return Except(inner=inner, mixed=tuple((stored, frozenset(places)) for stored, places in found.items()))


def _format(module: Config) -> Storage:
    algorithm = module.text("quant_algo")
    known = MODELOPT.get(algorithm)
    narrow = known is storage.NVFP4
    if known is None or (narrow and module.integer("group_size", default=_GROUP) != _GROUP):
        raise PrecisionError(
            f"unknown quant_algo {algorithm[:40]!r} of a module", hint=f"we read {', '.join(MODELOPT)}"
        )
    return known


def _from_layers(name: str) -> str:
    """From `layers.` on, with the first expert for all of them."""
    start = name.find("layers.")
    if start < 0:
        return name
    before, experts, after = name[start:].partition(".experts.")
    number, dot, matrix = after.partition(".")
    return f"{before}{experts}0{dot}{matrix}" if experts and number.isdecimal() else name[start:]


def _tensors(layers: tuple[Layer, ...]) -> dict[str, list[tuple[int | None, str]]]:
    """The paths of all matrices and of what holds several of them, each with the tensors in it."""
    found: dict[str, list[tuple[int | None, str]]] = {"lm_head": [(None, "lm_head")]}
    for index, layer in enumerate(layers):
        for name, path in module_paths(index, layer):
            steps = path.split(".")
            for cut in range(3, len(steps) + 1):
                found.setdefault(".".join(steps[:cut]), []).append((index, name))
            if ".experts.0." in path:
                found.setdefault(f"{path}_proj", []).append((index, name))
    return found
