from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.cli.main import main
from vram_planner.errors import PlannerError, RecordError
from vram_planner.planning.calibration import load_calibrations, save_calibration
from vram_planner.planning.estimate import estimate
from vram_planner.validate import replay_servers
from vram_planner.validate.evidence import Replayed, read_records, replay_all
from vram_planner.validate.learned import learn_from_log

if TYPE_CHECKING:
    from pathlib import Path

# The figures are those of a public start-up log (llm-d benchmark); the pool is made 1 GiB smaller than it was.
LOG = """\
INFO [api_server.py:100] vLLM API server version 0.19.0
INFO [core.py:98] Initializing a V1 LLM engine (v0.19.0) with config: model='meta-llama/Llama-3.1-8B-Instruct', \
dtype=torch.bfloat16, max_seq_len=8192, tensor_parallel_size=1, pipeline_parallel_size=1, quantization=None, enforce_eager=False, kv_cache_dtype=auto
INFO [scheduler.py] max_num_seqs=1024, max_num_batched_tokens=8192, gpu_memory_utilization=0.95
INFO [gpu_model_runner.py:2007] Model loading took 14.99 GiB memory and 2.86 seconds
INFO [gpu_worker.py:298] Available KV cache memory: 57.11 GiB
"""
ASKED: dict[str, Any] = {
    "ctx": 8192, "concurrency": 1, "gpu": "h100", "engine_version": "0.19", "gpu_memory_utilization": 0.95,
    "max_num_seqs": 1024, "max_num_batched_tokens": 8192,
}  # fmt: skip


def test_a_saved_log_makes_the_next_plan_say_what_the_log_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    file = tmp_path / "start.log"
    file.write_text(LOG)
    with pytest.raises(SystemExit) as ended:
        main(["validate", "log", str(file), "--gpu", "H100 SXM5 80GB", "--save"])

    assert ended.value.code == 0
    assert "later plans on this card use it" in capsys.readouterr().err
    (entry,) = load_calibrations()
    assert (entry.device, entry.profile, entry.learned_from) == ("NVIDIA H100 SXM5 80GB", "0.19", "log")
    plan = vp.plan("meta-llama/Llama-3.1-8B-Instruct", **ASKED)
    assert plan.capacity is not None
    assert abs(plan.capacity.kv_pool_bytes / 2**30 - 57.11) < 1e-6
    assert plan.part("runtime").basis.value == "measured"


_NOT_LEARNT = ("larger than the plan leaves", "no GPU", "is the name of 2 products")
# SGLang makes these pools larger than it counted them: a byte of runtime is more than a byte of the pool.
_HELD_BEYOND = {"sglang-glm5-fp8-mi355x", "sglang-11309-v32"}


def test_every_record_of_a_known_card_plans_as_it_logged_once_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    learned = 0
    for row in read_records():
        pool = _pairs(row).get("KV pool")
        if row["engine"] not in {"vllm", "sglang"} or not row.get("gpu") or pool is None or not pool[0]:
            continue
        (replayed,) = replay_all([row])
        assert isinstance(replayed, Replayed)
        try:
            save_calibration(learn_from_log(row, replayed))
        except PlannerError as error:
            assert any(words in str(error) for words in _NOT_LEARNT)  # noqa: PT017
            continue
        engine = str(row["engine"])
        request = replace(replay_servers.request_of(row, engine), calibration=True)
        plan = estimate(request, replay_servers.card_of(row, request))
        assert plan.capacity is not None
        within = 0.01 * pool[1] if row["id"] in _HELD_BEYOND else 1e-5
        assert plan.capacity.kv_pool_bytes / 2**30 == pytest.approx(pool[1], abs=within), row["id"]
        learned += 1

    assert learned >= 20


def _pairs(row: dict[str, Any]) -> dict[str, Any]:
    (replayed,) = replay_all([row])
    return replayed.pairs if isinstance(replayed, Replayed) else {}


def test_a_log_without_a_card_is_not_kept() -> None:
    row = {"engine": "vllm", "measured": {}}

    with pytest.raises(RecordError, match="does not name the card"):
        learn_from_log(row, Replayed(id="x", engine="vllm", version="0.19", model="m", gpu="?", pairs={}))
