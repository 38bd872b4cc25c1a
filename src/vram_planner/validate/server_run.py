"""Attach to a running server: read it, plan its settings, compare, put a load on it, recommend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.errors import (
    ConfigError,
    HeaderError,
    HubError,
    NoGpuError,
    ParallelError,
    PlannerError,
    PrecisionError,
    RequestError,
    UnknownGpuError,
    UnknownModelError,
)
from vram_planner.planning.recommend import recommend
from vram_planner.units import parse_tokens
from vram_planner.validate.checked import DEFAULT_TOLERANCE
from vram_planner.validate.ramp import Ended
from vram_planner.validate.recommend import evidence_of_server
from vram_planner.validate.server_compare import at_once, compare_server, plan_of_server
from vram_planner.validate.server_http import Client
from vram_planner.validate.server_load import Load, LoadAsk, LoadStep, drive
from vram_planner.validate.server_readers import identify
from vram_planner.validate.server_result import Attached

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.planning.calibration import Calibration
    from vram_planner.planning.plan import MemoryPlan
    from vram_planner.planning.recommend import Recommendation
    from vram_planner.validate.server_facts import ServerFacts

_PROMPT_TOKENS, _OUTPUT_TOKENS = 512, 64
_OF_MODEL, _OF_CARD = frozenset({"model"}), frozenset({"gpu", "gpu_count"})
_BLAME: dict[type[PlannerError], frozenset[str]] = {
    UnknownModelError: _OF_MODEL,
    HubError: _OF_MODEL,
    ConfigError: _OF_MODEL,
    HeaderError: _OF_MODEL,
    UnknownGpuError: _OF_CARD,
    NoGpuError: _OF_CARD,
    PrecisionError: frozenset({"dtype", "quant", "kv_dtype"}),
    ParallelError: _OF_CARD | {"tp", "pp"},
}


def server(
    url: str,
    *,
    model: str | None = None,
    load: int | None = None,
    prompt_tokens: int | str | None = None,
    output_tokens: int | str | None = None,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    step_limit_s: float = 60.0,
    api_key: str | None = None,
    timeout_s: float = 10.0,
    tolerance: float = DEFAULT_TOLERANCE,
    save: bool = False,
    tell: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Attached:
    """
    Ask a running vLLM, SGLang, llama-server or Ollama what it serves, and compare that with its plan.

    `options` are the plan's where the server does not tell them: gpu, tp, pp, dtype, quant, kv_dtype, max_num_seqs,
    max_num_batched_tokens, enforce_eager, slots; `ctx` and `concurrency` are what you want of it. `load` sends up to
    so many requests at once. Only `url` is contacted. `timeout_s` bounds each question, `step_limit_s` each step of
    the load. Raises ServerError (no server, too slow, not understood), ServerKeyError, RequestError.
    """
    _check(tolerance, timeout_s)
    for name in ("ctx", "concurrency"):
        if isinstance(options.get(name), str):
            options[name] = parse_tokens(options[name])
    client = Client(url, api_key=api_key, limit_s=timeout_s)
    tell("asking who is there")
    reader, models = identify(client)
    facts = reader.read(client, models)
    now = reader.gauges(client)
    ask = None
    if load is not None:
        n_prompt, n_output = _sizes(facts, prompt_tokens, output_tokens)
        ask = LoadAsk(load, n_prompt, n_output, step_limit_s, ttft_s, tpot_s)
    tell("planning the same")
    asked = {"model": model, **options}
    plan, warnings = _planned(facts, asked, is_local=client.is_local)
    if now.running or now.waiting:
        warnings += (f"it is busy with {now.running or 0:g} other requests: latencies are theirs too",)
    found = None if ask is None else drive(client, reader, facts.model, ask, tell)
    return Attached(
        url=client.url,
        facts=facts,
        now=now,
        plan=plan,
        rows=compare_server(plan, facts, options),
        tolerance=tolerance,
        load=found,
        recommendation=_recommended(facts, found, options.get("ctx")),
        calibration=_saved(plan, facts) if save else None,
        warnings=warnings,
    )


def _check(tolerance: float, timeout_s: float) -> None:
    if not 0 < tolerance < float("inf") or not 0 < timeout_s <= 3600:  # noqa: PLR2004  an hour
        raise RequestError(
            "the tolerance and the time limit are positive, the limit at most an hour",
            hint="as in --tolerance 0.05 --timeout 10",
        )


def _planned(
    facts: ServerFacts, asked: dict[str, Any], *, is_local: bool
) -> tuple[MemoryPlan | None, tuple[str, ...]]:
    """The plan and its warnings; a server that cannot be planned can still be measured."""
    try:
        plan = plan_of_server(facts, asked, is_local=is_local)
    except PlannerError as error:
        if _is_users(error, asked):
            raise
        hint = "--model NAME or --model FILE names what it serves" if asked["model"] is None else error.hint
        return None, (f"not planned: {error}: {hint}",)
    return plan, plan.warnings


def _is_users(error: PlannerError, asked: dict[str, Any]) -> bool:
    """Whether an option that the user gave may be to blame: then it is no finding about the server."""
    given = {name for name, value in asked.items() if value is not None}
    return any(isinstance(error, kind) and given & names for kind, names in _BLAME.items()) or (
        isinstance(error, RequestError) and bool(given)
    )


def _sizes(facts: ServerFacts, prompt: int | str | None, output: int | str | None) -> tuple[int, int]:
    """Tokens of a prompt and of an answer: as asked, else 512 and 64 where that fits its longest request."""
    most = facts.context
    asked_prompt = parse_tokens(prompt) if isinstance(prompt, str) else prompt
    asked_output = parse_tokens(output) if isinstance(output, str) else output
    if most is None:
        usual = _PROMPT_TOKENS, _OUTPUT_TOKENS
    else:
        usual = max(1, min(_PROMPT_TOKENS, most // 2)), max(1, min(_OUTPUT_TOKENS, most // 4))
    n_prompt = usual[0] if asked_prompt is None else asked_prompt
    n_output = usual[1] if asked_output is None else asked_output
    if most is not None and n_prompt + n_output > most:
        raise RequestError(
            f"{n_prompt:,} + {n_output:,} tokens are more than the {most:,} that it takes",
            hint="smaller --prompt-tokens or --output-tokens",
        )
    return n_prompt, n_output


def _recommended(facts: ServerFacts, load: Load | None, ctx: int | None) -> Recommendation | None:
    """By its cache and seats, and by what was timed without a queue; what was too slow says that latency decides."""
    if ctx is None and load is not None:
        ctx = load.ask.prompt_tokens + load.ask.output_tokens
    context = ctx or facts.context
    if context is None:
        return None
    holds = at_once(facts, context)
    ran = () if load is None else tuple(step for step in load.steps if _took(step))
    driven = None if load is None else max((step.batch for step in ran), default=0)
    if driven == 0:
        return None
    known = [value for value in (holds, driven) if value is not None]
    evidence = evidence_of_server(
        {"max_concurrency": min(known, default=None)},
        engine=facts.engine,
        ctx=context,
        steps=tuple(step.as_step() for step in ran),
        limits=(None, None) if load is None else (load.ask.ttft_s, load.ask.tpot_s),
        at_least=driven is not None and (holds is None or driven < holds),
    )
    try:
        return recommend(evidence)
    except RequestError:
        return None


def _took(step: LoadStep) -> bool:
    """Whether the server took so many at once, fast or slow."""
    return step.ended is Ended.RAN and not {"queue", "cache", "failed"} & set(step.broke)


def _saved(plan: MemoryPlan | None, facts: ServerFacts) -> Calibration:
    from vram_planner.planning.calibration import save_calibration  # noqa: PLC0415  only to save
    from vram_planner.validate.learned import learn_from_server  # noqa: PLC0415  as above

    entry = learn_from_server(plan, facts)
    save_calibration(entry)
    return entry
