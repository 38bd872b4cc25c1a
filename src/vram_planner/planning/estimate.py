"""request -> MemoryPlan: resolve the model, lay out the ranks, ask the engine, judge the card."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vram_planner.architecture.parallel import Layout
from vram_planner.architecture.precision import (
    DTYPE_ALIASES,
    DTYPES,
    Precision,
    named_format,
    plain,
)
from vram_planner.engines.base import Ask, Options, Workload
from vram_planner.engines.loads import family_of, loading_notes
from vram_planner.engines.register import engine
from vram_planner.engines.served import how_served
from vram_planner.errors import (
    PrecisionError,
    UnsupportedArchitectureError,
)
from vram_planner.model_profiles.resolve import ModelProfile, resolve
from vram_planner.planning.calibration_path import calibration_path
from vram_planner.planning.candidates import device_of, find_candidates
from vram_planner.planning.chosen_gpu import choose_gpu, detected_warnings
from vram_planner.planning.drafting import check_own_options, find_draft
from vram_planner.planning.layouts import fixed_gpus, layout_of
from vram_planner.planning.plan import GpuFacts, MemoryPlan, ModelFacts
from vram_planner.planning.projecting import find_projector

if TYPE_CHECKING:
    from vram_planner.engines.base import Capacity, Engine, Memory
    from vram_planner.hardware_profiles import GpuChoice
    from vram_planner.planning.layout_facts import LayoutFacts
    from vram_planner.planning.performance import Served
    from vram_planner.planning.request import PlanRequest

AS_PUBLISHED = "the command below starts the checkpoint as published"
# Rows that say what we remember or take to be alike.
_UNREAD: Final = {"recalled, no source read": "recalled", "copy of a sibling": "the copy of a sibling's"}
_ENGINE_OPTIONS = tuple(each.name for each in fields(Options) if each.name != "version")


class Prepared(NamedTuple):
    """A model, an engine and what it will be asked; a single card until it is laid out."""

    profile: ModelProfile
    engine: Engine
    ask: Ask
    notes: tuple[str, ...]
    draft: str | None


def estimate(request: PlanRequest, card: GpuChoice | None = None) -> MemoryPlan:
    """
    Answer a request; `card` stands for `request.gpu` where a card of other size than the catalogue's is meant.

    Raises a PlannerError for what cannot be planned.
    """
    prepared = prepare(request)
    profile, chosen, precision = prepared.profile, prepared.engine, prepared.ask.precision
    choice = card or choose_gpu(request)
    layout = layout_of(request, profile, chosen, choice)
    device = device_of(choice.gpu) if choice else None
    ask = replace(prepared.ask, layout=layout, device=device)
    memory = chosen.memory(ask)
    if choice and request.calibration and calibration_path().exists():
        ask, memory = _calibrated(ask, memory, choice, profile, chosen.name)
    capacity = _bounded(chosen.capacity(ask, memory), profile, request) if device else None
    gpu = _gpu_facts(choice, layout, chosen.usable_bytes(ask)) if choice and device else None
    fixed_count = request.gpu_count or fixed_gpus(request)
    return MemoryPlan(
        model=_model_facts(profile, precision),
        engine=chosen.name,
        engine_title=_title(chosen, memory.settings),
        request={**_filled_in(request, ask, memory, choice), "engine": chosen.name},
        parts=memory.parts,
        kv=memory.kv,
        gpu=gpu,
        capacity=capacity,
        launch=_launch(memory.launch.replace("{draft}", prepared.draft or ""), profile, request),
        not_modelled=(*memory.not_modelled, *_unmeasured(ask)),
        warnings=(
            *_warnings(request, profile),
            *prepared.notes,
            *(memory.warnings + memory.find_hints()),
            *_crossing(chosen, ask, choice),
            *detected_warnings(choice),
        ),
        find_candidates=(lambda: ()) if choice else (lambda: find_candidates(chosen, ask, fixed_count)),
        find_layout=lambda: _layout_facts(chosen, ask, choice, memory),
        find_served=lambda: _served(chosen.speed_of, ask, choice, memory, capacity),
    )


def prepare(request: PlanRequest) -> Prepared:
    """What a request comes to before its card; PlannerError where model, format and engine do not go together."""
    profile = resolve(request.model, offline=request.offline)
    chosen = engine(request.engine)
    check_own_options(request, chosen)
    served = _check_served(request, profile, chosen)
    _check_kinds(profile, chosen)
    drafting = find_draft(request, chosen)
    precision, notes = _precision(request, profile, chosen)
    ask = Ask(
        architecture=profile.architecture,
        precision=precision,
        workload=Workload(context=request.ctx, concurrency=request.concurrency, prompt_tokens=request.prompt),
        layout=Layout(),
        options=replace(_options(request), speculative=drafting.method),
        draft=drafting.architecture,
        projector=find_projector(request, profile),
    )
    return Prepared(profile, chosen, ask, (*served, *notes), drafting.name)


def _calibrated(
    ask: Ask, memory: Memory, choice: GpuChoice, profile: ModelProfile, name: str
) -> tuple[Ask, Memory]:
    """The same, with what was measured on this device in place of what was derived."""
    from vram_planner.engines.measured import with_measured  # noqa: PLC0415  only where something was saved
    from vram_planner.planning.calibration import find_calibration, load_calibrations  # noqa: PLC0415  as above

    entry = find_calibration(
        load_calibrations(),
        device=choice.gpu.name,
        engine=name,
        profile=str(memory.settings.get("engine_version") or ""),
        gpus=ask.layout.tp * ask.layout.pp,
        model=profile.name,
    )
    if entry is None:
        return ask, memory
    measured = entry.measured(profile.name)
    told = f"calibrated: {entry.where} (--no-calibration leaves it out)"
    parts = with_measured(memory.parts, measured)
    return replace(ask, measured=measured), replace(memory, parts=parts, warnings=(*memory.warnings, told))


def _layout_facts(chosen: Engine, ask: Ask, choice: GpuChoice | None, memory: Memory) -> LayoutFacts:
    from vram_planner.planning.layout_facts import layout_facts  # noqa: PLC0415  loaded when it is asked for

    return layout_facts(chosen, ask, choice, memory.kv.replicated_ranks)


def _crossing(chosen: Engine, ask: Ask, choice: GpuChoice | None) -> tuple[str, ...]:
    if choice is None or ask.layout.tp == 1:
        return ()
    from vram_planner.planning.layout_facts import crossing  # noqa: PLC0415  for several cards alone

    return crossing(chosen, ask, choice)


def _unmeasured(ask: Ask) -> tuple[str, ...]:
    """What the speed of a plan leaves out, or rests on no measurement for."""
    layout, options = ask.layout, ask.options
    on_host = options.ngl is not None or options.n_cpu_moe or options.cpu_moe or options.override_tensor
    grouped = layout.attention_dp > 1 or (layout.dp > 1 and layout.expert_parallel)
    told = (
        (options.speculative is not None and options.acceptance is None,
         "what accepted guesses do to the speed (--acceptance SHARE): it is that without drafting"),
        (options.kv_offload is False, "how fast it is with the cache and attention on the host"),
        (options.cpu_offload, "measured speeds with weights in host memory: each step reads them at the bus's nameplate"),
        (on_host, "the host's cores: weights left there are read at 80 GB/s (two channels of DDR5)"),
        (grouped, "measured speeds of groups that share experts: theirs are those of plain ranks with the exchange"),
    )  # fmt: skip
    return tuple(words for holds, words in told if holds)


def _served(
    name: str | None, ask: Ask, choice: GpuChoice | None, memory: Memory, capacity: Capacity | None
) -> Served | None:
    if name is None or choice is None or capacity is None or memory.settings.get("offloaded_layers"):
        return None
    from vram_planner.planning.performance import Served  # noqa: PLC0415  loaded when speed is asked for

    return Served(
        engine=name, ask=ask, gpu=choice.gpu, memory=memory, capacity=capacity, servers=choice.servers
    )


def _check_served(request: PlanRequest, profile: ModelProfile, chosen: Engine) -> tuple[str, ...]:
    """Refuse a family that the engine cannot run; say where it only falls back to another's code."""
    found = how_served(
        chosen.families,
        chosen.title.partition(" ")[0],
        profile.architecture.model_type,
        request.engine_version,
    )
    if found.refusal is not None:
        if found.until is not None and profile.architecture.kinds <= chosen.kinds:
            # Whoever runs it has an older release, whose rules for the model itself are the same.
            return (f"{found.refusal}; planned all the same: better with --engine-version {found.until}",)
        raise UnsupportedArchitectureError(found.refusal, hint=found.hint)
    return (found.warning,) if found.warning else ()


def _check_kinds(profile: ModelProfile, chosen: Engine) -> None:
    """A kind of cache that an engine's module does not know is refused: a plan without it would be wrong."""
    unknown = sorted(profile.architecture.kinds - getattr(chosen, "kinds", frozenset()))
    if unknown:
        raise UnsupportedArchitectureError(
            f"{profile.name} has {', '.join(unknown)} layers, which are not modelled for {chosen.title} yet",
            hint="try another --engine; `vram-plan models NAME` shows parameters and layers all the same",
        )


def _bounded(capacity: Capacity, profile: ModelProfile, request: PlanRequest) -> Capacity:
    """The card may hold longer contexts than the model was made for: then that is the longest, or the asked one."""
    own = profile.architecture.max_context
    if own is None:
        return capacity
    return replace(capacity, find_longest=lambda: min(capacity.max_context, max(own, request.ctx)))


def _title(chosen: Engine, settings: Any) -> str:
    version = settings.get("engine_version")
    return f"{chosen.title} {version}" if version and str(version) not in chosen.title else chosen.title


def _launch(command: str, profile: ModelProfile, request: PlanRequest) -> str:
    file = profile.name.rsplit("/", 1)[-1].partition("-GGUF")[0]
    words = command.replace("{model_file}", file).replace("{model}", profile.name)
    server = words.startswith(("vllm ", "python -m sglang"))
    return f"{words} --dtype {request.dtype}" if server and request.dtype != "auto" else words


def _model_facts(profile: ModelProfile, precision: Precision) -> ModelFacts:
    return ModelFacts(
        name=profile.name,
        resolved_from=profile.resolved_from,
        alias_of=profile.alias_of,
        source=profile.source,
        provenance=profile.provenance,
        basis=profile.basis.value,
        architecture=profile.architecture,
        precision=precision,
    )


def _options(request: PlanRequest) -> Options:
    """What the request says to the engine: fields of the same names, which a test holds."""
    return Options(
        version=request.engine_version, **{name: getattr(request, name) for name in _ENGINE_OPTIONS}
    )


@lru_cache(maxsize=256)
def _plain_format(quant: str, base: str) -> Precision | None:
    from vram_planner.architecture.format_names import canonical  # noqa: PLC0415  with --quant alone

    name = canonical(quant)
    if (named := named_format(name, DTYPES[base])) is not None:
        return named
    return plain(name) if name in DTYPES or name in DTYPE_ALIASES else None


def _named_precision(quant: str, base: str, profile: ModelProfile) -> Precision:
    if (named := _plain_format(quant, base)) is not None:
        return named
    from vram_planner.architecture.format_names import nearest  # noqa: PLC0415  with --quant alone
    from vram_planner.architecture.gguf import by_whom  # noqa: PLC0415  rarely asked for
    from vram_planner.architecture.gguf_names import GGUF_FILE_TYPES  # noqa: PLC0415  with it

    try:
        return by_whom(quant, profile.name, profile.architecture)
    except PrecisionError as error:
        raise PrecisionError(
            f"no quantisation is called {quant[:40]!r}", hint=nearest(quant, GGUF_FILE_TYPES)
        ) from error


def _precision(
    request: PlanRequest, profile: ModelProfile, chosen: Engine
) -> tuple[Precision, tuple[str, ...]]:
    stored = profile.architecture.precision
    dtype = DTYPE_ALIASES.get(request.dtype, request.dtype)
    if dtype != "auto" and dtype not in DTYPES:
        raise PrecisionError(f"no dtype is called {request.dtype[:40]!r}", hint=f"auto, {', '.join(DTYPES)}")
    own = getattr(stored, "base", None)  # a GGUF file has no dtype that could be exchanged
    base = own.name if own is not None else "bfloat16"
    if dtype != "auto":
        base = dtype
    notes: tuple[str, ...] = ()
    if dtype == "auto" and base == "float32" and chosen.splits_tensors:
        base, notes = (
            "bfloat16",
            (f"stored in float32; {chosen.title} serves it in 16 bits unless --dtype float32",),
        )
    if request.quant is not None:
        named = _named_precision(request.quant, base, profile)
        return named, (*notes, *_format_notes(request, profile, chosen, named))
    if own is not None and own.name != base:
        rebased: Precision = stored.with_base(DTYPES[base])  # type: ignore[attr-defined]  # what has a base has it
        return rebased, notes
    return stored, (*notes, *_format_notes(request, profile, chosen, stored))


def _format_notes(
    request: PlanRequest, profile: ModelProfile, chosen: Engine, named: Precision
) -> tuple[str, ...]:
    """GGUF is llama.cpp's; vLLM reads it with experimental kernels, others unpack it. The stored file stays as it is."""
    stored, container = profile.architecture.precision, getattr(named, "container", None)
    if chosen.gguf == "own":
        return ()
    notes: tuple[str, ...] = ()
    if (family := family_of(named.name, container)) is not None:
        n_bytes = profile.architecture.weights_bytes(named)
        notes = loading_notes(chosen, named.name, request.engine_version, family, n_bytes=n_bytes)
    if container == "gguf":
        if chosen.gguf != "experimental":
            raise PrecisionError(
                f"{chosen.title} does not serve GGUF files such as {named.name}",
                hint="--engine llama.cpp, or awq",
            )
        return (f"{chosen.title}'s GGUF kernels are experimental, and slow beside awq or fp8", *notes)
    if named.name == stored.name:
        return notes
    return (
        f"{AS_PUBLISHED} ({stored.name}): name one in {named.name}",
        *notes,
    )


def _gpu_facts(choice: GpuChoice, layout: Layout, usable_bytes: int) -> GpuFacts:
    return GpuFacts(
        name=choice.gpu.name,
        count=max(choice.count, layout.gpus),
        total_bytes=choice.gpu.total_bytes,
        usable_bytes=usable_bytes,
        total_basis=choice.gpu.total_basis.value,
        total_detail=choice.gpu.total_detail,
    )


def _filled_in(request: PlanRequest, ask: Ask, memory: Memory, choice: GpuChoice | None) -> dict[str, Any]:
    """Every option after defaults were filled in, and what else the engine settled."""
    layout = ask.layout
    return {
        **{field.name: getattr(request, field.name) for field in fields(request)},
        "prompt_tokens": request.prompt,
        "tp": layout.tp,
        "pp": layout.pp,
        "dp": layout.dp * layout.attention_dp,
        "gpu": choice.gpu.name if choice else None,
        "gpu_count": max(choice.count, layout.gpus) if choice else layout.gpus,
        "precision": ask.precision.name,
        **memory.settings,
    }


def _warnings(request: PlanRequest, profile: ModelProfile) -> tuple[str, ...]:
    most = profile.architecture.max_context
    found = list(profile.architecture.notes)
    if profile.provenance in _UNREAD:
        found.append(f"{profile.name}'s config.json was not read: its row is {_UNREAD[profile.provenance]}")
    if most is not None and request.ctx > most:
        found.append(
            f"a context of {request.ctx:,} tokens is above the {most:,} that {profile.name} was made for"
        )
    return tuple(found)
