"""`make gpu-check`: its matrix, its report and its exit status, with the stand-in for the measuring process and for real."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from vram_planner.errors import NoGpuError
from vram_planner.validate import live_run

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "stand_in_child.py"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = spec_from_file_location("gpu_check", ROOT / "benchmarks" / "gpu_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return module


def test_the_matrix_is_half_a_billion_to_eight_two_contexts_and_both_attentions(check: Any) -> None:
    assert check.ATTENTIONS == ("sdpa", "eager")
    assert all(len(contexts) == 2 for contexts in check.CONTEXTS.values())
    assert {"Qwen/Qwen2.5-0.5B", "7b"} <= set(check.MODELS["cuda"])


def test_a_machine_without_a_gpu_is_status_4_and_the_report_says_why(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu(*_: Any) -> None:
        raise NoGpuError("no NVIDIA driver here", hint="--device cpu")

    monkeypatch.setattr(live_run, "need", lambda *_: {})
    monkeypatch.setattr(live_run, "place_on", no_gpu)
    monkeypatch.setitem(check.MODELS, "cuda", ("7b",))

    assert check.main(["--over", "0", "--out", str(tmp_path)]) == 4
    assert "nothing could be measured" in (tmp_path / "gpu-check.md").read_text()
    assert len(json.loads((tmp_path / "gpu-check.json").read_text())) == 4


def test_where_several_gpus_are_one_model_is_dealt_out_over_them_too(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with both attentions, under a name of its own in the report."""
    asked: list[tuple[Any, ...]] = []

    def live(model: str, **words: Any) -> None:
        asked.append((model, words["ctx"], words["attn"], words["gpu"]))
        raise NoGpuError("no NVIDIA driver here", hint="")

    monkeypatch.setattr(check, "live", live)
    monkeypatch.setattr(check, "gpu_numbers", lambda over: (0, 1) if over == "all" else ())
    monkeypatch.setitem(check.MODELS, "cuda", ("7b",))
    check.main(["--out", str(tmp_path)])

    assert asked[4:] == [("8b", 8192, "sdpa", (0, 1)), ("8b", 8192, "eager", (0, 1))]
    assert [words[3] for words in asked[:4]] == [0, 0, 0, 0]
    assert "| 8b over 2 GPUs | 8192 | eager | not measured" in (tmp_path / "gpu-check.md").read_text()


def test_a_plan_that_did_not_hold_is_status_3_and_every_cell_is_kept(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_run, "_CHILD", (sys.executable, str(STAND_IN)))
    monkeypatch.setattr(live_run, "need", lambda *_: {"torch": "0", "transformers": "5.23.0"})

    assert check.main(["--device", "cpu", "--out", str(tmp_path)]) == 3
    cells = json.loads((tmp_path / "gpu-check.json").read_text())
    assert [(cell["ctx"], cell["attn"]) for cell in cells] == [
        (128, "sdpa"), (128, "eager"), (256, "sdpa"), (256, "eager"),
    ]  # fmt: skip
    assert not any(cell["held"] for cell in cells)


def test_on_the_cpu_both_attentions_hold_for_real_and_the_report_says_so(
    check: Any, tmp_path: Path, families: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole door, as `make gpu-check DEVICE=cpu` goes through it, with a model of 100 M and short contexts."""
    for package in ("torch", "transformers", "accelerate"):
        pytest.importorskip(package, reason="the extra [validate] is not installed")
    (tmp_path / "config.json").write_text(json.dumps({**families["sliding"], "torch_dtype": "float32"}))
    monkeypatch.setitem(check.MODELS, "cpu", (str(tmp_path),))
    monkeypatch.setitem(check.CONTEXTS, "cpu", (96,))

    assert check.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    report = (tmp_path / "gpu-check.md").read_text()
    assert [line.split(" | ")[1:4] for line in report.splitlines() if " | yes | " in line] == [
        ["96", "sdpa", "yes"],
        ["96", "eager", "yes"],
    ]
    assert "torch 2" in report.splitlines()[0]
