"""`vram-plan simulate` as it is typed."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

import vram_planner as vp
from vram_planner.cli.main import main
from vram_planner.planning.workload import presets

if TYPE_CHECKING:
    from pathlib import Path

SHORT = [
    "simulate",
    "--model",
    "7b",
    "--gpu",
    "RTX 4090",
    "--workload",
    "chat",
    "--requests",
    "60",
    "--runs",
    "2",
]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(args))
    shown = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, shown.out, shown.err


def test_the_table_says_what_was_asked_and_what_binds(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *SHORT, "--rate", "2/s", "--ttft", "10s")

    assert status == 0
    assert err == ""
    assert "2 requests a second" in out
    assert "workload chat (measured)" in out
    assert "KV cache of a request" in out
    assert "memory bandwidth binds" in out
    assert "first token within 10.0 s for 95 %: holds" in out
    assert max(len(line) for line in out.splitlines() if "https://" not in line) <= 100


def test_a_broken_limit_is_status_3(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, *SHORT, "--rate", "120/min", "--ttft", "1ms")

    assert status == 3
    assert "is broken" in out


def test_json_csv_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, *SHORT, "--users", "5", "--think-time", "2s", "--format", "json")
    document = json.loads(out)
    assert document["request"]["users"] == 5
    assert document["kv"]["blocks_worst"] > document["kv"]["blocks_expected"]
    _, out, _ = run(capsys, *SHORT, "--users", "5", "--think-time", "2s", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert float(rows[0]["p95"]) == document["figures"]["ttft_s"]["p95"]
    _, out, _ = run(capsys, *SHORT, "--users", "5", "--format", "markdown")
    assert "| first token s" in out
    assert "not modelled: " in out
    assert "next: vllm serve" in out


def test_a_trace_of_lengths(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "lengths.csv"
    file.write_text("prompt_tokens,output_tokens\n100,20\n300,40\n", encoding="utf-8")
    status, out, _ = run(
        capsys, "simulate", "--model", "7b", "--gpu", "L40S", "--workload", str(file), "--rate", "1", "--requests",
        "20", "--runs", "1", "--format", "json",
    )  # fmt: skip

    assert status == 0
    assert json.loads(out)["request"]["workload"]["requests"] == 2
    assert json.loads(out)["request"]["longest"] == 340
    assert json.loads(out)["figures"]["ttft_s"]["p95_error"] is None


@pytest.mark.parametrize(
    "words",
    [["--rate", "2/week"], ["--rate", "x"], [], ["--rate", "1", "--users", "2"], ["--rate", "1", "--workload", "zz"],
     ["--rate", "1", "--prompt-tokens", "lognormal:1"], ["--rate", "1", "--percentile", "0"],
     ["--rate", "1", "--burstiness", "0"], ["--users", "1", "--burstiness", "2"], ["--rate", "1", "--max-tokens", "0"],
     ["--rate", "1", "--prompt-tokens", "9000", "--ctx", "4096"]],
)  # fmt: skip
def test_wrong_input_is_status_2_with_a_hint(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    status, out, err = run(capsys, *SHORT, *words)

    assert status == 2
    assert out == ""
    assert "hint:" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("without", ["--model", "--gpu"])
def test_model_and_card_are_needed(capsys: pytest.CaptureFixture[str], without: str) -> None:
    at = SHORT.index(without)
    status, _, err = run(capsys, *SHORT[:at], *SHORT[at + 2 :], "--rate", "1")

    assert status == 2
    assert without in err


def test_size_takes_the_lengths_of_a_workload(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["size", "--model", "7b", "--gpu", "L40S", "--rate", "2", "--format", "json"]
    _, out, _ = run(capsys, *words, "--workload", "chat")
    asked = json.loads(out)["request"]

    assert (asked["ctx"], asked["prompt_tokens"], asked["output_tokens"]) == (
        15_050,
        *presets()["chat"].means(15_050),
    )
    _, out, _ = run(capsys, *words, "--workload", "chat", "--ctx", "8192", "--output-tokens", "100")
    asked = json.loads(out)["request"]
    assert (asked["ctx"], asked["output_tokens"]) == (8192, 100)
    assert vp.size("7b", gpus=["L40S"], rate=2, workload="chat").request.ctx == 15_050
    status, _, err = run(capsys, *words)
    assert status == 2
    assert "--workload" in err
