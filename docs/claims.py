"""
The tables of docs/explanation/claims.md: what articles say of these models on these cards, with our figure beside it.

    python docs/claims.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import vram_planner as vp

if TYPE_CHECKING:
    from vram_planner.planning.performance import Band

GIB = 1 << 30
PAIR, ONE = "2x RTX 3090", "RTX 4090"
PROMPT, NEW = 512, 1536
OLD, NEW_MODEL = "Qwen/Qwen2.5-7B-Instruct", "1.5b"
R1 = (
    ("1.58-bit (UD-IQ1_S)", {"engine": "llama.cpp", "quant": "1.58bit"}),
    ("2.51-bit (UD-Q2_K_XL)", {"engine": "llama.cpp", "quant": "2.51bit"}),
    ("FP8, as published", {"engine": "vllm"}),
)


def _band(band: Band | None, digits: int = 0) -> str:
    return (
        f"{band.best:,.{digits}f} ({band.low:,.{digits}f}–{band.high:,.{digits}f})" if band else "not known"
    )


def pair_table() -> str:
    """DeepSeek-R1-Distill-Qwen-7B on two RTX 3090 by requests at once, the model cut over both and a copy on each."""
    lines = [
        "| at once | layout | verdict | tokens/s a user | tokens/s in all | first token, s |",
        "|---|---|---|---|---|---|",
    ]
    for count in (1, 8, 16, 32, 64, 128, 256):
        for title, tp, copies in (("tp 2", 2, 1), ("dp 2", 1, 2)):
            if count < copies:
                continue
            plan = vp.plan(
                "7b", ctx=PROMPT + NEW, prompt_tokens=PROMPT, concurrency=count, gpu=PAIR, tp=tp, dp=copies
            )
            speed = plan.performance
            if speed is None:
                continue
            total = speed.output_tokens_per_s
            in_all = f"{total.best:,.0f} ({total.low:,.0f}–{total.high:,.0f})"
            user, first = _band(speed.per_user_tokens_per_s), _band(speed.ttft_s, 2)
            lines.append(f"| {count} | {title} | {plan.verdict} | {user} | {in_all} | {first} |")
    return "\n".join(lines)


def swap_table() -> str:
    """The 7B replaced by the distilled 1.5B on one RTX 4090."""
    lines = [
        "| tokens of a request | 7B at once | 1.5B at once | first token 7B, s | 1.5B, s | USD a month each, 7B | 1.5B | less |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for ctx in (4096, 8192, 32768):
        old, new = vp.compare([OLD, NEW_MODEL], gpu=ONE, ctx=ctx).sides
        costs = (old.cost_per_month_each, new.cost_per_month_each)
        told, less = ["not known", "not known"], ""
        if costs[0] is not None and costs[1] is not None:
            told, less = [f"{cost:,.2f}" for cost in costs], f"−{1 - costs[1] / costs[0]:.0%}"
        lines.append(
            f"| {ctx:,} | {old.at_once:.1f} | {new.at_once:.1f} | {_band(old.ttft_s, 2)} | {_band(new.ttft_s, 2)} | "
            f"{told[0]} | {told[1]} | {less} |"
        )
    return "\n".join(lines)


def growth_table() -> str:
    """Memory of a request of 512 + 2,048 and of 512 + 4,096 tokens: the cache alone, and everything."""
    lines = [
        "| model, requests at once | 2,048 new: cache, GiB | 4,096 new: cache, GiB | more cache | 2,048: in all, GiB | 4,096: in all, GiB | more |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, count in (("1.5b", 1), ("7b", 1), ("7b", 16), ("1.5b", 64)):
        short, long = (
            vp.plan(model, ctx=PROMPT + new, prompt_tokens=PROMPT, concurrency=count, gpu=ONE)
            for new in (2048, 4096)
        )
        caches = [plan.part("kv_cache").n_bytes for plan in (short, long)]
        totals = [plan.total_bytes for plan in (short, long)]
        lines.append(
            f"| {model}, {count} | {caches[0] / GIB:.2f} | {caches[1] / GIB:.2f} | +{caches[1] / caches[0] - 1:.0%} | "
            f"{totals[0] / GIB:.2f} | {totals[1] / GIB:.2f} | +{totals[1] / totals[0] - 1:.0%} |"
        )
    return "\n".join(lines)


def r1_table() -> str:
    """DeepSeek-R1 in three formats: what one request of 8,192 tokens needs, and the smallest hardware."""
    lines = [
        "| stored as | weights, GiB | in all, one request of 8,192 tokens | smallest of the catalogue | at once there | tokens/s a user |",
        "|---|---|---|---|---|---|",
    ]
    for title, options in R1:
        plan = vp.plan("671b", ctx=8192, concurrency=1, **options)
        least = plan.candidates[0]
        there = vp.plan("671b", ctx=8192, concurrency=1, gpu=f"{least.count}x {least.gpu}", **options)
        room = there.capacity.max_concurrency if there.capacity else 0.0
        speed = there.performance.per_user_tokens_per_s if there.performance else None
        cards = f"{least.count} × {least.gpu.removeprefix('NVIDIA ')}"
        lines.append(
            f"| {title} | {plan.to_dict()['model']['weights_bytes'] / GIB:,.1f} | {there.total_bytes * least.count / GIB:,.1f} | {cards} | "
            f"{room:.1f} | {_band(speed)} |"
        )
    return "\n".join(lines)


def table() -> str:
    """All four, in Markdown."""
    return (
        f"**Two RTX 3090, R1-Distill-Qwen-7B, {PROMPT} + {NEW:,} tokens**\n\n{pair_table()}\n\n"
        f"**One RTX 4090, Qwen2.5-7B against R1-Distill-Qwen-1.5B, half of each request prompt**\n\n{swap_table()}\n\n"
        f"**From 2,048 to 4,096 new tokens, prompts of {PROMPT}, one RTX 4090**\n\n{growth_table()}\n\n"
        f"**DeepSeek-R1, 671B**\n\n{r1_table()}"
    )


if __name__ == "__main__":
    print(table())  # noqa: T201  a script
