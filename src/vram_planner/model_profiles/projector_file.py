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
_MOST_LAYERS: Final = 128
_LARGEST_IMAGE: Final = 8192
# Where a file says how many patches a side become a token, and what holds where it is silent; the others: 1, or 4 for Gemma 3.
_SPATIAL: Final = {"qwen2vl_merger": 2, "qwen2.5vl_merger": 2, "qwen3vl_merger": 2, "glm4v": 2, "pixtral": 1}
_FACTOR: Final = {"gemma3": 4, "gemma4v": 3}
_BLOCK: Final = re.compile(r"v\.(?:blk|deepstack)\.(\d+)\.")
_OF_SOUND: Final = ("a.", "mm.a.")
# Asked for whatever the encoder, so loaded a second time beside that of sound.
_OF_BOTH: Final = ("v.class_embd", "v.patch_embd.", "v.norm_embd.")
_SOUND: Final = "gemma4a"
_MOST_BINS: Final = 256
# Never loaded into a buffer: the bounds of Gemma 4's clamps, which are read as numbers, and what has no use.
_BESIDE: Final = (
    *(".input_max", ".input_min", ".output_max", ".output_min"),
    *(".attn_post_norm.bias", ".ffn_post_norm.bias", "resampler.pos_embed"),
)
_WITHOUT: Final = "leave --mmproj out and keep room for it"
_HINT: Final = (
    "give the mmproj file that belongs to the model, or --mmproj f16 to work it out from its config.json"
)


def read_projector(path: Path) -> Projector:
    """The projector of a local file. Raises HeaderError for another file, UnsupportedArchitectureError for another kind of sound."""
    with LocalFile(path) as source:
        return projector_of(read_gguf(source))


def projector_of(header: Header) -> Projector:
    """The projector of a header that was read; see `read_projector`."""
    name, facts = short_name(header.source), header.metadata
    if facts.get("general.architecture") != "clip":
        raise HeaderError(f"{name} is no projector (general.architecture is not 'clip')", hint=_HINT)
    if not facts.get("clip.has_vision_encoder"):
        raise UnsupportedArchitectureError(
            f"{name} holds an encoder of sound alone, which is not modelled", hint=_WITHOUT
        )
    kind = _kind(facts, name, "vision")
    features = facts.get("clip.vision.feature_layer")
    if isinstance(features, tuple) and len(features) > 1:
        raise UnsupportedArchitectureError(
            f"{name} takes the results of {len(features)} layers of its tower, which is not modelled",
            hint=_WITHOUT,
        )
    tensors = _loaded(header, name, _number(facts, name, "vision.block_count", _MOST_LAYERS))
    return Projector(
        kind=kind,
        layers=_number(facts, name, "vision.block_count", _MOST_LAYERS),
        width=_number(facts, name, "vision.embedding_length", _MOST),
        heads=_number(facts, name, "vision.attention.head_count", _MOST),
        image=_number(facts, name, "vision.image_size", _LARGEST_IMAGE),
        patch=_number(facts, name, "vision.patch_size", _LARGEST_IMAGE),
        merge=_merge(facts, name, kind),
        full_every=_number(facts, name, "vision.n_wa_pattern", _MOST_LAYERS, default=0, least=0),
        tensors={key: tensor for key, tensor in tensors.items() if not key.startswith(_OF_SOUND)},
        basis=Basis.EXACT,
        name=re.split(r"[/\\]", header.source)[-1],
        source=f"header of {name}",
        sound=_sound(facts, name, tensors) if facts.get("clip.has_audio_encoder") else None,
    )


def _sound(facts: Mapping[str, Any], name: str, tensors: Mapping[str, ProjectorTensor]) -> Projector:
    kind = _kind(facts, name, "audio")
    if kind != _SOUND:
        raise UnsupportedArchitectureError(
            f"{name} holds an encoder of sound of the kind {kind[:40]!r}, which is not modelled",
            hint=_WITHOUT,
        )
    return Projector(
        kind=kind,
        layers=_number(facts, name, "audio.block_count", _MOST_LAYERS),
        width=_number(facts, name, "audio.embedding_length", _MOST),
        heads=_number(facts, name, "audio.attention.head_count", _MOST),
        image=0,
        patch=_number(facts, name, "audio.num_mel_bins", _MOST_BINS),
        merge=1,
        tensors={key: tensor for key, tensor in tensors.items() if key.startswith(_OF_SOUND + _OF_BOTH)},
        basis=Basis.EXACT,
        name=name,
        source=f"header of {name}",
    )


def _kind(facts: Mapping[str, Any], name: str, modality: str) -> str:
    kind = facts.get("clip.projector_type") or facts.get(f"clip.{modality}.projector_type") or "mlp"
    if not isinstance(kind, str):
        _refuse(name, "clip.projector_type is no name")
    return kind


def _refuse(name: str, what: str) -> NoReturn:
    raise HeaderError(f"{name}: {what}", hint=_HINT)


def _number(
    facts: Mapping[str, Any], name: str, key: str, most: int, *, default: int | None = None, least: int = 1
) -> int:
    value = facts.get(f"clip.{key}", default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        _refuse(name, f"clip.{key} is {str(value)[:20]!r}, no number from {least} to {most:,}")
    return value


def _merge(facts: Mapping[str, Any], name: str, kind: str) -> int:
    if kind in _SPATIAL:
        return _number(facts, name, "vision.spatial_merge_size", _MOST, default=_SPATIAL[kind])
    return _number(facts, name, "vision.projector.scale_factor", _MOST, default=_FACTOR.get(kind, 1))


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
