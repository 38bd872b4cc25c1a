from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.cli.main import main
from vram_planner.errors import RecordError
from vram_planner.validate.logs import compare_log, explain_difference, read_log
from vram_planner.validate.replay_sglang import logged_pool

if TYPE_CHECKING:
    from pathlib import Path

# The figures are those of public start-up logs (llm-d benchmark, vllm-project/vllm issues 10517 and 15360).
VLLM_V1 = """\
INFO 04-01 10:00:00 [api_server.py:100] vLLM API server version 0.19.0
INFO 04-01 10:00:01 [core.py:98] Initializing a V1 LLM engine (v0.19.0) with config: model='meta-llama/Llama-3.1-8B-Instruct', \
dtype=torch.bfloat16, max_seq_len=8192, tensor_parallel_size=1, pipeline_parallel_size=1, quantization=None, enforce_eager=False, kv_cache_dtype=auto
INFO 04-01 10:00:02 [scheduler.py] max_num_seqs=1024, max_num_batched_tokens=8192, gpu_memory_utilization=0.95
INFO 04-01 10:00:09 [gpu_model_runner.py:2007] Model loading took 14.99 GiB memory and 2.86 seconds
INFO 04-01 10:00:20 [gpu_worker.py:298] Available KV cache memory: 58.11 GiB
INFO 04-01 10:00:20 [kv_cache_utils.py:1087] GPU KV cache size: 476,016 tokens
INFO 04-01 10:00:20 [kv_cache_utils.py:1091] Maximum concurrency for 8,192 tokens per request: 58.11x
INFO 04-01 10:00:30 [gpu_model_runner.py:2700] Graph capturing finished in 9 secs, took 0.91 GiB
"""
VLLM_V0 = """\
INFO 11-21 llm_engine.py:237] Initializing a V0 LLM engine (v0.6.4) with config: model='meta-llama/Llama-3.1-8B-Instruct', max_seq_len=20000, tensor_parallel_size=1
INFO 11-21 model_runner.py:1071] Loading model weights took 14.9888 GB
INFO 11-21 worker.py:232] Memory profiling results: total_gpu_memory=23.58GiB initial_memory_usage=15.34GiB \
peak_torch_memory=17.06GiB memory_usage_post_profile=15.35GiB non_torch_memory=0.35GiB kv_cache_size=3.81GiB gpu_memory_utilization=0.90
INFO 11-21 gpu_executor.py:113] # GPU blocks: 1952, # CPU blocks: 2048
INFO 11-21 gpu_executor.py:117] Maximum concurrency for 20000 tokens per request: 1.56x
"""
SGLANG = """\
server_args=ServerArgs(model_path='Qwen/Qwen2.5-7B-Instruct', tp_size=1, mem_fraction_static=0.88, chunked_prefill_size=8192, kv_cache_dtype='auto')
Load weight begin. avail mem=38.97 GB
Load weight end. type=Qwen2ForCausalLM, dtype=torch.bfloat16, avail mem=24.59 GB, mem usage=14.38 GB.
KV Cache is allocated. #tokens: 372945, K size: 9.96 GB, V size: 9.96 GB
max_total_num_tokens=372945, chunked_prefill_size=8192, max_running_requests=2049, context_len=32768
"""
# kvcache-ai/ktransformers issue 1870; a window's pools as SWAKVPool logs them.
SGLANG_STATES = """\
Mamba Cache is allocated. max_mamba_cache_size: 82, conv_state size: 0.13GB, ssm_state size: 7.29GB
KV Cache is allocated. #tokens: 580364, K size: 4.15 GB, V size: 4.15 GB
"""
SGLANG_WINDOWS = """\
Use sliding window memory pool. full_layer_tokens=81920, swa_layer_tokens=65536
KV Cache is allocated. dtype: torch.bfloat16, #tokens: 65536, K size: 0.50 GB, V size: 0.50 GB
KV Cache is allocated. dtype: torch.bfloat16, #tokens: 81920, K size: 0.31 GB, V size: 0.31 GB
SWAKVPool mem usage: 1.62 GB, swa size: 65536, full size: 81920
"""
# Lines of ollama/ollama issue 8098 (the start), of a published log of DeepSeek R1 Distill Llama 8B on a GTX 1080 (the
# runner's buffers), and of ggml-org/llama.cpp pull request 6122 (buffers of 2024).
OLLAMA = """\
time=2025-02-01T10:00:00.000+01:00 level=INFO source=server.go:376 msg="starting llama server" cmd="/usr/lib/ollama/runners/cuda_v12_avx/ollama_llama_server runner \
--model /root/.ollama/models/blobs/sha256-dde5aa --ctx-size 8192 --batch-size 512 --n-gpu-layers 33 --threads 8 --parallel 4 --port 38609"
llm_load_print_meta: arch             = llama
llm_load_print_meta: n_layer          = 32
llm_load_print_meta: model ftype      = Q4_K - Medium
llm_load_print_meta: general.name     = DeepSeek R1 Distill Llama 8B
load_tensors: offloaded 33/33 layers to GPU
load_tensors:        CUDA0 model buffer size =  4403.49 MiB
load_tensors:   CPU_Mapped model buffer size =   281.81 MiB
llama_init_from_model: n_seq_max     = 4
llama_init_from_model: n_ctx         = 8192
llama_init_from_model: n_batch       = 2048
llama_init_from_model: n_ubatch      = 512
llama_init_from_model: flash_attn    = 0
llama_kv_cache_init:      CUDA0 KV buffer size =  1024.00 MiB
llama_init_from_model: KV self size  = 1024.00 MiB, K (f16):  512.00 MiB, V (f16):  512.00 MiB
llama_init_from_model:  CUDA_Host  output buffer size =     2.02 MiB
llama_init_from_model:      CUDA0 compute buffer size =   560.00 MiB
llama_init_from_model:  CUDA_Host compute buffer size =    24.01 MiB
"""
OLD_START = OLLAMA.splitlines()[0]
OLD_BUFFER = "llm_load_tensors:      CUDA1 buffer size = 13989.53 MiB"
FLASH = "llama_context: Flash Attention was auto, set to enabled"
NEW_START = 'level=INFO source=llama_server.go:212 msg="starting llama-server" cmd="llama-server -m blob -c 4096 -np 1 -fa auto -b 512 -ub 512"'
LLAMA_CPP = """\
llama_model_loader: - kv   0:                       general.architecture str              = llama
print_info: arch             = llama
print_info: n_embd           = 4096
print_info: n_layer          = 32
print_info: n_head           = 32
print_info: n_head_kv        = 8
print_info: n_ff             = 14336
print_info: n_vocab          = 128256
print_info: file type        = Q4_K
load_tensors: offloaded 33/33 layers to GPU
load_tensors:        CUDA0 model buffer size =  4403.49 MiB
llama_context: n_seq_max     = 1
llama_context: n_ctx         = 512
llama_context: n_batch       = 512
llama_context: n_ubatch      = 512
llama_context: flash_attn    = 0
llama_kv_cache_unified:      CUDA0 KV buffer size =    64.00 MiB
llama_kv_cache_unified: size =   64.00 MiB (   512 cells,  32 layers,  1 seqs), K (f16):   32.00 MiB, V (f16):   32.00 MiB
llama_context:      CUDA0 compute buffer size =   258.50 MiB
llama_context:  CUDA_Host compute buffer size =     9.01 MiB
"""


def test_a_v1_log_of_vllm() -> None:
    row = read_log(VLLM_V1.splitlines())

    assert row["engine"] == "vllm"
    assert (row["model"], row["engine_version"]) == ("meta-llama/Llama-3.1-8B-Instruct", "0.19.0")
    assert (row["max_model_len"], row["tp"], row["gpu_memory_utilization"]) == (8192, 1, 0.95)
    assert row["measured"] == {
        "model_loading_gib": 14.99, "available_kv_cache_gib": 58.11, "kv_cache_tokens": 476_016,
        "max_concurrency": 58.11, "max_concurrency_len": 8192, "cuda_graph_gib": 0.91,
    }  # fmt: skip


def test_a_v0_log_of_vllm_has_gib_under_the_name_gb() -> None:
    row = read_log(VLLM_V0.splitlines())

    assert row["v1"] is False
    assert row["gpu_total_gib"] == 23.58
    assert row["measured"]["model_loading_gib"] == 14.9888
    assert row["measured"]["num_gpu_blocks"] == 1952
    assert row["measured"]["available_kv_cache_gib"] == 3.81


@pytest.mark.parametrize(
    ("log", "tokens", "pool"),
    [(SGLANG, 372_945, 19.92), (SGLANG_STATES, 580_364, 15.72), (SGLANG_WINDOWS, 81_920, 1.62)],
)
def test_the_pool_of_sglang_is_all_that_shares_its_budget(log: str, tokens: int, pool: float) -> None:
    """Keys, values and states together; of two pools the sum, and the tokens of the full layers."""
    measured = read_log((SGLANG.splitlines()[0] + "\n" + log).splitlines())["measured"]

    assert measured["kv_cache_tokens"] == tokens
    assert logged_pool(measured) == pytest.approx(pool)


def test_a_log_of_sglang() -> None:
    row = read_log(SGLANG.splitlines())

    assert row["engine"] == "sglang"
    assert row["measured"]["kv_cache_tokens"] == 372_945
    assert row["measured"]["k_gb"] == row["measured"]["v_gb"] == 9.96
    assert row["measured"]["avail_before_gb"] == 38.97


def test_a_log_of_llama_cpp() -> None:
    row, replayed = compare_log(LLAMA_CPP.splitlines(), {"file_type": "Q4_K_M"})

    assert row["measured_mib"]["CUDA0 KV"] == 64.0
    assert replayed.pairs["KV cache"] == (64.0, 64.0)
    assert replayed.pairs["weights"][0] == pytest.approx(4403.49, abs=0.01)
    assert replayed.pairs["compute buffer"][0] == pytest.approx(258.50, rel=0.01)


def test_a_log_of_ollama() -> None:
    """The last model that was loaded; a start that failed before it had buffers does not count."""
    failed = OLLAMA.splitlines()[0].replace("8192", "2048")
    row, replayed = compare_log([OLD_START, OLD_BUFFER, *OLLAMA.splitlines(), failed], {})

    assert (row["engine"], row["file_type"], row["n_ctx"], row["n_parallel"]) == ("ollama", "Q4_K_M", 8192, 4)
    assert row["offloaded"] == "33/33"
    assert replayed.pairs["KV cache"] == (1024.0, 1024.0)
    assert replayed.pairs["weights"][0] == pytest.approx(4403.49, abs=0.01)
    assert replayed.pairs["compute buffer"][0] == pytest.approx(560.0, rel=0.01)


def test_the_words_of_older_and_newer_builds() -> None:
    row = read_log(
        [
            OLD_BUFFER,
            "llama_context: flash_attn    = auto",
            FLASH,
            "llm_load_print_meta: model ftype      = Q5_K - Small",
        ]
    )

    assert row["engine"] == "llama.cpp"
    assert row["measured_mib"] == {"CUDA1 model": 13989.53}
    assert row["flash_attn"] is True
    assert row["file_type"] == "Q5_K_S"


def test_ollama_starts_llama_server_with_short_names() -> None:
    row = read_log([NEW_START, "llama_kv_cache:      CUDA0 KV buffer size =   224.00 MiB"])

    assert (row["engine"], row["n_ctx"], row["n_parallel"]) == ("ollama", 4096, 1)


@pytest.mark.parametrize(("text", "said"), [(VLLM_V1, {"gpu_total_gib": 79.19}), (VLLM_V0, {})])
def test_plans_hold_against_logs(text: str, said: dict[str, Any]) -> None:
    _, replayed = compare_log(text.splitlines(), said)

    for component, (ours, logged) in replayed.pairs.items():
        assert ours == pytest.approx(logged, rel=0.01), component
        assert explain_difference(component, ours, logged) == ""


def test_what_the_log_leaves_out_is_asked_for() -> None:
    with pytest.raises(RecordError, match="neither the card nor its total") as caught:
        compare_log(VLLM_V1.splitlines(), {})

    assert "--gpu-total" in caught.value.hint


def test_no_log_at_all_is_refused() -> None:
    with pytest.raises(RecordError, match="no start-up line"):
        read_log(["hello", "world"])


@given(st.lists(st.text(max_size=80), max_size=30))
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    try:
        row = read_log(lines)
    except RecordError:
        return
    assert row["engine"] in ("vllm", "sglang", "llama.cpp", "ollama")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "start.log"
    file.write_text(VLLM_V1, encoding="utf-8")
    for extra, status in (([], 0), (["--tolerance", "0.000001"], 3)):
        with pytest.raises(SystemExit) as end:
            main(["validate", "log", str(file), "--gpu-total", "79.19GiB", *extra])
        assert end.value.code == status
    out = capsys.readouterr().out
    assert "KV tokens" in out

    with pytest.raises(SystemExit) as end:
        main(["validate", "log", str(file), "--gpu-total", "79.19GiB", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["held"] is True
    assert document["record"]["measured"]["kv_cache_tokens"] == 476_016
