"""What a running server tells of itself, in our words; and how to read values that a server may tell wrongly."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.validate.server_http import Client

_LARGEST = 1 << 60
_LONGEST = 200
_VERSION = re.compile(r"v?(\d{1,4}\.\d{1,4}(?:\.\d{1,6})?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """
    One server: None is what it does not tell.

    `model` is the name that requests use, `source` what a plan can be made of. `context` is the longest request,
    `seats` how many it runs at once whatever the memory. `kv_cache_tokens`, `num_blocks` and `max_concurrency` are
    its cache's; `kv_pool_bytes` what the cache was given. `weights_bytes` is one rank's, or the whole model's where
    `weights_whole`. `options` are plan options that it told. `pinned` says why the cache is not as large as the card
    allows. `told` is for people and JSON.
    """

    engine: str
    title: str
    version: str | None
    model: str
    source: str | None
    context: int | None = None
    seats: int | None = None
    kv_cache_tokens: int | None = None
    num_blocks: int | None = None
    block_size: int | None = None
    max_concurrency: float | None = None
    kv_pool_bytes: int | None = None
    weights_bytes: int | None = None
    weights_whole: bool = False
    vram_bytes: int | None = None
    parameters: int | None = None
    pinned: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)
    not_told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What goes up and down: requests running and waiting, share of the cache in use, requests thrown out so far."""

    running: float | None = None
    waiting: float | None = None
    usage: float | None = None
    preemptions: float | None = None


class Reader(Protocol):
    """One engine's way of telling. `owner` is what its /v1/models says in `owned_by`."""

    name: str
    owner: str
    ignores_eos: bool

    def marked(self, client: Client) -> bool:
        """Whether a page that only this engine has is there."""

    def read(self, client: Client, models: tuple[Mapping[str, Any], ...]) -> ServerFacts:
        """All that it tells; `models` are the rows of /v1/models."""

    def gauges(self, client: Client) -> Gauges:
        """How busy it is now."""


def text(value: Any) -> str | None:
    """A short, printable text, else None."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        return None
    return value[:_LONGEST]


def whole(value: Any, least: int = 1) -> int | None:
    """A whole number in a sane range, also as text, else None: servers say 'None' too."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,19}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
        return None
    return value


def number(value: Any) -> float | None:
    """A finite number that is not negative, also as text, else None."""
    if isinstance(value, str):
        try:
            value = float(value[:40])
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value <= _LARGEST else None


def entries(value: Any) -> tuple[Mapping[str, Any], ...]:
    """The objects of a list, at most 1,000."""
    if not isinstance(value, list):
        return ()
    return tuple(row for row in value[:1000] if isinstance(row, dict))


def inner(value: Any, name: str) -> Mapping[str, Any]:
    """An object within an object; empty where it is none."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def release(value: Any) -> str | None:
    """'0.32.0' of 'v0.32.0+cu130' or '0.11.0rc1'."""
    match = _VERSION.match(text(value) or "")
    return match[1] if match else None


def only(**found: Any) -> dict[str, Any]:
    """What is known of these."""
    return {name: value for name, value in found.items() if value is not None}
