"""
The header of a multimodal projector's GGUF file (mmproj): every tensor and its type, not a byte of data.

Keys and names: https://github.com/ggml-org/llama.cpp/blob/b11434/tools/mtmd/clip-impl.h; what is loaded of them: clip.cpp
beside it, load_hparams and load_tensors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vram_planner.architecture.gguf import GGML_TYPES
from vram_planner.architecture.projector import Projector, ProjectorTensor
from vram_planner.basis import Basis
from vram_planner.errors import HeaderError, UnsupportedArchitectureError
from vram_planner.model_profiles.gguf import read_gguf
from vram_planner.model_profiles.headers import LocalFile, short_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vram_planner.model_profiles.headers import Header

_MOST: Final = 1 << 17
_MOST_LAYERS: Final = 512
_LARGEST_IMAGE: Final = 8192
# Where a file says how many patches a side become a token, and what holds where it is silent; the others: 1, or 4 for Gemma 3.
_SPATIAL: Final = {"qwen2vl_merger": 2, "qwen2.5vl_merger": 2, "qwen3vl_merger": 2, "glm4v": 2, "pixtral": 1}
_FACTOR: Final = {"gemma3": 4, "gemma4v": 3}
_BLOCK: Final = re.compile(r"v\.(?:blk|deepstack)\.(\d+)\.")
_BESIDE: Final = (".attn_post_norm.bias", ".ffn_post_norm.bias", "resampler.pos_embed")  # never loaded
_CLAMP: Final = ".input_max"  # of Gemma 4's clamped matrices, whose graph is another
_HINT: Final = (
    "give the mmproj file that belongs to the model, or --mmproj f16 to work it out from its config.json"
)


def read_projector(path: Path) -> Projector:
    """The projector of a local file. Raises HeaderError for another file, UnsupportedArchitectureError for one with sound."""
    with LocalFile(path) as source:
        return projector_of(read_gguf(source))


def projector_of(header: Header) -> Projector:
    """The projector of a header that was read; see `read_projector`."""
    name, facts = short_name(header.source), header.metadata
    if facts.get("general.architecture") != "clip":
        raise HeaderError(f"{name} is no projector (general.architecture is not 'clip')", hint=_HINT)
    if facts.get("clip.has_audio_encoder") or not facts.get("clip.has_vision_encoder"):
        raise UnsupportedArchitectureError(
            f"{name} holds an encoder of sound, which is not modelled",
            hint="leave --mmproj out and keep room for it",
        )
    kind = facts.get("clip.projector_type") or facts.get("clip.vision.projector_type") or "mlp"
    if not isinstance(kind, str):
        _refuse(name, "clip.projector_type is no name")
    layers = _number(facts, name, "block_count", _MOST_LAYERS)
    if any(tensor.name.endswith(_CLAMP) for tensor in header.tensors):
        raise UnsupportedArchitectureError(
            f"{name} clamps what goes through its matrices, which is not modelled",
            hint="leave --mmproj out and keep room for it",
        )
    features = facts.get("clip.vision.feature_layer")
    if isinstance(features, tuple) and len(features) > 1:
        raise UnsupportedArchitectureError(
            f"{name} takes the results of {len(features)} layers of its tower, which is not modelled",
            hint="leave --mmproj out and keep room for it",
        )
    return Projector(
        kind=kind,
        layers=layers,
        width=_number(facts, name, "embedding_length", _MOST),
        heads=_number(facts, name, "attention.head_count", _MOST),
        image=_number(facts, name, "image_size", _LARGEST_IMAGE),
        patch=_number(facts, name, "patch_size", _LARGEST_IMAGE),
        merge=_merge(facts, name, kind),
        projected=_number(facts, name, "projection_dim", _MOST, least=0),
        full_every=_number(facts, name, "n_wa_pattern", _MOST_LAYERS, default=0, least=0),
        tensors=_loaded(header, name, layers),
        basis=Basis.EXACT,
        name=re.split(r"[/\\]", header.source)[-1],
        source=f"header of {name}",
    )


def _refuse(name: str, what: str) -> NoReturn:
    raise HeaderError(f"{name}: {what}", hint=_HINT)


def _number(
    facts: Mapping[str, Any], name: str, key: str, most: int, *, default: int | None = None, least: int = 1
) -> int:
    value = facts.get(f"clip.vision.{key}", default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        _refuse(name, f"clip.vision.{key} is {str(value)[:20]!r}, no number from {least} to {most:,}")
    return value


def _merge(facts: Mapping[str, Any], name: str, kind: str) -> int:
    if kind in _SPATIAL:
        return _number(facts, name, "spatial_merge_size", _MOST, default=_SPATIAL[kind])
    return _number(facts, name, "projector.scale_factor", _MOST, default=_FACTOR.get(kind, 1))


def _loaded(header: Header, name: str, layers: int) -> dict[str, ProjectorTensor]:
    """The tensors by name, without those of layers that are not run and those that are never loaded."""
    found = {}
    for tensor in header.tensors:
        block = _BLOCK.match(tensor.name)
        if (block and int(block[1]) >= layers) or tensor.name.endswith(_BESIDE):
            continue
        if tensor.dtype not in GGML_TYPES or not tensor.shape:
            _refuse(name, f"the tensor {tensor.name[:60]!r} is of the type {tensor.dtype}")
        found[tensor.name] = ProjectorTensor(tensor.dtype, tensor.shape)
    return found
