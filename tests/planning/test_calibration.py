from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.errors import CalibrationError
from vram_planner.planning.calibration import (
    Calibration,
    find_calibration,
    load_calibrations,
    save_calibration,
)
from vram_planner.planning.calibration_path import calibration_path
from vram_planner.validate.faults import BusyError
from vram_planner.validate.lock import device_lock

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = Calibration(
    device="NVIDIA L4",
    engine="transformers",
    engine_version="5.23.0",
    profile="",
    runtime_bytes=400,
    reserved_over_live=1.1,
    factors={"activations": 0.5},
    model="DeepSeek-R1-Distill-Qwen-7B",
    measured_at="2026-01-02T00:00:00+00:00",
)


def test_it_comes_back_as_it_was_saved_and_newer_ones_replace_it(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "calibration.json"
    save_calibration(ENTRY, file)
    save_calibration(replace(ENTRY, device="other"), file)
    newer = replace(ENTRY, runtime_bytes=500, measured_at="2026-02-02T00:00:00+00:00")
    save_calibration(newer, file)
    found = load_calibrations(file)

    assert len(found) == 2
    asked: dict[str, Any] = {"profile": "", "gpus": 1, "model": "another"}
    assert find_calibration(found, device="l4", engine="transformers", **asked) == newer
    assert find_calibration(found, device="l4", engine="vllm", **asked) is None
    h100 = (replace(ENTRY, device="NVIDIA H100 80GB HBM3"),)
    assert find_calibration(h100, device="NVIDIA H100 SXM5 80GB", engine="transformers", **asked) == h100[0]
    assert find_calibration(h100, device="NVIDIA H100 PCIe", engine="transformers", **asked) is None
    assert find_calibration(found, device="l4", engine="transformers", **{**asked, "gpus": 2}) is None
    assert [path.name for path in file.parent.iterdir()] == ["calibration.json"]


def test_the_place_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    assert calibration_path() == tmp_path / "vram-planner" / "calibration.json"
    assert load_calibrations() == ()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    file = tmp_path / "calibration.json"
    save_calibration(ENTRY, file)
    before = file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full) if call == "fsync" else monkeypatch.setattr(
        type(file), "replace", full
    )
    with pytest.raises(CalibrationError, match="No space left"):
        save_calibration(replace(ENTRY, runtime_bytes=1), file)

    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"entries": [1]}', '{"entries": [{"device": "x"}]}', '{"entries": 5}']
)
def test_a_damaged_file_is_told_and_kept(tmp_path: Path, text: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(CalibrationError):
        load_calibrations(file)
    with pytest.raises(CalibrationError):
        save_calibration(ENTRY, file)

    assert file.read_text() == text


@pytest.mark.parametrize("wrong", [{"reserved_over_live": 40.0}, {"factors": {"activations": 11.0}}])
def test_what_no_plan_would_read_again_is_not_saved(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """A file with it would stop every later plan of every card."""
    file = save_calibration(ENTRY, tmp_path / "calibration.json")
    with pytest.raises(CalibrationError, match="not saved"):
        save_calibration(replace(ENTRY, model="other", **wrong), file)

    assert load_calibrations(file) == (ENTRY,)


def test_two_that_end_together_both_keep_their_entry(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    devices = [f"card {number}" for number in range(12)]
    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(lambda device: save_calibration(replace(ENTRY, device=device), file), devices))

    assert {entry.device for entry in load_calibrations(file)} == set(devices)


def test_a_figure_out_of_range_is_refused(tmp_path: Path) -> None:
    file = save_calibration(ENTRY, tmp_path / "calibration.json")
    document = json.loads(file.read_text())
    document["entries"][0]["reserved_over_live"] = 0.1
    file.write_text(json.dumps(document))

    with pytest.raises(CalibrationError, match="out of range"):
        load_calibrations(file)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calibration:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    entry = replace(ENTRY, model=vp.plan("7b", ctx=1024, concurrency=1).model.name)
    save_calibration(entry)
    return entry


def test_what_was_assumed_becomes_measured_in_later_plans(saved: Calibration) -> None:
    asked: dict[str, Any] = {"ctx": 1024, "concurrency": 1, "engine": "transformers", "gpu": "L4"}
    without = vp.plan("7b", **asked, calibration=False)
    plan = vp.plan("7b", **asked)
    activations = round(without.part("activations").n_bytes * 0.5)
    moving = activations + without.part("kv_cache").n_bytes

    assert plan.part("weights") == without.part("weights")
    assert plan.part("kv_cache") == without.part("kv_cache")
    assert (plan.part("activations").n_bytes, plan.part("activations").basis.value) == (
        activations,
        "measured",
    )
    assert plan.part("runtime").n_bytes == 400 + round(moving * (1.1 - 1))
    assert plan.part("runtime").source == saved.where
    assert any(line.startswith("calibrated: measured on NVIDIA L4") for line in plan.warnings)
    assert not any("calibrated" in line for line in without.warnings)


def test_another_model_takes_the_device_and_not_the_models_factor(saved: Calibration) -> None:
    asked: dict[str, Any] = {"ctx": 1024, "concurrency": 1, "engine": "transformers", "gpu": "L4"}
    without, plan = (vp.plan("1.5b", **asked, calibration=wanted) for wanted in (False, True))

    assert saved.model != plan.model.name
    assert plan.part("activations") == without.part("activations")
    assert plan.part("runtime").basis.value == "measured"


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp", "tensorrt-llm", "transformers"])
def test_the_capacity_follows_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    asked: dict[str, Any] = {"ctx": 4096, "concurrency": 4, "engine": engine, "gpu": "RTX 4090"}
    plain = vp.plan("7b", **asked)
    assert plain.capacity is not None
    profile = str(plain.request.get("engine_version") or "")
    runtime = plain.part("runtime").n_bytes + (4 << 30)
    save_calibration(
        replace(
            ENTRY, device="GeForce RTX 4090", engine=engine, profile=profile, runtime_bytes=runtime,
            reserved_over_live=1.0, factors={},
        )
    )  # fmt: skip
    plan = vp.plan("7b", **asked)

    assert plan.capacity is not None
    assert plan.capacity.max_concurrency < plain.capacity.max_concurrency
    assert plan.capacity.max_context < plain.capacity.max_context
    assert plan.total_bytes == plain.total_bytes + (4 << 30)


def test_a_plan_without_a_card_needs_no_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "vram-planner").mkdir()
    (tmp_path / "vram-planner" / "calibration.json").write_text("damaged")

    assert vp.plan("7b", ctx=1024, concurrency=1).fits is None
    with pytest.raises(CalibrationError, match="cannot read the calibration"):
        vp.plan("7b", ctx=1024, concurrency=1, gpu="L4")
    assert vp.plan("7b", ctx=1024, concurrency=1, gpu="L4", calibration=False).fits is not None


def test_two_validators_at_once(tmp_path: Path) -> None:
    with (
        device_lock("GPU-1234", tmp_path),
        pytest.raises(BusyError, match=f"process {os.getpid()} is validating") as caught,
        device_lock("GPU-1234", tmp_path),
    ):
        pytest.fail("it was taken twice")

    assert caught.value.exit_status == 4
    with device_lock("GPU-1234", tmp_path), device_lock("GPU-5678", tmp_path):
        pass


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal\n"
        "from vram_planner.validate.lock import device_lock\n"
        f"with device_lock('GPU-1', pathlib.Path({str(tmp_path)!r})):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False)

    assert run.returncode == -9
    with device_lock("GPU-1", tmp_path):
        pass
