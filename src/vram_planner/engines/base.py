"""The shape that every engine has: one question in, one answer out. Numbers only: no files, no NVML."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.parallel import Layout
    from vram_planner.architecture.precision import Precision
    from vram_planner.architecture.projector import Projector
    from vram_planner.basis import Part
    from vram_planner.engines.measured import Measured


# Without eq, repr and slots a dataclass is made in half the time: the plain command makes fifty of them.
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Workload:
    """`concurrency` requests in flight, each of `context` tokens, the first `prompt_tokens` of them given."""

    context: int
    concurrency: int
    prompt_tokens: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Device:
    """What an engine needs to know of one card; None where it is not known. `nvml_bytes` is nvidia-smi's total."""

    name: str
    total_bytes: int
    nvml_bytes: int | None = None
    compute_capability: tuple[int, int] | None = None
    multiprocessors: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Options:
    """What the user set; None leaves it to the engine's default."""

    version: str | None = None
    kv_dtype: str = "auto"
    gpu_memory_utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    ubatch: int | None = None
    flash_attn: bool | None = None
    slots: int | None = None
    ngl: int | None = None
    n_cpu_moe: int | None = None
    cpu_moe: bool | None = None
    override_tensor: str | None = None  # llama.cpp: PATTERN=BUFFER,...
    cache_ram: int | None = None  # llama.cpp: the most bytes of its prompt cache in host memory
    ctx_checkpoints: int | None = None
    kv_unified: bool | None = None
    swa_full: bool | None = None
    kv_offload: bool | None = None
    split_mode: str | None = None
    tensor_split: str | None = None
    enforce_eager: bool = False
    dp_attention: bool = False
    attn: str | None = None
    cache: str | None = None  # transformers: dynamic or static
    logits: str | None = None  # transformers: last, all or float32
    padded: bool | None = None  # transformers: prompts of unlike length, filled up to the longest
    offload: bool | None = None  # transformers: layers that do not fit stay in the CPU's memory
    max_loras: int | None = None  # vLLM, SGLang: None or 0 serves no adapters
    max_lora_rank: int | None = None
    fully_sharded_loras: bool = False
    speculative: str | None = None  # mtp, ngram, eagle, eagle3 or draft; the model apart, as Ask.draft
    speculative_tokens: int | None = None
    acceptance: float | None = None  # share of guessed tokens that are accepted, for the speed
    prefix_hit: float | None = None  # share of each prompt that a prefix cache has, for the speed
    cpu_offload: int | None = None  # bytes of a rank's weights that stay in host memory
    kv_cache_memory: int | None = None  # bytes of the pool, whatever the utilization
    decode_context_parallel_size: int | None = None
    mmproj_offload: bool | None = (
        None  # llama.cpp: the projector lies on the GPU; the file itself is Ask.projector
    )
    prefix_caching: bool | None = None  # vLLM: beside recurrent states it takes a state more a request


# Options that the engines named here have: the others refuse them.
ENGINES_WITH = {
    "cache_ram": ("llama.cpp",),
    "ctx_checkpoints": ("llama.cpp",),
    "cpu_moe": ("llama.cpp",),
    "override_tensor": ("llama.cpp",),
    "max_loras": ("vllm", "sglang"),
    "max_lora_rank": ("vllm", "sglang"),
    "fully_sharded_loras": ("vllm",),
    "speculative": ("vllm", "sglang", "tensorrt-llm", "llama.cpp"),
    "speculative_tokens": ("vllm", "sglang", "tensorrt-llm", "llama.cpp"),
    "acceptance": ("vllm", "sglang", "tensorrt-llm", "llama.cpp"),
    "prefix_hit": ("vllm", "sglang", "tensorrt-llm", "llama.cpp", "ollama"),
    "cpu_offload": ("vllm",),
    "kv_cache_memory": ("vllm",),
    "decode_context_parallel_size": ("vllm",),
    "mmproj": ("llama.cpp", "ollama"),
    "mmproj_offload": ("llama.cpp",),
    "prefix_caching": ("vllm",),
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Ask:
    """Everything that an engine is asked at once. `device` None: no card is named yet."""

    architecture: Architecture
    precision: Precision
    workload: Workload
    layout: Layout
    options: Options
    device: Device | None = None
    draft: Architecture | None = None  # the model that `options.speculative` names
    projector: Projector | None = None  # the file that llama.cpp is given with --mmproj
    measured: Measured | None = None  # what this machine taught, where it has been measured


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class KvNeed:
    """
    The cache of the asked workload on the fullest rank, under this engine's rules.

    `bytes_per_token` is the slope at the asked context: what one more token of one request
    costs there, averaged over a block. `replicated_ranks` is on how many tensor parallel ranks each byte is held again.
    """

    bytes_per_token: int
    bytes_per_request: int
    n_bytes: int
    replicated_ranks: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Memory:
    """
    What an engine spends on the fullest rank for the asked workload.

    `settings` are the options after the engine's defaults were filled in, `launch` the command that
    starts the engine so. `find_hints` looks for warnings that take a search: which options would make it fit.
    """

    parts: tuple[Part, ...]
    kv: KvNeed
    settings: Mapping[str, object]
    launch: str
    not_modelled: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    find_hints: Callable[[], tuple[str, ...]] = tuple

    def bytes_of(self, *names: str) -> int:
        """Sum of the parts of these names."""
        return sum(part.n_bytes for part in self.parts if part.name in names)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Capacity:
    """
    What a card allows, whatever concurrency was asked.

    `usable_bytes` is what the engine lets itself use of the card, by `rule`; `kv_pool_bytes` what is left
    of that for the cache. `num_blocks` is None for engines without blocks. `max_concurrency` is the number
    of requests of the asked context that the pool holds at once; `find_longest` searches for `max_context`. `log_lines` are what the engine itself will print as it starts, or the
    error with which it will not; empty where its lines are not known.
    """

    usable_bytes: int
    rule: str
    kv_pool_bytes: int
    num_blocks: int | None
    kv_cache_tokens: int
    max_concurrency: float
    find_longest: Callable[[], int]
    log_lines: tuple[str, ...] = ()

    @cached_property
    def max_context(self) -> int:
        """The longest context at the asked concurrency, 0 if none; a search, made when first asked for."""
        return self.find_longest()


class Engine(Protocol):
    """One inference engine."""

    name: str
    title: str
    vocabulary_multiple: int  # rows of embedding and head are padded to this
    vendors: tuple[str, ...]  # whose cards its figures hold for
    splits_tensors: bool  # several cards share each layer (tensor parallel), else each gets whole layers
    kinds: frozenset[str]  # of `Architecture.kinds`, those that it models; the others are refused
    families: str  # whose list of model families it goes by (engines/families/NAME.json), if there is one
    gguf: str  # whether it serves GGUF files: "own", "experimental" or "no"
    smaller: tuple[str, str | None]  # the --quant and --kv-dtype to try where a model does not fit
    attention_groups: (
        str | None
    )  # whose size --dp-attention takes: that of "dp" or of "tp"; None: it has no such thing
    speed_of: str | None  # whose constants of speed hold: its own, or those of the engine that it starts

    def alike(self, ask: Ask) -> Hashable:
        """A key: of asks that differ by their card alone, those with the same key have the same `memory`."""

    def usable_bytes(self, ask: Ask) -> int:
        """What the engine lets itself use of `ask.device`: the bound on the budgeted parts."""

    def memory(self, ask: Ask) -> Memory:
        """Spend memory as this engine does; raises PlannerError for what it refuses."""

    def capacity(self, ask: Ask, memory: Memory) -> Capacity:
        """What `ask.device` allows; `memory` is this engine's own answer to the same ask."""


def largest(fits: Callable[[int], bool], ceiling: int) -> int:
    """The largest whole number up to `ceiling` that fits, 0 if none; once a number fails, all larger ones do."""
    low, high = 0, ceiling + 1
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
