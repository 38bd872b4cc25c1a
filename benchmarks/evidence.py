"""
Replay start-up logs of vLLM through the planner: predicted against logged, row by row.

    python benchmarks/evidence.py [--rows]

The rows of data/vllm_logs.jsonl carry figures of public logs with their sources; a row counts where version,
weights, total memory, utilisation and KV blocks, tokens or concurrency are all known. Nothing is fitted here;
the version profiles name the logs that their constants were read from, and those rows are marked.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import vram_planner as vp

DATA = Path(__file__).parent / "data" / "vllm_logs.jsonl"
# How a checkpoint's name or a log's words say its format.
FORMATS = (
    (r"quantized\.w8a8|w8a8", "w8a8"),
    (r"w4a16|gptq", "w4a16"),
    (r"awq", "awq"),
    (r"fp8-dynamic|^fp8|fp8$", "fp8"),
)
ORGS = {"redhatai", "neuralmagic", "hugging-quants"}


def base_model(row: dict[str, Any]) -> tuple[str, str | None]:
    """The model whose shapes these are, and the format that its name or its log tells."""
    name, words = row["model"], f"{row['model']} {row.get('quantization', '')}".lower()
    quant = next((to for pattern, to in FORMATS if re.search(pattern, words)), None)
    base = re.sub(r"(?i)[-_.](quantized\.w\da\d+|fp8-dynamic|awq(-int4)?|gptq(-int4)?|fp8)$", "", name)
    base = base.split("/")[-1] if base.split("/")[0].lower() in ORGS else base
    known = {"Kimi-Dev-72B": "Qwen/Qwen2.5-72B", "moonshotai/Kimi-Dev-72B": "Qwen/Qwen2.5-72B"}
    return known.get(base, base.replace("Meta-Llama-3.1", "Llama-3.1")), quant


def replay(row: dict[str, Any]) -> vp.MemoryPlan:
    """The plan that the row's settings ask for."""
    model, quant = base_model(row)
    dtype = row.get("dtype", "auto")
    options = {
        "engine_version": re.match(r"\d+\.\d+", row["engine_version"])[0],
        "tp": row.get("tp"),
        "pp": row.get("pp"),
        "dtype": dtype,
        "quant": quant,
        "kv_dtype": row.get("kv_cache_dtype") or "auto",
        "gpu_memory_utilization": row["gpu_memory_utilization"],
        "max_num_seqs": row.get("max_num_seqs"),
        "max_num_batched_tokens": row.get("max_num_batched_tokens"),
        "block_size": row.get("block_size"),
        "gpu": f"custom:{row['gpu_total_gib']}GiB",
    }
    return vp.plan(model, ctx=row["max_model_len"], concurrency=1, **options)


def compare(row: dict[str, Any], plan: vp.MemoryPlan) -> dict[str, tuple[float, float]]:
    """Component -> (predicted, logged)."""
    log, capacity = row["measured"], plan.capacity
    gib = 2**30
    weights = (plan.part("weights").n_bytes + plan.part("buffers").n_bytes) / gib
    pairs = {
        "weights": (weights, log.get("model_loading_gib")),
        "activation": (plan.part("activations").n_bytes / gib, log.get("activation_peak_gib")),
        "kv_gib": (capacity.kv_pool_bytes / gib, log.get("available_kv_cache_gib")),
        "blocks": (capacity.num_blocks, log.get("num_gpu_blocks")),
        "tokens": (capacity.kv_cache_tokens, log.get("kv_cache_tokens")),
        "concurrency": (capacity.max_concurrency, log.get("max_concurrency")),
    }
    return {name: pair for name, pair in pairs.items() if pair[1]}


def usable(row: dict[str, Any]) -> str | None:
    """Why a row cannot be replayed; None where it can."""
    log = row["measured"]
    needs = {
        "engine_version": row,
        "tp": row,
        "gpu_total_gib": row,
        "gpu_memory_utilization": row,
        "max_model_len": row,
        "model_loading_gib": log,
    }
    missing = [name for name, where in needs.items() if where.get(name) is None]
    if missing:
        return f"no {', '.join(missing)}"
    if not any(log.get(name) for name in ("kv_cache_tokens", "num_gpu_blocks", "max_concurrency")):
        return "no blocks, tokens or concurrency"
    return None


def main() -> None:
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    errors: dict[str, list[float]] = {}
    capacity_errors: list[float] = []
    skipped: list[str] = []
    replayed = 0
    for row in rows:
        reason = usable(row)
        if reason is None:
            try:
                pairs = compare(row, replay(row))
            except vp.PlannerError as error:
                reason = str(error)
        if reason is not None:
            skipped.append(f"{row['id']}: {reason}")
            continue
        replayed += 1
        wrong = {name: ours / theirs - 1 for name, (ours, theirs) in pairs.items()}
        for name, value in wrong.items():
            errors.setdefault(name, []).append(value)
        capacity_errors.append(
            max((wrong[k] for k in ("blocks", "tokens", "concurrency") if k in wrong), key=abs)
        )
        if "--rows" in sys.argv:
            told = "  ".join(
                f"{name} {ours:,.2f}/{theirs:,.2f} {wrong[name]:+.1%}"
                for name, (ours, theirs) in pairs.items()
            )
            print(f"{row['engine_version']:<22} {row['model']:<50} tp{row.get('tp')} {told}")
    if "--rows" in sys.argv:
        print("\n".join(["", "not replayed:", *skipped, ""]))
    print(f"{replayed} rows replayed, {len(skipped)} not (--rows says why)")
    print(f"{'':<28}{'n':>4}{'median':>9}{'P90':>9}{'worst':>9}{'bias':>9}")
    for name, values in [("tokens/blocks/concurrency", capacity_errors), *errors.items()]:
        sizes = sorted(map(abs, values))
        p90 = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
        print(
            f"{name:<28}{len(values):>4}{statistics.median(sizes):>9.2%}{p90:>9.2%}{sizes[-1]:>9.2%}{statistics.mean(values):>+9.2%}"
        )


if __name__ == "__main__":
    main()
