"""TensorRT-LLM: the paged cache takes a share of what is free after the model was loaded and warmed up."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.parallel import Layout, rank_weight_bytes, stage_layers
from vram_planner.basis import Basis, Part
from vram_planner.engines.base import Ask, Capacity, KvNeed, Memory, largest
from vram_planner.engines.layouts import check_layout, named_device, per_replica, replica, replica_warning
from vram_planner.engines.memo import once
from vram_planner.engines.tensorrt_llm_pools import (
    MAMBA_SOURCE,
    SPARSE_BLOCK,
    batch_of,
    check_kinds,
    indexer_bytes,
    slot_bytes,
    slots_for,
    slots_of,
)
from vram_planner.errors import PrecisionError
from vram_planner.units import GIB, ceil_div, format_gib, round_up

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.architecture.precision import Precision

_DOCUMENTATION = "https://nvidia.github.io/TensorRT-LLM/reference/memory.html"
_RECORD = "https://github.com/NVIDIA/TensorRT-LLM/issues/2268"
_FRACTION = 0.9
_BLOCK = 32
_OLDEST_BLOCK = 64  # before the PyTorch backend: 0.13 logs 631 blocks of 64 tokens
_PYTORCH_BACKEND = (1, 0)
_TOKENS, _REQUESTS = 8192, 2048
_KV_BYTES = {"fp8": 1, "fp8_e4m3": 1, "int8": 1, "bfloat16": 2, "float16": 2}
# CUDA context, NCCL and graphs: no start-up log states them; vLLM's on the same cards bound them.
_CONTEXT = (0.5, 0.4, 0.7)
_GRAPHS = (0.8, 0.2, 2.0)
_FROM_POOL = ("kv_cache", "recurrent_state")
_ACTIVATION_LOW, _ACTIVATION_HIGH = 0.5, 3.0
_NOT_MODELLED = (
    "LoRA adapters",
    "speed with attention data parallelism",
    "speculative decoding by Medusa, ReDrafter or Lookahead",
    "KV cache reuse between requests, and its host pool",
    "engine building (needs more memory than serving)",
    "pools of their own for sliding windows (max_attention_window): every layer keeps every token",
    "snapshots of recurrent states for block reuse",
)


class TensorRtLlm:
    """
    TensorRT-LLM. Pool = `free_gpu_memory_fraction` × (total − everything that is there after the warm-up).

    A block covers `tokens_per_block` tokens in all layers of a rank: 64 before 1.0, 32 since, 64 with an indexer. The tokens
    that the pool holds are rounded up to whole blocks: logs of 0.13 and 1.1 both have the block that does not fit whole.
    Slots of recurrent states come out of the pool, before the blocks, for `max_batch_size` requests.
    Sliding windows are not given pools of their own here: each layer keeps every token.
    Source: the memory reference of its documentation; the rule closes on the logs in tests/oracles.
    """

    name = "tensorrt-llm"
    title = "TensorRT-LLM"
    vendors = ("nvidia",)
    splits_tensors = True
    families = "tensorrt-llm"
    gguf = "no"
    smaller = ("awq", None)
    speed_of = "tensorrt-llm"
    attention_groups = "tp"
    kinds: frozenset[str] = frozenset({"mixed_heads", "state", "indexer", "chunked", "cross", "compressed"})
    vocabulary_multiple = 64

    def alike(self, ask: Ask) -> Hashable:  # noqa: ARG002  the shape of Engine
        """No default goes by card."""
        return None

    def usable_bytes(self, ask: Ask) -> int:
        """
        All but what the fraction leaves over: total − (1 − fraction) × what is free after the warm-up.

        Without states the last block lies whole in it, as the engine makes it.
        """
        ask = completed(ask)
        total = named_device(ask).total_bytes
        free = max(0, total - sum(part.n_bytes for part in fixed_parts(ask)))
        if slot_bytes(ask):
            return total - int(free * (1 - _fraction(ask)))
        return total - free + round_up(int(free * _fraction(ask)), _block(ask) * need_of(ask).bytes_per_token)

    def memory(self, ask: Ask) -> Memory:
        """See `Engine.memory`. Raises ParallelError, PrecisionError or UnsupportedArchitectureError."""
        check_layout(ask)
        check_kinds(ask)
        ask = completed(ask)
        need = need_of(ask)
        weights, *rest = fixed_parts(ask)
        return Memory(
            parts=(weights, kv_part(ask, need), *state_parts(ask), *rest),
            kv=need,
            settings={
                "free_gpu_memory_fraction": _fraction(ask),
                "tokens_per_block": _block(ask),
                "max_num_tokens": ask.options.max_num_batched_tokens or _TOKENS,
                "max_batch_size": batch_of(ask) or ask.options.max_num_seqs or _REQUESTS,
                "kv_dtype": ask.options.kv_dtype,
            },
            launch=_launch(ask),
            not_modelled=_NOT_MODELLED,
            warnings=replica_warning(ask),
        )

    def capacity(self, ask: Ask, memory: Memory) -> Capacity:
        """See `Engine.capacity`."""
        ask = completed(ask)
        total, batch = named_device(ask).total_bytes, per_replica(ask)
        pool = pool_of(ask, memory.kv.bytes_per_token)
        fixed = sum(part.n_bytes for part in memory.parts if part.name not in _FROM_POOL)
        n_bytes, free = pool_bytes(ask, total, fixed), max(0, total - fixed)
        blocks = pool.blocks_beside(n_bytes, batch_of(ask) or batch)
        return Capacity(
            usable_bytes=self.usable_bytes(ask),
            rule=f"{_fraction(ask):g} of the {format_gib(free)} GiB free after the warm-up goes to the cache"
            + (" and the states" if pool.slot else ""),
            kv_pool_bytes=n_bytes,
            num_blocks=blocks,
            kv_cache_tokens=blocks * pool.block,
            max_concurrency=pool.at_once(n_bytes, ask.workload.context, batch_of(ask) or batch),
            find_longest=lambda: largest(
                lambda context: pool.holds(n_bytes, context, batch),
                pool.blocks_beside(n_bytes, batch) * pool.block,
            ),
        )


class Pool(NamedTuple):
    """
    What the cache's bytes hold: blocks of `block` tokens and `per_block` bytes, beside slots of states of `slot` bytes.

    Each request has a slot on each of the `stages`; a request holds `drafted` tokens beside its context.
    """

    block: int
    per_block: int
    slot: int
    stages: int
    drafted: int

    def blocks_beside(self, n_bytes: int, requests: int) -> int:
        """Blocks in so many bytes beside the slots of so many requests, the last one rounded up."""
        left = n_bytes - slots_for(requests, self.stages) * self.slot if self.slot else n_bytes
        return ceil_div(max(0, left), self.per_block)

    def holds(self, n_bytes: int, context: int, requests: int) -> bool:
        """Whether so many requests have their blocks beside their slots."""
        return self.blocks(context) * requests <= self.blocks_beside(n_bytes, requests)

    def blocks(self, context: int) -> int:
        """Blocks of one request."""
        return ceil_div(context + self.drafted, self.block)

    def at_once(self, n_bytes: int, context: int, batch: int) -> float:
        """Requests of a context at once; each one more takes a slot, so with states it is searched how many fit."""
        if not self.slot:
            return self.blocks_beside(n_bytes, batch) / self.blocks(context)
        most = self.blocks_beside(n_bytes, 0)
        return largest(lambda requests: self.holds(n_bytes, context, requests), most)


def pool_of(ask: Ask, bytes_per_token: int) -> Pool:
    """The rule of an ask that was completed."""
    block = _block(ask)
    return Pool(block, block * bytes_per_token, slot_bytes(ask), ask.layout.pp, _drafted(ask))


def pool_bytes(ask: Ask, total: int, fixed: int) -> int:
    """What the cache gets of a card of `total` bytes where all else takes `fixed`."""
    return int(max(0, total - fixed) * _fraction(ask))


def fixed_parts(ask: Ask) -> tuple[Part, ...]:
    """All that is there after the warm-up, whatever the workload: the weights first."""
    layout = ask.layout
    return (
        Part(
            name="weights",
            n_bytes=_weights_bytes(ask.architecture, ask.precision, _weights_layout(ask)),
            basis=getattr(ask.precision, "basis", Basis.FORMULA),
            source=getattr(ask.precision, "source", "tensor shapes of the model's configuration"),
            detail=f"{ask.architecture.parameters:,} parameters in {ask.precision.name}"
            f": the fullest of tp {layout.tp} × pp {layout.pp} ranks",
        ),
        *_draft_parts(ask),
        _activations(ask),
        _assumed("cuda_graphs", _GRAPHS, "captured graphs"),
        _assumed("runtime", _CONTEXT, "CUDA context and libraries"),
    )


@once
def _weights_bytes(architecture: Architecture, precision: Precision, layout: Layout) -> int:
    return max(rank_weight_bytes(architecture, precision, layout, vocabulary_multiple=64))


def _weights_layout(ask: Ask) -> Layout:
    """
    The ranks that share the weights; replicas share none.

    With attention data parallelism every rank holds all but the experts, which are dealt out over the tp ranks: attention,
    dense and shared blocks, embedding and head whole. Source: DecoderModelForCausalLM.__init__,
    https://github.com/NVIDIA/TensorRT-LLM/blob/000a01de66f0eab4ab05640711f0253f50f5209c/tensorrt_llm/_torch/models/modeling_utils.py,
    and `_compute_mlp_tp_size` of modeling_deepseekv3.py beside it.
    """
    if ask.layout.attention_dp == 1:
        return replica(ask)
    return Layout(dp=ask.layout.tp, pp=ask.layout.pp, expert_parallel=True)


def completed(ask: Ask) -> Ask:
    """The ask with what speculation sets; the common case loads nothing of it."""
    if ask.options.speculative is None and ask.options.speculative_tokens is None and ask.draft is None:
        return ask
    from vram_planner.engines.tensorrt_llm_draft import speculating  # noqa: PLC0415  rarely asked for

    return speculating(ask)


def _drafted(ask: Ask) -> int:
    """Tokens that a request holds beside its context while they are verified."""
    return ask.options.speculative_tokens or 0


def _draft_parts(ask: Ask) -> tuple[Part, ...]:
    if ask.options.speculative is None:
        return ()
    from vram_planner.engines.tensorrt_llm_draft import draft_parts  # noqa: PLC0415  rarely asked for

    return draft_parts(ask)


def kv_part(ask: Ask, need: KvNeed) -> Part:
    """Blocks for the asked workload."""
    block = _block(ask)
    return Part(
        name="kv_cache",
        n_bytes=need.n_bytes,
        basis=Basis.FORMULA,
        source=_DOCUMENTATION,
        detail=f"{per_replica(ask):,} × {ceil_div(ask.workload.context + _drafted(ask), block):,} blocks of {block} tokens"
        f": {need.bytes_per_token:,} B a token",
    )


def state_parts(ask: Ask) -> tuple[Part, ...]:
    """Slots of states, which come out of the pool as blocks do."""
    batch, slot = batch_of(ask), slot_bytes(ask)
    if batch is None:
        return ()
    slots = slots_of(batch, ask)
    part = Part(
        name="recurrent_state",
        n_bytes=slots * slot,
        basis=Basis.FORMULA,
        source=MAMBA_SOURCE,
        detail=f"{slots:,} slots × {slot:,} B: max_batch_size {batch:,}, and one for padding",
    )
    return (part,)


def _assumed(name: str, gib: tuple[float, float, float], what: str) -> Part:
    best, low, high = (int(value * GIB) for value in gib)
    return Part(
        name=name,
        n_bytes=best,
        basis=Basis.ASSUMED,
        source="no log of TensorRT-LLM states it; bounded by vLLM's logs on the same cards",
        detail=what,
        low_bytes=low,
        high_bytes=high,
    )


def _activations(ask: Ask) -> Part:
    """
    The widest moment of a layer for max_num_tokens: T·b·(3·I/tp + 4·H), as for any dense decoder.

    With attention data parallelism the experts of one rank see the tokens of all: T · tp of them at I/tp.
    """
    tokens = ask.options.max_num_batched_tokens or _TOKENS
    width = _widest(ask.architecture, ask.precision, ask.layout)
    n_bytes = tokens * ask.precision.element_bytes * (width + 4 * ask.architecture.hidden)
    return Part(
        name="activations",
        n_bytes=n_bytes,
        basis=Basis.ASSUMED,
        source=_DOCUMENTATION,
        detail=f"forward of {tokens:,} tokens",
        low_bytes=int(n_bytes * _ACTIVATION_LOW),
        high_bytes=int(n_bytes * _ACTIVATION_HIGH),
    )


@once
def _widest(architecture: Architecture, _: Precision, layout: Layout) -> int:
    return max(_width(layer, layout.attention_tp) for layer, _ in architecture.groups)


def _width(layer: Layer, tp: int) -> int:
    """Numbers a token that the feed-forward block keeps at once: three of its widest matrix's rows."""
    used, of = layer.feed_forward.active_share
    rows = [
        weight.rows * (used if weight.name.startswith("experts.") and of > 1 else 1)
        for weight in layer.feed_forward.weights
        if weight.units > 1 and len(weight.shape) > 1
    ]
    return 3 * ceil_div(max(rows, default=0), tp)


def need_of(ask: Ask) -> KvNeed:
    """The cache of the asked workload on the fullest stage."""
    tp, block = ask.layout.attention_tp, _block(ask)
    n_bytes = _kv_bytes(ask)
    token = sum(
        cache.elements_per_token(tp) * n_bytes * max(stage_layers(count, ask.layout.pp))
        for cache, count in ask.architecture.caches
    ) + indexer_bytes(ask)
    if ask.options.speculative is not None:
        from vram_planner.engines.tensorrt_llm_draft import draft_caches  # noqa: PLC0415  rarely asked for

        token += sum(cache.elements_per_token(tp) * n_bytes for cache in draft_caches(ask))
    request = ceil_div(ask.workload.context + _drafted(ask), block) * block * token
    return KvNeed(
        bytes_per_token=token,
        bytes_per_request=request,
        n_bytes=request * per_replica(ask),
        replicated_ranks=min(
            (cache.ranks_holding_each_head(tp) for cache, _ in ask.architecture.caches), default=1
        ),
    )


def _kv_bytes(ask: Ask) -> int:
    kind = ask.options.kv_dtype
    if kind == "auto":
        return ask.precision.element_bytes
    if kind not in _KV_BYTES:
        known = ", ".join(sorted(_KV_BYTES))
        raise PrecisionError(f"TensorRT-LLM has no KV cache type {kind!r}", hint=f"one of auto, {known}")
    return _KV_BYTES[kind]


def _block(ask: Ask) -> int:
    if ask.options.block_size is not None:
        return ask.options.block_size
    if ask.architecture.indexers:
        return SPARSE_BLOCK
    version = ask.options.version
    if version is None:
        return _BLOCK
    from vram_planner.engines.versions import parse_version  # noqa: PLC0415  rarely asked for

    return _BLOCK if parse_version(version) >= _PYTORCH_BACKEND else _OLDEST_BLOCK


def _fraction(ask: Ask) -> float:
    return ask.options.gpu_memory_utilization or _FRACTION


def _launch(ask: Ask) -> str:
    options, layout = ask.options, ask.layout
    shown = {
        "--max_seq_len": ask.workload.context,
        "--max_batch_size": options.max_num_seqs or batch_of(ask),
        "--max_num_tokens": options.max_num_batched_tokens,
        "--kv_cache_free_gpu_memory_fraction": options.gpu_memory_utilization,
        "--tp_size": layout.tp if layout.tp > 1 else None,
        "--pp_size": layout.pp if layout.pp > 1 else None,
        "--ep_size": layout.tp if layout.expert_parallel else None,
    }
    words = [f"{flag} {value}" for flag, value in shown.items() if value is not None]
    if layout.attention_dp > 1:
        words.append("--enable_attention_dp")
    if options.speculative is not None:
        from vram_planner.engines.tensorrt_llm_draft import configuration  # noqa: PLC0415  rarely asked for

        words.append(configuration(ask))
    return " ".join(["trtllm-serve {model}", *words])
