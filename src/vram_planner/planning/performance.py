"""How fast a plan serves: time to first token, time per token and throughput, each with its band, and what binds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vram_planner.hardware_profiles.links import AS_BUILT, Servers
from vram_planner.planning import performance_builds as builds
from vram_planner.planning import performance_constants as fitted
from vram_planner.planning.performance_guesses import guess_cost, guessed
from vram_planner.planning.performance_model import Card, Constants, Load, Times, band_class, times
from vram_planner.planning.performance_rates import kernel_class, rates_of, shared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.engines.base import Ask, Memory
    from vram_planner.hardware_profiles import Gpu
    from vram_planner.planning.performance_work import Work

_KV_BYTES = {"fp8": 1.0, "int8": 1.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "q5_0": 22 / 32, "q5_1": 24 / 32}
_LLAMA_CPP, _TRANSFORMERS = "llama.cpp", "transformers"
_PIPELINED = frozenset({"vllm", "sglang", "tensorrt-llm"})
_LARGE_GPU_BYTES = 70 << 30


@dataclass(frozen=True, eq=False, repr=False)
class Band:
    """A figure with the ends between which it is expected."""

    low: float
    best: float
    high: float


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Performance:
    """
    What a user sees and the server gives at the asked concurrency, prompt and output.

    `bound_by` is what takes most of a step: 'memory bandwidth', 'compute', 'scheduler' (fixed costs of host and
    launches) or 'link'; or 'KV room' where requests wait for the cache, 'max_num_seqs' where they wait for a place.
    """

    ttft_s: Band
    tpot_s: Band
    output_tokens_per_s: Band
    per_user_tokens_per_s: Band
    bound_by: str

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON of a plan."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Assumptions:
    """
    What a plan does not say about the traffic; None leaves it to the plan.

    `prefix_hit` is the share of each prompt that is found in the cache, `draft` and `acceptance` describe
    speculative decoding, `rate` requests a second in place of a concurrency. `kernels` names the class of
    kernels where the format's name does not tell (8-bit weights under 16-bit products: 'w8a16'). `requests` is
    how many arrive in all at a rate. `graphs` says that decoding runs in graphs, whatever the version's rule, `embedded`
    that the client runs in the engine's own process. `held` is how many steps a new request waits before the engine
    looks at it: (n − 1)/2 for SGLang's --scheduler-recv-interval n.
    """

    concurrency: float | None = None
    rate: float | None = None
    prompt: float | None = None
    output: float | None = None
    prefix_hit: float | None = None
    draft: int | None = None
    acceptance: float | None = None
    kernels: str | None = None
    streamed: bool = True
    requests: float | None = None
    graphs: bool | None = None
    embedded: bool = False
    held: float = 0.0


class AtOnce(Protocol):
    """What speed asks of an `engines.base.Capacity`."""

    @property
    def max_concurrency(self) -> float:
        """Requests of the asked context that the card holds at once."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Served:
    """A planned model on a card, ready to be asked how fast it is."""

    engine: str
    ask: Ask
    gpu: Gpu
    memory: Memory
    capacity: AtOnce
    servers: Servers = AS_BUILT

    def performance(self, assumed: Assumptions | None = None) -> Performance | None:
        """Figures with bands; None where the card's bandwidth or peak is not known, or the model does not fit."""
        assumed = assumed or Assumptions()
        made = self.rates(assumed.kernels) if self.capacity.max_concurrency >= 1 else None
        if made is None:
            return None
        work = self.work()
        found = times(work, *made, self.load(assumed))
        kind = band_class(work, *made, self.kind, waits=found.waits)

        def band(best: float, figure: str) -> Band:
            low, high = fitted.spread(self.engine, figure, kind, self.setting)
            return Band(best * low, best, best * high)

        return Performance(
            ttft_s=band(found.ttft_s, "ttft"),
            tpot_s=band(found.tpot_s, "tpot"),
            output_tokens_per_s=band(found.output_tokens_per_s, "throughput"),
            per_user_tokens_per_s=band(found.per_user_tokens_per_s, "throughput"),
            bound_by=_bound_by(found, self._most(), self._room()),
        )

    @property
    def kind(self) -> str:
        """Which band holds: experts, several cards, or one card with a dense model."""
        if any(
            layer.feed_forward.active_share[0] != layer.feed_forward.active_share[1]
            for layer, _ in self.ask.architecture.groups
        ):
            return "experts"
        return "several" if self.ask.layout.gpus > 1 else "dense"

    @property
    def groups(self) -> int:
        """Replicas, or groups of attention ranks, that requests are dealt out over."""
        return self.ask.layout.dp * self.ask.layout.attention_dp

    @property
    def setting(self) -> str:
        """What a measurement would have to share with this to tell its error: generation of cards, and kind."""
        return f"{fitted.generation(self.gpu)} {self.kind}"

    def times(self, assumed: Assumptions | None = None) -> Times | None:
        """The best estimate, with what it is made of."""
        assumed = assumed or Assumptions()
        made = self.rates(assumed.kernels) if self.capacity.max_concurrency >= 1 else None
        return None if made is None else times(self.work(), *made, self.load(assumed))

    def rates(self, kernels: str | None = None) -> tuple[Card, Constants] | None:
        """The card's numbers and the engine's constants there; None where bandwidth or peak is not known."""
        if self.ask.options.kv_offload is False:
            return None  # attention runs on the host's cores, whose speed is not modelled
        on = self.gpu, self.ask.layout, self.servers
        return rates_of(self.engine, self.ask.options.version, kernels or self.kernels, on)

    @property
    def kernels(self) -> str:
        """Which kernels multiply the weights; builds of llama.cpp that unpack them have those of 16 bits for it."""
        kernels = kernel_class(self.ask.precision.name, self.engine)
        return "unpacked" if kernels == "gguf" and builds.unpacks(self._span, self.gpu) else kernels

    def work(self) -> Work:
        """What a step moves on one rank."""
        ask = self.ask
        kv_bytes = _KV_BYTES.get(
            ask.options.kv_dtype.split("/", maxsplit=1)[0], float(ask.precision.element_bytes)
        )
        there = self.memory.settings.get("host_weights_bytes")
        asked = builds.Asked(
            layout=shared(ask.layout, self.engine),
            kv_bytes=kv_bytes,
            host_bytes=there if isinstance(there, int) else 0,
            by_layers=ask.options.ngl is not None or self.engine != _LLAMA_CPP,
            engine=self.engine,
            version=ask.options.version,
            flash=ask.options.flash_attn,
            unpacks=self._quantised and builds.unpacks(self._span, self.gpu),
        )
        return builds.work_on(ask.architecture, ask.precision, asked)

    @property
    def _span(self) -> dict[str, Any]:
        return fitted.span_of(self.engine, self.ask.options.version)

    @property
    def _quantised(self) -> bool:
        return kernel_class(self.ask.precision.name, self.engine) == "gguf"

    def load(self, assumed: Assumptions) -> Load:
        """The traffic on one replica, or group of attention, of all: requests are dealt out evenly over them."""
        workload, settings = self.ask.workload, self.memory.settings
        asked = assumed.concurrency or workload.concurrency
        output = assumed.output if assumed.output is not None else workload.context - workload.prompt_tokens
        return Load(
            prompt=assumed.prompt if assumed.prompt is not None else workload.prompt_tokens,
            output=max(1.0, output),
            concurrency=max(1.0, asked / self.groups),
            rate=assumed.rate / self.groups if assumed.rate else None,
            room=self._room(),
            most=self._most(),
            chunk=_chunk(settings, self.engine, self.gpu),
            pipelined=self.engine in _PIPELINED,
            queued=self._queued(),
            prefix_hit=_first(assumed.prefix_hit, self.ask.options.prefix_hit),
            draft=int(_first(assumed.draft, guessed(self.ask))),
            acceptance=_first(assumed.acceptance, self.ask.options.acceptance),
            draft_cost=guess_cost(self.ask),
            streamed=assumed.streamed,
            static=self.engine == _TRANSFORMERS,
            eager=self._eager(assumed, output),
            embedded=assumed.embedded,
            held=assumed.held,
            groups=self.groups if assumed.rate else min(self.groups, asked),
            requests=assumed.requests / self.groups if assumed.requests else None,
        )

    def _queued(self) -> float:
        if self.engine != _LLAMA_CPP:
            return 0.0
        layers, stages = len(self.ask.architecture.layers), self.ask.layout.pp
        return builds.queued(layers, stages, self._span, quantised=self._quantised)

    def _eager(self, assumed: Assumptions, output: float) -> bool:
        """
        Whether decoding launches kernel by kernel: --enforce-eager, or a context that V0 captured no graph for.

        Source: vllm 0.7.3 `worker/model_runner.py`, `_use_captured_graph`: sequences of up to
        `max_seq_len_to_capture` = 8192 tokens; V1 (0.8 on) has no such bound.
        """
        if assumed.graphs is not None:
            return not assumed.graphs
        if self.engine == _TRANSFORMERS:
            return True  # generate() runs module by module
        bound = fitted.graph_tokens(fitted.load(self.engine), self.ask.options.version)
        prompt = assumed.prompt if assumed.prompt is not None else self.ask.workload.prompt_tokens
        return self.ask.options.enforce_eager or (bound is not None and prompt + output > bound)

    def _room(self) -> float:
        """Requests of average length that the cache holds: a request in the middle of its output is shorter."""
        kv, workload = self.memory.kv, self.ask.workload
        left = (workload.context - workload.prompt_tokens) / 2
        average = max(1.0, kv.bytes_per_request - kv.bytes_per_token * left)
        room = self.capacity.max_concurrency  # of one replica, as each engine counts it
        return (
            max(1.0, room * max(1.0, kv.bytes_per_request / average)) if self.engine in _PIPELINED else room
        )

    def _most(self) -> float:
        """The engine's own bound on what runs at once."""
        settings = self.memory.settings
        asked = (
            self.ask.options.max_num_seqs or settings.get("max_num_seqs") or settings.get("max_batch_size")
        )
        if isinstance(asked, int):
            return float(asked)
        return float(fitted.load(self.engine).get("most_sequences", 4096))


def _first(*values: float | None) -> float:
    """The first that was said; 0 where none was."""
    return next((float(value) for value in values if value is not None), 0.0)


def _chunk(settings: Mapping[str, object], engine: str, gpu: Gpu) -> float:
    for name in ("max_num_batched_tokens", "chunked_prefill_size", "max_num_tokens", "n_ubatch"):
        value = settings.get(name)
        if isinstance(value, int) and value > 0:
            return float(value)
    if engine == _LLAMA_CPP:
        return 512.0
    return 1e9 if engine == _TRANSFORMERS else 8192.0 if gpu.total_bytes > _LARGE_GPU_BYTES else 2048.0


def _bound_by(found: Times, most: float, room: float) -> str:
    if found.waits:
        return "max_num_seqs" if most < room else "KV room"
    step = found.step
    parts = {
        "memory bandwidth": step.memory_s,
        "compute": step.compute_s + max(0.0, found.tpot_s - step.total_s),
        "scheduler": step.fixed_s,
        "link": step.link_s,
    }
    return max(parts, key=lambda name: parts[name])
