"""
vLLM's table: which of its memory changes with what.

Of `Vllm.memory` the cache grows with the workload, by whole blocks: requests × blocks of a context × bytes of a
block. All else goes by the settings alone (max_num_seqs follows the concurrency), for latent attention by the
context too (the profile run's dummy), and over pipeline stages by which of them is the fullest.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.attention import Latent
from vram_planner.engines.layouts import per_replica
from vram_planner.engines.register import engine
from vram_planner.engines.tables import Row, Sums, sums_of, with_workload
from vram_planner.engines.vllm import least_room
from vram_planner.engines.vllm_rules import card_defaults
from vram_planner.engines.vllm_setting import Setting, fullest_stage, in_flight, settle, stage_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vram_planner.engines.base import Ask, Memory
    from vram_planner.engines.tables import Axes
    from vram_planner.engines.vllm_groups import Groups

_CACHE_PARTS = ("kv_cache", "recurrent_state")


class _Rule(NamedTuple):
    """Of one column and context: bytes of a request, those that are no states, and what `Row` says."""

    request: int
    kept: int
    held: Callable[[int, int], float]
    memory: Callable[[], Memory]


class _Column(NamedTuple):
    """What holds at one key: the parts that are no cache, a block's bytes on the fullest stage, and how blocks are counted."""

    ask: Ask
    memory: Memory
    fixed: Sums
    page: int
    setting: Setting
    groups: Groups
    flying: int

    def of_context(self, ask: Ask) -> _Rule:
        """What a context adds; `ask` is one of that context."""
        blocks = self.groups.blocks_per_request(ask.workload.context, self.flying)
        kept = blocks - self.groups.state_blocks
        memory = cache(lambda: replace(self.memory, kv=fullest_stage(ask, self.setting).need))
        return _Rule(blocks * self.page, kept * self.page, self.held(blocks), memory)

    def held(self, blocks: int) -> Callable[[int, int], float]:
        """Requests of so many blocks each that a card holds: blocks of the pool over theirs."""
        fixed, page = self.fixed.budgeted, self.groups.bytes_per_block
        if self.ask.layout.pp == 1 and not self.ask.options.kv_cache_memory:
            return lambda usable, _: max(0, usable - fixed) // page / blocks

        def on_stages(usable: int, _: int) -> float:
            pool, each = least_room(self.ask, self.setting, usable - fixed)
            return pool // each / blocks

        return on_stages


def alike(ask: Ask) -> Hashable:
    """As the engine has it."""
    return engine("vllm").alike(ask)


def rows(ask: Ask, axes: Axes) -> list[Row] | None:
    """See `Table.rows`; None up to 0.9.0, whose concurrency is tokens over tokens."""
    smallest = with_workload(ask, axes.workload(min(axes.ctx), min(axes.concurrency)))
    if settle(smallest).profile["concurrency_by_length"]:
        return None
    by_context, staged = _by_context(smallest), ask.layout.pp > 1
    columns: dict[Hashable, _Column] = {}
    found: list[Row] = []
    keys = _keys(ask, axes, axes.ctx[0])
    requests = [per_replica(with_workload(ask, axes.workload(axes.ctx[0], n))) for n in axes.concurrency]
    for ctx in axes.ctx:
        if by_context:
            keys = _keys(ask, axes, ctx)
        rules: dict[int, _Rule] = {}
        for number, key, held in zip(axes.concurrency, keys, requests, strict=True):
            at = key, ctx if by_context else None, _stage(ask, axes, ctx, number) if staged else 0
            column = columns.get(at)
            if column is None:
                column = columns[at] = _column(with_workload(ask, axes.workload(ctx, number)))
            rule = rules.get(id(column))
            if rule is None:
                rule = rules[id(column)] = column.of_context(with_workload(ask, axes.workload(ctx, number)))
            more = held * rule.request
            best, low, high, budgeted, weights, _ = column.fixed
            sums = Sums(best + more, low + more, high + more, budgeted + more, weights, held * rule.kept)
            found.append(Row(sums, rule.held, rule.memory))
    return found


def _column(ask: Ask) -> _Column:
    setting = settle(ask)
    groups = stage_groups(ask, setting)
    page = (
        groups.bytes_per_block if ask.layout.pp == 1 else fullest_stage(ask, setting).groups.bytes_per_block
    )
    memory = engine("vllm").memory(ask)
    fixed = sums_of(part for part in memory.parts if part.name not in _CACHE_PARTS)
    return _Column(ask, memory, fixed, page, setting, groups, in_flight(ask, setting))


def _stage(ask: Ask, axes: Axes, ctx: int, number: int) -> int:
    """The number of the fullest pipeline stage."""
    asked = with_workload(ask, axes.workload(ctx, number))
    return fullest_stage(asked, settle(asked)).index


def _key(ask: Ask) -> Hashable:
    """
    Of asks that differ by their workload alone, those with one key differ in the cache alone.

    With more requests each of its numbers grows or stays.
    """
    setting = settle(ask)
    return setting.tokens, setting.requests, setting.block


def _keys(ask: Ask, axes: Axes, ctx: int) -> list[Hashable]:
    """The key at each concurrency: between two concurrencies with one key all have it, as its numbers never fall."""
    order = sorted(range(len(axes.concurrency)), key=axes.concurrency.__getitem__)
    keys: list[Hashable] = [None] * len(order)

    def asked(place: int) -> Hashable:
        return _key(with_workload(ask, axes.workload(ctx, axes.concurrency[order[place]])))

    def fill(low: int, high: int, first: Hashable, last: Hashable) -> None:
        if first == last or high - low <= 1:
            keys[order[low]], keys[order[high]] = first, last
            for place in range(low + 1, high):
                keys[order[place]] = first
            return
        middle = (low + high) // 2
        between = asked(middle)
        fill(low, middle, first, between)
        fill(middle, high, between, last)

    fill(0, len(order) - 1, asked(0), asked(len(order) - 1))
    return keys


def _by_context(ask: Ask) -> bool:
    """
    Whether what is fixed changes with the context: latent attention's dummy, the profile run of the V0 engine.

    So does the batch where the smallest workload, which `ask` is, has fewer tokens in all its requests.
    """
    latent = any(isinstance(layer.mixer, Latent) for layer, _ in ask.architecture.groups)
    setting = settle(ask)
    if latent or setting.profile.get("v0"):
        return True
    whole = ask.options.max_num_batched_tokens or card_defaults(setting.profile, ask.device)[0]
    return setting.tokens < whole
