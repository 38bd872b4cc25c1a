"""What a live run found: stages, the plan beside them, the ramp and what to do with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vram_planner.validate.checked import Checked, checked_dict, plan_held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.planning.calibration import Calibration
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.recommend import Recommendation
    from vram_planner.validate.devices import Seen
    from vram_planner.validate.ramp import Ramp

NOT_COVERED = (
    "transformers alone is driven; for vLLM, SGLang and llama.cpp start the server and read its log or metrics",
)
_ONE_DEVICE = "one device; quantised weights and torch.compile"
_SEVERAL = "tensor parallelism, of which transformers' plan says nothing; quantised weights and torch.compile"
CPU_NOT_COVERED = (
    "on the CPU there is no CUDA context, no caching allocator and no CUDA kernel: weights, cache and tensors hold",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """
    One moment, measured three ways: torch allocated, torch reserved, and the process and device from outside.

    `grown_bytes` is what the whole device holds more than before the run; `cache_bytes` are the storages that the cache
    object holds, at the stage "kv" alone. Over several GPUs these are sums, and `cards` has each by itself.
    """

    name: str
    allocated_bytes: int | None
    allocated_peak_bytes: int | None
    reserved_bytes: int | None
    reserved_peak_bytes: int | None
    process_bytes: int | None
    process_peak_bytes: int | None
    device_bytes: int | None
    grown_bytes: int | None = None
    cache_bytes: int | None = None
    cards: tuple[Stage, ...] = ()

    @classmethod
    def of(cls, name: str, answer: dict[str, Any], seen: Seen) -> Stage:
        """From what the child said and what was seen from outside; the child's word on itself comes first."""
        said = answer.get("process_bytes")
        told = answer.get("cards", ())
        return cls(
            name=name,
            allocated_bytes=answer.get("allocated_bytes"),
            allocated_peak_bytes=answer.get("allocated_peak_bytes"),
            reserved_bytes=answer.get("reserved_bytes"),
            reserved_peak_bytes=answer.get("reserved_peak_bytes"),
            process_bytes=seen.process_bytes if said is None else said,
            process_peak_bytes=answer.get("process_peak_bytes"),
            device_bytes=seen.device_bytes,
            grown_bytes=seen.grown_bytes,
            cache_bytes=answer.get("cache_bytes"),
            cards=tuple(cls.of(name, *both) for both in zip(told, seen.cards, strict=True)),
        )

    @property
    def outside_bytes(self) -> int:
        """What the device holds for the process beside torch's reserve: the context."""
        held = self.process_bytes if self.process_bytes is not None else self.grown_bytes
        return max(0, (held or 0) - (self.reserved_bytes or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFound:
    """
    One of several GPUs: how many layers the plan gave it and how many it got, and what it was allowed for weights.

    `layers` is None where the layers were not found in the model. `vanished` says that NVML stopped answering for it.
    """

    index: int
    name: str
    planned_layers: int
    layers: int | None
    max_memory_bytes: int
    left_behind_bytes: int | None
    vanished: bool = False

    @property
    def as_planned(self) -> bool:
        """Whether it got the layers that the plan gave it."""
        return self.layers is None or self.layers == self.planned_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Lived:
    """Plan against measurement on this device."""

    model: str
    device: str
    facts: dict[str, Any]
    versions: dict[str, str]
    request: dict[str, Any]
    stages: tuple[Stage, ...]
    rows: tuple[Checked, ...]
    ramp: Ramp | None
    recommendation: Recommendation | None
    tolerance: float
    left_behind_bytes: int | None
    calibration: Calibration | None
    warnings: tuple[str, ...] = ()
    cards: tuple[CardFound, ...] = ()

    @property
    def held(self) -> bool:
        """Whether the plan was within the tolerance, and every layer on the card that it gave."""
        return plan_held(self.rows, self.tolerance) and all(card.as_planned for card in self.cards)

    @property
    def not_covered(self) -> tuple[str, ...]:
        """What this run says nothing of."""
        what = _SEVERAL if self.cards else _ONE_DEVICE
        return (*NOT_COVERED, what, *(CPU_NOT_COVERED if self.device == "cpu" else ()))

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "schema_version": 1,
            "rung": "live",
            "model": self.model,
            "device": self.facts,
            "versions": self.versions,
            "request": self.request,
            "held": self.held,
            "tolerance": self.tolerance,
            "stages": [asdict(stage) for stage in self.stages],
            "rows": [checked_dict(row) for row in self.rows],
            "ramp": None if self.ramp is None else _ramp_dict(self.ramp),
            "recommendation": None if self.recommendation is None else asdict(self.recommendation),
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "left_behind_bytes": self.left_behind_bytes,
            "cards": [asdict(card) for card in self.cards],
            "warnings": list(self.warnings),
            "not_covered": list(self.not_covered),
        }


def stages_of(found: dict[str, Any], seen: Mapping[str, Seen]) -> tuple[Stage, ...]:
    """Prefill, decode and the cache; the outside saw each when it was over and torch still held what it reserved."""
    return tuple(Stage.of(name, found[name], seen[name]) for name in ("prefill", "decode", "kv"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the stages come to: cuBLAS's work space, which torch holds from the start, is counted apart."""

    weights: int
    cache: int
    peak: int
    reserved_peak: int
    work_space: int
    outside: int | None

    @classmethod
    def of(cls, stages: tuple[Stage, ...], module_bytes: int, *, on_gpu: bool) -> Sizes:
        """
        On a GPU by torch's allocator.

        On the CPU the file stays mapped under the weights, so that the module's own storages are counted.
        """
        named = {stage.name: stage for stage in stages}
        context, passes = named["context"], (named["prefill"], named["decode"])
        base = (context.allocated_bytes or 0) if on_gpu else 0
        held = context.process_bytes if context.process_bytes is not None else context.grown_bytes
        peak = max(stage.allocated_peak_bytes or 0 for stage in passes)
        return cls(
            weights=(named["weights"].allocated_bytes or 0) - base if on_gpu else module_bytes,
            cache=named["kv"].cache_bytes or 0,
            peak=peak - base,
            reserved_peak=max(stage.reserved_peak_bytes or peak for stage in passes) - base,
            work_space=base,
            outside=None if held is None else max(0, held - (context.reserved_bytes or 0)),
        )


def compare(
    plan: MemoryPlan, stages: tuple[Stage, ...], module_bytes: int, *, on_gpu: bool
) -> tuple[Checked, ...]:
    """The parts of a plan for one device against what it held."""
    planned = {part.name: part.n_bytes for part in plan.parts}
    return rows_of(planned, stages, Sizes.of(stages, module_bytes, on_gpu=on_gpu), on_gpu=on_gpu)


def rows_of(
    planned: dict[str, int], stages: tuple[Stage, ...], sizes: Sizes, *, on_gpu: bool
) -> tuple[Checked, ...]:
    """Weights and cache against themselves, activations and runtime against the whole."""
    kv_planned = planned.get("kv_cache", 0) + planned.get("recurrent_state", 0)
    rows = [
        Checked(
            name="weights",
            planned_bytes=planned["weights"],
            measured_bytes=sizes.weights,
            how="what torch held more after loading" if on_gpu else "storages of the loaded module",
        ),
        Checked(
            name="kv_cache",
            planned_bytes=kv_planned,
            measured_bytes=sizes.cache,
            how="storages that the cache holds at the full context",
        ),
        Checked(
            name="activations",
            planned_bytes=planned["activations"],
            measured_bytes=max(0, sizes.peak - sizes.weights - sizes.cache),
            how="the most that torch held, less both; error in per cent of the peak",
            share_of=sizes.peak,
        ),
        Checked(
            name="peak",
            planned_bytes=planned["weights"] + kv_planned + planned["activations"],
            measured_bytes=sizes.peak,
            how="the most that torch held",
        ),
        _runtime_row(planned.get("runtime", 0), sizes)
        if on_gpu
        else _process_row(planned["weights"], stages),
    ]
    return tuple(row for row in rows if row.planned_bytes or row.measured_bytes)


def _runtime_row(planned: int, sizes: Sizes) -> Checked:
    """Context, work space, and what the allocator reserved without using it."""
    measured = (sizes.outside or 0) + sizes.work_space + max(0, sizes.reserved_peak - sizes.peak)
    return Checked(
        name="runtime",
        planned_bytes=planned,
        measured_bytes=measured,
        how="context, work space, and what was reserved and not used; error in per cent of the whole",
        share_of=sizes.peak + measured,
        judged=sizes.outside is not None,
    )


def _process_row(weights: int, stages: tuple[Stage, ...]) -> Checked:
    """On the CPU: what the process itself grew by while loading (PSS)."""
    named = {stage.name: stage for stage in stages}
    before, after = named["context"].process_bytes, named["weights"].process_bytes
    return Checked(
        name="weights, process",
        planned_bytes=weights,
        measured_bytes=0 if before is None or after is None else after - before,
        how="what the process grew by (PSS), the file's own pages where experts were merged out of it included; "
        "shown, not judged",
        judged=False,
    )


def _ramp_dict(ramp: Ramp) -> dict[str, Any]:
    return {
        "steps": [{**asdict(step), "tokens_per_s": step.tokens_per_s} for step in ramp.steps],
        "limits": asdict(ramp.limits),
        "largest_that_fits": ramp.largest_that_fits,
        "largest": ramp.largest,
        "complete": ramp.complete,
        "stopped": ramp.stopped,
    }
