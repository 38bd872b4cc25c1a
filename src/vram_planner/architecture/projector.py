"""A multimodal projector file (mmproj) as llama.cpp has it: a vision tower and what joins it to the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.basis import Basis


_INPUT = "mm.input_projection.weight"
_LAST = (
    *(
        "mm.2.weight",
        "mm.model.mlp.3.weight",
        "mm.model.fc.weight",
        "mm.down.weight",
        "resampler.proj.weight",
    ),
    _INPUT,
)


class ProjectorTensor(NamedTuple):
    """One tensor of the file: its ggml type, and its shape in torch's order (the row last)."""

    type_name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Projector:
    """
    What is in the file.

    `kind` is llama.cpp's name of the projector (clip.projector_type): "gemma3", "qwen2.5vl_merger". `width` is the
    size of the tower's stream, `image` the side of its pictures and `patch` that of a patch, in pixels; `merge`
    patches a side become one token. Every `full_every`th layer sees the whole picture, the others a window; 0: all do.
    `tensors` go by their names in the file. `name` is the file's, for the
    command that starts the server, `source` says where it is from. `sound` is an encoder of sound in the same file: its
    `patch` is the number of bins of a frame, `image` of no meaning.
    """

    kind: str
    layers: int
    width: int
    heads: int
    image: int
    patch: int
    merge: int
    tensors: Mapping[str, ProjectorTensor]
    basis: Basis
    name: str
    source: str
    full_every: int = 0
    sound: Projector | None = None

    def has(self, name: str) -> bool:
        """Whether the file has a tensor of that name."""
        return name in self.tensors

    def rows(self, name: str) -> int:
        """How many numbers that matrix, or bias, gives out."""
        return self.tensors[name].shape[0]

    @property
    def out(self) -> int | None:
        """
        The width of what it gives the language model, None where its last matrix is not there.

        The file's projection_dim is no guide: LLaVA's is CLIP's, and Mistral's own format once gave the MLP's width.
        """
        if self.kind == "gemma3" and self.has(_INPUT):
            return self.tensors[_INPUT].shape[-1]
        last = next((name for name in _LAST if self.has(name)), None)
        return None if last is None else self.rows(last)
