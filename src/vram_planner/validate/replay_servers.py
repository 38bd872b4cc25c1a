"""A record of vLLM, SGLang or TensorRT-LLM as a request, and what its log says as components."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vram_planner.architecture.precision import DTYPES
from vram_planner.engines.versions import profile_for
from vram_planner.errors import PlannerError, RecordError
from vram_planner.hardware_profiles import GpuChoice, find_gpu, gpu_by_nvml_name
from vram_planner.model_profiles.resolve import resolve
from vram_planner.planning.estimate import estimate
from vram_planner.planning.request import PlanRequest
from vram_planner.units import GIB
from vram_planner.validate import replay_sglang, replay_tensorrt_llm
from vram_planner.validate.bands import FROM_POOL, covered
from vram_planner.validate.consistent import (
    checkpoint_differs,
    first_stage,
    overfull,
    share_of,
    weights_alone,
)
from vram_planner.validate.replay_pool import from_logged_pool, logs_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vram_planner.planning.plan import MemoryPlan

# How a checkpoint's name, or the log's word for its format, says how it is stored.
_FORMATS = (
    (r"w8a8", "w8a8"),
    (r"w4a16|gptq", "w4a16"),
    (r"awq", "awq"),
    (r"fp8-dynamic", "fp8-dynamic"),
    (r"bitsandbytes|bnb", "nf4"),
    (r"^fp8|fp8 \(online", "fp8"),
)
_SUFFIX = re.compile(r"(?i)[-_.](quantized\.w\da\d+|fp8-dynamic|awq(-int4)?|gptq(-int4)?|int4-awq)$")
_TUNED = re.compile(r"(?i)-(it|instruct|chat)$")
_QUANTISERS = {"redhatai", "neuralmagic", "hugging-quants", "nousresearch", "unsloth", "jakiajk"}
# Fine-tunes that keep the shapes of their base.
_SAME_SHAPES = {
    "moonshotai/Kimi-Dev-72B": "Qwen/Qwen2.5-72B",
    "castorini/rank_zephyr_7b_v1_full": "mistralai/Mistral-7B-v0.1",
    "vonjack/Phi-3-mini-4k-instruct-LLaMAfied": "microsoft/Phi-3-mini-4k-instruct",
    "Qwen/Qwen3-Reranker-0.6B": "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-30B-A3B-Instruct": "Qwen/Qwen3-30B-A3B-Instruct-2507",
    "meetkai/functionary-small-v2.4": "mistralai/Mistral-7B-Instruct-v0.2",
    "moonshotai/Kimi-K2.6": "moonshotai/Kimi-K2.5",
    "Qwen/Qwen3.8-27B-FP8": "Qwen/Qwen3.5-27B",
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": "Qwen/Qwen3-8B",
    "google/gemma-4-31B-it": "nvidia/Gemma-4-31B-IT-NVFP4",
    # Its weights (51.1 GiB) and tokens of a pool are Qwen3.5-27B's in a start-up log of 0.27.
    "Qwen/Qwen3.8-27B": "Qwen/Qwen3.5-27B",
}
_V0 = "0.8"  # a V0 engine of unknown release: the newest that prints what its log prints
_V0_FIRST = "0.6.4"  # its log says 'peak_torch_memory', which no later one does
_SPECULATIVE = "it ran speculative decoding, which is not modelled"
_SGLANG_OPTIONS = ("speculative", "speculative_tokens")


def replay(row: dict[str, Any]) -> dict[str, Any]:
    """Predicted and logged components; PlannerError with the reason where a row cannot be replayed."""
    alone = replay_sglang.with_logged_free(row) or replay_tensorrt_llm.with_logged_peak(row)
    if alone and not row.get("gpu_total_gib") and not is_product(row.get("gpu")):
        return {**alone, "version": version_of(row) or "newest", "fitted": bool(row.get("constants_read"))}
    written, (row, lacks) = row, weights_alone(row, version_of(row))
    plan = plan_of(row)
    request = request_of(row, plan.engine)
    pool = from_logged_pool(written, request, card_of(row, request)) if plan.engine == "vllm" else {}
    if remark := _format_unknown(row, plan, lacks):
        if not pool:
            raise RecordError(remark, hint="name the checkpoint, or give its config.json")
        lacks = f"only what the logged pool holds: {remark}"
    fitted = bool(row.get("constants_read"))
    if plan.engine == "vllm":
        profile, _ = profile_for("vllm", version_of(row))
        fitted = _base(row)[0] in profile.get("fitted_on", ())
    pairs, left_out = _comparable(row, plan, _pairs(row, plan))
    if lacks is not None:
        kept = () if remark else ("weights",)
        pairs, left_out = {name: pair for name, pair in pairs.items() if name in kept}, (lacks,)
    return {
        "pairs": {**pairs, **alone.get("pairs", {}), **pool},
        "version": version_of(row) or "newest",
        "fitted": fitted,
        "covered": {**covered(plan, pairs, version_of(row)), **alone.get("covered", {})},
        "notes": (*share_of(row)[1], *left_out),
    }


def _format_unknown(row: dict[str, Any], plan: MemoryPlan, lacks: str | None) -> str | None:
    """Why the planned bytes of the weights are not those of the record's checkpoint; None where they may be."""
    word, precision = str(row.get("quantization") or ""), plan.model.precision
    if "fbgemm" in word:
        return f"its format {word!r} leaves tensors in 16 bits that it does not name"
    if "group 32" in word:
        return f"its format {word!r} has smaller groups than the planned one"
    if lacks is not None and version_of(row) is None and "mxfp4" in word:
        return "no engine_version, which decides how MXFP4 is padded"
    if word and precision.name in DTYPES:
        return f"its format {word!r} is not told by the model's configuration"
    return checkpoint_differs(row, plan.model.architecture.weights_bytes(precision))


def _comparable(
    row: dict[str, Any], plan: MemoryPlan, pairs: dict[str, tuple[float, float]]
) -> tuple[dict[str, tuple[float, float]], tuple[str, ...]]:
    """The pairs that mean the same on both sides, and why others were left out."""
    left_out, notes = set(), []
    if remark := first_stage(row):
        left_out |= {"activation", "KV pool"}
        notes.append(remark)
    if plan.gpu is not None and plan.capacity is not None and plan.capacity.num_blocks:
        total = plan.gpu.total_bytes / GIB
        if remark := overfull(row, total_gib=total, pool_gib=_pool_of(plan, pairs), version=version_of(row)):
            left_out |= set(FROM_POOL)
            notes.append(remark)
    return {name: pair for name, pair in pairs.items() if name not in left_out}, tuple(notes)


def _pool_of(plan: MemoryPlan, pairs: dict[str, tuple[float, float]]) -> float | None:
    """The logged pool in GiB, or what the logged blocks come to."""
    if "KV pool" in pairs:
        return pairs["KV pool"][1]
    if "KV blocks" not in pairs or plan.capacity is None or not plan.capacity.num_blocks:
        return None
    return pairs["KV blocks"][1] * plan.capacity.kv_pool_bytes / plan.capacity.num_blocks / GIB


def plan_of(row: dict[str, Any]) -> MemoryPlan:
    """The plan of a record's settings on its card, with nothing that was measured on this machine."""
    engine = {"trtllm": "tensorrt-llm"}.get(row["engine"], row["engine"])
    request = request_of(row, engine)
    return estimate(request, card_of(row, request))


def request_of(row: dict[str, Any], engine: str) -> PlanRequest:
    """A record's settings as a request; RecordError where one of them cannot be planned."""
    if row.get("model") is None:
        raise RecordError("it names no model", hint="add 'model'")
    if engine != "sglang" and row.get("speculative") not in (None, "[ngram]"):
        raise RecordError(_SPECULATIVE, hint="replay a start without it")
    version = version_of(row)
    if engine == "vllm":
        _check_vllm(row, version)
    tp = row.get("tp") or (1 if row.get("gpu_count") in (None, 1) else None)
    if tp is None or (row.get("tp") is None and row.get("gpu_count") is None and engine != "vllm"):
        raise RecordError("no tensor parallel size", hint="add 'tp'")
    model, quant = _base(row)
    context = row.get("max_model_len") or row["measured"].get("max_concurrency_len")
    if (
        context is None and engine != "vllm"
    ):  # both then take the model's own, and their pools do not depend on it
        context = resolve(model, offline=True).architecture.max_context
    if context is None:
        raise RecordError("no max_model_len", hint="add it")
    return PlanRequest.of(
        model=model,
        ctx=context,
        concurrency=1,
        engine=engine,
        engine_version=version,
        tp=tp,
        pp=row.get("pp"),
        dp=row.get("dp"),
        offline=True,
        ep=bool(row.get("ep")) or None,
        dp_attention=bool(row.get("dp_attention")) or None,
        dtype=row.get("dtype"),
        quant=quant,
        kv_dtype=_kv_dtype(row),
        gpu_memory_utilization=share_of(row)[0],
        max_num_seqs=row.get("max_num_seqs"),
        max_num_batched_tokens=row.get("max_num_batched_tokens"),
        block_size=row.get("block_size"),
        max_loras=row.get("max_loras") or (1 if row.get("enable_lora") else None),
        max_lora_rank=row.get("max_lora_rank"),
        enforce_eager=row.get("enforce_eager"),
        prefix_caching=row.get("prefix_caching"),
        calibration=False,
        **({name: row.get(name) for name in _SGLANG_OPTIONS} if engine == "sglang" else {}),
    )


def _check_vllm(row: dict[str, Any], version: str | None) -> None:
    told = row["measured"].get("model_loading_gib") is not None or logs_pool(row)
    if version is None and (not told or row.get("partly") is False):
        raise RecordError("no engine_version", hint="add it")
    if row.get("cpu_offload_gb"):
        raise RecordError("it offloads to the CPU, which is not modelled", hint="replay a start without it")


def version_of(row: dict[str, Any]) -> str | None:
    """The release that a record ran, in the planner's words; None where it is not known."""
    match = re.match(r"v?(\d+\.\d+(?:\.\d+)?)", str(row.get("engine_version") or ""))
    if row["engine"] == "vllm" and row.get("v1") is False:
        return f"{match[1]}+v0" if match else _unknown_v0(row["measured"])
    return match[1] if match else None


def _unknown_v0(log: dict[str, Any]) -> str | None:
    """A V0 engine's release by the lines that its log has: each wording of the memory profile had its time."""
    if log.get("peak_torch_memory_gib") is not None:
        return f"{_V0_FIRST}+v0"
    return f"{_V0}+v0" if log.get("activation_peak_gib") is not None else None


def card_of(row: dict[str, Any], request: PlanRequest) -> GpuChoice:
    """The record's card: the catalogue's with the logged total, or one that has nothing but that total."""
    total_gib = row.get("gpu_total_gib")
    if not row.get("gpu") and not total_gib:
        raise RecordError("neither the card nor its total memory is known", hint="add 'gpu_total_gib'")
    try:
        gpu = find_gpu(str(row.get("gpu"))).gpu
    except PlannerError as error:
        # A record has the name that the driver prints, which may be one product's where the short name is two's.
        gpu = gpu_by_nvml_name(str(row.get("gpu")), int(total_gib * GIB) if total_gib else None)
        if gpu.nameplate_bytes is None:
            if not total_gib:
                raise RecordError(
                    f"the card {row['gpu']!r} is not in the catalogue", hint=error.hint
                ) from error
            gpu = replace(find_gpu(f"custom:{total_gib}GiB").gpu, name=str(row.get("gpu") or "any"))
    if total_gib:
        gpu = replace(gpu, torch_total_bytes=int(total_gib * GIB))
    count = (request.tp or 1) * (request.pp or 1) * (1 if request.dp_attention else request.dp or 1)
    return GpuChoice(gpu, count, str(row.get("gpu")))


def is_product(name: str | None) -> bool:
    """Whether this is the name of one card of the catalogue."""
    if name is None:
        return False
    try:
        return find_gpu(name) is not None
    except PlannerError:
        return False


def _kv_dtype(row: dict[str, Any]) -> str:
    kind = row.get("kv_cache_dtype") or "auto"
    return {"fp8_ds_mla": "fp8"}.get(kind, kind)


def _base(row: dict[str, Any]) -> tuple[str, str | None]:
    """The catalogue's name for these shapes, and the format that name or log tell where the found model has none."""
    name, word = row["model"], str(row.get("quantization") or "").lower()
    words = f"{name} {word}".lower()
    quant = next(
        (
            to
            for pattern, to in _FORMATS
            if re.search(pattern, word) or (to != "fp8" and re.search(pattern, words))
        ),
        None,
    )
    if name in _SAME_SHAPES:
        return _SAME_SHAPES[name], quant
    base = _SUFFIX.sub("", name)
    organisation, _, short = base.rpartition("/")
    if organisation.lower() in _QUANTISERS:
        base = short
    base = base.replace("Meta-Llama-3.1", "Llama-3.1").replace("Hermes-3-Llama", "Llama")
    if _known(base):
        return base, quant
    found = next((each for each in _spellings(name) if _known(each)), None)
    if found is None:
        return _SAME_SHAPES.get(base, base), quant
    stored = resolve(found, offline=True).architecture.precision.name not in DTYPES
    return found, None if stored else quant


def _spellings(name: str) -> Iterator[str]:
    """As written; as another's copy; with and without the word that marks a fine-tune, which keeps the shapes."""
    for each in (name, name.rpartition("/")[2]):
        yield each
        plain = _TUNED.sub("", each)
        yield from (plain, f"{plain}-Instruct", f"{plain}-it") if plain != each else (f"{each}-Instruct",)
        bare = _SUFFIX.sub("", each)
        yield from (bare, _TUNED.sub("", bare))


def _known(name: str) -> bool:
    try:
        resolve(name, offline=True)
    except PlannerError:
        return False
    return True


def _pairs(row: dict[str, Any], plan: MemoryPlan) -> dict[str, tuple[float, float]]:
    if plan.engine == "sglang":
        return replay_sglang.pairs_of(row, plan)
    log, capacity = row["measured"], plan.capacity
    if capacity is None:
        return {}
    parts = {part.name: part.n_bytes for part in plan.parts}
    predicted = {
        "weights": ((parts["weights"] + parts.get("buffers", 0)) / GIB, log.get("model_loading_gib")),
        "activation": (parts["activations"] / GIB, log.get("activation_peak_gib")),
        "KV pool": (capacity.kv_pool_bytes / GIB, log.get("available_kv_cache_gib")),
        "KV tokens": (float(capacity.kv_cache_tokens), log.get("kv_cache_tokens")),
        "concurrency": (capacity.max_concurrency, log.get("max_concurrency")),
    }
    if capacity.num_blocks is not None and plan.engine in ("vllm", "tensorrt-llm"):
        predicted["KV blocks"] = (float(capacity.num_blocks), log.get("num_gpu_blocks"))
    if plan.engine == "tensorrt-llm":
        share = plan.request["free_gpu_memory_fraction"]
        predicted["free for the cache"] = (
            capacity.kv_pool_bytes / share / GIB,
            log.get("available_before_kv_gib"),
        )
    if plan.engine == "vllm" and log.get("consumed_gib") is not None:
        # What stays allocated after the profile run is then in the sum with the weights, not in the peak.
        del predicted["activation"]
        predicted["beside the pool"] = _beside_pool(plan, log)
    elif plan.engine == "vllm" and _includes_graphs(plan):
        # From 0.25 on the logged peak includes the estimate of the graphs.
        graphs = parts["cuda_graphs"] / GIB
        predicted["activation"] = (predicted["activation"][0] + graphs, predicted["activation"][1])
    return {name: (ours, float(theirs)) for name, (ours, theirs) in predicted.items() if theirs is not None}


def _beside_pool(plan: MemoryPlan, log: dict[str, Any]) -> tuple[float, float | None]:
    """All that the budget gives to other things than the pool, and the log's two sums of that."""
    ours = sum(part.budgeted_bytes for part in plan.parts if part.name not in ("kv_cache", "recurrent_state"))
    peak = log.get("activation_peak_gib")
    return ours / GIB, None if peak is None else log["consumed_gib"] + peak


def _includes_graphs(plan: MemoryPlan) -> bool:
    return plan.part("cuda_graphs").in_budget
