from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.cli.main import main
from vram_planner.errors import RecordError
from vram_planner.validate.evidence import Replayed, Skipped, engine_of, read_records, replay_all, scores

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
    assert median(replayed, "llama.cpp", "weights") < 1e-4


def test_every_cache_that_llama_cpp_and_ollama_logged_is_exact(replayed: list[Replayed | Skipped]) -> None:
    """Tolerance: what a log rounds to. One card or several, layers on the host, programs that embed llama.cpp."""
    caches = [
        row.pairs["KV cache"]
        for row in replayed
        if isinstance(row, Replayed) and row.engine in {"llama.cpp", "ollama"} and "KV cache" in row.pairs
    ]

    assert len(caches) >= 83
    assert all(abs(ours - logged) < 0.05 for ours, logged in caches)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("llama.cpp (LocalAI)", "llama.cpp"),
        ("llama-cpp-python", "llama.cpp"),
        ("ollama(llama runner)", "ollama"),
        ("ik_llama.cpp", "ik_llama.cpp"),
        ("llama.cpp fork", "llama.cpp fork"),
    ],
)
def test_what_embeds_llama_cpp_counts_as_that_and_forks_do_not(written: str, name: str) -> None:
    assert engine_of({"engine": written}) == name


def test_tensors_that_the_log_put_elsewhere_are_not_compared(replayed: list[Replayed | Skipped]) -> None:
    """Experts left on the host by -ot: the cache is compared, the card's tensors are not."""
    (row,) = (row for row in replayed if row.id == "ikllamacpp-357-c")

    assert isinstance(row, Replayed)
    assert list(row.pairs) == ["KV cache"]


def test_sglang_pool(replayed: list[Replayed | Skipped]) -> None:
    """Target: 2 % median."""
    assert median(replayed, "sglang", "KV pool") < 0.02


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
