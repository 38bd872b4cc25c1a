"""What each release of vLLM counts against its budget and logs of memory, against the source of that release (files of the package vllm)."""

from __future__ import annotations

import pytest

import vram_planner as vp
from vram_planner.engines.versions import profile_for

LOGS = [
    ("0.4.1", ("Loading model weights took 14.9888 GB", "# GPU blocks: ")),
    (
        "0.6.3",
        ("Loading model weights took 14.9888 GB", "# GPU blocks: ", "Maximum concurrency for 8192 tokens"),
    ),
    (
        "0.6.6",
        (
            "Loading",
            "model weights take 14.99GiB; non_torch_memory takes ",
            "# GPU blocks: ",
            "Maximum concurrency",
        ),
    ),
    (
        "0.7.3",
        (
            "Loading",
            "model weights take",
            "# CUDA blocks: ",
            "Maximum concurrency for 8192 tokens per request: ",
        ),
    ),
    (
        "0.8.2",
        ("Model loading took 14.9888 GB", "GPU KV cache size: ", "Maximum concurrency for 8,192 tokens per"),
    ),
    (
        "0.8.3",
        ("Model loading took 14.9888 GiB", "GPU KV cache size: ", "Maximum concurrency for 8,192 tokens per"),
    ),
    (
        "0.8.5+v0",
        ("Model loading took 14.9888 GiB", "model weights take", "# CUDA blocks: ", "Maximum concurrency"),
    ),
    (
        "0.9.1",
        ("Model loading took 14.9888 GiB", "Available KV cache memory: ", "GPU KV cache size", "Maximum"),
    ),
    (
        "0.11.1",
        (
            "Model loading took 14.9888 GiB memory",
            "Available KV cache memory: ",
            "GPU KV cache size",
            "Maximum",
        ),
    ),
    (
        "0.14.0",
        (
            "Model loading took 14.99 GiB memory",
            "Available KV cache memory: ",
            "GPU KV cache size",
            "Maximum",
        ),
    ),
    (
        "0.25.1",
        ("Model loading took 14.99 GiB", "Available KV cache memory: ", "GPU KV cache size", "Maximum"),
    ),
    ("0.28.0", ("Model loading took 14.99 GiB memory", "Available KV cache memory: ", "GPU KV cache size: ")),
]


@pytest.mark.parametrize(("version", "starts"), LOGS, ids=[version for version, _ in LOGS])
def test_the_lines_of_each_release(version: str, starts: tuple[str, ...]) -> None:
    """
    worker/model_runner.py, worker/worker.py and executor/ (V0); v1/worker/gpu_model_runner.py, gpu_worker.py and
    v1/core/kv_cache_utils.py (V1); v1/worker/gpu/model_runner.py says no "memory" up to 0.27.
    """
    plan = vp.plan(
        "meta-llama/Llama-3.1-8B-Instruct", ctx=8192, concurrency=1, gpu="H100", engine_version=version
    )
    assert plan.capacity is not None
    lines = plan.capacity.log_lines

    assert len(lines) == len(starts)
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


def test_a_logged_start_of_v0_word_for_word() -> None:
    """
    starcoder2-15b, tp 2, 0.4.0: "# CPU blocks: 6553" is 4 GiB of swap space over 655,360 B (issue 4432).
    """
    plan = vp.plan(
        "bigcode/starcoder2-15b",
        ctx=16384,
        concurrency=1,
        gpu="2x V100 SXM2 32GB",
        tp=2,
        dtype="float16",
        engine_version="0.4.0",
    )
    assert plan.capacity is not None

    assert plan.capacity.log_lines[1].endswith(", # CPU blocks: 6553")


REFUSALS = [
    (
        "0.6.6",
        "The model's max seq len (131072) is larger than the maximum number of tokens that can be stored in KV cache",
    ),
    (
        "0.8.1",
        "To serve at least one request with the models's max seq len (131072), (16.00 GB KV cache is needed",
    ),
    (
        "0.8.3",
        "To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is needed",
    ),
    (
        "0.14.0",
        "To serve at least one request with the models's max seq len (131072), (16.0 GiB KV cache is needed",
    ),
    (
        "0.22.0",
        "To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is needed",
    ),
]


@pytest.mark.parametrize(("version", "words"), REFUSALS, ids=[version for version, _ in REFUSALS])
def test_the_refusal_of_each_release(version: str, words: str) -> None:
    """worker/worker.py, raise_if_cache_size_invalid (V0); v1/core/kv_cache_utils.py, check_enough_kv_cache_memory."""
    plan = vp.plan(
        "meta-llama/Llama-3.1-8B-Instruct",
        ctx=131_072,
        concurrency=1,
        gpu="custom:28GiB",
        engine_version=version,
    )
    assert plan.capacity is not None

    assert plan.capacity.log_lines[-1].startswith(f"ValueError: {words}")


@pytest.mark.parametrize(("version", "inside"), [("0.19.1", False), ("0.20.0", True)])
def test_graphs_in_the_budget(version: str, inside: bool) -> None:
    """envs.py, VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS: "0" in 0.19.1, "1" in 0.20.0."""
    part = vp.plan("8b", ctx=4096, concurrency=1, engine_version=version).part("cuda_graphs")

    assert part.in_budget == inside


@pytest.mark.parametrize(("version", "inside"), [("0.9.0", True), ("0.9.1", False)])
def test_the_context_in_the_budget(version: str, inside: bool) -> None:
    """v1/worker/gpu_worker.py: total_allocated_bytes of 0.9.0, the snapshot of 0.9.1."""
    part = vp.plan("8b", ctx=4096, concurrency=1, engine_version=version, gpu="H100").part("runtime")

    assert (part.outside_bytes == 0) == inside


@pytest.mark.parametrize(("version", "by_length"), [("0.6.3", True), ("0.9.0", True), ("0.9.1", False)])
def test_concurrency_of_a_length_that_fills_no_block(version: str, by_length: bool) -> None:
    """executor_base.py and kv_cache_utils.py up to 0.9.0: blocks · block_size / max_model_len; then blocks / ceil."""
    plan = vp.plan("8b", ctx=1000, concurrency=1, gpu="H100", engine_version=version)
    assert plan.capacity is not None
    assert plan.capacity.num_blocks is not None
    blocks = plan.capacity.num_blocks

    assert plan.capacity.max_concurrency == (blocks * 16 / 1000 if by_length else blocks / 63)


def test_the_null_block_is_set_aside_from_0_29_on() -> None:
    """v1/core/kv_cache_utils.py, get_kv_cache_configs: 'Reserve the null block' in 0.29.0, not in 0.28.0."""
    assert [profile_for("vllm", version)[0]["null_block"] for version in ("0.28.0", "0.29.0")] == [
        False,
        True,
    ]
