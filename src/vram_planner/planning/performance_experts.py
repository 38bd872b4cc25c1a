"""Products of a prompt with experts: each has few tokens, which fill a tile badly."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vram_planner.planning.performance_model import Card, Constants
    from vram_planner.planning.performance_work import Work


def expert_products(
    work: Work, card: Card, fitted: Constants, tokens: float
) -> tuple[float, float, float]:
    """
    Seconds in which experts are read, in which their products run, and in which their tiles' padding does.

    Of n tokens an expert that is touched has n · k / (E · p) on average, p = 1 − (1 − k/E)^n; in tiles of t tokens they take
    t, or half a tile more than they are. The kernels of experts run after those of dense matrices: they hide their own reading alone.

    Source: ggml-cuda/mmq.cuh, mul_mat_q_case: the width of a tile follows from the tokens of the micro-batch, not from those
    of an expert.
    """
    experts = work.expert_bytes(tokens**fitted.expert_spread) * (1 - work.host_experts)
    memory_s = experts / (card.bandwidth * fitted.bandwidth_share * fitted.expert_share)
    compute_s = tokens * work.expert_flops / (card.flops * fitted.compute_share * fitted.expert_compute)
    full = sum(each.n_bytes for each in work.experts)
    if not full:
        return 0.0, 0.0, 0.0
    used = sum(each.n_bytes * each.used / each.of for each in work.experts) / full
    each = tokens * used * full / work.expert_bytes(tokens)
    tile = min(work.expert_tile, tokens)
    padded = max(tile, each + tile / 2)
    return memory_s, compute_s, compute_s * (padded / each - 1)
