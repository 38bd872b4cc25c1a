"""
The tables of docs/explanation/one-rtx-4090.md: three small models on one RTX 4090, in FP16 and in Q4_K_M.

    python docs/one_rtx_4090.py
"""

from __future__ import annotations

from typing import Any

import vram_planner as vp

GIB = 1 << 30
PROMPT = 512
NEW_TOKENS = (1024, 2048, 4096)
MODELS = {
    "DeepSeek-R1-Distill-Qwen-1.5B": "1.5b",
    "Qwen2.5-7B": "Qwen/Qwen2.5-7B",
    "Qwen2.5-1.5B": "Qwen/Qwen2.5-1.5B",
}
WAYS: dict[str, dict[str, Any]] = {
    "FP16, vLLM": {"engine": "vllm", "dtype": "float16"},
    "Q4_K_M, llama.cpp": {"engine": "llama.cpp", "quant": "q4_k_m"},
}


def planned(model: str, way: str, new_tokens: int) -> vp.MemoryPlan:
    """One request of `new_tokens` after a prompt on the card."""
    context = PROMPT + new_tokens
    return vp.plan(model, ctx=context, prompt_tokens=PROMPT, concurrency=1, gpu="RTX 4090", **WAYS[way])


def memory_table() -> str:
    """Weights, cache of one request and all of it."""
    lines = [
        "| model | stored as | weights | cache, one request | in all | low–high |",
        "|---|---|---|---|---|---|",
    ]
    for title, model in MODELS.items():
        for way in WAYS:
            plan = planned(model, way, NEW_TOKENS[-1])
            sizes = [plan.part("weights").n_bytes, plan.kv.bytes_per_request, plan.total_bytes]
            band = f"{plan.low_bytes / GIB:.2f}–{plan.high_bytes / GIB:.2f}"
            lines.append(
                f"| {title} | {way} | " + " | ".join(f"{size / GIB:.2f}" for size in sizes) + f" | {band} |"
            )
    return "\n".join(lines)


def concurrency_table() -> str:
    """How many requests the card holds at once."""
    head = " | ".join(f"{count:,} new tokens" for count in NEW_TOKENS)
    lines = [f"| model | stored as | {head} |", "|---|---|---|---|---|"]
    for title, model in MODELS.items():
        for way in WAYS:
            found = [planned(model, way, count).capacity for count in NEW_TOKENS]
            cells = " | ".join(f"{one.max_concurrency:.0f}" if one else "" for one in found)
            lines.append(f"| {title} | {way} | {cells} |")
    return "\n".join(lines)


def table() -> str:
    """Both tables, in Markdown."""
    return (
        f"**Memory in GiB**, one request of {PROMPT} + {NEW_TOKENS[-1]:,} tokens\n\n{memory_table()}\n\n"
        f"**Requests at once**, a prompt of {PROMPT} tokens each\n\n{concurrency_table()}"
    )


if __name__ == "__main__":
    print(table())  # noqa: T201  a script
