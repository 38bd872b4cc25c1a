"""ModelOpt's mixed checkpoints: a list of modules, each with the format that its matrix is stored in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture import storage
from vram_planner.architecture.precision import Except, Uniform
from vram_planner.errors import PrecisionError
from vram_planner.model_profiles.left_out import is_draft, module_paths
from vram_planner.model_profiles.stored import MODELOPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vram_planner.architecture.model import Layer
    from vram_planner.architecture.storage import Plain, Storage
    from vram_planner.model_profiles.config import Config

_MOST_MODULES: Final = 1_000_000
_GROUP: Final = 16
# Mixtral's names of an expert's matrices, which MiniMax took over.
_W: Final = {"gate": "w1", "up": "w3", "down": "w2"}


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


def _in_files(path: str) -> Iterator[str]:
    """
    The path, and those of the files that it was made of where transformers has renamed or fused them since.

    A fused matrix counts as listed where either half is: engines fuse them too, and both are in one format.
    Source: transformers 5.23 conversion_mapping.py (minimax_m3_vl, mixtral).
    """
    renamed = path.replace(".mlp.", ".block_sparse_moe.").replace(".indexer.", ".index_")
    before, experts, matrix = renamed.partition(".experts.0.")
    if experts:
        renamed = f"{before}{experts}{_W.get(matrix, matrix)}"
    for each in (path, renamed):
        yield each
        if each.endswith("gate_up_proj"):
            yield from (each.replace("gate_up_proj", half) for half in ("gate_proj", "up_proj"))


def _tensors(layers: tuple[Layer, ...]) -> dict[str, list[tuple[int | None, str]]]:
    """The paths of all matrices and of what holds several of them, each with the tensors in it."""
    found: dict[str, list[tuple[int | None, str]]] = {"lm_head": [(None, "lm_head")]}
    for index, layer in enumerate(layers):
        for name, path in module_paths(index, layer):
            for spelt in _in_files(path):
                steps = spelt.split(".")
                for cut in range(3, len(steps) + 1):
                    found.setdefault(".".join(steps[:cut]), []).append((index, name))
            if ".experts.0." in path:
                found.setdefault(f"{path}_proj", []).append((index, name))
    return found
