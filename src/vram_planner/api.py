"""The Python door: the same calls as the command's, as plain functions."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RequestError
from vram_planner.model_profiles.resolve import resolve
from vram_planner.planning.estimate import estimate
from vram_planner.planning.request import PlanRequest
from vram_planner.units import parse_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vram_planner.architecture.model import Architecture
    from vram_planner.planning.compare import Comparison
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.prices import Prices
    from vram_planner.planning.simulated import Simulation
    from vram_planner.planning.sizing_result import Sizing
    from vram_planner.planning.sweep_table import Table
    from vram_planner.planning.workload import Lengths


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


def size(
    model: str | Sequence[str],
    *,
    ctx: int | str | None = None,
    quants: str | Sequence[str | None] = (None,),
    gpus: str | Sequence[str] = (),
    prices: str | Path | Prices | None = None,
    **options: Any,
) -> Sizing:
    """
    Rank cards, counts and layouts that carry a load within its limits, with what they cost.

    `options` are the fields of SizeRequest (users or rate, think_s, ttft_s, tpot_s, prompt_tokens, output_tokens,
    node_gpus, inter_node, max_gpus, headroom, room, buying, utilisation) and those of a plan (engine, kv_dtype, max_num_seqs ...). `prices`
    is a file or a Prices; None: the catalogue's. `workload` (as for `simulate`) stands for the mean lengths, and for
    `ctx` its longest, where they are not said. `.options` is ranked, `.met` says whether there is one,
    `.to_rows()` and `.to_dict()` are plain data. Raises PlannerError for what cannot be meant.
    """
    from vram_planner.planning.prices import Prices, read_prices  # noqa: PLC0415  a plan reads no prices
    from vram_planner.planning.sizing import size as answer  # noqa: PLC0415  as above
    from vram_planner.planning.sizing_request import SizeRequest, of_workload  # noqa: PLC0415  as above

    workload = options.pop("workload", None)
    if workload is not None:
        options = of_workload(workload, {**options, "ctx": ctx})
        ctx = options.pop("ctx")
    if ctx is None:
        raise RequestError("ctx is missing", hint="tokens of the longest request, or workload")
    own = {field.name for field in fields(SizeRequest)} - {"options"}
    known = {name: value for name, value in options.items() if name in own}
    request = SizeRequest(
        models=_several(model),
        ctx=parse_tokens(ctx),
        quants=_several(quants),
        gpus=_several(gpus),
        prices=read_prices(prices) if isinstance(prices, str | Path) else prices or Prices(),
        options={name: value for name, value in options.items() if name not in own},
        **known,
    )
    return answer(request)


def simulate(
    model: str,
    *,
    gpu: str,
    workload: str | Lengths | None = None,
    prompt_tokens: int | str | None = None,
    output_tokens: int | str | None = None,
    **options: Any,
) -> Simulation:
    """
    Percentiles of a server under traffic, what its cache needs by expected and by worst, and what binds.

    `workload` is a preset (chat, code, documents, reasoning, rag, agent), a CSV or JSONL file of lengths, or a Lengths;
    or say both lengths: 512, 'lognormal:median=500,p90=2000'. `options` are the fields of SimulateRequest (rate or
    users, think_s, burstiness, max_tokens, ctx, requests, runs, seed, ttft_s, tpot_s, percentile, prefix_hit) and those of
    a plan. `.figures` has a Measure each for ttft_s, tpot_s, stay_s and queue_s, `.met` says whether the limits hold, `.to_rows()` and
    `.to_dict()` are plain data. Raises PlannerError for what cannot be meant or does not fit.
    """
    from vram_planner.planning.simulate import simulate as answer  # noqa: PLC0415  as above
    from vram_planner.planning.simulate_request import request_of  # noqa: PLC0415  a plan simulates nothing

    for name in ("ctx", "max_tokens"):
        if options.get(name) is not None:
            options[name] = parse_tokens(options[name])
    return answer(
        request_of(
            model,
            gpu=gpu,
            workload=workload,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            **options,
        )
    )


def compare(
    models: Sequence[str],
    *,
    gpu: str,
    ctx: int | str,
    concurrency: int = 1,
    quants: str | Sequence[str | None] = (None,),
    prices: str | Path | Prices | None = None,
    **options: Any,
) -> Comparison:
    """
    Models, or formats of one, side by side on the same card; differences are against the first.

    `options` are those of a plan. `.sides` has one entry each, `.change(side, figure)` the difference as a share.
    """
    from vram_planner.planning.compare import compare as answer  # noqa: PLC0415  a plan compares nothing
    from vram_planner.planning.prices import Prices, read_prices  # noqa: PLC0415  as above

    money = read_prices(prices) if isinstance(prices, str | Path) else prices or Prices()
    return answer(
        _several(models), _several(quants), money, gpu=gpu, ctx=ctx, concurrency=concurrency, **options
    )


def sweep(
    *,
    models: Sequence[str],
    gpus: Sequence[str],
    ctx: Sequence[int | str],
    concurrency: Sequence[int],
    quants: Sequence[str | None] = (None,),
    speed: bool = False,
    tell: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Table:
    """
    Plan every combination; each cell equals `plan` of the same options with calibration=False.

    Needs numpy (vram-planner[sweep]), else NotInstalledError. `gpus` may hold 'all'. `.array(figure)` is a flat numpy
    array, `.rows()`, `.to_rows()` and `.to_dict()` are plain columns; a refused cell has None and its reason.
    """
    from vram_planner.planning.sweep import sweep as answer  # noqa: PLC0415  a plan needs no numpy

    return answer(models, gpus, (ctx, concurrency), quants=quants, speed=speed, tell=tell, **options)


def _several(names: str | Sequence[Any]) -> tuple[Any, ...]:
    """A single name may stand for a list of one."""
    return (names,) if isinstance(names, str) else tuple(names)
