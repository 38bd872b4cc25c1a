from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.cli.main import main
from vram_planner.errors import RecordError
from vram_planner.validate.evidence import Replayed, Skipped, read_records, replay_all, scores

if TYPE_CHECKING:
    from pathlib import Path

LLAMA: dict[str, Any] = {
    "id": "one", "engine": "vllm", "engine_version": "0.19.0", "v1": True, "model": "meta-llama/Llama-3.1-8B-Instruct",
    "gpu_total_gib": 79.19, "tp": 1, "max_model_len": 8192, "gpu_memory_utilization": 0.95,
    "measured": {"model_loading_gib": 14.99, "kv_cache_tokens": 476_016, "max_concurrency": 58.11},
}  # fmt: skip


@pytest.fixture(scope="module")
def replayed() -> list[Replayed | Skipped]:
    return list(replay_all(row for row in read_records() if row.get("kind") != "serving"))


def median(rows: list[Replayed | Skipped], engine: str, component: str, *, fitted: bool = False) -> float:
    chosen = [
        row for row in rows if isinstance(row, Replayed) and row.engine == engine and row.fitted is fitted
    ]
    return next(score.median for score in scores(chosen) if score.component == component)


def test_weights_of_vllm_on_rows_not_fitted(replayed: list[Replayed | Skipped]) -> None:
    """Target: 0.7 % median."""
    assert median(replayed, "vllm", "weights") < 0.007


@pytest.mark.parametrize("component", ["KV tokens", "concurrency", "KV blocks"])
def test_capacity_of_vllm_on_rows_not_fitted(replayed: list[Replayed | Skipped], component: str) -> None:
    """Target: 1 % median. The 5 % asked for the 90th percentile is missed: docs/explanation/accuracy.md says where."""
    assert median(replayed, "vllm", component) < 0.01


def test_llama_cpp(replayed: list[Replayed | Skipped]) -> None:
    """Targets: KV exact, compute 2 % and total 1 % median."""
    assert median(replayed, "llama.cpp", "KV cache") < 1e-4
    assert median(replayed, "llama.cpp", "compute buffer") < 0.02
    assert median(replayed, "llama.cpp", "total") < 0.01


@pytest.mark.parametrize("component", ["KV pool", "KV tokens"])
def test_sglang_pool(replayed: list[Replayed | Skipped], component: str) -> None:
    """
    Target: 2 % median for the rule of the pool, from the free memory that the log states (10 starts).

    On a card of the catalogue, where what is gone before the load is an estimate, 5 % (10 starts, the worst 9 %).
    """
    assert median(replayed, "sglang", f"{component}, free memory as logged") < 0.02
    assert median(replayed, "sglang", component) < 0.05


def test_weights_of_sglang(replayed: list[Replayed | Skipped]) -> None:
    """Target: 1 % median; the load is logged as a difference of free memory, so small models stand worse."""
    assert median(replayed, "sglang", "weights") < 0.015


def test_the_pool_of_tensorrt_llm(replayed: list[Replayed | Skipped]) -> None:
    """The free memory after the warm-up, which no log takes apart: 5 % on the two starts that state it."""
    assert median(replayed, "tensorrt-llm", "free for the cache") < 0.05


def test_every_skipped_record_says_why(replayed: list[Replayed | Skipped]) -> None:
    assert all(row.reason for row in replayed if isinstance(row, Skipped))


def test_rows_of_a_model_that_a_constant_was_read_from_stand_apart() -> None:
    (row,) = replay_all([LLAMA])
    (other,) = replay_all([{**LLAMA, "model": "Qwen/Qwen3-8B"}])

    assert isinstance(row, Replayed)
    assert isinstance(other, Replayed)
    assert (row.fitted, other.fitted) == (True, False)
    assert row.pairs["KV tokens"][0] == pytest.approx(476_016, rel=0.001)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"engine_version": None}, "no engine_version"),
        ({"gpu_total_gib": None}, "neither the card"),
        ({"speculative": "eagle"}, "speculative decoding"),
        ({"cpu_offload_gb": 12}, "offloads to the CPU"),
        ({"model": "nobody/nothing"}, "nobody/nothing"),
        ({"model": None}, "names no model"),
        ({"engine": "mlc"}, "not planned for"),
        ({"measured": {}}, "logs nothing"),
    ],
)
def test_what_cannot_be_replayed(change: dict[str, Any], reason: str) -> None:
    (row,) = replay_all([{key: value for key, value in {**LLAMA, **change}.items() if value is not None}])

    assert isinstance(row, Skipped)
    assert reason in row.reason


@pytest.mark.parametrize("text", ["{", "[]", '{"measured": {}}', "nonsense"])
def test_files_that_are_no_records(tmp_path: Path, text: str) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(RecordError, match="line 1"):
        list(read_records([file]))


def test_the_command_reads_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(LLAMA) + "\n", encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["validate", "evidence", str(file), "--json"])
    document = json.loads(capsys.readouterr().out)

    assert end.value.code == 0
    assert [row["id"] for row in document["rows"]] == ["one"]
    assert {score["component"] for score in document["scores"]} == {"weights", "KV tokens", "concurrency"}
