"""The lines that vLLM itself prints as it starts, and the error with which it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vram_planner.engines.base import largest
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask, Memory
    from vram_planner.engines.vllm_groups import Groups
    from vram_planner.engines.vllm_setting import Setting

_AS_WEIGHTS = ("weights", "buffers", "draft_model", "lora")
_NO_MEMORY = "torch.OutOfMemoryError: CUDA out of memory."
_SWAP_BYTES = 4 * GIB


def format_gib(n_bytes: int) -> str:
    """As vLLM prints it from 0.14 on: two decimals, the last left out where it is none (utils/mem_utils.py)."""
    return f"{round(n_bytes / GIB, 2)}"


class Pool(NamedTuple):
    """The pool of blocks on the stage with least room, and what it holds."""

    n_bytes: int
    block_bytes: int
    tokens: int
    concurrency: float


def log_lines(ask: Ask, setting: Setting, memory: Memory, groups: Groups, pool: Pool) -> tuple[str, ...]:
    """
    What the version logs of memory, in its own words; seconds are left out.

    weights, the memory for the cache (V0 from 0.6.5 on, V1 from 0.9.1 on), its size (blocks in V0, tokens in V1),
    the concurrency (from 0.6.3 on). Files of each release: the rule `log` of profiles/vllm_rules.json.
    """
    wording, old = setting.profile["log"], bool(setting.profile.get("v0"))
    loaded = memory.bytes_of(*_AS_WEIGHTS)
    if ask.device is not None and loaded > ask.device.total_bytes:
        told = "" if setting.profile["sampler"] == "v2" else setting.profile.get("load_refusal")
        return (told, _NO_MEMORY) if told else (_NO_MEMORY,)
    words = (
        wording.get("new", wording["weights"]) if setting.profile["sampler"] == "v2" else wording["weights"]
    )
    lines = [_sized(words, loaded)]
    if not old and "pool" in wording and not ask.options.kv_cache_memory:
        lines.append(_sized(f"Available KV cache memory: {wording['pool']} GiB", pool.n_bytes))
    if old and "profiled" in wording:
        lines.append(_profiled(wording["profiled"], memory, loaded, pool.n_bytes))
    refused = why_not_started(ask, setting, groups, pool)
    if refused is not None:
        return (*lines, f"ValueError: {refused}")
    context = ask.workload.context
    if old:
        blocks = pool.n_bytes // pool.block_bytes
        lines.append(
            f"# {wording['device']} blocks: {blocks}, # CPU blocks: {_SWAP_BYTES // pool.block_bytes}"
        )
        most = f"Maximum concurrency for {context} tokens per request: {pool.concurrency:.2f}x"
        return (*lines, most) if wording["concurrency"] else tuple(lines)
    size = f"GPU KV cache size: {pool.tokens:,} tokens"
    most = f"Maximum concurrency for {context:,} tokens per request: {pool.concurrency:.2f}x"
    return (*lines, f"{size}, {most}") if wording.get("one_line") else (*lines, size, most)


def _profiled(words: str, memory: Memory, loaded: int, pool: int) -> str:
    """The last line of what the V0 engine logs of its profile run, from 0.6.5 on (worker/worker.py)."""
    other = sum(part.budgeted_bytes for part in memory.parts if part.name == "runtime")
    sizes = {"loaded": loaded, "other": other, "peak": memory.bytes_of("activations"), "pool": pool}
    return words.format(**{name: f"{n_bytes / GIB:.2f}" for name, n_bytes in sizes.items()})


def _sized(words: str, n_bytes: int) -> str:
    return words.format(four=f"{n_bytes / GIB:.4f}", two=f"{n_bytes / GIB:.2f}", short=format_gib(n_bytes))


def why_not_started(ask: Ask, setting: Setting, groups: Groups, pool: Pool) -> str | None:
    """
    The error with which vLLM refuses to start; None where one request of the whole context has room.

    From 0.29 on one block of the pool is set aside first. The V0 engine asks for room for every token of the context,
    whatever a window would leave out. Source: v1/core/kv_cache_utils.py, get_kv_cache_configs and
    _check_enough_kv_cache_memory; worker/worker.py, raise_if_cache_size_invalid.
    """
    from vram_planner.engines.vllm_setting import in_flight  # noqa: PLC0415  which asks for the groups too

    profile, context, flying = setting.profile, ask.workload.context, in_flight(ask, setting)
    old = bool(profile.get("v0"))
    words = profile["refusal_v0" if old else "refusal"]
    room = pool.n_bytes - (pool.block_bytes if profile.get("null_block") else 0)
    if room <= 0 or (old and room < pool.block_bytes):
        return str(words["none"])

    def needs(length: int) -> int:
        if old:
            return -(-length // groups.tokens_per_block) * pool.block_bytes
        return groups.blocks_per_request(length, flying) * pool.block_bytes

    if needs(context) <= room:
        return None
    longest = largest(lambda length: needs(length) <= room, context)
    return str(
        words["short"].format(
            context=context,
            tokens=room // pool.block_bytes * groups.tokens_per_block,
            needed_two=f"{needs(context) / GIB:.2f}",
            needed_short=format_gib(needs(context)),
            room_two=f"{room / GIB:.2f}",
            room_short=format_gib(room),
            estimate=words["estimate"].format(longest=longest) if longest else "",
        )
    )
