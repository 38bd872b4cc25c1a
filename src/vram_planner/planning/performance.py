"""How fast a plan serves: time to first token, time per token and throughput, each with its band, and what binds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vram_planner.architecture.precision import Place
from vram_planner.hardware_profiles.links import link_of
from vram_planner.planning import performance_builds as builds
from vram_planner.planning import performance_constants as fitted
from vram_planner.planning.performance_model import Card, Constants, Load, Times, band_class, times
from vram_planner.planning.performance_work import work_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.parallel import Layout
    from vram_planner.engines.base import Ask, Capacity, Memory
    from vram_planner.hardware_profiles import Gpu
    from vram_planner.planning.performance_work import Work

# Class of kernels -> dtype that they multiply in, and the class that serves where a card cannot.
_KERNELS = {
    "16bit": ("bf16", "16bit"),
    "fp8": ("fp8", "w8a16"),
    "int8": ("int8", "w8a16"),
    "w8a16": ("bf16", "w8a16"),
    "w4a16": ("bf16", "w4a16"),
    "awq": ("bf16", "awq"),
    "fp4": ("fp4", "w4a16"),
    "gguf": ("bf16", "gguf"),
    "unpacked": ("bf16", "unpacked"),
}
_BY_FORMAT = {
    "fp8": "fp8",
    "int8": "int8",
    "w8a8": "int8",
    "awq": "w4a16",
    "gptq": "w4a16",
    "int4": "w4a16",
    "w4a16": "w4a16",
    "nf4": "w4a16",
    "nvfp4": "fp4",
    "mxfp4": "fp4",
}
_KV_BYTES = {"fp8": 1.0, "int8": 1.0, "q8_0": 34 / 32, "q4_0": 18 / 32, "q5_0": 22 / 32, "q5_1": 24 / 32}
_LLAMA_CPP, _TRANSFORMERS = "llama.cpp", "transformers"
_PIPELINED = frozenset({"vllm", "sglang", "tensorrt-llm"})
_LARGE_GPU_BYTES = 70 << 30
# The catalogue's measured products over nameplates, by 16-bit TFLOP/s that the nameplate asks of a watt: a card that
# is cut down keeps its clock (H20), a large one does not. RTX 3080 to 5090, H20; A100 and A800; H100; B200.
_REACHED = ((0.35, 1.0), (0.78, 0.84), (1.41, 0.79), (2.25, 0.74))
# Two channels of DDR5-5600, where the host's memory is slower than the link to it.
_HOST_BYTES_PER_S = 80_000_000_000


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
    how many arrive in all at a rate. `graphs` says that decoding runs in graphs, whatever the version's rule.
    """

    concurrency: float | None = None
    rate: float | None = None
    prompt: float | None = None
    output: float | None = None
    prefix_hit: float = 0.0
    draft: int = 0
    acceptance: float = 0.0
    kernels: str | None = None
    streamed: bool = True
    requests: float | None = None
    graphs: bool | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Served:
    """A planned model on a card, ready to be asked how fast it is."""

    engine: str
    ask: Ask
    gpu: Gpu
    memory: Memory
    capacity: Capacity

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
        made = card_of(self.gpu, kernels or self.kernels, self.ask.layout, self.engine)
        if made is None:
            return None
        card, kernels, link = made
        return card, fitted.constants(
            self.engine, str(self._span["name"]), fitted.generation(self.gpu), kernels, link
        )

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
        work = work_of(ask.architecture, ask.precision, _shared(ask.layout, self.engine), kv_bytes)
        if self.engine == _LLAMA_CPP:
            work = builds.of_the_build(work, ask, self.gpu, self._span, quantised=self._quantised)
        elif self.engine == _TRANSFORMERS:
            work = builds.of_the_modules(work, ask, self._span)
        return self._on_the_host(work)

    @property
    def _span(self) -> dict[str, Any]:
        return fitted.span(fitted.load(self.engine), self.ask.options.version)

    @property
    def _quantised(self) -> bool:
        return kernel_class(self.ask.precision.name, self.engine) == "gguf"

    def _on_the_host(self, work: Work) -> Work:
        """The same with what llama.cpp left on the host: experts alone (--n-cpu-moe and kin) or whole layers (--ngl)."""
        there = self._host_bytes()
        if not there:
            return work
        experts = sum(each.n_bytes for each in work.experts)
        layers = self.ask.options.ngl is not None or not experts
        share = there / (work.dense_bytes + experts) if layers else there / experts
        share = min(1.0, share)
        beside = work.dense_bytes * share if layers else max(0.0, there - experts)
        return replace(
            work,
            host_bytes=beside,
            host_experts=share if experts else 0.0,
            dense_bytes=work.dense_bytes - beside,
        )

    def _host_bytes(self) -> float:
        """Weights that llama.cpp left on the host, but for the input embedding, which is only looked up."""
        there = self.memory.settings.get("host_weights_bytes")
        if not isinstance(there, int):
            return 0.0
        place = Place(self.ask.architecture, None)
        table = sum(
            self.ask.precision.weight_bytes(weight, place) for weight in self.ask.architecture.embedding
        )
        return float(max(0, there - table))

    def load(self, assumed: Assumptions) -> Load:
        """The traffic on one replica, or group of attention: requests are dealt out evenly over them."""
        workload, dp = self.ask.workload, self.ask.layout.dp * self.ask.layout.attention_dp
        settings = self.memory.settings
        output = assumed.output if assumed.output is not None else workload.context - workload.prompt_tokens
        return Load(
            prompt=assumed.prompt if assumed.prompt is not None else workload.prompt_tokens,
            output=max(1.0, output),
            concurrency=max(1.0, (assumed.concurrency or workload.concurrency) / dp),
            rate=assumed.rate / dp if assumed.rate else None,
            room=self._room(),
            most=self._most(),
            chunk=_chunk(settings, self.engine, self.gpu),
            pipelined=self.engine in _PIPELINED,
            queued=self._queued(),
            prefix_hit=assumed.prefix_hit,
            draft=assumed.draft,
            acceptance=assumed.acceptance,
            streamed=assumed.streamed,
            static=self.engine == _TRANSFORMERS,
            eager=self._eager(assumed, output),
            requests=assumed.requests,
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


def kernel_class(precision: str, engine: str) -> str:
    """Which kernels multiply a format of weights."""
    name = precision.lower()
    if engine == _LLAMA_CPP:
        return "16bit" if name in ("f16", "bf16", "float16", "bfloat16", "f32") else "gguf"
    if engine == _TRANSFORMERS and name.startswith("awq"):
        return "awq"  # AutoAWQ's modules launch more than those of GPTQ
    for start, found in _BY_FORMAT.items():
        if name.startswith(start):
            return found
    return "16bit"


def card_of(gpu: Gpu, kernels: str, layout: Layout, engine: str) -> tuple[Card, str, str] | None:
    """The numbers of a card for a class of kernels, the class that really runs there, and the kind of link."""
    flops_16 = gpu.tflops("bf16") or gpu.tflops("fp16")
    dtype, instead = _KERNELS[kernels]
    flops = gpu.tflops(dtype)
    if engine == _LLAMA_CPP and flops_16:
        # It accumulates in float16 and multiplies quantised blocks in int8: half of the int8 rate is its 16-bit peak.
        flops = flops_16 = max(flops_16, gpu.tflops("fp16") or 0.0, (gpu.tflops("int8") or 0.0) / 2)
    elif flops is None or dtype == "bf16":
        flops, kernels = flops_16, instead
    elif dtype == "fp8" and gpu.architecture == "Ada" and "GeForce" in gpu.name:
        flops /= 2  # the datasheet's figure is with float16 accumulation, twice that with float32
    if not gpu.bandwidth_bytes_per_s or not flops or not flops_16:
        return None
    shared = _shared(layout, engine)
    link = link_of(gpu, max(layout.tp, shared.expert_ranks), layout.gpus)
    reached = 1.0 if engine == _LLAMA_CPP else _reached(gpu)
    host = min((gpu.pcie_bytes_per_s or 0) / 2 or _HOST_BYTES_PER_S, _HOST_BYTES_PER_S)
    if gpu.unified_memory:
        host = gpu.bandwidth_bytes_per_s
    card = Card(
        bandwidth=float(gpu.bandwidth_bytes_per_s),
        flops=flops * reached * 1e12,
        flops_16=flops_16 * reached * 1e12,
        link_bytes_per_s=link.bytes_per_s,
        host_bytes_per_s=host,
        host_read_bytes_per_s=host if gpu.unified_memory else _HOST_BYTES_PER_S,
    )
    return card, kernels, link.kind


def _shared(layout: Layout, engine: str) -> Layout:
    """Replicas of vLLM share their experts; those of other engines are servers of their own."""
    return replace(layout, shared_experts=True) if engine == "vllm" else replace(layout, dp=1)


def _reached(gpu: Gpu) -> float:
    """Share of the nameplate's peak that large products reach, where somebody measured it; else 1."""
    for dtype, measured in gpu.measured_gemm_tflops:
        nameplate = gpu.tflops(dtype)
        if nameplate:
            return min(1.0, measured / nameplate)
    flops, watts = gpu.tflops("bf16") or gpu.tflops("fp16"), gpu.tdp_w
    asked = flops / watts if flops and watts else 0.0
    for (low, at_low), (high, at_high) in pairwise(_REACHED):
        if asked <= high:
            return at_low + (at_high - at_low) * max(0.0, asked - low) / (high - low)
    return _REACHED[-1][1]


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
