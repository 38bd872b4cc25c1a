from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.validate.calibration import (
    Calibration,
    calibrated_parts,
    calibration_path,
    find_calibration,
    load_calibrations,
    save_calibration,
)
from vram_planner.validate.faults import BusyError, CalibrationError
from vram_planner.validate.lock import device_lock

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = Calibration(
    device="NVIDIA L4",
    engine="transformers",
    engine_version="5.23.0",
    context_bytes=400,
    reserved_over_live=1.1,
    activations_factor=0.5,
    model="a model",
    measured_at="2026-01-02T00:00:00+00:00",
)


def test_it_comes_back_as_it_was_saved_and_newer_ones_replace_it(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "calibration.json"
    save_calibration(ENTRY, file)
    save_calibration(replace(ENTRY, device="other"), file)
    newer = replace(ENTRY, context_bytes=500, measured_at="2026-02-02T00:00:00+00:00")
    save_calibration(newer, file)
    found = load_calibrations(file)

    assert len(found) == 2
    assert find_calibration(found, device="nvidia l4", engine="transformers", version="5.23.0") == newer
    assert find_calibration(found, device="nvidia l4", engine="vllm", version=None) is None
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
        save_calibration(replace(ENTRY, context_bytes=1), file)

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


def test_a_figure_out_of_range_is_refused(tmp_path: Path) -> None:
    file = save_calibration(ENTRY, tmp_path / "calibration.json")
    document = json.loads(file.read_text())
    document["entries"][0]["reserved_over_live"] = 0.1
    file.write_text(json.dumps(document))

    with pytest.raises(CalibrationError, match="out of range"):
        load_calibrations(file)


def test_what_was_assumed_becomes_measured() -> None:
    plan = vp.plan("7b", ctx=1024, concurrency=1, engine="transformers")
    old = {part.name: part for part in plan.parts}
    new = {part.name: part for part in calibrated_parts(plan.parts, ENTRY)}
    activations = round(old["activations"].n_bytes * 0.5)
    moving = activations + old["kv_cache"].n_bytes

    assert new["weights"] == old["weights"]
    assert new["kv_cache"] == old["kv_cache"]
    assert (new["activations"].n_bytes, new["activations"].basis.value) == (activations, "measured")
    assert new["runtime"].n_bytes == 400 + round(moving * (1.1 - 1))
    assert "NVIDIA L4" in new["runtime"].source


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
