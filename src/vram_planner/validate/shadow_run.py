"""
The shadow: the full-size model in the engine's own code, without a GPU and without its memory.

transformers runs under torch's fake tensors, which have shapes and no data; a dispatch mode keeps account of
every storage, rounded as the CUDA caching allocator rounds. Prefill, the first and the last decode step and
sampling are run with the real cache class.
"""

from __future__ import annotations

import gc
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vram_planner.architecture.precision import DTYPES
from vram_planner.errors import RequestError
from vram_planner.model_profiles.resolve import resolve
from vram_planner.planning.estimate import estimate
from vram_planner.planning.recommend import recommend
from vram_planner.planning.request import PlanRequest
from vram_planner.validate.checked import DEFAULT_TOLERANCE, Checked, checked_dict, plan_held
from vram_planner.validate.faults import CannotMeasureError
from vram_planner.validate.packages import torch_and_transformers, versions_of
from vram_planner.validate.passes import Generation, build_model, bytes_held, make_config, storages_of
from vram_planner.validate.recommend import evidence_of_shadow
from vram_planner.validate.storages import Ledger, dispatch_mode, named_cache, named_places

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.recommend import Recommendation
    from vram_planner.validate.shadow_asked import EngineShadow

    Tell = Callable[[str], None]

ENGINES = ("transformers", "vllm", "llama.cpp")
NOT_COVERED = (
    "the CUDA context, cuBLAS work space, and segments of the allocator that are not full",
    (
        "work space inside CUDA kernels; where keys and values differ in width the CPU's unfused attention is "
        "counted, which CUDA may not need"
    ),
    "kernels of mamba-ssm, causal-conv1d and flash-linear-attention: the plain torch path is counted",
    "quantised weights, several cards, torch.compile",
)
_SAFE_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowOptions:
    """The workload of a shadow, as in PlanRequest; `dtype` 'auto' is as stored. `gpu` is the one card to recommend for."""

    ctx: int | str = 4096
    concurrency: int = 1
    prompt_tokens: int | None = None
    dtype: str = "auto"
    attn: str | None = None
    gpu: str | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The peak of one pass: bytes in all, by category, the op that made it, and how long the pass took to shadow."""

    name: str
    peak_bytes: int
    by_category: dict[str, int]
    op: str
    kv_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadowed:
    """What the engine's own code would hold, beside the plan."""

    model: str
    engine: str
    versions: dict[str, str]
    request: dict[str, Any]
    moments: tuple[Moment, ...]
    rows: tuple[Checked, ...]
    tolerance: float
    seconds: float
    plan: MemoryPlan
    not_covered: tuple[str, ...] = NOT_COVERED

    @property
    def peak(self) -> Moment:
        """The moment that sets the size."""
        return max(self.moments, key=lambda moment: moment.peak_bytes)

    @property
    def recommendation(self) -> Recommendation | None:
        """How many at once on the card that was named; None without one."""
        gpu = self.plan.gpu
        return None if gpu is None else recommend(evidence_of_shadow(self, gpu.usable_bytes))

    @property
    def held(self) -> bool:
        """Whether the plan was within the tolerance."""
        return plan_held(self.rows, self.tolerance)

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "schema_version": 1,
            "rung": "shadow",
            "model": self.model,
            "engine": self.engine,
            "versions": self.versions,
            "request": self.request,
            "held": self.held,
            "tolerance": self.tolerance,
            "peak": asdict(self.peak),
            "moments": [asdict(moment) for moment in self.moments],
            "rows": [checked_dict(row) for row in self.rows],
            "recommendation": None if self.recommendation is None else asdict(self.recommendation),
            "not_covered": list(self.not_covered),
            "seconds": self.seconds,
        }


def shadow(
    model: str,
    *,
    engine: str = "transformers",
    tolerance: float = DEFAULT_TOLERANCE,
    tell: Tell = lambda _: None,
    **options: Any,
) -> Shadowed | EngineShadow:
    """
    Ask the engine's own code, without a GPU, and compare it with the plan.

    `options` are those of ShadowOptions, of VllmShadowOptions or of LlamaCppShadowOptions; None is as if left out.
    `tell` is called with the name of each step as it begins. Raises NotInstalledError or CannotMeasureError
    (status 4) where this machine cannot answer, and the PlannerError of a plan that cannot be made.
    """
    if engine == "vllm":
        from vram_planner.validate.shadow_vllm import (  # noqa: PLC0415  one engine's code at a time
            VllmShadowOptions,
            shadow_vllm,
        )

        of_vllm = VllmShadowOptions(**_known(engine, VllmShadowOptions, options))
        return shadow_vllm(model, of_vllm, tolerance=tolerance, tell=tell)
    if engine == "llama.cpp":
        from vram_planner.validate.shadow_llama_cpp import (  # noqa: PLC0415  as above
            LlamaCppShadowOptions,
            shadow_llama_cpp,
        )

        of_llama = LlamaCppShadowOptions(**_known(engine, LlamaCppShadowOptions, options))
        return shadow_llama_cpp(model, of_llama, tolerance=tolerance, tell=tell)
    if engine != "transformers":
        raise RequestError(f"there is no shadow of {engine!r}", hint=f"one of {', '.join(ENGINES)}")
    asked = ShadowOptions(**_known(engine, ShadowOptions, options))
    return _shadow_transformers(model, asked, tolerance=tolerance, tell=tell)


def _known(engine: str, wanted: type[Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options that are set; RequestError for one that this engine's shadow does not have."""
    unset = {"dtype": "auto"}
    given = {name: value for name, value in options.items() if value is not None and value != unset.get(name)}
    names = [field.name for field in fields(wanted)]
    for name in given:
        if name not in names:
            raise RequestError(
                f"the shadow of {engine} has no option --{name.replace('_', '-')}",
                hint="it has " + ", ".join(f"--{each.replace('_', '-')}" for each in names),
            )
    return given


def _shadow_transformers(model: str, asked: ShadowOptions, *, tolerance: float, tell: Tell) -> Shadowed:
    started = time.monotonic()
    profile = resolve(model, offline=asked.offline)
    plan = _plan(model, asked, profile.architecture.precision.name)
    request = {key: plan.request[key] for key in ("ctx", "prompt_tokens", "concurrency", "attn")}
    name = plan.model.precision.name
    tell("loading torch and transformers")
    torch, transformers = torch_and_transformers()
    moments = _run(
        torch, transformers, dict(profile.config), dtype=getattr(torch, name), request=request, tell=tell
    )
    return Shadowed(
        model=plan.model.name,
        engine="transformers",
        versions=versions_of("torch", "transformers"),
        request=request | {"dtype": name},
        moments=moments,
        rows=compare(plan, moments),
        tolerance=tolerance,
        seconds=round(time.monotonic() - started, 3),
        plan=plan,
    )


def compare(plan: MemoryPlan, moments: tuple[Moment, ...]) -> tuple[Checked, ...]:
    """Weights and cache against themselves, activations and the sum against the whole."""
    peak = max(moment.peak_bytes for moment in moments)
    weights = moments[0].by_category["weights"]
    cache = moments[-1].kv_bytes
    planned = {part.name: part.n_bytes for part in plan.parts}
    kv_planned = planned.get("kv_cache", 0) + planned.get("recurrent_state", 0)
    sums = planned["weights"] + kv_planned + planned["activations"]
    rows = (
        Checked(
            name="weights",
            planned_bytes=planned["weights"],
            measured_bytes=weights,
            how="alive after loading",
        ),
        Checked(
            name="kv_cache",
            planned_bytes=kv_planned,
            measured_bytes=cache,
            how="held by the cache at the end",
        ),
        Checked(
            name="activations",
            planned_bytes=planned["activations"],
            measured_bytes=max(0, peak - weights - cache),
            how="the peak beyond both; error in per cent of the peak",
            share_of=peak,
        ),
        Checked(name="peak", planned_bytes=sums, measured_bytes=peak, how="the largest moment of all passes"),
    )
    return tuple(row for row in rows if row.planned_bytes or row.measured_bytes)


def _plan(model: str, asked: ShadowOptions, stored: str) -> MemoryPlan:
    """The plan to compare with; weights are run as plain 16- or 32-bit numbers."""
    options = asdict(asked)
    dtype = options.pop("dtype")
    if dtype == "auto" and stored not in DTYPES:
        raise CannotMeasureError(
            f"the shadow runs plain weights, and these are stored as {stored}",
            hint="give --dtype bfloat16 to shadow the model unpacked",
        )
    quant = None if dtype == "auto" else dtype
    options |= {"quant": quant, "gpu": asked.gpu or "none", "calibration": False}
    plan = estimate(PlanRequest.of(model=model, engine="transformers", **options))
    if plan.gpu is not None and plan.gpu.count > 1:
        raise RequestError("the shadow of transformers is of one card", hint="name one: --gpu 'RTX 4090'")
    return plan


def _run(
    torch: Any, transformers: Any, values: dict[str, Any], *, dtype: Any, request: dict[str, Any], tell: Tell
) -> tuple[Moment, ...]:
    fake_mode: Any = import_module("torch._subclasses.fake_tensor").FakeTensorMode
    cache_class: Any = import_module("transformers.cache_utils").Cache
    ledger = Ledger()
    try:
        with ExitStack() as stack:
            stack.enter_context(fake_mode(allow_non_fake_inputs=True))
            stack.enter_context(dispatch_mode(torch, ledger))
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.device("cpu"))
            tell("building the model")
            model = build_model(
                transformers, make_config(transformers, values), dtype=dtype, attn=request["attn"]
            )
            gc.collect()
            ledger.rename_all("weights")
            stack.enter_context(named_places(model, ledger))
            stack.enter_context(
                named_cache(cache_class, ledger, lambda layer: storages_of(torch, layer).keys())
            )
            walk = Generation(torch, model, batch=request["concurrency"], device="cpu")
            return _moments(
                torch, walk, ledger, prompt=request["prompt_tokens"], context=request["ctx"], tell=tell
            )
    except (RuntimeError, ValueError, NotImplementedError, KeyError, TypeError, AttributeError) as error:
        raise CannotMeasureError(
            f"transformers {transformers.__version__} does not run this model without data: "
            f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
            hint="try another --attn, or a transformers release that knows this model type",
        ) from error


def _moments(
    torch: Any, walk: Generation, ledger: Ledger, *, prompt: int, context: int, tell: Tell
) -> tuple[Moment, ...]:
    found = []

    def watch(name: str, action: Callable[[], Any]) -> Any:
        tell(name)
        gc.collect()
        ledger.restart()
        started = time.monotonic()
        out = action()
        found.append(
            Moment(
                name=name,
                peak_bytes=ledger.peak_bytes,
                by_category={key: size for key, size in ledger.peak_by_category.items() if size},
                op=ledger.peak_op,
                kv_bytes=bytes_held(torch, walk.cache),
                seconds=round(time.monotonic() - started, 3),
            )
        )
        return out

    logits = watch("prefill", lambda: walk.forward(prompt))
    if context > prompt:
        del logits
        logits = watch("first decode", lambda: walk.forward(1))
        left = context - prompt - 2
        if left > 0:
            tell("filling the cache")
            # A sliding layer lets go of what fell out of its window at the next single token.
            walk.fill(left - 1, _SAFE_CHUNK)
            walk.forward(1)
        if left >= 0:
            del logits
            logits = watch("last decode", lambda: walk.forward(1))
    watch("sampling", lambda: walk.sample(logits))
    return tuple(found)
