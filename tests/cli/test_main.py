from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vram_planner as vp
from vram_planner.cli.main import main

PLAN = ["--model", "7b", "--ctx", "8192", "--concurrency", "16"]


class Run(NamedTuple):
    status: int
    out: str
    err: str


class Command(Protocol):
    def __call__(self, *args: str) -> Run: ...


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*args: str) -> Run:
        with pytest.raises(SystemExit) as end:
            main(list(args))
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Run(end.value.code, captured.out, captured.err)

    return run


def test_the_plain_command(command: Command) -> None:
    told = command(*PLAN)

    assert told.status == 0
    assert told.out.startswith("DeepSeek-R1-Distill-Qwen-7B (7b) · 7.62 B parameters in bfloat16 · vLLM 0.32")
    assert "14.19" in told.out
    assert "next: vllm serve deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --max-model-len 8192" in told.out
    assert command("plan", *PLAN) == told


def test_lines_stay_within_a_hundred_columns(command: Command) -> None:
    for args in (PLAN, [*PLAN, "--gpu", "RTX 4090"], [*PLAN, "--engine", "llama.cpp", "--quant", "q4_k_m"]):
        headline, *lines = command(*args).out.splitlines()
        assert len(headline) <= 110
        assert [line for line in lines if len(line) > 100 and not line.startswith("next: ")] == []


def test_json_is_one_document_and_equals_python(command: Command) -> None:
    told = command(*PLAN, "--format", "json", "--gpu", "L40S")
    document = json.loads(told.out)
    plan = vp.plan("7b", ctx=8192, concurrency=16, gpu="L40S")

    assert document == json.loads(json.dumps(plan.to_dict(), default=str))
    assert document["schema_version"] == 1
    assert set(document) >= {
        "schema_version",
        "model",
        "request",
        "per_gpu",
        "kv_cache",
        "gpu",
        "fits",
        "headroom_bytes",
        "capacity",
        "performance",
        "candidates",
        "not_modelled",
        "warnings",
    }
    assert set(document["model"]) >= {
        "name",
        "resolved_from",
        "model_type",
        "parameters",
        "active_parameters",
        "weights_bytes",
        "precision",
        "basis",
        "source",
    }
    assert set(document["per_gpu"]) >= {"parts", "total_bytes", "low_bytes", "high_bytes"}
    for part in document["per_gpu"]["parts"]:
        assert set(part) >= {"name", "bytes", "low_bytes", "high_bytes", "basis", "source"}
        assert part["basis"] in {"exact", "formula", "measured", "assumed"}
    assert set(document["kv_cache"]) >= {"bytes_per_token", "bytes_per_request", "bytes", "replicated_ranks"}
    assert set(document["gpu"]) >= {"name", "count", "total_bytes", "usable_bytes"}
    assert set(document["capacity"]) >= {
        "kv_pool_bytes",
        "num_blocks",
        "kv_cache_tokens",
        "max_concurrency",
        "max_context",
    }
    assert document["per_gpu"]["total_bytes"] == sum(part["bytes"] for part in document["per_gpu"]["parts"])


def test_candidates_in_json(command: Command) -> None:
    document = json.loads(command(*PLAN, "--format", "json").out)

    assert document["gpu"] is None
    assert document["fits"] is None
    for row in document["candidates"]:
        assert set(row) >= {"gpu", "count", "tp", "fits", "total_bytes", "max_concurrency", "cost_per_hour"}


def test_csv_and_markdown(command: Command) -> None:
    rows = list(csv.DictReader(io.StringIO(command(*PLAN, "--format", "csv").out)))
    plan = vp.plan("7b", ctx=8192, concurrency=16)

    assert [row["part"] for row in rows] == [*(part.name for part in plan.parts), "total"]
    assert int(rows[-1]["bytes"]) == plan.total_bytes
    assert "| weights " in command(*PLAN, "--format", "markdown").out


def test_explain_fills_in_the_numbers(command: Command) -> None:
    told = command(*PLAN, "--explain", "--gpu", "RTX 4090").out

    assert "KV cache = 7,516,192,768 B" in told
    assert "7,615,616,512 parameters × 2 B" in told
    assert told.count("source: ") == len(vp.plan("7b", ctx=8192, concurrency=16).parts)


def test_does_not_fit_is_an_answer_with_status_3(command: Command) -> None:
    told = command("--model", "32b", "--ctx", "16384", "--concurrency", "8", "--gpu", "2x RTX 4090")

    assert told.status == 3
    assert "does not fit: " in told.out
    assert "--gpu-count 8" in told.out


@pytest.mark.parametrize(
    "args",
    [
        ["--model", "7bb", "--ctx", "1", "--concurrency", "1"],
        ["--model", "7b", "--ctx", "0", "--concurrency", "1"],
        ["--model", "7b", "--ctx", "-8", "--concurrency", "1"],
        ["--model", "7b", "--ctx", "1e99", "--concurrency", "1"],
        ["--model", "7b", "--ctx", "8192", "--concurrency", "x"],
        ["--model", "7b", "--ctx", "8192"],
        ["--ctx", "8192", "--concurrency", "1"],
        [*PLAN, "--gpu", "RTX 4909"],
        [*PLAN, "--gpu", "custom:24G"],
        [*PLAN, "--tp", "3"],
        [*PLAN, "--quant", "q9"],
        [*PLAN, "--modle", "7b"],
        [*PLAN, "--format", "xml"],
        [*PLAN, "--engine", "vlm"],
        ["frobnicate"],
        ["models", "no-such-model-anywhere"],
        ["gpus", "no-such-gpu"],
        ["--model", "a\nb\x1b[31m", "--ctx", "1", "--concurrency", "1"],
    ],
    ids=lambda args: " ".join(args)[-40:],
)
def test_wrong_input_says_error_and_hint_and_nothing_on_stdout(command: Command, args: list[str]) -> None:
    told = command(*args)

    assert told.status == 2
    assert told.out == ""
    lines = told.err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert all(line.isprintable() for line in lines)


def test_no_gpu_is_status_4(command: Command) -> None:
    # With a driver `auto` finds cards: tests/hardware_profiles/test_nvml.py has that side, over the stub.
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA driver")
    told = command(*PLAN, "--gpu", "auto")

    assert told.status == 4
    assert "--gpu" in told.err


def test_help_tells_every_option(command: Command) -> None:
    told = command("--help")

    assert told.status == 0
    assert "\n  vram-plan --model 7b --ctx 8192 --concurrency 16\n" in told.out
    for word in (
        "--model",
        "--ctx",
        "--concurrency",
        "--kv-dtype",
        "--explain",
        "models",
        "gpus",
        "half of --ctx",
    ):
        assert word in told.out


def test_models_lists_and_explains(command: Command) -> None:
    rows = json.loads(command("models", "--format", "json").out)
    one = command("models", "7b").out

    assert len(rows) >= 120
    assert {row["name"] for row in rows} >= {"deepseek-ai/DeepSeek-V3", "deepseek-ai/deepseek-llm-67b-base"}
    assert "7,615,616,512" in one
    assert len(json.loads(command("models", "gemma-3", "--format", "json").out)) >= 4


def test_models_asks_no_network_where_rows_match(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket", no_socket)
    monkeypatch.setattr("socket.create_connection", no_socket)

    assert len(json.loads(command("models", "Qwen/Qwen3", "--json").out)) > 5
    told = command("models", "acme/none", "--offline")
    assert told.status == 2
    assert "--offline forbids the network" in told.err


def test_gpus_lists_and_explains(command: Command) -> None:
    rows = json.loads(command("gpus", "--format", "json").out)

    assert len(rows) >= 120
    assert all(row["source"] for row in rows)
    assert "bandwidth" in command("gpus", "RTX 4090").out


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.text(max_size=12), st.sampled_from([*PLAN, "--gpu", "--tp", "models", "gpus"])),
        max_size=9,
    )
)
def test_no_words_make_a_traceback(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)

    assert end.value.code in (0, 2, 3, 4)


def test_a_closed_pipe_is_no_crash() -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    line = f"{sys.executable} -m vram_planner.cli.main models | head -n 1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True, env=environment)

    assert done.stdout.startswith("model")
    assert "Traceback" not in done.stderr


def test_no_colour_where_nobody_looks() -> None:
    command = [sys.executable, "-m", "vram_planner.cli.main", *PLAN, "--gpu", "RTX 3060 12GB"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 3
    assert "\x1b" not in done.stdout
