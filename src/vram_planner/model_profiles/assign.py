"""The tensors of a file are dealt out to the tensors of an architecture; what does not match is told, never lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Final

from vram_planner.architecture.stored_header import GgufTensor, Spot
from vram_planner.architecture.weight import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.headers import StoredTensor
    from vram_planner.model_profiles.tensor_names import Alternatives, Meant

# Packed formats: a number in the shape is a word or a byte, not an element.
_PACKED: Final = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "F4", "BOOL"})


@dataclass(slots=True)
class Assigned:
    """
    Bytes and tensors of a file by where they belong.

    `unknown` tensors are counted in `bytes_of` too, with the norms; `main_bytes` are those of whole tensors (no
    scales or indices) by dtype. `draft_bytes`, `second_head_bytes` and
    `ignored_bytes` are not: no engine loads them for plain serving.
    """

    bytes_of: dict[Spot, int] = field(default_factory=dict)
    tensors_of: dict[Spot, list[GgufTensor]] = field(default_factory=dict)
    elements_of: dict[Spot, int] = field(default_factory=dict)
    uncounted: set[Spot] = field(default_factory=set)
    elements_by_name: dict[int | None, dict[str, int]] = field(default_factory=dict)
    main_bytes: dict[str, int] = field(default_factory=dict)
    unknown: list[StoredTensor] = field(default_factory=list)
    draft_bytes: int = 0
    second_head_bytes: int = 0
    ignored_bytes: int = 0

    def shared(self, architecture: Architecture) -> dict[Spot, int]:
        """Elements of all tensors of one name in a layer, where there are several of that name."""
        several: dict[Spot, int] = {}
        for index, layer in enumerate(architecture.layers):
            table = self.elements_by_name[index]
            if len(table) < len(layer.weights):
                names = [weight.name for weight in layer.weights]
                several |= {(index, name): table[name] for name in names if names.count(name) > 1}
        return several

    @property
    def loaded_bytes(self) -> int:
        """What an engine loads."""
        return sum(self.bytes_of.values())


def assign(
    architecture: Architecture, tensors: Iterable[StoredTensor], meaning: Callable[[str, int], Meant]
) -> Assigned:
    """
    Deal out the tensors of a file. `meaning` reads their names.

    Every byte ends in `bytes_of` or in one of the three sums of what is not loaded.
    """
    found = Assigned()
    tables = found.elements_by_name = _tables(architecture)
    tower = _tower_spots(architecture)
    for tensor in tensors:
        meant = meaning(tensor.name, len(architecture.layers))
        if meant.kind == "draft":
            found.draft_bytes += tensor.n_bytes
        elif meant.kind == "ignored":
            found.ignored_bytes += tensor.n_bytes
        elif architecture.tied_head and ("lm_head",) in meant.names and not meant.bias:
            found.second_head_bytes += tensor.n_bytes
        elif meant.kind == "tower" and tower:
            _share(found, tensor, tower, main=False)
        else:
            spots = _spots(tables[meant.layer], meant)
            if not spots:
                if meant.kind != "extra":
                    found.unknown.append(tensor)
                spots = _rest(architecture, meant.layer)
                _share(found, tensor, spots, main=False)
            else:
                _share(found, tensor, spots, main=meant.main)
    return found


def _tables(architecture: Architecture) -> dict[int | None, dict[str, int]]:
    """Elements by name, outside the layers and in each; tensors of one name are taken together."""
    outside = (*architecture.embedding, *architecture.final_norm, *architecture.head)
    tables: dict[int | None, dict[str, int]] = {None: _elements(outside)}
    known: dict[int, dict[str, int]] = {}
    for index, layer in enumerate(architecture.layers):
        if id(layer) not in known:
            known[id(layer)] = _elements(layer.weights)
        tables[index] = known[id(layer)]
    return tables


def _elements(weights: Iterable[Weight]) -> dict[str, int]:
    table: dict[str, int] = {}
    for weight in weights:
        table[weight.name] = table.get(weight.name, 0) + weight.elements
    return table


def _spots(table: dict[str, int], meant: Meant) -> list[tuple[Spot, int]]:
    """Where a tensor belongs, and the elements of each place; none where the architecture has no such tensor."""
    for names in _with_bias(meant.names, bias=meant.bias):
        if all(name in table for name in names):
            return [((meant.layer, name), table[name]) for name in names]
    # A family may put a block's name before its own: the only tensor that ends so is meant.
    last = meant.names[-1][-1].rpartition(".")[2] if meant.names else ""
    alike = [name for name in table if name.endswith(f".{last}{'.bias' if meant.bias else ''}")]
    return [((meant.layer, alike[0]), table[alike[0]])] if last and len(alike) == 1 else []


def _with_bias(names: Alternatives, *, bias: bool) -> Alternatives:
    return tuple(tuple(f"{name}.bias" for name in group) for group in names) if bias else names


def _tower_spots(architecture: Architecture) -> list[tuple[Spot, int]]:
    return [((None, weight.name), weight.elements) for weight in architecture.towers]


def _rest(architecture: Architecture, layer: int | None) -> list[tuple[Spot, int]]:
    """Where a tensor stands that we have no name for: with something that every rank holds whole."""
    weights = architecture.final_norm if layer is None else architecture.layers[layer].weights
    usual = [weight for weight in weights if weight.role is Role.NORM] or list(weights)
    if not usual:
        usual = list(architecture.embedding)
        layer = None
    return [((layer, usual[0].name), 1)]


def _share(found: Assigned, tensor: StoredTensor, spots: list[tuple[Spot, int]], *, main: bool) -> None:
    """Add a tensor to one place, or to several in proportion: their sum is its bytes."""
    whole = sum(elements for _, elements in spots) or 1
    if main:
        found.main_bytes[tensor.dtype] = found.main_bytes.get(tensor.dtype, 0) + tensor.n_bytes
    elements = prod(tensor.shape)
    given = done = 0
    for spot, size in spots:
        done += size
        upto = tensor.n_bytes * done // whole if done < whole else tensor.n_bytes
        found.bytes_of[spot] = found.bytes_of.get(spot, 0) + upto - given
        given = upto
        if tensor.dtype in _PACKED:
            found.uncounted.add(spot)
        elif main:
            found.elements_of[spot] = found.elements_of.get(spot, 0) + elements * size // whole
    first = spots[0][0]
    found.tensors_of.setdefault(first, []).append(
        GgufTensor(tensor.name, tensor.dtype, tensor.shape, tensor.n_bytes)
    )


def remarks(found: Assigned, *, what: str) -> tuple[str, ...]:
    """
    What the user may not expect of a file: tensors too many, missing, or of another size.

    `what` names where the architecture comes from.
    """
    told = []
    missing, other = _differences(found)
    if missing:
        told.append(f"the file has no tensor for {_some(missing)}, which the {what} speaks of")
    if other:
        told.append(f"sizes in the file differ from the {what}: {_some(other)}")
    if found.unknown:
        n_bytes = sum(tensor.n_bytes for tensor in found.unknown)
        names = _some([tensor.name[:60] for tensor in found.unknown])
        told.append(f"{n_bytes:,} B are counted of tensors that the model family does not know: {names}")
    if found.draft_bytes:
        told.append(
            f"{found.draft_bytes:,} B of draft (multi-token prediction) layers in the file are not loaded"
        )
    if found.second_head_bytes:
        told.append(f"the file stores the tied head again ({found.second_head_bytes:,} B); it is loaded once")
    return tuple(told)


def _differences(found: Assigned) -> tuple[list[str], list[str]]:
    missing, other = [], []
    for layer, table in found.elements_by_name.items():
        for name, elements in table.items():
            where = name if layer is None else f"layer {layer} {name}"
            got = found.elements_of.get((layer, name))
            if (layer, name) in found.uncounted:
                continue
            if got is None:
                missing.append(where)
            elif got != elements:
                other.append(f"{where} {got:,} instead of {elements:,}")
    return missing, other


def _some(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3:,} more" if len(items) > 3 else "")  # noqa: PLR2004
