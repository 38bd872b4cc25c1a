"""The options that one engine alone has, and the second model that some of them name."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vram_planner.engines.base import ENGINES_WITH
from vram_planner.errors import RequestError, UnsupportedArchitectureError

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.base import Engine
    from vram_planner.planning.request import PlanRequest


class Drafting(NamedTuple):
    """How tokens are drafted: the method, and the model that does it where it is not the served one."""

    method: str | None = None
    name: str | None = None
    architecture: Architecture | None = None


def check_own_options(request: PlanRequest, chosen: Engine) -> None:
    """An option that this engine has not is refused: it would not do what it asks."""
    for name, owners in ENGINES_WITH.items():
        if chosen.name not in owners and getattr(request, name) not in (None, False):
            raise RequestError(
                f"{chosen.title} has no --{name.replace('_', '-')} here",
                hint=f"--engine {owners[0]}, or leave it out",
            )
    if request.draft_model is not None and chosen.name not in ENGINES_WITH["speculative"]:
        raise RequestError(
            f"{chosen.title} has no --draft-model here", hint="--engine vllm or llama.cpp, or leave it out"
        )


def find_draft(request: PlanRequest, chosen: Engine) -> Drafting:
    """The method and the model of `--speculative METHOD:MODEL` and `--draft-model`; the model is resolved as any."""
    if request.speculative is None and request.draft_model is None:
        return Drafting()
    method, _, named = (request.speculative or "draft").partition(":")
    if named and request.draft_model and named != request.draft_model:
        raise RequestError("--speculative and --draft-model name two models", hint="say it once")
    name = named or request.draft_model
    if not name:
        return Drafting(method)
    from vram_planner.model_profiles.resolve import resolve  # noqa: PLC0415  loaded already, by the served model

    profile = resolve(name, offline=request.offline)
    unknown = sorted(profile.architecture.kinds - chosen.kinds)
    if unknown:
        raise UnsupportedArchitectureError(
            f"{profile.name} has {', '.join(unknown)} layers, which are not modelled for {chosen.title} yet",
            hint="name another draft model",
        )
    return Drafting(method, profile.name, profile.architecture)
