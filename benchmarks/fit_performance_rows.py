"""Records of measured speed made ready for fit_performance.py: what to predict, and the terms of each constant."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from vram_planner.errors import PlannerError
from vram_planner.planning import performance_constants as stored
from vram_planner.planning.performance_model import Card, Constants, Load
from vram_planner.planning.performance_rates import card_of
from vram_planner.planning.performance_work import Work
from vram_planner.validate.evidence import RECORDS, read_records
from vram_planner.validate.replay_serving import Case, case_of, family, outruns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# What differs by card, by version and by kernels; everything else is the engine's.
_CARD = (
    "bandwidth_share",
    "cache_share",
    "compute_share",
    "decode_share",
    "attention_share",
    "expert_share",
    "expert_compute",
    "layer_s",
    "expert_layer_s",
    "step_s",
    "sequence_s",
    "eager_layer_s",
    "score_s",
    "score_bytes",
    "end_bytes",
)
_ERA = (
    "bandwidth_share",
    "compute_share",
    "attention_share",
    "expert_share",
    "layer_s",
    "expert_layer_s",
    "eager_layer_s",
    "step_s",
    "sequence_s",
    "stream_s",
    "first_s",
    "first_steps",
    "near_stream_s",
    "mixing",
)
_KERNELS = ("bandwidth_share", "compute_share", "decode_share", "layer_s", "expert_share", "expert_compute")
# Terms of llama.cpp alone: the others keep what they start with.
_OF_LLAMA_CPP = frozenset({"score_s", "score_bytes", "end_bytes"})
ALL = tuple(field.name for field in fields(Constants))
# What a current server reaches: decoding in graphs of about ten kernels a layer, all-reduces in one shot.
STARTS = Constants(
    bandwidth_share=0.85,
    cache_share=0.8,
    compute_share=0.65,
    decode_share=0.9,
    attention_share=0.45,
    expert_share=0.85,
    expert_compute=0.7,
    link_share=0.5,
    layer_s=30e-6,
    expert_layer_s=15e-6,
    eager_layer_s=300e-6,
    step_s=0.6e-3,
    sequence_s=5e-6,
    stream_s=10e-6,
    hop_s=5e-6,
    first_s=10e-3,
    first_steps=2.0,
    near_share=0.4,
    near_stream_s=200e-6,
    queue=0.8,
    mixing=0.9,
    room_share=0.9,
)
Term = tuple[str, ...]


class Remembered(Work):
    """Work whose sums over layers, which no constant changes, are made once."""

    def cache_bytes(self, context: float) -> float:
        """As in Work."""
        return self._once(("cache", context), lambda: Work.cache_bytes(self, context))

    def score_flops(self, context: float) -> float:
        """As in Work."""
        return self._once(("score", context), lambda: Work.score_flops(self, context))

    def prompt_score_flops(self, start: float, end: float) -> float:
        """As in Work."""
        return self._once(("prompt", start, end), lambda: Work.prompt_score_flops(self, start, end))

    def _once(self, key: tuple[Any, ...], value: Callable[[], float]) -> float:
        seen: dict[tuple[Any, ...], float] = self.__dict__.setdefault("seen", {})
        if key not in seen:
            seen[key] = value()
        return seen[key]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A record made ready: what to predict, and the terms that each constant is made of."""

    id: str
    engine: str
    kind: str
    source: str
    model: str
    setting: tuple[str, ...]
    case: Case
    work: Work
    card: Card
    load: Load
    terms: dict[str, tuple[Term, ...]]

    @property
    def figures(self) -> list[str]:
        """Names of what was measured, throughput of a full server apart."""
        return [
            "saturated" if name == "throughput" and self.case.saturated else name
            for name in self.case.measured
        ]


def rows() -> list[Row]:
    """Every record of the package that can be replayed."""
    found = []
    for record in read_records([RECORDS / "serving.jsonl"]):
        try:
            case = case_of(record)
        except PlannerError:
            continue
        row = _row(record, case)
        if row is not None:
            found.append(row)
    return found


def _row(record: dict[str, Any], case: Case) -> Row | None:
    served = case.served
    quick = served.times(case.assumed)
    if quick is None or outruns(case, quick):
        return None
    kernels = case.assumed.kernels or served.kernels
    made = card_of(served.gpu, kernels, served.ask.layout, served.engine)
    if made is None:
        return None
    card, kernels, link = made
    span = stored.era(stored.load(served.engine), served.ask.options.version)
    generation = stored.generation(served.gpu)
    work = served.work()
    return Row(
        id=record["id"],
        engine=served.engine,
        kind=served.kind,
        source=family(record),
        model=record["model"],
        setting=(span, generation, kernels, link),
        case=case,
        work=Remembered(**{field.name: getattr(work, field.name) for field in fields(Work)}),
        card=card,
        load=served.load(case.assumed),
        terms={name: tuple(_terms(name, served.engine, span, generation, kernels, link)) for name in ALL},
    )


def _terms(name: str, *setting: str) -> Iterable[Term]:
    engine, span, generation, kernels, link = setting
    if name in _OF_LLAMA_CPP and engine != "llama.cpp":
        return
    yield ("base", name)
    yield ("engine", engine, name)
    if name in _ERA:
        yield ("era", engine, span, name)
    if name in _CARD:
        yield ("generation", generation, name)
    if name in (*_CARD, "first_s", "first_steps"):
        yield ("engine generation", engine, generation, name)
    if name in _KERNELS or (name == "eager_layer_s" and engine == "transformers"):
        yield ("kernels", kernels, name)
        yield ("engine kernels", engine, kernels, name)
    if name in ("hop_s", "link_share"):
        yield ("link", link, name)


def start_of(engine: str) -> Constants:
    if engine == "llama.cpp":
        return replace(STARTS, score_s=2e-10, score_bytes=28.0, expert_spread=0.9, end_bytes=8.0)
    if engine != "transformers":
        return STARTS
    # Modules run one by one from Python; its experts in a loop. The cache is copied to grow and to be repeated.
    return replace(STARTS, eager_layer_s=500e-6, expert_layer_s=4e-3, cache_share=0.3)
