"""
llama.cpp: what a multimodal projector (mmproj) takes: its tensors, and the buffer reserved for one picture.

It lies on the first GPU, or on the host with --no-mmproj-offload. `--fit` counts it: llama-server works out both before
the model is loaded and adds them to the 1 GiB that stays free there.
Source (b11434): tools/mtmd/clip.cpp; tools/server/server-context.cpp, load_model ("fit mmproj memory usage").
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.engines.llama_cpp_clip import FLASH_HEADS, Clip
from vram_planner.engines.llama_cpp_clip_graphs import graph_of, side_of
from vram_planner.engines.llama_cpp_layout import row_bytes, row_padding
from vram_planner.errors import HeaderError
from vram_planner.units import round_up

if TYPE_CHECKING:
    from vram_planner.architecture.projector import Projector, ProjectorTensor

_ALIGNMENT = 128
_HOST_ALIGNMENT = 32


class ProjectorBytes(NamedTuple):
    """Bytes of tensors and of the compute buffer where the projector lies, of inputs on the host; the picture's side."""

    weights: int
    compute: int
    host_compute: int
    side: int
    flash: bool


def projector_bytes(
    projector: Projector, *, flash: bool = True, on_host: bool = False, ubatch: int = 512
) -> ProjectorBytes:
    """
    What llama-server allocates for it at the start.

    Raises UnsupportedArchitectureError for a kind that is not modelled, HeaderError for a file without a tensor it needs.
    """
    head = projector.width // projector.heads
    flash = flash and (on_host or head in FLASH_HEADS)
    key = (flash, on_host, ubatch)
    kept: dict[tuple[object, ...], ProjectorBytes] = vars(projector).setdefault("_llama_cpp_bytes", {})
    if key not in kept:
        side = side_of(projector.kind, projector.image, projector.patch, projector.merge)
        clip = Clip(projector=projector, side=side, flash=flash, on_host=on_host)
        try:
            compute = clip.peak(graph_of(projector.kind)(clip))
        except KeyError as error:
            raise HeaderError(
                f"{projector.name}: a projector of the kind {projector.kind} without the tensor {error}",
                hint="give the mmproj file that belongs to the model",
            ) from error
        weights = sum(_tensor_bytes(tensor, on_host=on_host) for tensor in projector.tensors.values())
        inputs = 0 if on_host else sum(clip.inputs.values())
        kept[key] = ProjectorBytes(weights, compute, inputs, side, flash)
    return kept[key]


def _tensor_bytes(tensor: ProjectorTensor, *, on_host: bool) -> int:
    """One tensor with what its buffer pads it by: to 128 bytes on CUDA, to 32 on the host."""
    columns = tensor.shape[-1]
    plain = row_bytes(tensor.type_name, columns) * prod(tensor.shape[:-1])
    if on_host:
        return round_up(plain, _HOST_ALIGNMENT)
    return round_up(plain + row_padding(tensor.type_name, columns), _ALIGNMENT)
