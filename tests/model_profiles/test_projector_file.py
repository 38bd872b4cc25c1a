"""The header of a projector's file, and the same file worked out from a config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.engines.llama_cpp_projector import projector_bytes
from vram_planner.errors import (
    ConfigError,
    HeaderError,
    PlannerError,
    PrecisionError,
    UnsupportedArchitectureError,
)
from vram_planner.model_profiles.projector_file import read_projector
from vram_planner.model_profiles.projectors import PROJECTOR_TYPES, projector_from_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[..., Path]

SMOL: dict[str, Any] = {
    "model_type": "idefics3",
    "scale_factor": 4,
    "text_config": {"model_type": "llama", "hidden_size": 96},
    "vision_config": {
        "hidden_size": 64,
        "image_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
        "patch_size": 8,
    },
}
KEYS: dict[str, Any] = {
    "general.architecture": "clip",
    "clip.has_vision_encoder": True,
    "clip.projector_type": "idefics3",
    "clip.vision.block_count": 2,
    "clip.vision.embedding_length": 64,
    "clip.vision.attention.head_count": 1,
    "clip.vision.image_size": 64,
    "clip.vision.patch_size": 8,
    "clip.vision.projector.scale_factor": 4,
}


def shapes() -> dict[str, tuple[int, ...]]:
    tensors = projector_from_config(SMOL, hidden=96, type_name="f32").tensors
    return {name: tensor.shape for name, tensor in tensors.items()}


@pytest.fixture
def file(tmp_path: Path, write_gguf: Write) -> Path:
    return write_gguf(tmp_path / "mmproj-F32.gguf", KEYS, shapes())


def test_a_file_and_its_config_are_the_same_projector(file: Path) -> None:
    read, made = read_projector(file), projector_from_config(SMOL, hidden=96, type_name="f32")

    assert read.tensors == made.tensors
    assert projector_bytes(read) == projector_bytes(made)
    assert (read.kind, read.layers, read.merge, read.out) == (made.kind, made.layers, made.merge, 96)
    assert read.name == "mmproj-F32.gguf"


def test_layers_that_are_not_run_are_not_loaded(tmp_path: Path, write_gguf: Write) -> None:
    """Source: clip.cpp, load_tensors, asks for the tensors of block_count layers."""
    path = write_gguf(tmp_path / "m.gguf", KEYS | {"clip.vision.block_count": 1}, shapes())

    assert not any(name.startswith("v.blk.1.") for name in read_projector(path).tensors)


@pytest.mark.parametrize(
    ("other", "error", "said"),
    [
        ({"general.architecture": "llama"}, HeaderError, "is no projector"),
        ({"clip.has_audio_encoder": True}, UnsupportedArchitectureError, "sound of the kind 'idefics3'"),
        ({"clip.has_vision_encoder": False}, UnsupportedArchitectureError, "sound alone"),
        ({"clip.vision.patch_size": 0}, HeaderError, "patch_size is '0'"),
        ({"clip.vision.block_count": 1 << 20}, HeaderError, "block_count"),
        ({"clip.vision.attention.head_count": 0}, HeaderError, "head_count"),
        ({"clip.projector_type": 7}, HeaderError, "is no name"),
        ({"clip.vision.feature_layer": [3, 7, 15]}, UnsupportedArchitectureError, "3 layers"),
    ],
)
def test_what_is_no_vision_projector_that_we_know_is_refused(
    other: dict[str, Any], error: type[PlannerError], said: str, tmp_path: Path, write_gguf: Write
) -> None:
    path = write_gguf(tmp_path / "m.gguf", KEYS | other, shapes())

    with pytest.raises(error, match=said):
        read_projector(path)


def test_bounds_of_clamps_are_no_tensors_of_the_buffer(tmp_path: Path, write_gguf: Write) -> None:
    """Source: clip.cpp, get_scalar reads them as numbers."""
    path = write_gguf(tmp_path / "m.gguf", KEYS, shapes() | {"v.blk.0.attn_q.input_max": (1,)})

    assert read_projector(path).tensors.keys() == shapes().keys()


def test_an_unknown_kind_of_projector_is_refused_by_name(tmp_path: Path, write_gguf: Write) -> None:
    path = write_gguf(tmp_path / "m.gguf", KEYS | {"clip.projector_type": "adapter"}, shapes())

    with pytest.raises(UnsupportedArchitectureError, match="'adapter' is not modelled"):
        projector_bytes(read_projector(path))


def test_a_plan_takes_the_file_or_the_one_beside_the_model(
    file: Path, write_gguf: Write, tiny_gguf: tuple[dict[str, Any], dict[str, tuple[int, ...]]]
) -> None:
    model = write_gguf(file.parent / "tiny.gguf", *tiny_gguf)
    ask: dict[str, Any] = {"model": str(model), "ctx": 512, "concurrency": 1, "engine": "llama.cpp"}
    named, beside = vp.plan(**ask, mmproj=str(file)), vp.plan(**ask, mmproj="auto")

    expected = projector_bytes(read_projector(file)).total
    assert named.part("vision_projector").n_bytes == beside.part("vision_projector").n_bytes == expected
    assert "--mmproj mmproj-F32.gguf" in beside.launch
    assert any("was made for a model of width 96" in line for line in named.warnings)

    write_gguf(file.parent / "mmproj-F16.gguf", KEYS, shapes())
    with pytest.raises(PlannerError, match="2 mmproj files beside"):
        vp.plan(**ask, mmproj="auto")


def test_types_that_the_converter_does_not_write_are_refused() -> None:
    assert PROJECTOR_TYPES == ("f16", "bf16", "q8_0", "f32")
    with pytest.raises(PrecisionError, match="'q4_0'"):
        projector_from_config(SMOL, hidden=96, type_name="q4_0")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "mllama", "vision_config": {}}, "'mllama' is not modelled"),
        ({"model_type": "qwen2"}, "'qwen2' takes text alone"),
        ({"model_type": "gemma4", "vision_config": {"head_dim": 32}}, "do not make up its width"),
        ({"model_type": "qwen2_5_vl", "vision_config": {"fullatt_block_indexes": [7, 9]}}, "equal distances"),
        ({"model_type": "qwen2_vl", "vision_config": {"temporal_patch_size": 4}}, "two frames"),
        ({"model_type": "llava", "vision_feature_layer": [-2, -5]}, "several layers"),
        ({"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}}, "another tower"),
    ],
)
def test_configs_whose_projector_is_not_modelled_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=said):
        projector_from_config(config, hidden=96)


@pytest.mark.parametrize("vision", [{"image_size": []}, {"patch_size": [0, 0]}, {"num_attention_heads": 7}])
def test_absurd_figures_are_refused(vision: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        projector_from_config(SMOL | {"vision_config": SMOL["vision_config"] | vision}, hidden=96)
