"""Which model families an engine runs: one list an engine, kept as data. An engine without a list says nothing."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from vram_planner.engines.versions import parse_version

_LISTS = Path(__file__).parent / "families"
_OLD_ENGINE = "+v0"


class Served(NamedTuple):
    """
    How an engine runs a family.

    `own` says that it has code of its own, `uncut` that tensor parallelism has no plan for it. `warning` and `refusal` are for the user, `refusal` with its
    `hint` where the engine cannot run the family at all, `until` the last version that could. All empty: there is
    no list, or the family is not on it.
    """

    own: bool = False
    uncut: bool = False
    warning: str | None = None
    refusal: str | None = None
    hint: str = ""
    until: str | None = None


def how_served(engine: str, title: str, model_type: str, version: str | None = None) -> Served:
    """
    What the list of `engine` says of a family, for `version` (None: the one the list was made from).

    `title` is the engine's name as printed. Raises RequestError for a version that cannot be read.
    """
    known = _load(engine)
    if known is None:
        return Served()
    model_type = _listed(known, model_type)
    release = ".".join(known["version"].split(".")[:2])
    until = known["until"].get(model_type)
    if (
        until
        and version is not None
        and parse_version(version.removesuffix(_OLD_ENGINE)) <= parse_version(until)
    ):
        return Served(own=True)
    gone = f"; it had one up to {until}" if until else ""
    if (reason := known["refused"].get(model_type)) is not None:
        return Served(
            refusal=f"{title} {release} has no implementation of {model_type}{gone}: {reason}",
            hint=f"--engine transformers{f'; or {title} up to {until}: --engine-version {until}' if until else ''}",
            until=until,
        )
    if model_type in known["fallback"]:
        return Served(
            warning=f"{title} {release} has no own implementation of {model_type}{gone}; it falls back to"
            " transformers' code (--model-impl transformers)",
            uncut=model_type in known.get("uncut", ()),
        )
    if model_type in known["own"]:
        return Served(own=True)
    return _other(known.get("others", {}), f"{title} {release} has no implementation of {model_type}{gone}")


def _other(others: dict[str, str], said: str) -> Served:
    """A family that is on no list: what the list says of all such, if anything."""
    if "refusal" in others:
        return Served(
            refusal=f"{said}: {others['refusal']}", hint="--engine transformers runs most families, vllm many"
        )
    return Served(warning=f"{said} of its own; {others['warning']}") if "warning" in others else Served()


def _listed(known: dict[str, Any], model_type: str) -> str:
    """The text model inside a larger one goes by that one's name, where it is on no list itself."""
    if any(model_type in known[kind] for kind in ("own", "fallback", "refused")):
        return model_type
    return model_type.removesuffix("_model").removesuffix("_text")


@lru_cache(maxsize=8)
def _load(engine: str) -> dict[str, Any] | None:
    file = _LISTS / f"{engine}.json"
    if not file.is_file():
        return None
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return known
