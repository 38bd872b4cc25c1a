"""The Python door: the same calls as the command's, as plain functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.model_profiles.resolve import resolve
from vram_planner.planning.estimate import estimate
from vram_planner.planning.request import PlanRequest

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.planning.plan import MemoryPlan


def plan(model: str, *, ctx: int | str, concurrency: int, **options: Any) -> MemoryPlan:
    """
    Plan the memory of `concurrency` requests of `ctx` tokens each (prompt + generated) on `model`.

    `options` are the command's, with underscores: engine, engine_version, gpu, gpu_count, tp, pp, dp, ep,
    dtype, quant, kv_dtype, gpu_memory_utilization, max_num_seqs, max_num_batched_tokens, block_size,
    ubatch, flash_attn, slots, attn, prompt_tokens. Raises PlannerError for what cannot be planned;
    a plan that does not fit is an answer (`plan.fits`), no error.
    """
    return estimate(PlanRequest.of(model=model, ctx=ctx, concurrency=concurrency, **options))


def load_architecture(model: str) -> Architecture:
    """
    What a model is made of: `.parameters`, `.layers`, `.weights_bytes(precision)`, all without its weights.

    `model` is an alias, a catalogue name, a directory or a config.json. Raises PlannerError.
    """
    return resolve(model).architecture
