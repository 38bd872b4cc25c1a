"""
llama.cpp: what a multimodal projector (mmproj) takes: its tensors, and the buffer reserved for one picture.

It lies on the first GPU, or on the host with --no-mmproj-offload. `--fit` counts it: llama-server works out both before
the model is loaded and adds them to the 1 GiB that stays free there.
Source (b11434): tools/mtmd/clip.cpp; tools/server/server-context.cpp, load_model ("fit mmproj memory usage").
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.engines.llama_cpp_clip import FLASH_HEADS, Clip
from vram_planner.engines.llama_cpp_clip_graphs import graph_of, sides_of
from vram_planner.engines.llama_cpp_layout import row_bytes, row_padding
from vram_planner.errors import HeaderError
from vram_planner.units import round_up

if TYPE_CHECKING:
    from vram_planner.architecture.projector import Projector, ProjectorTensor

_ALIGNMENT = 128
_HOST_ALIGNMENT = 32
UBATCH = 512
_WRONG_FILE = "give the mmproj file that belongs to the model"


class ProjectorBytes(NamedTuple):
    """
    Bytes of its tensors and of its compute buffer, where it lies.

    `compute` is reserved at the start for a picture of `side` pixels a side, `largest` what it grows to for the
    largest square picture, of `largest_side`.
    """

    weights: int
    compute: int
    side: int
    largest: int
    largest_side: int
    flash: bool

    @property
    def total(self) -> int:
        """Tensors and buffer at the start."""
        return self.weights + self.compute


def projector_bytes(
    projector: Projector, *, flash: bool = True, on_host: bool = False, ubatch: int = UBATCH
) -> ProjectorBytes:
    """
    What llama-server allocates for it at the start.

    Raises UnsupportedArchitectureError for a kind that is not modelled, HeaderError for a file without a tensor it needs.
    """
    if projector.sound is not None:
        seen = projector_bytes(replace(projector, sound=None), flash=flash, on_host=on_host, ubatch=ubatch)
        heard = projector_bytes(projector.sound, flash=flash, on_host=on_host, ubatch=ubatch)
        return seen._replace(
            weights=seen.weights + heard.weights,
            compute=seen.compute + heard.compute,
            largest=seen.largest + heard.compute,
        )
    flash = flash and (on_host or projector.width // projector.heads in FLASH_HEADS)
    key = (flash, on_host, ubatch)
    kept: dict[tuple[object, ...], ProjectorBytes] = vars(projector).setdefault("_llama_cpp_bytes", {})
    if key not in kept:
        side, most = sides_of(projector, ubatch)
        compute = compute_bytes(projector, side, flash=flash, on_host=on_host)
        largest = compute if most == side else compute_bytes(projector, most, flash=flash, on_host=on_host)
        weights = sum(_tensor_bytes(tensor, on_host=on_host) for tensor in projector.tensors.values())
        kept[key] = ProjectorBytes(weights, compute, side, max(compute, largest), most, flash)
    return kept[key]


def compute_bytes(projector: Projector, side: int, *, flash: bool, on_host: bool) -> int:
    """Bytes of the buffer for a picture of `side` pixels a side; raises as `projector_bytes`."""
    write = graph_of(projector.kind)
    if side < projector.patch:
        raise HeaderError(
            f"{projector.name}: pictures of {side:,} pixels a side, patches of {projector.patch:,}",
            hint=_WRONG_FILE,
        )
    clip = Clip(projector=projector, side=side, flash=flash, on_host=on_host)
    try:
        return clip.peak(write(clip))
    except (KeyError, IndexError) as error:
        raise HeaderError(
            f"{projector.name}: for a projector of the kind {projector.kind} the tensor {error} is missing or odd",
            hint=_WRONG_FILE,
        ) from error


def _tensor_bytes(tensor: ProjectorTensor, *, on_host: bool) -> int:
    """One tensor with what its buffer pads it by: to 128 bytes on CUDA, to 32 on the host."""
    columns = tensor.shape[-1]
    plain = row_bytes(tensor.type_name, columns) * prod(tensor.shape[:-1])
    if on_host:
        return round_up(plain, _HOST_ALIGNMENT)
    return round_up(plain + row_padding(tensor.type_name, columns), _ALIGNMENT)
