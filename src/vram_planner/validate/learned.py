"""What a start-up log, or a running server, teaches later plans on the same machine."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vram_planner.engines.llama_cpp_parts import RELEASE
from vram_planner.errors import RecordError
from vram_planner.hardware_profiles import find_gpu
from vram_planner.planning.calibration import Calibration
from vram_planner.units import GIB
from vram_planner.validate import replay_servers
from vram_planner.validate.evidence import Replayed

if TYPE_CHECKING:
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.validate.server_facts import ServerFacts

# A log rounds weights to 0.01 GiB: what differs less is no finding.
_ROUNDING_GIB = 0.01


def learn_from_log(row: dict[str, Any], replayed: Replayed) -> Calibration:
    """
    The entry that makes the plan of this log's settings say what the log says.

    Measured weights, activations and compute buffers become factors for this model; what is left between the
    planned and the logged pool of the cache becomes the device's `runtime`. Raises RecordError where the log does
    not name the card, or says nothing that could be kept.
    """
    if not row.get("gpu"):
        raise RecordError("the log does not name the card", hint="say it: --gpu 'L40S'")
    device = find_gpu(str(row["gpu"])).gpu.name
    if replayed.engine == "llama.cpp":
        return _of_llama_cpp(row, replayed, device)
    plan = replay_servers.plan_of(row)
    factors = _factors(plan, replayed)
    runtime = _runtime_bytes(plan, replayed, factors)
    if runtime is None and not factors:
        raise RecordError("the log says nothing that a later plan could use", hint="give a whole start-up")
    return Calibration(
        device=device,
        engine=plan.engine,
        engine_version=str(row.get("engine_version") or "unknown"),
        profile=str(plan.request.get("engine_version") or ""),
        model=plan.model.name,
        gpus=plan.request["tp"] * plan.request["pp"],
        runtime_bytes=runtime,
        factors=factors,
        learned_from="log",
        measured_at=_now(),
    )


def learn_from_server(plan: MemoryPlan | None, facts: ServerFacts) -> Calibration:
    """
    The entry that makes the plan of this server's settings say what the server says, as from a log.

    Raises RecordError where no card is named, where the cache was given a size, or where the engine tells only sums.
    """
    if plan is None or plan.gpu is None or plan.capacity is None:
        raise RecordError(
            "nothing is learnt without a card that was planned for", hint="say it: --gpu 'L40S'"
        )
    if facts.engine not in ("vllm", "sglang") or facts.kv_cache_tokens is None:
        raise RecordError(
            f"{facts.title} tells no size of its cache that a card's calibration could be read from",
            hint="its start-up log does: vram-plan validate log --save",
        )
    if facts.pinned is not None:
        raise RecordError(
            f"the size of its cache was set by {facts.pinned}: it teaches nothing of the card",
            hint="start it without, or validate its start-up log",
        )
    pairs = {"KV tokens": (float(plan.capacity.kv_cache_tokens), float(facts.kv_cache_tokens))}
    if facts.weights_bytes is not None:
        parts = {part.name: part.n_bytes for part in plan.parts}
        planned = parts["weights"] + parts.get("buffers", 0)
        pairs["weights"] = (planned / GIB, facts.weights_bytes / GIB)
    version = facts.version or "unknown"
    seen = Replayed(
        id="server",
        engine=plan.engine,
        version=version,
        model=plan.model.name,
        gpu=plan.gpu.name,
        pairs=pairs,
    )
    factors = _factors(plan, seen)
    return Calibration(
        device=plan.gpu.name,
        engine=plan.engine,
        engine_version=version,
        profile=str(plan.request.get("engine_version") or ""),
        model=plan.model.name,
        gpus=plan.request["tp"] * plan.request["pp"],
        runtime_bytes=_runtime_bytes(plan, seen, factors),
        factors=factors,
        learned_from="server",
        measured_at=_now(),
    )


def _of_llama_cpp(row: dict[str, Any], replayed: Replayed, device: str) -> Calibration:
    pair = replayed.pairs.get("compute buffer")
    if pair is None or not row.get("model"):
        raise RecordError(
            "no compute buffer of a named model on a single card is logged", hint="say the model: --model"
        )
    from vram_planner.model_profiles.resolve import resolve  # noqa: PLC0415  only to save

    return Calibration(
        device=device,
        engine="llama.cpp",
        engine_version=str(row.get("engine_version") or "unknown"),
        profile=RELEASE,
        model=resolve(str(row["model"]), offline=True).name,
        factors={"compute_buffer": pair[1] / pair[0]},
        learned_from="log",
        measured_at=_now(),
    )


def _factors(plan: MemoryPlan, replayed: Replayed) -> dict[str, float]:
    found: dict[str, float] = {}
    parts = {part.name: part for part in plan.parts}
    ours, logged = replayed.pairs.get("weights", (0.0, 0.0))
    if abs(ours - logged) > _ROUNDING_GIB:
        buffers = parts["buffers"].n_bytes if "buffers" in parts else 0
        found["weights"] = (logged * GIB - buffers) / parts["weights"].n_bytes
    ours, logged = replayed.pairs.get("activation", (0.0, 0.0))
    if logged:
        # What the log counts with the activations beside them (the graphs, in newer vLLM) is planned the same.
        activations = parts["activations"].n_bytes
        found["activations"] = max(0.0, activations + (logged - ours) * GIB) / activations
    return found


def _runtime_bytes(plan: MemoryPlan, replayed: Replayed, factors: dict[str, float]) -> int | None:
    """So much that the pool comes out as logged: planned runtime + what the pool is still too large by."""
    if plan.capacity is None or not plan.capacity.kv_pool_bytes:
        return None
    pool = plan.capacity.kv_pool_bytes
    if "KV pool" in replayed.pairs:
        logged = replayed.pairs["KV pool"][1] * GIB
    else:
        pair = replayed.pairs.get("KV blocks") or replayed.pairs.get("KV tokens")
        if pair is None:
            return None
        logged = pool * pair[1] / pair[0]
    parts = {part.name: part for part in plan.parts}
    moved = sum(parts[name].n_bytes * (factor - 1) for name, factor in factors.items())
    runtime = round(parts["runtime"].n_bytes + pool - moved - logged)
    if runtime < 0:
        raise RecordError(
            f"the logged cache is {-runtime:,} B larger than the plan leaves with no runtime at all",
            hint="the log is of another card, model or option than it was read as: say --gpu, --gpu-total, --model",
        )
    return runtime


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
