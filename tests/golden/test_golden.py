"""Whole outputs, kept as files: `pytest tests/golden --update-golden` rewrites them; the diff is reviewed."""

from __future__ import annotations

from pathlib import Path

import pytest

from vram_planner.cli.main import main

OUTPUTS = Path(__file__).parent / "outputs"
CASES = {
    "7b": "--model 7b --ctx 8192 --concurrency 16",
    "7b-one-card": "--model 7b --ctx 8192 --concurrency 16 --gpu L40S --explain",
    "7b-json": "--model 7b --ctx 8192 --concurrency 16 --gpu L40S --format json",
    "32b-two-cards": "--model 32b --ctx 16384 --concurrency 8 --gpu 2xRTX4090",
    "671b-h200": "--model 671b --ctx 32K --concurrency 32 --gpu 8xH200",
    "gemma-3-27b": "--model google/gemma-3-27b-it --ctx 8192 --concurrency 4 --gpu H100",
    "gpt-oss-120b": "--model openai/gpt-oss-120b --ctx 16k --concurrency 8 --gpu H100",
    "mixtral-fp8-tp2": "--model mistralai/Mixtral-8x7B-v0.1 --ctx 32K --concurrency 8 --gpu 2xL40S --quant fp8 --kv-dtype fp8",
    "8b-llama-cpp": "--model 8b --ctx 8192 --concurrency 4 --engine llama.cpp --quant q4_k_m --kv-dtype q8_0 --gpu RTX3060-12GB",
    "8b-sglang": "--model 8b --ctx 8192 --concurrency 32 --engine sglang --gpu A100-80GB",
    "qwen3-moe-transformers": "--model Qwen/Qwen3-30B-A3B --ctx 4096 --concurrency 2 --engine transformers --gpu H100",
    "v2-lite-0.19": "--model deepseek-ai/DeepSeek-V2-Lite --ctx 32K --concurrency 16 --engine-version 0.19 --gpu H100",
    "models-7b": "models 7b",
}


@pytest.mark.parametrize("name", CASES)
def test_the_whole_output(
    name: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    with pytest.raises(SystemExit):
        main(CASES[name].split())
    told = f"$ vram-plan {CASES[name]}\n{capsys.readouterr().out}"
    file = OUTPUTS / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        file.write_text(told, encoding="utf-8")

    assert told == file.read_text(encoding="utf-8")
