"""
The live run: the real model in a process of its own, measured stage by stage, then driven to its limit.

The process is watched from here: it may run out of memory, hang or be killed, and that is an answer. On a GPU
NVML is asked after each stage, and again when the process is gone. Over several GPUs one process has them all, and
transformers deals the layers out (`device_map="auto"`) within what each has free.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.architecture.precision import DTYPES
from vram_planner.errors import PlannerError
from vram_planner.model_profiles.resolve import resolve
from vram_planner.planning.estimate import estimate
from vram_planner.planning.recommend import recommend
from vram_planner.planning.request import PlanRequest
from vram_planner.validate.child import Child, Reply
from vram_planner.validate.device_set import GpuSet, left_words, place_on
from vram_planner.validate.faults import CannotMeasureError, ChildError, WeightsError
from vram_planner.validate.live_calibration import calibrate, saved
from vram_planner.validate.live_cards import (
    Split,
    card_warnings,
    cards_found,
    compare_cards,
    room_on_each,
    split_over,
)
from vram_planner.validate.live_options import MOST, LiveOptions
from vram_planner.validate.live_result import Lived, Sizes, Stage, compare, stages_of
from vram_planner.validate.lock import device_locks
from vram_planner.validate.packages import need
from vram_planner.validate.ramp import Ended, Limits, Step, climb
from vram_planner.validate.recommend import evidence_of_ramp
from vram_planner.validate.told import share_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vram_planner.model_profiles.resolve import ModelProfile
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.validate.devices import Place

    Tell = Callable[[str], None]

_CHILD = (sys.executable, "-m", "vram_planner.validate.live_child")
_UNTOLD = ("NVML stopped answering: what is left on the device is not known",)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """
    What the child is asked: how to load, how much to run; `plan` deals out over several GPUs.

    `weights_bytes` is what the weights will take by the plan.
    """

    load: dict[str, Any]
    work: dict[str, Any]
    plan: PlanRequest
    weights_bytes: int


class _Run:
    """One run: the child, what it has said, and how to start it again."""

    def __init__(self, options: LiveOptions, place: Place, job: _Job, tell: Tell) -> None:
        self.options, self.place, self._tell = options, place, tell
        self._load, self._work, self._plan = job.load, job.work, job.plan
        self._weights_bytes = job.weights_bytes
        self._child: Child | None = None
        self.opened: dict[str, Any] = {}
        self.loaded: dict[str, Any] = {}
        self.split: Split | None = None
        self._context_bytes: tuple[int, ...] = (0,)

    def start(self) -> tuple[Stage, ...]:
        """Context, then weights; raises where there is nothing to measure."""
        self.stop()
        self._tell("starting a process for it")
        self._child = Child(_CHILD, environment=self.place.environment())
        self.place.follow(self._child.pid)
        several: dict[str, Any] = {"cards": len(self.place.cards)} if self.place.cards else {}
        self.opened = self._must("open", device=self.options.device, config=self._load["config"], **several)
        context = Stage.of("context", self.opened, self.place.read())
        self._context_bytes = tuple(one.outside_bytes for one in context.cards or (context,))
        if isinstance(self.place, GpuSet) and self.split is None:
            self.split = split_over(self._plan, self.place, self._card_rooms(self.opened["card_limit_bytes"]))
        placed: dict[str, Any] = {} if self.split is None else {"max_memory": self.split.max_memory}
        self._tell("loading the weights")
        held = context.process_bytes if context.process_bytes is not None else context.grown_bytes
        self.loaded = self._must("load", meanwhile=self._loading(held), **self._load, **placed)
        weights = Stage.of("weights", self.loaded, self.place.read())
        if self.options.memory_limit_bytes is not None and self.options.device == "cpu":
            self._must("limit", more_bytes=self.options.memory_limit_bytes)
        return context, weights

    def _loading(self, before: int | None) -> Callable[[], None]:
        """Says how much of the weights is there, as seen from outside."""
        share, weights_bytes = share_of(self._tell), self._weights_bytes
        if self.split is not None:  # the plan's own part is that of the fullest card
            weights_bytes = sum(card.weights_bytes for card in self.split.cards)

        def look() -> None:
            seen = self.place.read()
            now = seen.grown_bytes if seen.process_bytes is None else seen.process_bytes
            if now is not None and weights_bytes:
                share((now - (before or 0)) / weights_bytes)

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
        peaks = self._card_peaks(answer)
        return Step(
            batch=batch,
            ended=Ended.RAN,
            peak_bytes=max(peaks, default=None) if peaks else answer.get("process_peak_bytes"),
            card_peak_bytes=peaks if self.place.cards else (),
            reserved_bytes=answer.get("reserved_peak_bytes"),
            ttft_s=answer["ttft_s"],
            tpot_s=answer["tpot_s"],
        )

    def stop(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.close()

    def limits(self) -> Limits:
        """What the process may hold in all, of each card where there are several, and what was asked of it."""
        asked = self.options
        cards: tuple[int, ...] = ()
        if self.place.cards:
            both = zip(self.opened["card_limit_bytes"], self._context_bytes, strict=True)
            cards = self._card_rooms([free + context for free, context in both])
        return Limits(
            limit_bytes=min(cards) if cards else self._limit_bytes(),
            card_limit_bytes=cards,
            headroom=asked.headroom,
            most=asked.most or MOST[asked.device],
            ttft_s=asked.ttft_s,
            tpot_s=asked.tpot_s,
        )

    def _limit_bytes(self) -> int:
        on_gpu = self.options.device == "cuda"
        found = int(self.opened["limit_bytes"]) + (self._context_bytes[0] if on_gpu else 0)
        asked = self.options.memory_limit_bytes
        if asked is None:
            return found
        base = 0 if on_gpu else self.loaded.get("process_bytes") or 0
        return min(found, asked + base)

    def _card_rooms(self, free: Iterable[int]) -> tuple[int, ...]:
        """What is free on each card, and no more than was asked for."""
        asked = self.options.memory_limit_bytes
        return tuple(n_bytes if asked is None else min(n_bytes, asked) for n_bytes in free)

    def _card_peaks(self, answer: dict[str, Any]) -> tuple[int, ...]:
        """On each GPU context and the most that was reserved; nothing on the CPU."""
        if self.options.device == "cpu":
            return ()
        told = answer.get("cards") or (answer,)
        return tuple(
            context + int(one["reserved_peak_bytes"])
            for context, one in zip(self._context_bytes, told, strict=True)
        )

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

    `options` are those of LiveOptions: `gpu=0`, `gpu=(0, 1)` or `gpu="all"` among them. Over several GPUs each card's plan is
    held against what that card held. `tell` is called with the name of each step as it begins. Raises NoGpuError, NotInstalledError or CannotMeasureError (status 4) where this machine cannot answer.
    """
    asked = LiveOptions(**options)
    profile = resolve(model, offline=offline)
    name = _dtype(profile, dtype)
    versions = need("torch", "transformers", "accelerate")
    place = place_on(asked.device, asked.gpu)
    quant = None if dtype == "auto" else dtype
    batch = asked.concurrency or 1
    words = {
        "prompt_tokens": prompt_tokens,
        "attn": attn,
        "quant": quant,
        "offline": offline,
        "calibration": False,
    }
    wanted = PlanRequest.of(
        model=model,
        ctx=ctx,
        concurrency=batch,
        engine="transformers",
        gpu=place.plan_gpu,
        gpu_count=len(place.cards) or None,
        **words,
    )
    plan = estimate(wanted)
    _room_first(plan, wanted, place)
    work = {"context": plan.request["ctx"], "prompt": plan.request["prompt_tokens"]}
    load = {
        "config": dict(profile.config),
        "dtype": name,
        "attn": plan.request["attn"],
        "weights": None if asked.random_weights else _files(model, profile),
    }
    request = {**work, "concurrency": batch, "attn": load["attn"], "dtype": name}
    job = _Job(load=load, work=work, plan=wanted, weights_bytes=plan.part("weights").n_bytes)
    return _measure(_Run(asked, place, job, tell), plan, request, versions)


def _measure(run: _Run, plan: MemoryPlan, request: dict[str, Any], versions: dict[str, str]) -> Lived:
    """The child's whole life, and what it comes to."""
    asked, place = run.options, run.place
    with ExitStack() as stack:
        stack.enter_context(device_locks(place.lock_names))
        stack.enter_context(_told_what_is_left(run))
        first = run.start()
        stages = (*first, *run.stages(request["concurrency"]))
        module_bytes, torch_version = int(run.loaded["module_bytes"]), run.opened["torch"]
        loaded, ramp = run.loaded, None if asked.concurrency is not None else climb(run.step, run.limits())
    on_gpu, left = asked.device == "cuda", place.left_behind()
    if isinstance(place, GpuSet) and run.split is not None:
        cards, rows = cards_found(run.split, loaded, place), compare_cards(run.split, stages, place)
        number = run.split.fullest
        sizes = Sizes.of(tuple(stage.cards[number] for stage in stages), 0, on_gpu=True)
        planned = run.split.cards[number].activation_bytes
    else:
        cards, rows = (), compare(plan, stages, module_bytes, on_gpu=on_gpu)
        sizes = Sizes.of(stages, module_bytes, on_gpu=on_gpu)
        planned = next((part.n_bytes for part in plan.parts if part.name == "activations"), 0)
    calibration = calibrate(place, plan, sizes, planned, versions["transformers"])
    evidence = None if ramp is None else evidence_of_ramp(ramp, engine="transformers", ctx=request["context"])
    return Lived(
        model=plan.model.name,
        device=place.name,
        facts=place.facts,
        versions={**versions, "torch": torch_version},
        request=request,
        stages=stages,
        rows=rows,
        ramp=ramp,
        recommendation=None if evidence is None else recommend(evidence),
        tolerance=asked.tolerance,
        left_behind_bytes=left,
        calibration=calibration,
        warnings=(
            *card_warnings(cards),
            *(_UNTOLD if on_gpu and left is None and not any(card.vanished for card in cards) else ()),
            *saved(calibration, save=asked.save),
        ),
        cards=cards,
    )


@contextmanager
def _told_what_is_left(run: _Run) -> Iterator[None]:
    """End the process in any case; where it failed, the error says too what it leaves on the device, if anything."""
    try:
        yield
    except PlannerError as error:
        run.stop()
        left = left_words(run.place)
        if not left:
            raise
        raise type(error)(f"{error}; {left}", hint=error.hint) from error
    finally:
        run.stop()


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


def _room_first(plan: MemoryPlan, wanted: PlanRequest, place: Place) -> None:
    """Weights that are larger than what is free are not even tried."""
    if isinstance(place, GpuSet):
        room_on_each(wanted, place)
        return
    weights = next(part.n_bytes for part in plan.parts if part.name == "weights")
    if place.free_bytes is not None and weights > place.free_bytes:
        raise CannotMeasureError(
            f"the weights take {weights:,} B and {place.name} has {place.free_bytes:,} B free",
            hint="end other programs on it, take a smaller model, or use `vram-plan validate shadow`",
        )
