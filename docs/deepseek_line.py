"""
The table of docs/explanation/deepseek-line.md: DeepSeek's models in every common precision, planned for one request.

    python docs/deepseek_line.py
"""

from __future__ import annotations

from typing import NamedTuple

import vram_planner as vp

GIB = 1 << 30
CONTEXTS = (4096, 32_768, 163_840)
MODELS = {
    "R1-Distill-Qwen-1.5B": "1.5b",
    "R1-Distill-Qwen-7B": "7b",
    "R1-Distill-Llama-8B": "8b",
    "R1-Distill-Qwen-14B": "14b",
    "V2-Lite 16B": "v2-lite",
    "R1-Distill-Qwen-32B": "32b",
    "deepseek-llm-67b (V1)": "67b",
    "R1-Distill-Llama-70B": "70b",
    "V2 236B": "v2",
    "V3, R1 671B": "r1",
    "V3.1 671B": "v3.1",
}


class Column(NamedTuple):
    """A precision, and the engine that serves it."""

    title: str
    engine: str
    quant: str


COLUMNS = (
    Column("BF16", "vllm", "bfloat16"),
    Column("FP8", "vllm", "fp8"),
    Column("INT8", "vllm", "w8a8"),
    Column("INT4", "vllm", "awq"),
    Column("Q4_K_M", "llama.cpp", "q4_k_m"),
    Column("1.58-bit", "llama.cpp", "ud-iq1_s"),
)
# Unsloth's mix was published for R1.
DYNAMIC = frozenset({"r1"})
NATIVE_FP8 = frozenset({"r1", "v3.1"})
# llama.cpp's figures are those of its CUDA backend.
MAKER_OF = {"llama.cpp": "NVIDIA "}
MAKERS = ("NVIDIA GeForce ", "NVIDIA ", "AMD Instinct ", "AMD Radeon ", "AMD ")


def short(name: str) -> str:
    """A card's name without its maker."""
    return next((name.removeprefix(maker) for maker in MAKERS if name.startswith(maker)), name)


def cell(model: str, column: Column, context: int) -> str:
    """GiB over all cards, and the smallest hardware of which the whole band holds it."""
    if column.quant == "ud-iq1_s" and model not in DYNAMIC:
        return "–"
    quant = "fp8-block" if column.quant == "fp8" and model in NATIVE_FP8 else column.quant
    plan = vp.plan(model, ctx=context, concurrency=1, engine=column.engine, quant=quant)
    maker = MAKER_OF.get(column.engine, "")
    cards = (card for card in plan.candidates if card.verdict == "fits" and card.gpu.startswith(maker))
    held = next(cards, None)
    if held is None:
        return f"{plan.total_bytes / GIB:,.1f}: more than eight of any"
    total = held.count * held.total_bytes / GIB
    return f"{total:,.1f}: {held.count} × {short(held.gpu)}"


def beyond(model: str, context: int) -> bool:
    """Whether the context is longer than the model was made for."""
    most = vp.load_architecture(model).max_context
    return most is not None and context > most


def one_table(context: int) -> str:
    """All models at one context."""
    head = ["model", *(column.title for column in COLUMNS)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for title, model in MODELS.items():
        mark = " \\*" if beyond(model, context) else ""
        cells = [f"{title}{mark}", *(cell(model, column, context) for column in COLUMNS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table() -> str:
    """One table a context, in Markdown."""
    return "\n\n".join(f"**{context:,} tokens**\n\n{one_table(context)}" for context in CONTEXTS)


if __name__ == "__main__":
    print(table())  # noqa: T201  a script
