"""A record of measured speed as a request and its traffic, and what was measured as components."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RecordError
from vram_planner.planning.estimate import estimate
from vram_planner.planning.performance import Assumptions
from vram_planner.planning.performance_constants import load as constants_of
from vram_planner.planning.request import PlanRequest
from vram_planner.validate.replay_recipes import Recipe, recipe_of
from vram_planner.validate.replay_suites import suite_of

if TYPE_CHECKING:
    from vram_planner.planning.performance import Band, Performance, Served
    from vram_planner.planning.performance_model import Times

ENGINES = {
    "vLLM": "vllm",
    "vLLM (KAITO)": "vllm",
    "vLLM (ROCm)": "vllm",
    "SGLang": "sglang",
    "TensorRT-LLM": "tensorrt-llm",
    "NIM (TensorRT-LLM)": "tensorrt-llm",
    "transformers": "transformers",
    "llama.cpp": "llama.cpp",
    "llama.cpp (HIP)": "llama.cpp",
    "llama.cpp (Metal)": "llama.cpp",
    "llama.cpp (llama-server, Vulkan)": "llama.cpp",
}
# What records call a model -> the catalogue's name, or one of the same shapes.
_MODELS = (
    (r"meta-?llama-3-(8b|70b)", "meta-llama/Meta-Llama-3-{0}"),
    (r"(?:meta-)?llama[- ]v?3\.[13] (8b|70b|405b)", "meta-llama/Llama-3.1-{0}-Instruct"),
    (r"(?:meta-)?llama-3\.[13]-(8b|70b|405b)", "meta-llama/Llama-3.1-{0}-Instruct"),
    (r"llama v3\.1 (8b|70b|405b)", "meta-llama/Llama-3.1-{0}-Instruct"),
    (r"llama-2[- .](7b|13b|70b)", "meta-llama/Llama-2-{0}-hf"),
    (r"^llama (7b)", "meta-llama/Llama-2-7b-hf"),
    (r"^llama 8b", "meta-llama/Llama-3.1-8B-Instruct"),
    (r"codellama-(7b)", "codellama/CodeLlama-7b-hf"),
    (r"mistral 7b", "mistralai/Mistral-7B-v0.1"),
    (r"mixtral[- ]8x7b", "mistralai/Mixtral-8x7B-v0.1"),
    (r"gpt-oss-(20b|120b)", "openai/gpt-oss-{0}"),
    (r"deepseek-r1-0528", "deepseek-ai/DeepSeek-R1-0528"),
    (r"deepseek-r1-distill-qwen-(7b|14b|32b)", "deepseek-ai/DeepSeek-R1-Distill-Qwen-{0}"),
    (r"minimax-m2\.7", "MiniMaxAI/MiniMax-M2.7"),
    (r"gemma-4-31b", "nvidia/Gemma-4-31B-IT-NVFP4"),
    (r"gemma-4-26b-a4b", "google/gemma-4-26B-A4B"),
    (r"qwen2\.5-(?:coder-)?([0-9.]+b)", "Qwen/Qwen2.5-{0}-Instruct"),
    (r"qwen2-57b-a14b", "Qwen/Qwen2-57B-A14B-Instruct"),
    (r"qwen2-([0-9.]+b)", "Qwen/Qwen2-{0}-Instruct"),
    (r"qwen3guard-gen-8b", "Qwen/Qwen3-8B"),
    (r"qwen3-vl-32b", "Qwen/Qwen3-VL-32B-Instruct"),
    (r"qwen3-235b-a22b", "Qwen/Qwen3-235B-A22B"),
    (r"qwen3-(?:coder[- ])?30b-a3b", "Qwen/Qwen3-30B-A3B"),
    (r"qwen3-([0-9.]+b)", "Qwen/Qwen3-{0}"),
    (r"qwen3\.[56][- ]35b-a3b", "Qwen/Qwen3.5-35B-A3B"),
    (r"qwen3\.[56][- ]27b", "Qwen/Qwen3.5-27B"),
    (r"qwen3\.[56]-122b-a10b", "Qwen/Qwen3.5-122B-A10B"),
    (r"qwq-32b", "Qwen/QwQ-32B"),
    (r"^qwen-1\.8b", "Qwen/Qwen-1_8B-Chat"),
    (r"^qwen-(7b|14b)", "Qwen/Qwen-{0}-Chat"),
    (r"nemotron super 49b", "nvidia/Llama-3_3-Nemotron-Super-49B-v1"),
)
# The word for the format -> (--quant, class of kernels where the format's name does not tell it).
_FORMATS: tuple[tuple[str, str | None, str | None], ...] = (
    (r"^(bf16|fp16)$", None, None),
    (r"w8a8", "w8a8", None),
    (r"w8a16|gptq-int8|^int8", "int8", "w8a16"),
    (r"w4a16|^int4|gptq-int4", "gptq", None),
    (r"^awq", "awq", None),
    (r"^fp8", "fp8", None),
)
_GGUF = (
    (r"bf16|^f16", "F16"),
    (r"q8_k_xl|q8_0", "Q8_0"),
    (r"mxfp4", "MXFP4_MOE"),
    (r"q4_k", "Q4_K_M"),
    (r"q5_k", "Q5_K_M"),
    (r"q3_k", "Q3_K_S"),
    (r"q4_0", "Q4_0"),
)
# Lengths drawn evenly from 0.8 to 1 times what is named average 0.9 of it.
_RANDOM_RANGE = 0.9
_SHARE_GPT = (280, 310)
# Qwen's script captures graphs for as long as its requests are: docs/source/benchmark/speed_benchmark.rst.
_CAPTURED = re.compile(r"^graphs|speed_benchmark script")
_WITHOUT_END = 1e6
_MS = 1000.0
# Where a page says it of all its rows.
_UBATCHES = {"benches/dgx-spark": 2048}
# b2775 came out on 1 May 2024, b3050 on 31 May.
_BUILDS = {"May 2024": "b2824"}
_FULL = 0.95  # of the room: arrivals that fill it outrun the server
_RECORDS = Path(__file__).parent / "records"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A record read: the plan on its card, the traffic, and what was measured in seconds or tokens a second."""

    served: Served
    assumed: Assumptions
    measured: dict[str, float]
    saturated: bool

    def predicted(self, found: Times) -> dict[str, float]:
        """What a plan says of each measured figure."""
        known = {
            "TTFT": found.ttft_s,
            "prefill": found.prefill_s,
            "TPOT": found.tpot_s,
            "throughput": found.output_tokens_per_s,
        }
        return {name: known[name] for name in self.measured}


def is_serving(row: dict[str, Any]) -> bool:
    """Whether a row records speed, not memory."""
    return row.get("kind") == "serving" or "osl" in row


def replay(row: dict[str, Any]) -> dict[str, Any]:
    """Predicted and measured components; PlannerError with the reason where a row cannot be replayed."""
    case = case_of(row)
    served = case.served
    found, bands = served.times(case.assumed), served.performance(case.assumed)
    if found is None or bands is None:
        raise RecordError("by the plan it does not fit, or the card's speed is not known", hint="see --rows")
    if outruns(case, found):
        raise RecordError("requests arrive faster than they are served", hint="TTFT is then the run's length")
    predicted = case.predicted(found)
    pairs, covered = {}, {}
    for name, theirs in case.measured.items():
        component = f"{_shown(name, case)}, {_KINDS[served.kind]}"
        scale = 1.0 if name == "throughput" else _MS
        pairs[component] = (predicted[name] * scale, theirs * scale)
        low, high = _band(name, predicted[name], bands)
        covered[component] = low <= theirs <= high
    fitted = family(row) in constants_of(served.engine).get("sources", ())
    return {"pairs": pairs, "covered": covered, "version": _version(row) or "newest", "fitted": fitted}


def outruns(case: Case, found: Times) -> bool:
    """Whether requests arrive faster than they are served, in a run of a length that the record does not say."""
    load = case.served.load(case.assumed)
    return bool(load.rate and not load.requests and found.batch >= _FULL * min(load.room, load.most))


def family(row: dict[str, Any]) -> str:
    """Who published a record: owner/repository, or host/path. Records of the package name a line of a list."""
    source = _page(row)
    match = re.match(r"(?:https?://)?(?:github\.com/)?([^/]+/[^/]+)", source)
    return match[1] if match else source


def _page(row: dict[str, Any]) -> str:
    return _sources().get(str(row.get("source")), str(row.get("source")))


@lru_cache(maxsize=1)
def _sources() -> dict[str, str]:
    found: dict[str, str] = json.loads((_RECORDS / "serving_sources.json").read_text(encoding="utf-8"))
    return found


_KINDS = {"dense": "one card, dense", "several": "several cards", "experts": "experts"}


def _shown(name: str, case: Case) -> str:
    if name == "throughput":
        return "saturated tokens/s" if case.saturated else "tokens/s"
    return f"{name} ms"


def _band(name: str, best: float, bands: Performance) -> tuple[float, float]:
    of: Band = {
        "TTFT": bands.ttft_s,
        "prefill": bands.ttft_s,
        "TPOT": bands.tpot_s,
        "throughput": bands.output_tokens_per_s,
    }[name]
    return best * of.low / of.best, best * of.high / of.best


def case_of(row: dict[str, Any]) -> Case:
    """Read a record; RecordError where it cannot be compared."""
    _check(row)
    request = _request(row)
    plan = estimate(request)
    if plan.served is None:
        raise RecordError("it names no card", hint="add 'gpu_norm'")
    assumed, saturated = _traffic(row, request)
    return Case(served=plan.served, assumed=assumed, measured=_measured(row), saturated=saturated)


def _check(row: dict[str, Any]) -> None:
    reasons = {
        f"{row['engine']} is not planned for": row["engine"] not in ENGINES,
        "its quality is C": row.get("quality", "A") not in ("A", "B"),
        "speculative decoding with an acceptance rate that is not said": not str(
            row.get("spec_decode") or "none"
        ).startswith("none"),
        "its card is not in the catalogue": row.get("gpu_norm") is None and row.get("gpu") is None,
        "its prompt's length is not said": row.get("isl") is None and "ShareGPT" not in _note(row),
    }
    for reason, holds in reasons.items():
        if holds:
            raise RecordError(reason, hint="such rows are not compared")


def _request(row: dict[str, Any]) -> PlanRequest:
    engine = ENGINES[row["engine"]]
    prompt, output = _lengths(row)
    quant, kv_dtype = _format(row, engine)
    tp, pp = row.get("tp") or 1, row.get("pp") or 1
    count = max(row.get("gpu_count") or 1, tp * pp)
    if engine in ("llama.cpp", "transformers"):
        tp, pp = 1, count
    elif tp * pp < count:
        tp = count // pp
    concurrency = row.get("concurrency") or 1
    recipe = recipe_of(row, engine) or Recipe()
    return PlanRequest.of(
        model=_model(str(row["model"])),
        ctx=max(2, round(prompt + output)),
        prompt_tokens=max(1, round(prompt)),
        concurrency=concurrency if engine == "llama.cpp" else 1,
        engine=engine,
        engine_version=_build(row)
        if engine == "llama.cpp"
        else _version(row)
        if engine != "tensorrt-llm"
        else None,
        gpu=row.get("gpu_norm") or row["gpu"],
        gpu_count=count,
        tp=tp,
        pp=pp,
        quant=quant,
        dtype="float16" if row.get("quant") == "FP16" and engine != "llama.cpp" else None,
        kv_dtype=recipe.kv_dtype or kv_dtype,
        max_num_batched_tokens=recipe.chunk,
        gpu_memory_utilization=recipe.share,
        ep=recipe.ep,
        dp_attention=recipe.dp_attention,
        ubatch=next((size for page, size in _UBATCHES.items() if page in _page(row)), None),
        enforce_eager=engine == "vllm" and "enforce-eager" in _note(row),
    )


def _model(name: str) -> str:
    for pattern, to in _MODELS:
        match = re.search(pattern, name, re.IGNORECASE)
        if match:
            return to.format(*(group.upper() for group in match.groups()))
    return name


def _format(row: dict[str, Any], engine: str) -> tuple[str | None, str | None]:
    word = str(row.get("quant") or "").lower()
    name = str(row["model"]).lower()
    if engine == "llama.cpp":
        dynamic = re.search(r"-(ud-i?q\d\w+)", name)
        if dynamic:
            return dynamic[1], None
        for text in (name, word):
            for pattern, to in _GGUF:
                if re.search(pattern, text):
                    return to, None
        raise RecordError(f"the format {word!r} is not known", hint="a GGUF type")
    # NVIDIA's FP8 and FP4 checkpoints name an FP8 cache, which TensorRT-LLM follows.
    kv_dtype = "fp8" if engine == "tensorrt-llm" and word in ("fp8", "fp4") else None
    if word == "fp4":
        return (None if "gpt-oss" in name else "nvfp4"), kv_dtype
    if word == "fp8" and re.search(r"deepseek|minimax", name):
        return None, kv_dtype  # as published
    for pattern, quant, _ in _FORMATS:
        if re.search(pattern, word):
            return quant or (
                "bfloat16" if "minimax" in name or "deepseek" in name or "gemma-4-31" in name else None
            ), kv_dtype
    return None, kv_dtype


def _note(row: dict[str, Any]) -> str:
    return str(row.get("metric_notes") or row.get("note") or "")


def _lengths(row: dict[str, Any]) -> tuple[float, float]:
    prompt, output = row.get("isl"), row.get("osl")
    note = _note(row)
    suite = suite_of(note, ENGINES[row["engine"]])
    if suite is not None:
        return suite.prompt, suite.output
    if prompt is None:
        prompt, output = _SHARE_GPT
    scale = _RANDOM_RANGE if "random-range-ratio 0.8" in note or "mean 0.9" in note else 1.0
    depth = re.search(r"@d(\d+)", note)
    behind = int(depth[1]) if depth else 0
    return prompt * scale + behind, (output or 0) * scale


def _traffic(row: dict[str, Any], request: PlanRequest) -> tuple[Assumptions, bool]:
    note = _note(row)
    prompt, output = _lengths(row)
    kernels = next(
        (k for pattern, _, k in _FORMATS if k and re.search(pattern, str(row.get("quant")).lower())), None
    )
    depth = re.search(r"@d(\d+)", note)
    concurrency, rate = row.get("concurrency"), row.get("request_rate")
    saturated = False
    suite = suite_of(note, ENGINES[row["engine"]])
    if suite is not None and "offline" in note:
        concurrency, saturated = suite.batch, True
    elif concurrency is None and rate in ("inf", None):
        concurrency, saturated = _WITHOUT_END, True
    arrivals = float(rate) if concurrency is None and rate not in ("inf", None) else None
    found = Assumptions(
        concurrency=concurrency,
        rate=arrivals,
        prompt=max(1.0, prompt),
        output=max(1.0, output),
        kernels=kernels if request.engine != "llama.cpp" else None,
        prefix_hit=int(depth[1]) / prompt if depth else 0.0,
        streamed=not saturated,
        requests=suite.arrivals if suite is not None else row.get("requests"),
        graphs=True if request.engine == "vllm" and _CAPTURED.search(note) else None,
        embedded=suite is not None,
        held=(recipe_of(row, request.engine) or Recipe()).held,
    )
    return found, saturated


def _measured(row: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    note = _note(row)
    bench = "llama-bench" in note or "batched-bench" in note or bool(re.match(r"(pp|tg)\d", note))
    at_once, rate = row.get("concurrency") or 1, row.get("output_tok_s")
    if row.get("ttft_ms") and row.get("isl"):
        found["TTFT"] = row["ttft_ms"] / _MS
    if row.get("tpot_ms") or row.get("itl_ms"):
        found["TPOT"] = (row.get("tpot_ms") or row["itl_ms"]) / _MS
    if row.get("prefill_tok_s") and row["isl"] and at_once == 1:
        found["prefill"] = row["isl"] / row["prefill_tok_s"]
    if rate and (bench or row.get("isl") == 0):
        found["TPOT"] = at_once / rate
    elif rate:
        found["throughput"] = float(rate)
    if not found:
        raise RecordError("it measures nothing that a plan predicts", hint="a TTFT, a TPOT or tokens/s")
    return found


def _build(row: dict[str, Any]) -> str | None:
    """A build of llama.cpp where a record says its number, or a month in which builds of an age came out."""
    version = str(row.get("engine_version") or "")
    match = re.match(r"b?(\d{3,6})(?:\s|$)", version) or re.search(r"\((\d{3,6})\)", version)
    if match:
        return f"b{match[1]}"
    return next((build for month, build in _BUILDS.items() if version.startswith(month)), None)


def _version(row: dict[str, Any]) -> str | None:
    match = re.search(r"(\d+\.\d+(?:\.\d+)?)", str(row.get("engine_version") or ""))
    return match[1] if match else None
