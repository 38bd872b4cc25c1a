"""What the engines' start-up lines look like, old and new, as data: one pattern, one field of a record."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vram_planner.units import parse_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

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


# A start is told in one of three ways: the engine's own dump, its list of arguments, or the command line above it.
VLLM = (
    _of(
        "engine_version",
        "text",
        r"(?:vLLM API server version|LLM engine \(v|vllm(?:-openai)?[ =:]v?|[█▀]\s+version)\s*"
        r"(?!0\.1\.dev)(\d+\.\d+(?:\.\d+)?)",
    ),
    _of(
        "model",
        "model",
        r"(?:Starting to load model |config: model='|\bmodel=|'model(?:_tag)?': )'?([\w./-]+)",
    ),
    _of("served_name", "model", r"served_model_name['\"]?[=:] ?\[?'?([\w./-]+)"),
    _of("dtype", "text", r"\bdtype=torch\.(\w+)"),
    _of(
        "max_model_len",
        "tokens",
        r"(?:max_seq_len[=:]\s*|max_model_len['\"]?[=:]\s*|Using max model len |--max-model-len[= ])(\d+[kKmM]?)\b",
    ),
    _of("tp", "whole", r"(?:tensor_parallel_size['\"]?[=:]\s*|--tensor-parallel-size[= ]|\s-tp[= ])(\d+)"),
    _of(
        "pp", "whole", r"(?:pipeline_parallel_size['\"]?[=:]\s*|--pipeline-parallel-size[= ]|\s-pp[= ])(\d+)"
    ),
    _of(
        "ep",
        "present",
        r"(\bWorker\w*_EP\d|enable_expert_parallel['\"]?[=:]\s*True|--enable-expert-parallel)",
    ),
    _of(
        "quantization", "text", r"(?:\bquantization=|'quantization': '|--quantization[= ])(?!None)(\w[\w-]*)"
    ),
    _of("kv_cache_dtype", "text", r"(?:kv_cache_dtype['\"]?[=:]\s*'?|--kv-cache-dtype[= ])(\w+)"),
    _of("prefix_caching", "flag", r"enable_prefix_caching['\"]?[=:]\s*(True|False)"),
    _of("enforce_eager", "flag", r"enforce_eager['\"]?[=:]\s*(True|False)"),
    _of("enforce_eager", "present", r"(\s--enforce-eager\b)"),
    _of("max_num_seqs", "whole", r"(?:max_num_seqs['\"]?[=:]\s*|--max-num-seqs[= ])(\d+)"),
    _of(
        "max_num_batched_tokens",
        "tokens",
        r"(?:max_num_batched_tokens['\"]?[=:]\s*|--max-num-batched-tokens[= ])(\d+[kKmM]?)\b",
    ),
    _of("block_size", "whole", r"(?:'block_size': |--block-size[= ])(\d+)"),
    _of("max_lora_rank", "whole", r"(?:max_lora_rank['\"]?[=:]\s*|--max-lora-rank[= ])(\d+)"),
    _of("max_loras", "whole", r"(?:max_loras['\"]?[=:]\s*|--max-loras[= ])(\d+)"),
    _of("enable_lora", "present", r"(enable_lora['\"]?[=:]\s*True|--enable-lora\b)"),
    _of(
        "gpu_memory_utilization",
        "number",
        r"(?:gpu_memory_utilization['\"]?[=: (]+|--gpu-memory-utilization[= ]|utilization is \()(0?\.\d+|1\.0)",
    ),
    _of("gpu_total_gib", "size", r"total_gpu_memory[= (]+SIZE"),
    _of("gpu_total_gib", "size", r"Free memory on device (?:cuda:\d+ )?\([\d.]+/SIZE\)"),
    _of("gpu", "card", r"device_name=((?:NVIDIA|AMD)_\w+)"),
    _of("gpu", "card", r"^\|\s+\d+\s+((?:NVIDIA|Tesla|AMD) [\w .-]+?)\s{2,}"),
    _of("gpu", "card", r"^\W*((?:NVIDIA|Tesla) [\w .-]+)\. Num GPUs = "),
    _of("checkpoint_gib", "size", r"Checkpoint size: SIZE"),
    _of(
        ".model_loading_gib",
        "size",
        r"(?:Loading model weights took|Model loading took|model weights take)\s+SIZE",
    ),
    _of(".model_loading_gib", "size", r"Actual usage is SIZE for weight\b"),
    _of(".available_kv_cache_gib", "size", r"Available KV cache memory: SIZE"),
    _of(
        ".available_kv_cache_gib", "size", r"(?:KV Cache is |kv_cache_size=|available_kv_cache_memory\s+)SIZE"
    ),
    _of(".available_kv_cache_gib", "size", r"Current kv cache memory in use is SIZE"),
    _of(".kv_cache_tokens", "whole", r"KV cache size: NUMBER tokens"),
    _of(".num_gpu_blocks", "whole", r"# (?!CPU)\w+ blocks: NUMBER"),
    _of(".num_gpu_blocks", "whole", r"num_gpu_blocks is: NUMBER"),
    _of(".max_concurrency", "number", r"Maximum concurrency for [\d,]+ tokens per request: NUMBERx"),
    _of(".max_concurrency_len", "whole", r"Maximum concurrency for NUMBER tokens per request"),
    _of(".need_len", "whole", r"with the models?'s max seq len \((\d+)\)"),
    _of(".need_gib", "size", r"\(SIZE KV cache is\s+needed"),
    _of(".est_max_model_len", "whole", r"estimated maximum model\s+length is (\d+)"),
    _of(".peak_torch_memory_gib", "size", r"peak_torch_memory=SIZE"),
    _of(".activation_peak_gib", "size", r"torch peak memory increase: SIZE"),
    _of(".activation_peak_gib", "size", r"activation peak memory(?: takes|)\s+SIZE"),
    _of(".activation_peak_gib", "size", r"SIZE for peak\s+activation"),
    _of(".non_torch_gib", "size", r"non-torch forward increase memory: SIZE"),
    _of(".non_torch_gib", "size", r"non_torch_memory(?: takes |=|\s+)SIZE"),
    _of(".non_torch_gib", "size", r"SIZE for non-torch memory"),
    _of(".consumed_gib", "size", r"SIZE for consumed memory"),
    _of(".cuda_graph_gib", "size", r"CUDA graph pool memory: SIZE"),
    _of(".cuda_graph_gib", "size", r"Graph capturing finished.*took SIZE"),
    _of(".cuda_graph_gib", "size", r"SIZE for CUDAGraph memory"),
    _of(".cuda_graph_estimate_gib", "size", r"(?:Estimated CUDA graph memory: |\(actual\), )SIZE"),
)
# What V0 alone prints: blocks of the CPU too, and the profile of its worker.
VLLM_V0 = re.compile(
    r"V0 LLM engine|# \w+ blocks: \d+, # CPU blocks|memory reserved for KV Cache is|peak_torch_memory="
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
    _of("arch", "text", r"(?:general\.architecture\s+str|print_(?:info|meta): arch)\s+= ([\w-]+)"),
    _of("file_type", "type", r"(?:file type|model ftype)\s+= (?:mostly |all )?([\w.]+(?: - \w)?)"),
    _of("n_layer", "whole", r"n_layer\s+= (\d+)"),
    _of("n_embd", "whole", r"n_embd\s+= (\d+)"),
    _of("n_head", "whole", r"n_head\s+= (\d+)"),
    _of("n_head_kv", "whole", r"n_head_kv\s+= (\d+)"),
    _of("n_ff", "whole", r"n_ff\s+= (\d+)"),
    _of("n_ff_exp", "whole", r"n_ff_exp\s+= (\d+)"),
    _of("file", "text", r"(?:loaded meta data .* from|loading model) '?(?:[^\s']*[/\\])?([\w.+-]+\.gguf)"),
    _of("quantized_by", "text", r"general\.quantized_by\s+str\s+= (\S+)"),
    _of("imatrix", "present", r"(quantize\.imatrix\.(?:file|dataset))"),
    _of("n_vocab", "whole", r"n_vocab\s+= (\d+)"),
    _of("n_expert", "whole", r"n_expert\s+= (\d+)"),
    _of("n_expert_used", "whole", r"n_expert_used\s+= (\d+)"),
    _of("n_embd_head_k", "whole", r"n_embd_head_k\s+= (\d+)"),
    _of("n_ctx_train", "whole", r"n_ctx_train\s+= (\d+)"),
    _of("n_ctx", "whole", r"\bn_ctx\s+= (\d+)"),
    _of("n_batch", "whole", r"\bn_batch\s+= (\d+)"),
    _of("n_ubatch", "whole", r"\bn_ubatch\s+= (\d+)"),
    _of("n_parallel", "whole", r"\bn_seq_max\s+= (\d+)"),
    _of("flash_attn", "flag", r"flash_attn\s+= (?!auto)(\w+)"),
    _of("flash_attn", "flag", r"Flash Attention was auto, set to (\w+)"),
    _of("offloaded", "text", r"offloaded (\d+/\d+) layers"),
    # What Ollama starts its runner with: long names until 2025, llama-server's short ones since.
    _of("n_ctx", "whole", r'cmd="[^"]*(?:--ctx-size| -c) (\d+)'),
    _of("n_parallel", "whole", r'cmd="[^"]*(?:--parallel| -np) (\d+)'),
    _of("type_k", "text", r"K \((\w+)\):"),
    _of("type_v", "text", r"V \((\w+)\):"),
)
LLAMA_CPP_BUFFER = re.compile(
    r"([A-Z]\w*?\d*(?:_Host|_Mapped|_REPACK)?)\s+(model|KV|RS|compute|output)\s+buffer size =\s+([\d.]+) Mi?B"
)
# 2023: one number for all cards, and MB where MiB was meant.
LLAMA_CPP_VRAM = re.compile(r"(?:VRAM used: +|VRAM kv self = +)([\d.]+) Mi?B$")
LLAMA_CPP_CARD = re.compile(r"^\W*Device (\d+): ")
# Before January 2025 the buffers of tensors were named without a word.
LLAMA_CPP_OLD_BUFFER = re.compile(r"llm_load_tensors:\s+([A-Z]\w*)\s+buffer size =\s+([\d.]+) MiB")
LLAMA_CPP_TOTAL = re.compile(r"(?:[Kk][Vv] self size\s+=|llama_kv_cache\w*: size =)\s+([\d.]+) Mi?B")

# A line of Ollama's own, and the one with which it starts a runner: each start is a log of its own.
OLLAMA = re.compile(
    r"\bollama(?:\.exe)?\[\d+\]:|source=(?:server|sched|memory|llama_server)\.go:\d+|OLLAMA_\w+"
)
OLLAMA_START = re.compile(r"msg=\"starting (?:llama[ -]server|runner)\"")


def read_value(pattern: Pattern, found: re.Match[str]) -> Any:
    """The match as the field's kind: GiB for sizes, int, float, bool or text."""
    text = found[1]
    if pattern.kind == "size":
        return round(float(text.replace(",", "")) * _GIB_PER[found[2]], 6)
    return _READ[pattern.kind](text)


def _flag(text: str) -> bool:
    return text.lower() in ("true", "1", "enabled", "on")


# Last parts of a path that name no model: where containers mount it.
_NO_NAME: Final = frozenset({"model", "models", "snapshots", "merged", "checkpoint", "vllm", "weights", ""})


def model_name(text: str) -> str | None:
    """
    The name that a log's word for the model stands for: `org/name` as it is, of a path its last part.

    A hub's cache writes models--org--name/snapshots/…, ModelScope's writes a dot as three underscores. None for a
    mount point.
    """
    path = text.rstrip("./")
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+)", path)
    if cached is not None:
        return f"{cached[1]}/{cached[2]}"
    if path.count("/") > 1 or path.startswith(("/", ".", "~")):
        path = path.rpartition("/")[2]
    return None if path.lower() in _NO_NAME else path.replace("___", ".")


_READ: Final[dict[str, Callable[[str], Any]]] = {
    "whole": lambda text: int(text.replace(",", "").split(".", maxsplit=1)[0]),
    "number": lambda text: float(text.replace(",", "")),
    "tokens": parse_tokens,
    "present": bool,
    "model": model_name,
    "card": lambda text: text.replace("_", " "),
    "type": lambda text: text.replace(" - ", "_"),  # "Q4_K - Medium", of which the first letter was read
    "flag": _flag,
    "text": str.strip,
}
