"""From what was asked to parallel sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import Layout, valid_tp, why_not_tp
from vram_planner.errors import ParallelError

if TYPE_CHECKING:
    from vram_planner.engines.base import Engine
    from vram_planner.hardware_profiles import GpuChoice
    from vram_planner.model_profiles.resolve import ModelProfile
    from vram_planner.planning.request import PlanRequest


def fixed_gpus(request: PlanRequest) -> int | None:
    """How many GPUs the parallel sizes need, if any of them was given."""
    if request.tp is None and request.pp is None and request.dp is None:
        return None
    if request.dp_attention:  # the groups of attention are groups of the tp ranks
        return (request.tp or request.dp or 1) * (request.pp or 1)
    return (request.tp or 1) * (request.pp or 1) * (request.dp or 1)


def layout_of(
    request: PlanRequest, profile: ModelProfile, chosen: Engine, choice: GpuChoice | None
) -> Layout:
    """The parallel sizes as asked, the rest by the number of cards; ParallelError where they do not go together."""
    count = choice.count if choice else request.gpu_count or fixed_gpus(request) or 1
    tp, pp, dp = request.tp, request.pp or 1, 1 if request.dp_attention else request.dp or 1
    if choice and request.gpu_count is None and choice.count == 1 and choice.asked != "auto":
        count = fixed_gpus(request) or 1
    if tp is None:
        if count % (pp * dp):
            raise ParallelError(
                f"{count} GPUs cannot be shared by pp {pp} × dp {dp}",
                hint="give --tp, or another --gpu-count",
            )
        tp = count // (pp * dp)
        if not chosen.splits_tensors:
            tp, pp = 1, count
        elif not request.dp_attention and why_not_tp(profile.architecture, tp) is not None:
            fitting = ", ".join(str(size) for size in valid_tp(profile.architecture))
            raise ParallelError(
                f"{count} GPUs: a tensor parallel size of {tp} does not divide the heads or the vocabulary",
                hint=f"valid sizes: {fitting}; or --tp 1 --pp {tp}",
            )
    groups = _attention_groups(request, chosen, tp) if request.dp_attention else 1
    layout = Layout(tp=tp, pp=pp, dp=dp, expert_parallel=request.ep, attention_dp=groups)
    if choice and layout.gpus > count:
        raise ParallelError(
            f"tp {tp} × pp {pp} × dp {dp} needs {layout.gpus} GPUs, there are {count}",
            hint=f"--gpu-count {layout.gpus}, or smaller sizes",
        )
    return layout


def _attention_groups(request: PlanRequest, chosen: Engine, tp: int) -> int:
    """How many groups of the tp ranks serve requests of their own, by the engine's way to say it."""
    if chosen.attention_groups is None:
        other = "--dp N --ep" if chosen.name == "vllm" else "--engine sglang"
        raise ParallelError(
            f"{chosen.title} has no data parallel attention inside its tensor parallel ranks",
            hint=f"try {other}",
        )
    groups = tp if chosen.attention_groups == "tp" else request.dp or 1
    if groups == 1 or (request.dp or groups) != groups:
        raise ParallelError(
            f"--dp-attention with --dp {request.dp or 1} and tp {tp}",
            hint=f"give --tp {request.dp or 8}, and no --dp: each rank is a group"
            if chosen.attention_groups == "tp"
            else "say how many groups with --dp: it divides --tp, and the GPUs are --tp × --pp",
        )
    return groups
