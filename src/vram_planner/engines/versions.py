"""Version profiles: what changes between releases of an engine, as data with its source."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from vram_planner.errors import RequestError
from vram_planner.units import GIB

_PROFILES = Path(__file__).parent / "profiles"
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4})?\S{0,40})?")
# vLLM 0.8 to 0.10 could still run the V0 engine: ask for it as 0.8.5+v0. Before 0.8 there was no other.
OLD_ENGINE = "+v0"
_FIRST_NEW = (0, 8, 0)
Profile = dict[str, Any]
Band = tuple[int, int, int]


@lru_cache(maxsize=8)
def load_profiles(engine: str) -> tuple[Profile, ...]:
    """All profiles of an engine, oldest first."""
    rows = json.loads((_PROFILES / f"{engine}.json").read_text(encoding="utf-8"))["profiles"]
    return tuple(sorted(rows, key=lambda row: (parse_version(row["version"]), not row.get("v0"))))


def parse_version(text: str) -> tuple[int, int, int]:
    """'0.19.1' -> (0, 19, 1); what follows the third number does not choose a profile."""
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise RequestError(f"cannot read the engine version {text[:40]!r}", hint="write it as 0.19 or 0.19.1")
    return int(match[1]), int(match[2]), int(match[3] or 0)


@lru_cache(maxsize=4)
def load_rules(engine: str) -> dict[str, dict[str, Any]]:
    """What the code of an engine decides by release; empty for an engine whose profiles hold all of it."""
    path = _PROFILES / f"{engine}_rules.json"
    if not path.exists():
        return {}
    rules: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rules"]
    return rules


def rules_for(engine: str, wanted: tuple[int, int, int], *, old: bool) -> Profile:
    """Of each rule the newest value that is not newer than the release `wanted`; `old` asks for the V0 engine's."""
    found: Profile = {}
    for name, rule in load_rules(engine).items():
        if rule.get("engine") == ("v1" if old else "v0"):
            continue
        since = [(parse_version(version), value) for version, value in rule["since"].items()]
        values = [value for version, value in since if version <= wanted]
        if values:
            found[name] = values[-1]
    return found


@lru_cache(maxsize=64)
def profile_for(engine: str, version: str | None) -> tuple[Profile, str | None]:
    """
    The newest profile that is not newer than `version` (None: the newest), and a warning if it is far off.

    What was measured is the profile's; what the code decides is that of `version` itself, where rules are known.
    Raises RequestError for a version older than every profile.
    """
    profiles = load_profiles(engine)
    if version is None:
        newest = parse_version(profiles[-1]["version"])
        return {**profiles[-1], **rules_for(engine, newest, old=False)}, None
    plain = version.removesuffix(OLD_ENGINE)
    wanted = parse_version(plain)
    old = engine == "vllm" and (plain != version or wanted < _FIRST_NEW)
    rows = [row for row in profiles if bool(row.get("v0")) is old] if engine == "vllm" else list(profiles)
    older = [row for row in rows if parse_version(row["version"]) <= wanted]
    if not older:
        raise RequestError(
            f"{engine} {version} is older than any version we know",
            hint=f"the oldest profile is {engine} {profiles[0]['version']}",
        )
    chosen = {**older[-1], **rules_for(engine, wanted, old=old)}
    if parse_version(chosen["title"].split()[0])[:2] == wanted[:2]:
        return chosen, None
    if load_rules(engine):
        measured = chosen["title"]
        chosen["title"] = f"{wanted[0]}.{wanted[1]}{' V0' if old and wanted >= _FIRST_NEW else ''}"
        return chosen, (
            f"the rules are those of {engine} {version}; memory outside torch, CUDA graphs and activations are known"
            f" from {measured}"
        )
    return chosen, f"{engine} {version} is planned with the profile of {chosen['title']}"


def band(values: list[float]) -> Band:
    """[low, best, high] in GiB -> the same in bytes."""
    low, best, high = values
    return int(low * GIB), int(best * GIB), int(high * GIB)
