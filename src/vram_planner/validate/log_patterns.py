"""What the engines' start-up lines look like, old and new, as data: one pattern, one field of a record."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_NUMBER = r"(-?[\d,]+(?:\.\d+)?)"
_SIZE = rf"{_NUMBER} ?(GiB|GB|MiB|MB|B|bytes)\b"
# Old vLLM and SGLang say GB and mean 2**30 bytes.
_GIB_PER = {"GiB": 1.0, "GB": 1.0, "MiB": 1 / 1024, "MB": 1 / 1024, "B": 2.0**-30, "bytes": 2.0**-30}


class Pattern(NamedTuple):
    """`field` with a dot lies in `measured`; `kind` is size (GiB), whole, number or text."""

    field: str
    kind: str
    expression: re.Pattern[str]


def _of(field: str, kind: str, expression: str) -> Pattern:
    text = expression.replace("SIZE", _SIZE).replace("NUMBER", _NUMBER)
    return Pattern(field, kind, re.compile(text))


VLLM = (
    _of(
        "engine_version",
        "text",
        r"(?:vLLM API server version|LLM engine \(v|vllm[ =]v?)\s*(\d+\.\d+(?:\.\d+)?)",
    ),
    _of("model", "text", r"(?:Starting to load model |config: model='|\bmodel=')([\w./-]+)"),
    _of("dtype", "text", r"\bdtype=torch\.(\w+)"),
    _of(
        "max_model_len",
        "whole",
        r"(?:max_seq_len[=:]\s*|max_model_len['\"]?[=:]\s*|Using max model len )(\d+)",
    ),
    _of("tp", "whole", r"tensor_parallel_size['\"]?[=:]\s*(\d+)"),
    _of("pp", "whole", r"pipeline_parallel_size['\"]?[=:]\s*(\d+)"),
    _of("quantization", "text", r"\bquantization=(?!None)(\w[\w-]*)"),
    _of("kv_cache_dtype", "text", r"kv_cache_dtype['\"]?[=:]\s*'?(\w+)"),
    _of("enforce_eager", "flag", r"enforce_eager['\"]?[=:]\s*(True|False)"),
    _of("max_num_seqs", "whole", r"max_num_seqs['\"]?[=:]\s*(\d+)"),
    _of("max_num_batched_tokens", "whole", r"max_num_batched_tokens['\"]?[=:]\s*(\d+)"),
    _of(
        "gpu_memory_utilization",
        "number",
        r"(?:gpu_memory_utilization['\"]?[=: (]+|utilization is \()(0?\.\d+|1\.0)",
    ),
    _of("gpu_total_gib", "size", r"total_gpu_memory[= (]+SIZE"),
    _of("gpu_total_gib", "size", r"Free memory on device \([\d.]+/SIZE\)"),
    _of(
        ".model_loading_gib",
        "size",
        r"(?:Loading model weights took|Model loading took|model weights take) SIZE",
    ),
    _of(".available_kv_cache_gib", "size", r"Available KV cache memory: SIZE"),
    _of(".available_kv_cache_gib", "size", r"(?:KV Cache is |kv_cache_size=)SIZE"),
    _of(".kv_cache_tokens", "whole", r"KV cache size: NUMBER tokens"),
    _of(".num_gpu_blocks", "whole", r"# (?:GPU|cuda) blocks: NUMBER"),
    _of(".max_concurrency", "number", r"Maximum concurrency for [\d,]+ tokens per request: NUMBERx"),
    _of(".max_concurrency_len", "whole", r"Maximum concurrency for NUMBER tokens per request"),
    _of(".activation_peak_gib", "size", r"torch peak memory increase: SIZE"),
    _of(".activation_peak_gib", "size", r"activation peak memory takes SIZE"),
    _of(".activation_peak_gib", "size", r"weight, SIZE for peak activation"),
    _of(".activation_peak_gib", "size", r"\(weights \+ non-torch\), SIZE for peak activation"),
    _of(".non_torch_gib", "size", r"non-torch forward increase memory: SIZE"),
    _of(".non_torch_gib", "size", r"non_torch_memory(?: takes |=)SIZE"),
    _of(".non_torch_gib", "size", r"SIZE for non-torch memory"),
    _of(".cuda_graph_gib", "size", r"CUDA graph pool memory: SIZE"),
    _of(".cuda_graph_gib", "size", r"Graph capturing finished.*took SIZE"),
)
SGLANG = (
    _of("model", "text", r"model_path='([^']+)'"),
    _of("tp", "whole", r"tp_size=(\d+)"),
    _of("max_model_len", "whole", r"(?:context_len=|context_length=)(\d+)"),
    _of("gpu_memory_utilization", "number", r"mem_fraction_static=(0?\.\d+)"),
    _of("max_num_batched_tokens", "whole", r"chunked_prefill_size=(\d+)"),
    _of("kv_cache_dtype", "text", r"kv_cache_dtype='(\w+)'"),
    _of(".avail_before_gb", "size", r"Load weight begin\.? avail mem=SIZE"),
    _of(".model_loading_gib", "size", r"Load weight end.*mem usage=SIZE"),
    _of(".kv_cache_tokens", "whole", r"(?:max_total_num_tokens=|full_layer_tokens=|#tokens: )NUMBER"),
    _of(".conv_state_gb", "size", r"conv_state size: SIZE"),
    _of(".ssm_state_gb", "size", r"ssm_state size: SIZE"),
    _of(".window_pool_gb", "size", r"SWAKVPool mem usage: SIZE"),
    _of(".k_gb", "size", r"\bK size: SIZE"),
    _of(".v_gb", "size", r"\bV size: SIZE"),
    _of(".kv_size_gb", "size", r"\bKV size: SIZE"),
    _of(".cuda_graph_gib", "size", r"Capture cuda graph end.*mem usage=SIZE"),
)
# llama.cpp's figures stay in MiB, as its records keep them.
LLAMA_CPP = (
    _of("model", "text", r"general\.name\s+(?:str\s+)?= (.+)"),
    _of("arch", "text", r"(?:general\.architecture\s+str|print_info: arch)\s+= (\w+)"),
    _of("file_type", "text", r"file type\s+= (\S+)"),
    _of("n_layer", "whole", r"n_layer\s+= (\d+)"),
    _of("n_embd", "whole", r"n_embd\s+= (\d+)"),
    _of("n_head", "whole", r"n_head\s+= (\d+)"),
    _of("n_head_kv", "whole", r"n_head_kv\s+= (\d+)"),
    _of("n_ff", "whole", r"n_ff\s+= (\d+)"),
    _of("n_vocab", "whole", r"n_vocab\s+= (\d+)"),
    _of("n_expert", "whole", r"n_expert\s+= (\d+)"),
    _of("n_expert_used", "whole", r"n_expert_used\s+= (\d+)"),
    _of("n_embd_head_k", "whole", r"n_embd_head_k\s+= (\d+)"),
    _of("n_ctx_train", "whole", r"n_ctx_train\s+= (\d+)"),
    _of("n_ctx", "whole", r"\bn_ctx\s+= (\d+)"),
    _of("n_batch", "whole", r"\bn_batch\s+= (\d+)"),
    _of("n_ubatch", "whole", r"\bn_ubatch\s+= (\d+)"),
    _of("n_parallel", "whole", r"\bn_seq_max\s+= (\d+)"),
    _of("flash_attn", "flag", r"flash_attn\s+= (\w+)"),
    _of("offloaded", "text", r"offloaded (\d+/\d+) layers"),
    _of("type_k", "text", r"K \((\w+)\):"),
    _of("type_v", "text", r"V \((\w+)\):"),
)
LLAMA_CPP_BUFFER = re.compile(
    r"([A-Z]\w*?\d*(?:_Host|_Mapped|_REPACK)?)\s+(model|KV|RS|compute|output)\s+buffer size =\s+([\d.]+) MiB"
)
LLAMA_CPP_TOTAL = re.compile(r"(?:KV self size\s+=|llama_kv_cache\w*: size =)\s+([\d.]+) MiB")


def read_value(pattern: Pattern, found: re.Match[str]) -> Any:
    """The match as the field's kind: GiB for sizes, int, float, bool or text."""
    text = found[1]
    if pattern.kind == "size":
        return round(float(text.replace(",", "")) * _GIB_PER[found[2]], 6)
    if pattern.kind == "whole":
        return int(text.replace(",", "").split(".")[0])
    if pattern.kind == "number":
        return float(text.replace(",", ""))
    if pattern.kind == "flag":
        return text.lower() in ("true", "1", "enabled", "on")
    return text.strip()
