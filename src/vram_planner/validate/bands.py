"""Whether logged memory lies within the bands of a plan: the parts have theirs, and the pool what these leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.engines.sglang_free import context_gib, slack_gib
from vram_planner.engines.versions import band, profile_for
from vram_planner.engines.vllm_parts import non_torch_kind
from vram_planner.errors import PlannerError
from vram_planner.hardware_profiles import find_gpu
from vram_planner.planning.candidates import device_of
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.basis import Part
    from vram_planner.planning.plan import MemoryPlan

FROM_POOL = ("KV pool", "KV tokens", "concurrency", "KV blocks")
_PARTS = {"weights": ("weights", "buffers"), "activation": ("activations",)}
_NOT_FIXED = ("kv_cache", "recurrent_state")
# Logs have two decimals.
_HALF_A_DECIMAL = 0.005


def covered(plan: MemoryPlan, pairs: dict[str, tuple[float, float]], version: str | None) -> dict[str, bool]:
    """
    For each pair of a component, whether the logged figure lies in the plan's band.

    Tokens, blocks and concurrency are proportional to the pool, and so are their bands.
    """
    if plan.engine == "sglang":
        return sglang_covered(plan, pairs, share=float(str(plan.request["mem_fraction_static"])))
    if plan.engine != "vllm" or plan.capacity is None:
        return {}
    low, high = pool_band(plan, version)
    best = plan.capacity.kv_pool_bytes
    found = {}
    for name, (ours, logged) in pairs.items():
        if name == "KV pool":
            found[name] = low / GIB - _HALF_A_DECIMAL <= logged <= high / GIB + _HALF_A_DECIMAL
        elif name in FROM_POOL:
            # Whole blocks, and a concurrency of two decimals.
            slack = _HALF_A_DECIMAL if name == "concurrency" else 1
            found[name] = bool(best) and ours * low / best - slack <= logged <= ours * high / best + slack
        else:
            parts = [part for part in plan.parts if part.name in _PARTS[name]]
            if name == "activation" and plan.part("cuda_graphs").in_budget:
                parts.append(plan.part("cuda_graphs"))
            least, most = sum(part.low for part in parts) / GIB, sum(part.high for part in parts) / GIB
            found[name] = least - _HALF_A_DECIMAL <= logged <= most + _HALF_A_DECIMAL
    return found


def pool_band(plan: MemoryPlan, version: str | None) -> tuple[int, int]:
    """
    The pool in bytes with every part of vLLM's budget at its high end, and with every part at its low end.

    What an engine takes beyond its budget (graphs before 0.20, the CUDA context) does not touch the pool.
    """
    if plan.capacity is None:
        return 0, 0
    best = plan.capacity.kv_pool_bytes
    # The part that is short says more than a pool of nothing: count from what the budget leaves, below zero too.
    fixed = [part for part in plan.parts if part.name not in _NOT_FIXED and part.in_budget]
    spread = [_spread(part, plan, version) for part in fixed]
    return max(0, best - sum(more for _, more in spread)), best + sum(less for less, _ in spread)


def _spread(part: Part, plan: MemoryPlan, version: str | None) -> tuple[int, int]:
    """How much less, and how much more, a part may take of the budget."""
    if not part.outside_bytes:
        return part.n_bytes - part.low, part.high - part.n_bytes
    # The part holds the context too, which is outside: the band inside is that of the rest.
    profile, _ = profile_for("vllm", version)
    tp, pp = plan.request["tp"] or 1, plan.request["pp"] or 1
    if plan.request["ep"]:
        tp *= plan.request["dp"] or 1
    low, most, high = band(profile[non_torch_kind(tp=tp, pp=pp)])
    return most - low, high - most


def context_band(plan: MemoryPlan) -> tuple[float, float, float]:
    """GiB that SGLang finds gone before the load on the plan's card and layout (best, low, high)."""
    capability = None
    if plan.gpu is not None:
        try:
            capability = device_of(find_gpu(plan.gpu.name).gpu).compute_capability
        except PlannerError:  # a card that has nothing but its total
            capability = None
    return context_gib(plan.layout.tp * plan.layout.pp, capability, known_card=plan.gpu is not None)


def sglang_covered(
    plan: MemoryPlan, pairs: dict[str, tuple[float, float]], *, share: float, free_known: bool = False
) -> dict[str, bool]:
    """
    For each of SGLang's components whether the logged figure lies in the plan's band.

    The pool has the bands of the load, and the fraction's share of that of the context, unless the log says what was free.
    """
    if plan.capacity is None or not plan.capacity.kv_pool_bytes:
        return {}
    slack, context = slack_gib(plan.layout.tp * plan.layout.pp), context_band(plan)
    loaded = [
        part for part in plan.parts if part.name in ("weights", "draft_model", "lora") and part.in_budget
    ]
    outside = 0.0 if free_known else share
    # Where a release counts less than it allocates, a byte more of the budget is more than a byte of the pool.
    pool, fixed = (
        plan.capacity.kv_pool_bytes,
        sum(part.budgeted_bytes for part in plan.parts if part.name not in _NOT_FIXED),
    )
    outgrown = pool / max(1, plan.capacity.usable_bytes - fixed)
    less = (
        sum(part.high - part.n_bytes for part in loaded) / GIB
        + slack[2]
        - slack[0]
        + outside * (context[2] - context[0])
    )
    more = (
        sum(part.n_bytes - part.low for part in loaded) / GIB
        + slack[0]
        - slack[1]
        + outside * (context[0] - context[1])
    )
    found = {}
    for name, (ours, logged) in pairs.items():
        if name.startswith("KV pool"):
            low, high = ours - less * outgrown, ours + more * outgrown
        elif name.startswith("KV tokens"):
            scale = ours / (pool / GIB) * outgrown
            low, high = ours - less * scale - 1, ours + more * scale + 1
        elif name == "free before the load":
            low, high = ours - (context[2] - context[0]), ours + context[0] - context[1]
        elif name == "load":
            low, high = ours - (slack[0] - slack[1]), ours + slack[2] - slack[0]
        else:
            continue
        found[name] = low - _HALF_A_DECIMAL <= logged <= high + _HALF_A_DECIMAL
    return found
