"""What the readers make of wordings of 2023 to 2026, and what a pool of a logged size comes to."""

from __future__ import annotations

from typing import Any

import pytest

from vram_planner.validate.consistent import checkpoint_differs
from vram_planner.validate.evidence import Replayed, Skipped, replay_all
from vram_planner.validate.log_patterns import model_name
from vram_planner.validate.logs import read_log

# Lines of public start-up logs; each quotes what the one before did not.
V0_CUDA_BLOCKS = """\
INFO 03-01 10:30:42 model_runner.py:1110] Starting to load model Qwen/Qwen2.5-Math-1.5B...
INFO 03-01 10:30:55 model_runner.py:1115] Loading model weights took 2.8797 GB
INFO 03-01 10:30:57 worker.py:267] the current vLLM instance can use total_gpu_memory (22.06GiB) x gpu_memory_utilization (0.90) = 19.85GiB
INFO 03-01 10:30:57 worker.py:267] model weights take 2.88GiB; non_torch_memory takes 0.05GiB; PyTorch activation peak memory takes 1.40GiB; \
the rest of the memory reserved for KV Cache is 15.52GiB.
INFO 03-01 10:30:57 executor_base.py:110] # CUDA blocks: 36332, # CPU blocks: 9362
INFO 03-01 10:30:57 executor_base.py:115] Maximum concurrency for 4096 tokens per request: 141.92x
"""
V1_SUM_OF_CONSUMED = """\
  vllm/vllm-openai:v0.28.0 \\
    --tensor-parallel-size 4 \\
    --gpu-memory-utilization 0.90 \\
    --max-model-len 32K \\
    --max-num-seqs 32 \\
(Worker_TP0_EP0 pid=770) INFO 08-21 18:18:05 [gpu_model_runner.py:5405] Model loading took 55.19 GiB memory and 48.502592 seconds
(EngineCore pid=558) INFO 08-21 18:21:55 [kv_cache_utils.py:2235] GPU KV cache size: 621,392 tokens
(Worker_TP1_EP1 pid=771) INFO 08-21 18:22:06 [gpu_worker.py:789] Free memory on device (94.05/95.01 GiB) on startup. Desired GPU memory utilization \
is (0.9, 85.51 GiB). Actual usage is 56.89 GiB for consumed memory (weights + non-torch), 0.76 GiB for peak activation, and 0.32 GiB for CUDAGraph \
memory. Current kv cache memory in use is 27.85 GiB.
"""
REFUSED = """\
ValueError: To serve at least one request with the models's max seq len (16384), (3.0 GiB KV cache is needed, which is larger than the available \
KV cache memory (0.18 GiB). Based on the available memory, the estimated maximum model length is 976.
"""
LLAMA_2023 = """\
ggml_init_cublas: found 1 CUDA devices:
  Device 0: NVIDIA GeForce RTX 4090, compute capability 8.9
llm_load_print_meta: arch             = llama
llm_load_print_meta: n_vocab          = 32000
llm_load_print_meta: n_embd           = 4096
llm_load_print_meta: n_head           = 32
llm_load_print_meta: n_head_kv        = 32
llm_load_print_meta: n_layer          = 32
llm_load_print_meta: n_ff             = 11008
llm_load_print_meta: model ftype      = mostly Q4_0
llm_load_print_meta: general.name     = models
llm_load_tensors: offloaded 33/33 layers to GPU
llm_load_tensors: VRAM used: 3577.55 MiB
llama_new_context_with_model: n_ctx      = 512
llama_kv_cache_init: VRAM kv self = 256.00 MB
llama_new_context_with_model: KV self size  =  256.00 MiB, K (f16):  128.00 MiB, V (f16):  128.00 MiB
"""
# hogeheer499-commits/strix-halo-guide, multi-user-coder, 16 slots.
VULKAN = """\
llama_model_loader: loaded meta data with 44 key-value pairs and 579 tensors from /models/Qwen3-Coder-30B-A3B-Instruct-UD-Q4_K_XL.gguf (version GGUF V3)
llama_model_loader: - kv   2:                               general.name str              = Qwen3-Coder-30B-A3B-Instruct
llama_model_loader: - kv   5:                       general.quantized_by str              = Unsloth
print_info: file type   = Q4_K - Medium
print_info: arch             = qwen3moe
print_info: n_embd           = 2048
print_info: n_layer          = 48
print_info: n_head           = 32
print_info: n_head_kv        = 4
print_info: n_ff             = 5472
print_info: n_vocab          = 151936
print_info: n_expert         = 128
print_info: n_expert_used    = 8
print_info: n_embd_head_k    = 128
load_tensors: offloaded 49/49 layers to GPU
load_tensors:      Vulkan0 model buffer size = 16674.36 MiB
load_tensors:  Vulkan_Host model buffer size =   166.92 MiB
llama_context: n_seq_max     = 16
llama_context: n_ctx         = 65536
llama_context: flash_attn    = enabled
llama_kv_cache:    Vulkan0 KV buffer size =  6144.00 MiB
llama_kv_cache: size = 6144.00 MiB (  4096 cells,  48 layers, 16/16 seqs), K (f16): 3072.00 MiB, V (f16): 3072.00 MiB
"""


def replayed(row: dict[str, Any]) -> Replayed:
    (found,) = replay_all([row])
    assert isinstance(found, Replayed), found
    return found


def read(text: str, **more: Any) -> dict[str, Any]:
    return read_log(text.splitlines()) | more


def test_v0_is_known_by_its_blocks_of_the_cpu() -> None:
    row = read(V0_CUDA_BLOCKS, engine_version="0.7.2", gpu="NVIDIA A10G")

    assert row["v1"] is False
    assert row["model"] == "Qwen/Qwen2.5-Math-1.5B"
    assert row["measured"]["num_gpu_blocks"] == 36_332
    pairs = replayed(row).pairs
    assert pairs["KV blocks"][0] == pytest.approx(pairs["KV blocks"][1], rel=0.001)
    assert pairs["concurrency, pool as logged"][0] == pytest.approx(141.92, rel=0.001)


def test_v1_of_0_7_prints_blocks_without_the_cpus() -> None:
    assert "v1" not in read("INFO 02-26 18:57:55 kv_cache_utils.py:522] # GPU blocks: 7124\n")


def test_a_sum_of_consumed_memory_is_compared_with_all_that_is_beside_the_pool() -> None:
    row = read(
        V1_SUM_OF_CONSUMED,
        model="Qwen/Qwen3-235B-A22B-Instruct-2507-FP8",
        gpu="NVIDIA RTX PRO 6000 Blackwell Server Edition",
    )

    expected = {"tp": 4, "ep": True, "max_model_len": 32_768, "max_num_seqs": 32, "engine_version": "0.28.0"}
    assert expected.items() <= row.items()
    assert row["measured"]["non_torch_gib"] == pytest.approx(1.7)
    pairs = replayed({**row, "ep": False}).pairs
    assert "activation" not in pairs
    assert pairs["beside the pool"][0] == pytest.approx(57.65, rel=0.005)
    assert pairs["KV tokens, pool as logged"][0] == pytest.approx(621_392, rel=0.001)


def test_the_need_of_one_request_is_compared_without_a_card() -> None:
    row = read(REFUSED, model="Qwen/Qwen2.5-14B-Instruct", engine_version="0.19.1")

    assert row["measured"]["est_max_model_len"] == 976
    assert replayed(row).pairs == {"KV of one request": (3.0, 3.0)}


def test_a_hybrid_keeps_no_prefixes_of_states_before_0_28_unless_asked() -> None:
    """hogeheer499-commits/strix-halo-guide: Qwen3.6-35B-A3B under 0.19.2, seven blocks a request of 4,096 tokens."""
    row = {
        "id": "strix",
        "engine": "vllm",
        "engine_version": "0.19.2",
        "model": "Qwen/Qwen3.6-35B-A3B",
        "max_model_len": 4096,
        "measured": {
            "available_kv_cache_gib": 28.34,
            "kv_cache_tokens": 370_656,
            "max_concurrency": 201.0,
            "max_concurrency_len": 4096,
        },
    }

    pairs = replayed(row).pairs
    assert pairs["KV tokens, pool as logged"] == (370_656, 370_656)
    assert pairs["concurrency, pool as logged"][0] == pytest.approx(201, rel=0.001)
    asked = replayed({**row, "prefix_caching": True}).pairs["concurrency, pool as logged"][0]
    assert asked == pytest.approx(201 * 7 / 10, rel=0.001)


def test_without_a_release_a_pool_says_nothing_of_windows_and_states() -> None:
    row = {
        "id": "unknown",
        "engine": "vllm",
        "model": "Qwen/Qwen3.6-35B-A3B",
        "max_model_len": 4096,
        "measured": {"available_kv_cache_gib": 28.34, "kv_cache_tokens": 370_656},
    }

    (found,) = replay_all([row])
    assert isinstance(found, Skipped)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct...", "Qwen/Qwen2.5-1.5B-Instruct"),
        ("/root/autodl-tmp/Qwen2___5-0___5B-Instruct", "Qwen2.5-0.5B-Instruct"),
        (
            "/hub/models--cyankiwi--Qwen3.6-35B-A3B-AWQ-4bit/snapshots/7a1c0c",
            "cyankiwi/Qwen3.6-35B-A3B-AWQ-4bit",
        ),
        ("/google/gemma-3-27b-it", "gemma-3-27b-it"),
        ("/mnt/models", None),
    ],
)
def test_a_path_names_its_model(written: str, name: str | None) -> None:
    assert model_name(written) == name


def test_a_mount_point_leaves_the_name_to_the_served_one() -> None:
    line = "non-default args: {'model': '/mnt/models', 'served_model_name': ['qwen25-vl-7b-instruct']}\n"
    assert read(line + "Model loading took 15.6 GiB")["model"] == "qwen25-vl-7b-instruct"


def test_a_log_of_2023_names_its_sums() -> None:
    row = read(LLAMA_2023)

    assert row["arch"] == "llama"
    assert row["file_type"] == "Q4_0"
    assert replayed(row).pairs == {
        "KV cache": (256.0, 256.0),
        "weights": (pytest.approx(3577.55, abs=0.02), 3577.55),
    }


def test_other_backends_hold_the_same_tensors() -> None:
    row = read(VULKAN)

    assert row["quantized_by"] == "Unsloth"
    pairs = replayed(row).pairs
    assert pairs["KV cache"] == (6144.0, 6144.0)
    assert pairs["weights"][0] == pytest.approx(16_674.36, rel=0.005)
    assert "compute buffer" not in pairs


def test_experts_of_an_unknown_maker_are_not_compared() -> None:
    row = read(VULKAN)
    row.pop("file")

    assert set(replayed(row).pairs) == {"KV cache"}


def test_a_checkpoint_of_another_size_is_another_format() -> None:
    assert checkpoint_differs({"checkpoint_gib": 22.78}, 19 << 30) is not None
    assert checkpoint_differs({"checkpoint_gib": 22.78}, 22 << 30) is None
    assert checkpoint_differs({}, 1) is None
