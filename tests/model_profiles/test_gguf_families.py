"""
GGUF architectures: what a file says of itself against the configuration that llama.cpp's converter made it from.

gguf_headers/README.md says how the headers were made; every figure here is exact.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.errors import HeaderError, PlannerError, UnsupportedArchitectureError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.gguf import read_gguf
from vram_planner.model_profiles.gguf_architecture import gguf_profile
from vram_planner.model_profiles.gguf_families import FAMILIES
from vram_planner.model_profiles.headers import BytesSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.headers import Header

HEADERS = Path(__file__).parent / "gguf_headers"
SIZES: dict[str, dict[str, int]] = json.loads((HEADERS / "sizes.json").read_text(encoding="utf-8"))
CONFIGS: dict[str, dict[str, Any]] = json.loads((HEADERS / "configs.json").read_text(encoding="utf-8"))
# Same tensors, other names or another split: parameters, caches and states are compared, layers are not.
OTHER_NAMES = ("default-of-apertus", "chatglm3-6b")
# Two numbers a layer of its activation, and two that are no parameters, are metadata of the file.
NO_TENSORS = {"default-of-apertus": 2 * 32}
# The converter writes 1,048,576 for these, and the reader says so.
NO_CONTEXT = ("Nemotron-3-Nano-30B-A3B", "Nemotron-H-8B", "granite-4.0-h-tiny", "granite-4.0-h-micro")
# Where the config names no context the converter takes the length of sequences it was trained on, or the width.
OTHER_CONTEXT = ("bloom-7b1", "glm-4-9b-chat-hf")
# llama.cpp ignores the window of these, and its converter drops it; of StarCoder 2 the reader says so.
NO_WINDOW = ("Mistral-7B-v0.1", "starcoder2-7b")
# The converter keeps keys and values of layers that borrow those of others, and llama.cpp loads them.
KEPT_KEYS = ("gemma-3n-small-vocabulary",)


@lru_cache(maxsize=4)
def kept(name: str) -> Header:
    raw = gzip.decompress((HEADERS / f"{name}.gguf.gz").read_bytes())
    return read_gguf(BytesSource(raw, name=f"{name}.gguf", size=SIZES[name]["file_bytes"]))


def model_name(name: str) -> str:
    return name.rpartition(".")[0]


@pytest.fixture
def wanted(oracle_architecture: Callable[[str], Architecture]) -> Callable[[str], Architecture]:
    """The architecture of the configuration, as the file has it: no tower, which is a file of its own, no draft."""

    def find(name: str) -> Architecture:
        config = CONFIGS.get(model_name(name))
        found = architecture_from_config(config) if config else oracle_architecture(model_name(name))
        return replace(found, towers=(), draft_layers=(), pixels_per_token=0)

    return find


@pytest.mark.parametrize("name", [name for name, row in SIZES.items() if "llama_cpp_model_bytes" in row])
def test_bytes_are_those_that_llama_cpp_itself_states(name: str) -> None:
    assert kept(name).tensor_bytes == SIZES[name]["llama_cpp_model_bytes"]


@pytest.mark.parametrize("name", SIZES)
def test_the_architecture_is_that_of_the_config(name: str, wanted: Callable[[str], Architecture]) -> None:
    """Both from one configuration: once by way of llama.cpp's converter, once directly."""
    model, _ = gguf_profile(kept(name))
    same = wanted(name)

    assert model.parameters + NO_TENSORS.get(model_name(name), 0) == same.parameters
    assert (model.vocabulary, model.hidden, model.tied_head) == (same.vocabulary, same.hidden, same.tied_head)
    assert model.states == same.states
    assert model.indexers == same.indexers
    if model_name(name) not in (*NO_CONTEXT, *OTHER_CONTEXT):
        assert model.max_context == same.max_context
    if model_name(name) not in NO_WINDOW:
        assert model.caches == same.caches
    if model_name(name) not in (*NO_WINDOW, *OTHER_NAMES):
        assert model.layers == same.layers


@pytest.mark.parametrize("name", SIZES)
def test_every_byte_is_counted_once(name: str) -> None:
    header = kept(name)
    model, _ = gguf_profile(header)

    assert model.weights_bytes() == header.tensor_bytes
    unsaid = [note for note in model.notes if "the file does not say" in note]
    assert bool(unsaid) == (model_name(name) in (*NO_CONTEXT, "starcoder2-7b"))
    assert (len(unsaid) < len(model.notes)) == (model_name(name) in KEPT_KEYS)


def test_most_architectures_that_we_read_have_a_header_here() -> None:
    """Those without one have the tensors of Llama, or of a family that has one."""
    seen = {str(kept(name).metadata["general.architecture"]) for name in SIZES}

    assert set(FAMILIES) - seen == {"baichuan", "gptneox", "mistral3", "qwen3vlmoe"}


def with_drafts(name: str) -> Header:
    """The file with one layer more, for multi-token prediction, which is its last again and a joint projection."""
    header = kept(name)
    prefix = header.metadata["general.architecture"]
    count = header.metadata[f"{prefix}.block_count"]
    more = [
        tensor._replace(name=tensor.name.replace(f"blk.{count - 1}.", f"blk.{count}."))
        for tensor in header.tensors
        if tensor.name.startswith(f"blk.{count - 1}.")
    ]
    more.append(more[0]._replace(name=f"blk.{count}.nextn.eh_proj.weight"))
    changed = {f"{prefix}.block_count": count + 1, f"{prefix}.nextn_predict_layers": 1}
    return replace(header, tensors=(*header.tensors, *more), metadata={**header.metadata, **changed})


@pytest.mark.parametrize(
    "name", ["GLM-4.5-Air", "DeepSeek-V3.2", "Qwen3.5-35B-A3B", "Nemotron-3-Nano-30B-A3B"]
)
def test_layers_for_multi_token_prediction_are_told_and_not_loaded(name: str) -> None:
    """llama.cpp loads them where it is asked to: include/llama.h, load_mtp; src/models/, TENSOR_SKIP."""
    plain, _ = gguf_profile(kept(f"{name}.q4_k_m"))
    header = with_drafts(f"{name}.q4_k_m")
    model, _ = gguf_profile(header)

    assert model.layers == plain.layers
    assert model.weights_bytes() == plain.weights_bytes()
    left_out = (header.tensor_bytes or 0) - plain.weights_bytes()
    assert any(f"{left_out:,} B of draft" in note for note in model.notes)


def test_a_file_of_such_layers_alone_is_no_model() -> None:
    header = with_drafts("GLM-4.5-Air.q4_k_m")
    last = tuple(tensor for tensor in header.tensors if not tensor.name.startswith(("blk.0.", "blk.1.")))

    with pytest.raises(HeaderError, match="the draft of another model") as error:
        gguf_profile(replace(header, tensors=last))
    assert error.value.hint


NO_MODEL: dict[str, tuple[dict[str, str], type[PlannerError], str]] = {
    "a projector": ({"general.architecture": "clip"}, UnsupportedArchitectureError, "projector"),
    "a projector by its type": ({"general.type": "mmproj"}, HeaderError, "projector"),
    "an adapter": ({"general.type": "adapter", "adapter.type": "lora"}, HeaderError, "adapter"),
    "an importance matrix": ({"general.type": "imatrix"}, HeaderError, "importance matrix"),
    "an encoder": ({"general.architecture": "bert"}, UnsupportedArchitectureError, "encoder"),
    "two stacks": ({"general.architecture": "t5"}, UnsupportedArchitectureError, "cross-attention"),
    "diffusion": ({"general.architecture": "llada"}, UnsupportedArchitectureError, "diffusion"),
    "a draft": ({"general.architecture": "eagle3"}, UnsupportedArchitectureError, "draft"),
    "speech": ({"general.architecture": "wavtokenizer-dec"}, UnsupportedArchitectureError, "sound"),
    "RWKV-7": ({"general.architecture": "rwkv7"}, UnsupportedArchitectureError, "RWKV-4"),
    "nothing known": (
        {"general.architecture": "grok"},
        UnsupportedArchitectureError,
        "'grok' is not supported",
    ),
}


@pytest.mark.parametrize("kind", NO_MODEL)
def test_what_is_no_model_is_refused_with_its_reason(
    kind: str, gguf_header: Callable[..., bytes], tiny_gguf: tuple[dict[str, Any], dict[str, tuple[int, ...]]]
) -> None:
    changed, error, what = NO_MODEL[kind]
    metadata, shapes = tiny_gguf
    raw = gguf_header(metadata | changed, shapes)

    with pytest.raises(error, match=what) as told:
        gguf_profile(read_gguf(BytesSource(raw, size=1 << 40)))
    assert told.value.hint


ABSURD: dict[str, tuple[str, str, object]] = {
    "a list that is too short": ("granite-4.0-h-tiny.q4_k_m", "attention.head_count_kv", (0, 4)),
    "channels that heads do not fill": ("Mamba-Codestral-7B.q4_k_m", "ssm.time_step_rank", 127),
    "no heads of the state": ("Mamba-Codestral-7B.q4_k_m", "ssm.time_step_rank", 0),
    "attention that comes anyhow": ("Jamba-v0.1.q4_k_m", "attention.head_count_kv", tuple(int(n in (3, 5, 9)) for n in range(32))),
    "two numbers of KV heads": ("LFM2-1.2B.q4_k_m", "attention.head_count_kv", (4, 8) * 8),
    "widths in no order": ("gemma-4-E2B-text.q4_k_m", "feed_forward_length", tuple(range(1, 36))),
    "no pattern": ("gemma-4-E2B-text.q4_k_m", "attention.sliding_window_pattern", None),
    "KV heads of each kind": ("MiMo-V2-Flash.q4_k_m", "attention.head_count_kv", 4),
    "a shared block of another width": ("Hunyuan-A13B-Instruct.f16", "expert_shared_feed_forward_length", 7),
    "a share of an expert": ("default-of-hy_v3.q4_k_m", "expert_shared_feed_forward_length", 7),
    "heads without keys": ("Llama-3_3-Nemotron-Super-49B-v1.q4_k_m", "attention.head_count_kv", (0,) * 80),
    "a billion layers": ("Llama-4-Maverick.q4_k_m", "block_count", 10**9),
}  # fmt: skip


@pytest.mark.parametrize("kind", ABSURD)
def test_figures_that_contradict_each_other_are_refused(kind: str) -> None:
    name, key, value = ABSURD[kind]
    header = kept(name if name in SIZES else "Llama-4-Scout.q4_k_m")
    prefix = header.metadata["general.architecture"]

    with pytest.raises(HeaderError) as error:
        gguf_profile(replace(header, metadata={**header.metadata, f"{prefix}.{key}": value}))
    assert error.value.hint
