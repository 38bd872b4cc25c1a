"""Precisions that were read, not derived: what the header of a weight file says of each tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vram_planner.architecture.gguf import GGML_TYPES, GgufMix, rope_factor_bytes
from vram_planner.architecture.precision import Except
from vram_planner.architecture.storage import Blocks, Plain, Storage
from vram_planner.architecture.weight import Role, Weight
from vram_planner.basis import Basis

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.gguf_dynamic import Spread
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Place, Uniform

# Layer number (None outside the layers) and our name of the tensor.
Spot = tuple[int | None, str]
_ROPES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FromHeader:
    """
    A safetensors checkpoint, tensor by tensor: `bytes_of` holds what each of our tensors takes in its files.

    `formula` is what the config.json says of it: it names the format, and takes over where another dtype is
    asked for. `shared` has the elements of tensors that go by one name in a layer. Tensors of the file that we have no name for stand with the norms, which every rank holds whole.
    """

    formula: Uniform | Except
    bytes_of: Mapping[Spot, int]
    source: str
    shared: Mapping[Spot, int] = field(default_factory=dict)
    label: str = ""
    by_layer: bool = True
    basis: Basis = Basis.EXACT

    @property
    def name(self) -> str:
        """As the config's format is called; `label` where the formula does not know it."""
        return self.label or self.formula.name

    @property
    def element_bytes(self) -> int:
        """Bytes of one unquantised number."""
        return self.formula.element_bytes

    @property
    def base(self) -> Plain:
        """The dtype of what is left unquantised."""
        return self.formula.base

    @property
    def inner(self) -> Uniform:
        """The format without its exceptions."""
        return self.formula.inner if isinstance(self.formula, Except) else self.formula

    def weight_bytes(self, weight: Weight, place: Place) -> int:
        """Bytes of one whole tensor in the file; 0 where the file has none."""
        return _share(self.bytes_of, self.shared, weight, (place.layer, weight.name))

    def with_base(self, base: Plain) -> Uniform | Except:
        """With another dtype nothing is as stored: the formula holds."""
        return self.formula.with_base(base)


def _share(bytes_of: Mapping[Spot, int], shared: Mapping[Spot, int], weight: Weight, spot: Spot) -> int:
    """Bytes of a tensor; where several have its name, in proportion to its elements."""
    n_bytes, whole = bytes_of.get(spot, 0), shared.get(spot)
    return n_bytes if whole is None else n_bytes * weight.elements // whole


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of a GGUF file: its name there, its format, its shape in torch's order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int

    def piece(self, weight: Weight) -> tuple[Storage, Weight]:
        """Its format and itself, as `GgufMix.stored` gives them."""
        stored: Plain | Blocks | None = GGML_TYPES.get(self.dtype)
        shape = self.shape or (1,)
        if stored is None:
            # Integers and doubles: kept as they are, and never padded.
            stored = Plain("f32", max(1, self.n_bytes // max(1, weight_elements(shape))))
        return stored, Weight(name=weight.name, shape=shape, role=weight.role, units=weight.units)


def weight_elements(shape: tuple[int, ...]) -> int:
    """How many numbers a shape holds."""
    return Weight(name="", shape=shape, role=Role.BUFFER).elements


@dataclass(frozen=True, slots=True)
class GgufFile(GgufMix):
    """
    A GGUF file, tensor by tensor; `tensors_of` holds what the file has for each of our tensors.

    `bytes_of` counts a fused tensor (attn_qkv) on its parts in proportion; `path` is the file, for a launch command.
    """

    path: str = ""
    file_type: str = ""
    tensors_of: Mapping[Spot, tuple[GgufTensor, ...]] = field(default_factory=dict, compare=False, repr=False)
    bytes_of: Mapping[Spot, int] = field(default_factory=dict, compare=False, repr=False)
    shared: Mapping[Spot, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def element_bytes(self) -> int:
        """Unquantised numbers are 16-bit, in an F32 file 32-bit."""
        return 4 if self.file_type == "f32" else 2

    @property
    def title(self) -> str:
        """As llama.cpp calls the file's type."""
        return self.file_type.upper()

    @property
    def basis(self) -> Basis:
        """Read from the file."""
        return Basis.EXACT

    @property
    def source(self) -> str:
        """Where the figures come from."""
        return f"header of {self.path}"

    def spread(self, architecture: Architecture) -> Spread | None:  # noqa: ARG002  a file is what it is
        """None: sizes are read."""
        return None

    def weight_bytes(self, weight: Weight, place: Place) -> int:
        """Bytes of one whole tensor in the file; of a fused one its share by elements; 0 where it has none."""
        return _share(self.bytes_of, self.shared, weight, (place.layer, weight.name))

    def stored(self, weight: Weight, place: Place) -> tuple[tuple[Storage, Weight], ...]:
        """
        The file's tensors for this weight; a fused one stands whole with the first of its parts.

        llama.cpp's rotary factors are left out where the engine's own rule adds them to every card.
        """
        found = self.tensors_of.get((place.layer, weight.name), ())
        if found and any(tensor.name in _ROPES for tensor in found) and rope_factor_bytes(place.architecture):
            found = tuple(tensor for tensor in found if tensor.name not in _ROPES)
        if (place.layer, weight.name) in self.shared:
            found = tuple(tensor for tensor in found if weight_elements(tensor.shape) == weight.elements)
        return tuple(tensor.piece(weight) for tensor in found)
