"""
The live run: the real model in a process of its own, measured stage by stage, then driven to its limit.

The process is watched from here: it may run out of memory, hang or be killed, and that is an answer. On a GPU
NVML is asked after each stage, and again when the process is gone.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.architecture.precision import DTYPES
from vram_planner.errors import CalibrationError, PlannerError, RequestError
from vram_planner.model_profiles.resolve import resolve
from vram_planner.planning.calibration import Calibration, save_calibration
from vram_planner.planning.estimate import estimate
from vram_planner.planning.recommend import recommend
from vram_planner.planning.request import PlanRequest
from vram_planner.validate.checked import DEFAULT_TOLERANCE
from vram_planner.validate.child import Child, Reply
from vram_planner.validate.devices import Place, place_for
from vram_planner.validate.faults import CannotMeasureError, ChildError, WeightsError
from vram_planner.validate.live_result import Lived, Sizes, Stage, compare, stages_of
from vram_planner.validate.lock import device_lock
from vram_planner.validate.packages import need
from vram_planner.validate.ramp import DEFAULT_HEADROOM, Ended, Limits, Ramp, Step, climb
from vram_planner.validate.recommend import evidence_of_ramp
from vram_planner.validate.told import share_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vram_planner.model_profiles.resolve import ModelProfile
    from vram_planner.planning.plan import MemoryPlan

    Tell = Callable[[str], None]

_CHILD = (sys.executable, "-m", "vram_planner.validate.live_child")
_MOST = {"cuda": 256, "cpu": 8}
_STAGES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """
    What a live run is asked beside the workload.

    `concurrency` None: ramp up to `most`. `step_limit_s` is the longest that one request to the child may
    take. `memory_limit_bytes` bounds what may be used, by RLIMIT_AS too on the CPU. `save` keeps the calibration.
    """

    device: str = "cuda"
    gpu: int = 0
    concurrency: int | None = None
    random_weights: bool = False
    headroom: float = DEFAULT_HEADROOM
    tolerance: float = DEFAULT_TOLERANCE
    most: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    step_limit_s: float = 300.0
    memory_limit_bytes: int | None = None
    save: bool = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense before anything is started."""
        if self.device not in _MOST:
            raise RequestError(f"no device is called {self.device[:20]!r}", hint="cuda or cpu")
        if not 0 <= self.headroom < 1:
            raise RequestError(f"a head-room of {self.headroom} is no share", hint="as in 0.05")
        if self.concurrency is not None and self.concurrency < 1:
            raise RequestError(f"{self.concurrency} requests at once?", hint="1 or more, or auto")
        if self.most is not None and self.most < 1:
            raise RequestError(f"a ramp to {self.most}?", hint="1 or more")
        if self.tolerance <= 0 or self.step_limit_s <= 0:
            raise RequestError(
                "the tolerance and the time limit must be above zero", hint="as in 0.05 and 300"
            )


class _Run:
    """One run: the child, what it has said, and how to start it again."""

    def __init__(
        self, options: LiveOptions, place: Place, load: dict[str, Any], work: dict[str, Any], tell: Tell
    ) -> None:
        self.options, self.place, self._work, self._tell = options, place, work, tell
        self._weights_bytes, self._load = load["weights_bytes"], {**load}
        del self._load["weights_bytes"]
        self._child: Child | None = None
        self.opened: dict[str, Any] = {}
        self.loaded: dict[str, Any] = {}
        self._context_bytes = 0

    def start(self) -> tuple[Stage, ...]:
        """Context, then weights; raises where there is nothing to measure."""
        self.stop()
        self._tell("starting a process for it")
        self._child = Child(_CHILD, environment=self.place.environment())
        self.place.follow(self._child.pid)
        self.opened = self._must("open", device=self.options.device, config=self._load["config"])
        context = Stage.of("context", self.opened, self.place.read())
        held = context.process_bytes if context.process_bytes is not None else context.grown_bytes
        self._context_bytes = max(0, (held or 0) - (context.reserved_bytes or 0))
        self._tell("loading the weights")
        self.loaded = self._must("load", **self._load, meanwhile=self._loading(held))
        weights = Stage.of("weights", self.loaded, self.place.read())
        if self.options.memory_limit_bytes is not None and self.options.device == "cpu":
            self._must("limit", more_bytes=self.options.memory_limit_bytes)
        return context, weights

    def _loading(self, before: int | None) -> Callable[[], None]:
        """Says how much of the weights is there, as seen from outside."""
        share = share_of(self._tell)

        def look() -> None:
            seen = self.place.read()
            now = seen.grown_bytes if seen.process_bytes is None else seen.process_bytes
            if now is not None and self._weights_bytes:
                share((now - (before or 0)) / self._weights_bytes)

        return look

    def stages(self, batch: int) -> tuple[Stage, ...]:
        """Prefill, the full cache, decode; ChildError where this batch does not run."""
        self._tell(f"measuring a batch of {batch}")
        seen = {}
        for name in ("prefill", "decode", "kv"):
            self._must(name, batch=batch, **self._work)
            seen[name] = self.place.read()
        return stages_of(self._must("told"), seen)

    def step(self, batch: int) -> Step:
        """One batch of the ramp; the child is started again where it died."""
        self._tell(f"{batch} at once")
        try:
            if self._child is None or not self._child.alive:
                self.start()
        except PlannerError as error:
            return Step(batch=batch, ended=Ended.DIED, note=f"it did not start again: {error}")
        reply = self._ask("step", batch=batch, **self._work)
        if not reply.answered:
            ended = Ended.HUNG if reply.ended == "hung" else Ended.DIED
            return Step(batch=batch, ended=ended, note=reply.note)
        answer = reply.answer
        if "error" in answer:
            return Step(batch=batch, ended=Ended.NO_ROOM, note=str(answer.get("message")))
        return Step(
            batch=batch,
            ended=Ended.RAN,
            peak_bytes=self._peak_bytes(answer),
            reserved_bytes=answer.get("reserved_peak_bytes"),
            ttft_s=answer["ttft_s"],
            tpot_s=answer["tpot_s"],
        )

    def stop(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.close()

    def limit_bytes(self) -> int:
        """What the process may hold in all."""
        found = int(self.opened["limit_bytes"]) + (self.context_bytes if self.options.device == "cuda" else 0)
        asked = self.options.memory_limit_bytes
        if asked is None:
            return found
        base = (self.loaded.get("process_bytes") or 0) if self.options.device == "cpu" else 0
        return min(found, asked + base)

    @property
    def context_bytes(self) -> int:
        """What the device holds for the process before any tensor."""
        return self._context_bytes

    def _peak_bytes(self, answer: dict[str, Any]) -> int | None:
        """On a GPU: context and the most that was reserved; on the CPU: the largest resident set."""
        if self.options.device == "cpu":
            return answer.get("process_peak_bytes")
        return self.context_bytes + int(answer["reserved_peak_bytes"])

    def _must(
        self, action: str, *, meanwhile: Callable[[], None] = lambda: None, **words: Any
    ) -> dict[str, Any]:
        reply = self._ask(action, meanwhile=meanwhile, **words)
        if not reply.answered:
            raise ChildError(
                f"the measuring process {reply.ended}: {reply.note}",
                hint="a smaller --ctx, fewer at once or a longer --time-limit; `validate shadow` needs no GPU",
            )
        answer = reply.answer
        if "error" not in answer:
            return answer
        if action == "load" and answer["error"] == "refused":
            raise WeightsError(answer["message"], hint=answer["hint"])
        raise CannotMeasureError(
            answer["message"],
            hint=answer.get("hint")
            or "less context, fewer at once, or a smaller model; or `validate shadow`",
        )

    def _ask(self, action: str, *, meanwhile: Callable[[], None] = lambda: None, **words: Any) -> Reply:
        if self._child is None:
            raise RuntimeError("asked before it was started")
        limit_s = self.options.step_limit_s
        return self._child.ask({"do": action, **words}, limit_s=limit_s, meanwhile=meanwhile)


def live(
    model: str,
    *,
    ctx: int | str = 1024,
    prompt_tokens: int | None = None,
    dtype: str = "auto",
    attn: str | None = None,
    offline: bool = False,
    tell: Tell = lambda _: None,
    **options: Any,
) -> Lived:
    """
    Load the model on this machine, measure it part by part against the plan, and find how many run at once.

    `options` are those of LiveOptions. `tell` is called with the name of each step as it begins. Raises
    NoGpuError, NotInstalledError or CannotMeasureError (status 4) where this machine cannot answer.
    """
    asked = LiveOptions(**options)
    profile = resolve(model, offline=offline)
    name = _dtype(profile, dtype)
    versions = need("torch", "transformers", "accelerate")
    place = place_for(asked.device, asked.gpu)
    quant = None if dtype == "auto" else dtype
    batch = asked.concurrency or 1
    words = {
        "prompt_tokens": prompt_tokens,
        "attn": attn,
        "quant": quant,
        "offline": offline,
        "calibration": False,
    }
    plan = estimate(
        PlanRequest.of(
            model=model, ctx=ctx, concurrency=batch, engine="transformers", gpu=place.plan_gpu, **words
        )
    )
    _room_first(plan, place)
    work = {"context": plan.request["ctx"], "prompt": plan.request["prompt_tokens"]}
    load = {
        "config": dict(profile.config),
        "dtype": name,
        "attn": plan.request["attn"],
        "weights": None if asked.random_weights else _files(model, profile),
        "weights_bytes": plan.part("weights").n_bytes,
    }
    request = {**work, "concurrency": batch, "attn": load["attn"], "dtype": name}
    return _measure(_Run(asked, place, load, work, tell), plan, request, versions)


def _measure(run: _Run, plan: MemoryPlan, request: dict[str, Any], versions: dict[str, str]) -> Lived:
    """The child's whole life, and what it comes to."""
    asked, place = run.options, run.place
    with ExitStack() as stack:
        stack.enter_context(device_lock(place.lock_name))
        stack.enter_context(_told_what_is_left(run))
        first = run.start()
        stages = (*first, *run.stages(request["concurrency"]))
        module_bytes, torch_version = int(run.loaded["module_bytes"]), run.opened["torch"]
        ramp = None if asked.concurrency is not None else _ramp(run, asked)
    on_gpu = asked.device == "cuda"
    left = place.left_behind()
    calibration = _calibrate(
        place, plan, Sizes.of(stages, module_bytes, on_gpu=on_gpu), versions["transformers"]
    )
    evidence = None if ramp is None else evidence_of_ramp(ramp, engine="transformers", ctx=request["context"])
    return Lived(
        model=plan.model.name,
        device=place.name,
        facts=place.facts,
        versions={**versions, "torch": torch_version},
        request=request,
        stages=stages,
        rows=compare(plan, stages, module_bytes, on_gpu=on_gpu),
        ramp=ramp,
        recommendation=None if evidence is None else recommend(evidence),
        tolerance=asked.tolerance,
        left_behind_bytes=left,
        calibration=calibration,
        warnings=(
            *(
                ("NVML stopped answering: what is left on the device is not known",)
                if on_gpu and left is None
                else ()
            ),
            *_saved(calibration, save=asked.save),
        ),
    )


@contextmanager
def _told_what_is_left(run: _Run) -> Iterator[None]:
    """End the process in any case; where it failed, the error says too what it leaves on the device, if anything."""
    try:
        yield
    except PlannerError as error:
        run.stop()
        left = run.place.left_behind()
        if not left:
            raise
        told = f"{error}; {left:,} B more than before are held on {run.place.name}"
        raise type(error)(told, hint=error.hint) from error
    finally:
        run.stop()


def _ramp(run: _Run, asked: LiveOptions) -> Ramp:
    limits = Limits(
        limit_bytes=run.limit_bytes(),
        headroom=asked.headroom,
        most=asked.most or _MOST[asked.device],
        ttft_s=asked.ttft_s,
        tpot_s=asked.tpot_s,
    )
    return climb(run.step, limits)


def _dtype(profile: ModelProfile, dtype: str) -> str:
    stored = profile.architecture.precision.name
    name = stored if dtype == "auto" else dtype
    if name not in DTYPES:
        raise CannotMeasureError(
            f"the live run loads plain weights, and these are stored as {name}"[:200],
            hint=f"give --dtype ({', '.join(DTYPES)}) and --random-weights",
        )
    return name


def _files(model: str, profile: ModelProfile) -> str:
    """The folder of the weights, or the name in the hub's local cache: nothing is downloaded."""
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path)
    return str(path.parent) if path.exists() else profile.name


def _room_first(plan: MemoryPlan, place: Place) -> None:
    """Weights that are larger than what is free are not even tried."""
    weights = next(part.n_bytes for part in plan.parts if part.name == "weights")
    if place.free_bytes is not None and weights > place.free_bytes:
        raise CannotMeasureError(
            f"the weights take {weights:,} B and {place.name} has {place.free_bytes:,} B free",
            hint="end other programs on it, take a smaller model, or use `vram-plan validate shadow`",
        )


def _calibrate(place: Place, plan: MemoryPlan, sizes: Sizes, version: str) -> Calibration | None:
    """What this run teaches later plans: the context, the allocator's waste, and the activations."""
    moving = sizes.peak - sizes.weights
    planned = next((part.n_bytes for part in plan.parts if part.name == "activations"), 0)
    if moving <= 0 or not planned:
        return None
    return Calibration(
        device=place.name,
        engine="transformers",
        engine_version=version,
        profile=str(plan.request.get("engine_version") or ""),
        runtime_bytes=(sizes.outside or 0) + sizes.work_space,
        reserved_over_live=max(1.0, (sizes.reserved_peak - sizes.weights) / moving),
        factors={"activations": max(0, moving - sizes.cache) / planned},
        model=plan.model.name,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        driver=place.facts.get("driver"),
    )


def _saved(entry: Calibration | None, *, save: bool) -> tuple[str, ...]:
    """What was measured is told even where it cannot be kept."""
    if entry is None or not save:
        return ()
    try:
        save_calibration(entry)
    except CalibrationError as error:
        return (f"{error}; {error.hint}",)
    return ()
