"""A warm `vram_planner.plan` of catalogue models, per call: `python benchmarks/warm_plan.py`."""

from __future__ import annotations

import timeit

import vram_planner as vp

CASES = {
    "7b": {},
    "7b on one card": {"gpu": "RTX 4090"},
    "DeepSeek-V3 on 8 × H200": {"model": "deepseek-ai/DeepSeek-V3", "gpu": "8x H200"},
    "gemma-3-27b, sglang": {"model": "google/gemma-3-27b-it", "gpu": "H100", "engine": "sglang"},
    "8b, llama.cpp Q4_K_M": {"model": "8b", "gpu": "RTX 4090", "engine": "llama.cpp", "quant": "q4_k_m"},
    "8b, transformers": {"model": "8b", "gpu": "H100", "engine": "transformers"},
}


def main() -> None:
    for name, options in CASES.items():
        asked = {"model": "7b", "ctx": 8192, "concurrency": 16, **options}
        runs = timeit.repeat(lambda asked=asked: vp.plan(**asked), number=20, repeat=7)
        print(f"{name:<26} {min(runs) / 20 * 1000:6.3f} ms a plan")


if __name__ == "__main__":
    main()
