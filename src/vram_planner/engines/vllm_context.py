"""Decode context parallelism: ranks that would hold the same heads share out the tokens of the cache instead."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.errors import ParallelError

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask
    from vram_planner.engines.vllm_groups import Groups


def check_context_parallel(ask: Ask) -> int:
    """
    The ranks of decode context parallelism (1: none), refused as vLLM does.

    It must divide tp. MLA takes any such number; grouped queries need tp above the KV heads, at most tp / heads of
    them, and as many queries a head as it divides.
    Source: vLLM 0.32 config/parallel.py; config/model.py, verify_with_parallel_config.
    """
    ranks, tp = ask.options.decode_context_parallel_size or 1, ask.layout.tp
    if ranks == 1:
        return 1
    flag = f"decode context parallel {ranks}"
    if tp % ranks:
        raise ParallelError(f"{flag} does not divide tensor parallel {tp}", hint="a divisor of --tp")
    if ask.architecture.states or any(cache.window for cache, _ in ask.architecture.caches):
        raise ParallelError(
            f"{flag}: vLLM shares out neither windows nor recurrent states over ranks",
            hint="leave --decode-context-parallel-size out",
        )
    for cache, _ in ask.architecture.caches:
        if cache.latent:
            continue
        if tp <= cache.n_heads or ranks > tp // cache.n_heads:
            raise ParallelError(
                f"{flag}: with {cache.n_heads} KV heads and tensor parallel {tp} at most"
                f" {max(1, tp // cache.n_heads)} ranks hold the same head",
                hint="a larger --tp, or a smaller --decode-context-parallel-size",
            )
        if ask.architecture.n_heads // cache.n_heads % ranks:
            raise ParallelError(
                f"{flag} does not divide the {ask.architecture.n_heads // cache.n_heads} queries of a KV head",
                hint="a divisor of it",
            )
    if ask.architecture.indexers and ask.options.kv_dtype == "auto":
        raise ParallelError(
            f"{flag}: sparse attention takes it with an FP8 cache alone", hint="--kv-dtype fp8"
        )
    return ranks


def shared_out(groups: Groups, ranks: int) -> Groups:
    """The same groups, each block of them standing for `ranks` times as many tokens of a request."""
    if ranks == 1:
        return groups
    return replace(groups, kinds=tuple(kind._replace(shards=ranks) for kind in groups.kinds))
