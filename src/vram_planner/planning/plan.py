"""The answer: a plan of named parts, each with its basis, and what a card makes of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Precision
    from vram_planner.basis import Part
    from vram_planner.engines.base import Capacity, KvNeed
    from vram_planner.planning.layout_facts import LayoutFacts
    from vram_planner.planning.performance import Band, Performance, Served
    from vram_planner.planning.recommend import Recommendation

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelFacts:
    """What was understood by the model's name."""

    name: str
    resolved_from: str
    alias_of: str | None
    source: str
    provenance: str
    basis: str
    architecture: Architecture
    precision: Precision

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON of a plan."""
        architecture = self.architecture
        return {
            "name": self.name,
            "resolved_from": self.resolved_from,
            "alias_of": self.alias_of,
            "model_type": architecture.model_type,
            "parameters": architecture.parameters,
            "active_parameters": architecture.active_parameters,
            "weights_bytes": architecture.weights_bytes(self.precision),
            "precision": self.precision.name,
            "max_context": architecture.max_context,
            "basis": self.basis,
            "source": self.source,
            "provenance": self.provenance,
        }


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GpuFacts:
    """The named card: `count` of them, `total_bytes` each as the engine sees it."""

    name: str
    count: int
    total_bytes: int
    usable_bytes: int
    total_basis: str
    total_detail: str


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Candidate:
    """A card and a count that hold the asked workload, and how fast (None where its speed is not known)."""

    gpu: str
    count: int
    tp: int
    fits: bool
    verdict: str
    total_bytes: int
    usable_bytes: int
    headroom_bytes: int
    max_concurrency: float
    cost_per_hour: float | None
    cost_source: str | None
    per_user_tokens_per_s: Band | None = None
    ttft_s: Band | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MemoryPlan:
    """
    How much memory a model takes on the fullest GPU, and what a named card then allows.

    `parts` sum to `total_bytes`. `fits` is None while no card is named; it is judged on the best estimate,
    and `verdict` says "may fit" where only the high or only the low end of the band decides otherwise.
    `capacity` is what the card allows whatever concurrency was asked.
    """

    model: ModelFacts
    engine: str
    engine_title: str
    request: dict[str, Any]
    parts: tuple[Part, ...]
    kv: KvNeed
    gpu: GpuFacts | None
    capacity: Capacity | None
    launch: str
    not_modelled: tuple[str, ...]
    warnings: tuple[str, ...]
    find_candidates: Callable[[], tuple[Candidate, ...]]
    find_served: Callable[[], Served | None]
    find_layout: Callable[[], LayoutFacts]

    @cached_property
    def total_bytes(self) -> int:
        """Everything on the fullest GPU."""
        return sum(part.n_bytes for part in self.parts)

    @cached_property
    def low_bytes(self) -> int:
        """The least that it may take."""
        return sum(part.low for part in self.parts)

    @cached_property
    def high_bytes(self) -> int:
        """The most that it may take."""
        return sum(part.high for part in self.parts)

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """Cards that hold it, smallest first; looked up when first asked for, none where a card is named."""
        return self.find_candidates()

    @cached_property
    def layout(self) -> LayoutFacts:
        """How the ranks lie: servers, links, what is shared out and what is copied."""
        return self.find_layout()

    @cached_property
    def served(self) -> Served | None:
        """The plan on its card, to be asked how fast it is under other traffic; None while no card is named."""
        return self.find_served()

    @cached_property
    def performance(self) -> Performance | None:
        """How fast it serves; None where no card is named, its speed is not known, or nothing fits."""
        return None if self.served is None else self.served.performance()

    @cached_property
    def headroom_bytes(self) -> int | None:
        """What is left on the fullest GPU; negative: what is missing. None while no card is named."""
        return None if self.gpu is None else headroom(self.parts, self.gpu.usable_bytes, self.gpu.total_bytes)

    @property
    def fits(self) -> bool | None:
        """Whether the best estimate fits the named card."""
        return None if self.headroom_bytes is None else self.headroom_bytes >= 0

    @cached_property
    def verdict(self) -> str | None:
        """'fits' if the high end does, 'does not fit' if the low end does not, 'may fit' between."""
        if self.gpu is None:
            return None
        return judge(self.parts, self.gpu.usable_bytes, self.gpu.total_bytes)

    @cached_property
    def recommendation(self) -> Recommendation | None:
        """How many requests the card serves at once, why, and the engine's options for it; None without a card."""
        from vram_planner.planning.recommend import evidence_of_plan, recommend  # noqa: PLC0415  with a card

        return None if self.capacity is None else recommend(evidence_of_plan(self))

    def part(self, name: str) -> Part:
        """The part of that name; RequestError if the plan has none."""
        for part in self.parts:
            if part.name == name:
                return part
        raise RequestError(
            f"the plan has no part {name!r}", hint=f"it has {', '.join(part.name for part in self.parts)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The promised JSON, schema version 1: bytes, tokens and seconds, nothing rounded."""
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model.to_dict(),
            "request": self.request,
            "per_gpu": {
                "parts": [_part_dict(part) for part in self.parts],
                "total_bytes": self.total_bytes,
                "low_bytes": self.low_bytes,
                "high_bytes": self.high_bytes,
            },
            "kv_cache": {
                "bytes_per_token": self.kv.bytes_per_token,
                "bytes_per_request": self.kv.bytes_per_request,
                "bytes": self.kv.n_bytes,
                "replicated_ranks": self.kv.replicated_ranks,
            },
            "gpu": None if self.gpu is None else asdict(self.gpu),
            "layout": self.layout.to_dict(),
            "fits": self.fits,
            "verdict": self.verdict,
            "headroom_bytes": self.headroom_bytes,
            "capacity": None if self.capacity is None else _capacity_dict(self.capacity),
            "performance": None if self.performance is None else self.performance.to_dict(),
            "recommendation": None if self.recommendation is None else asdict(self.recommendation),
            "candidates": [asdict(candidate) for candidate in self.candidates],
            "launch": self.launch,
            "not_modelled": list(self.not_modelled),
            "warnings": list(self.warnings),
        }


def headroom(parts: tuple[Part, ...], usable_bytes: int, total_bytes: int) -> int:
    """What is left of the engine's own share, or of the whole card if that is less."""
    budgeted = sum(part.budgeted_bytes for part in parts)
    return min(usable_bytes - budgeted, total_bytes - sum(part.n_bytes for part in parts))


def judge(parts: tuple[Part, ...], usable_bytes: int, total_bytes: int) -> str:
    """The verdict over the whole band of each part."""
    middle = headroom(parts, usable_bytes, total_bytes)
    best = sum(part.n_bytes for part in parts)
    if middle - (sum(part.high for part in parts) - best) >= 0:
        return "fits"
    return "may fit" if middle + (best - sum(part.low for part in parts)) >= 0 else "does not fit"


def _part_dict(part: Part) -> dict[str, Any]:
    return {
        "name": part.name,
        "bytes": part.n_bytes,
        "low_bytes": part.low,
        "high_bytes": part.high,
        "basis": part.basis.value,
        "source": part.source,
        "detail": part.detail,
        "budgeted_bytes": part.budgeted_bytes,
    }


def _capacity_dict(capacity: Capacity) -> dict[str, Any]:
    return {
        "kv_pool_bytes": capacity.kv_pool_bytes,
        "num_blocks": capacity.num_blocks,
        "kv_cache_tokens": capacity.kv_cache_tokens,
        "max_concurrency": capacity.max_concurrency,
        "max_context": capacity.max_context,
        "log_lines": list(capacity.log_lines),
    }
