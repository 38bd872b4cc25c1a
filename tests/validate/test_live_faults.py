"""The live run's way through faults, with a stand-in for the measuring process: no torch is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import pytest

import vram_planner as vp
from vram_planner.cli.main import main
from vram_planner.errors import NoGpuError, NotInstalledError, RequestError
from vram_planner.hardware_profiles.machine import DetectedGpu, GpuProcess, Machine
from vram_planner.planning.calibration import load_calibrations
from vram_planner.planning.calibration_path import calibration_path
from vram_planner.report.validation import live_text
from vram_planner.validate import devices, live_run
from vram_planner.validate.child import Child
from vram_planner.validate.devices import place_for
from vram_planner.validate.faults import CannotMeasureError, ChildError, WeightsError
from vram_planner.validate.live_options import LiveOptions
from vram_planner.validate.lock import device_lock
from vram_planner.validate.ramp import Ended

STAND_IN = Path(__file__).parent / "stand_in_child.py"
CONFIG = {
    "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small model's folder, and a stand-in that measures exactly what was planned."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    plan = vp.plan(str(tmp_path), ctx=64, concurrency=1, engine="transformers", gpu="none")
    size = plan.part("kv_cache").n_bytes + plan.part("activations").n_bytes
    monkeypatch.setenv("STAND_IN_WEIGHTS", str(plan.part("weights").n_bytes))
    monkeypatch.setenv("STAND_IN_CACHE", str(plan.part("kv_cache").n_bytes))
    assert size
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setattr(live_run, "_CHILD", (sys.executable, str(STAND_IN)))
    monkeypatch.setattr(live_run, "need", lambda *_: {"torch": "0", "transformers": "5.23.0"})
    return str(tmp_path)


def run(model: str, **options: Any) -> Any:
    return live_run.live(model, ctx=64, device="cpu", **{"random_weights": True, "tolerance": 0.5, **options})


def test_all_goes_well(model: str) -> None:
    found = run(model, most=16)

    assert [stage.name for stage in found.stages] == ["context", "weights", "prefill", "decode", "kv"]
    assert [step.batch for step in found.ramp.steps] == [1, 2, 4, 8, 16]
    assert (found.held, found.recommendation.bound_by) == (True, "ramp")
    assert json.loads(json.dumps(found.to_dict()))["schema_version"] == 1
    assert load_calibrations()[0].device == "cpu"


def test_a_child_killed_mid_ramp_is_an_answer(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "kill:6")
    found = run(model)

    assert found.ramp.largest == 4
    assert [(step.batch, step.ended) for step in found.ramp.steps[3:]] == [
        (8, Ended.DIED),
        (6, Ended.DIED),
    ]
    assert found.ramp.steps[3].note == "killed by SIGKILL"
    assert not found.ramp.complete


def test_a_hang_is_ended_at_the_limit(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "hang:2")
    started = time.monotonic()
    found = run(model, step_limit_s=1.0, most=2)

    assert found.ramp.steps[-1].ended is Ended.HUNG
    assert found.ramp.largest == 1
    assert time.monotonic() - started < 20


def test_a_child_out_of_memory_is_survived(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "memory:3")
    found = run(model, most=8)

    assert [(step.batch, step.ended) for step in found.ramp.steps[2:]] == [
        (4, Ended.NO_ROOM),
        (3, Ended.NO_ROOM),
    ]
    assert (found.ramp.largest, found.recommendation.concurrency) == (2, 2)


def test_damaged_weights_are_wrong_input(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "weights")
    with pytest.raises(WeightsError) as caught:
        run(model)

    assert caught.value.exit_status == 2


def test_a_child_that_cannot_start_is_told(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_run, "_CHILD", (sys.executable, "-c", "raise SystemExit('no luck')"))
    with pytest.raises(ChildError, match="exit status 1: no luck") as caught:
        run(model)

    assert caught.value.exit_status == 4


def test_a_full_disk_does_not_hide_that_nothing_was_saved(
    model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(blocked))
    found = run(model, concurrency=1)

    assert found.rows
    assert "not saved" in found.warnings[0]
    assert not calibration_path().exists()


def test_a_second_validator_is_turned_away(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["validate", "live", "--model", model, "--device", "cpu", "--ctx", "64", "--random-weights"]
    with device_lock("cpu"), pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()

    assert (end.value.code, out) == (4, "")
    assert f"process {os.getpid()} is validating" in err


def test_the_exit_status_says_whether_it_held(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "validate",
        "live",
        "--model",
        model,
        "--device",
        "cpu",
        "--ctx",
        "64",
        "--random-weights",
        "--json",
    ]
    with pytest.raises(SystemExit) as held:
        main([*words, "--most", "2", "--tolerance", "0.9"])
    document = json.loads(capsys.readouterr().out)
    with pytest.raises(SystemExit) as missed:
        main([*words, "--concurrency", "1", "--tolerance", "0.000001"])

    assert (held.value.code, missed.value.code) == (0, 3)
    assert document["recommendation"]["concurrency"] == 2


@pytest.mark.parametrize(
    "words", [{"device": "tpu"}, {"headroom": 1.0}, {"concurrency": 0}, {"most": 0}, {"tolerance": 0}]
)
def test_what_makes_no_sense_is_refused_first(words: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        LiveOptions(**words)


def test_without_a_gpu_it_says_what_to_do(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Machine:
        raise NoGpuError("no NVIDIA driver here", hint="name it")

    with pytest.raises(NoGpuError) as caught:
        place_for("cuda", 0, none)

    assert "--device cpu" in caught.value.hint
    monkeypatch.undo()
    monkeypatch.setattr("vram_planner.validate.packages.versions_of", lambda *_: {})
    with pytest.raises(NotInstalledError):
        run(model)


def machine(used: int, *processes: GpuProcess, free: int = 100) -> Machine:
    gpu = DetectedGpu(
        index=0, uuid="GPU-7", name="NVIDIA L4", total_bytes=1000, used_bytes=used, free_bytes=free,
        processes=processes,
    )  # fmt: skip
    return Machine(driver_version="570.1", cuda_driver_version="12.8", gpus=(gpu,))


def test_a_gpu_is_watched_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(
        [machine(50), machine(350, GpuProcess(pid=9, used_bytes=300)), machine(350), machine(50), machine(50)]
    )
    place = place_for("cuda", 0, lambda: next(said))
    place.follow(9)
    monkeypatch.setattr(devices, "_POLL_S", 0.0)

    assert place.environment()["CUDA_VISIBLE_DEVICES"] == "GPU-7"
    seen = place.read()
    assert (seen.process_bytes, seen.device_bytes, seen.grown_bytes) == (300, 350, 300)
    # Still held right after the end, and gone a moment later.
    assert place.left_behind() == 0
    assert place.facts["driver"] == "570.1"


def test_what_the_driver_reserves_is_planned_for_no_process() -> None:
    gpu = DetectedGpu(
        index=0, uuid="GPU-7", name="NVIDIA L4", total_bytes=1000, reserved_bytes=40, used_bytes=0
    )
    found = Machine(driver_version="570.1", cuda_driver_version="12.8", gpus=(gpu,))

    assert place_for("cuda", 0, lambda: found).plan_gpu == "custom:960B"


def test_no_such_gpu_and_too_small_a_gpu(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="no GPU 3"):
        place_for("cuda", 3, lambda: machine(0))
    monkeypatch.setattr(live_run, "place_on", lambda *_: place_for("cuda", 0, lambda: machine(900)))
    with pytest.raises(CannotMeasureError, match="has 100 B free"):
        live_run.live(model, ctx=64, random_weights=True)


GIB = 1 << 30


def large(used: int) -> Machine:
    gpu = DetectedGpu(
        index=0, uuid="GPU-7", name="NVIDIA L4", total_bytes=24 * GIB, used_bytes=used, free_bytes=23 * GIB,
        processes=(),
    )  # fmt: skip
    return Machine(driver_version="570.1", cuda_driver_version="12.8", gpus=(gpu,))


def on_a_gpu(model: str, monkeypatch: pytest.MonkeyPatch, ask: Any, **options: Any) -> Any:
    """The whole run on a made-up GPU that `ask` tells of."""
    monkeypatch.setenv("STAND_IN_GPU", "1")
    monkeypatch.setattr(live_run, "place_on", lambda *_: place_for("cuda", 0, ask))
    monkeypatch.setattr(devices, "_SETTLE_S", 0.0)
    return live_run.live(model, ctx=64, random_weights=True, **options)


def test_each_stage_is_seen_from_outside_when_it_is_over(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that holds a byte more each time it is asked: no two stages share one look."""
    used = count()
    found = on_a_gpu(model, monkeypatch, lambda: large(next(used)), concurrency=1)
    seen = [stage.device_bytes for stage in found.stages]

    assert [stage.name for stage in found.stages] == ["context", "weights", "prefill", "decode", "kv"]
    assert seen == sorted(set(seen))


def test_what_a_run_saves_is_measured_in_the_next_plan_of_that_card(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name that NVML gives the card, and by the one that people give it."""
    asked: dict[str, Any] = {
        "ctx": 64,
        "concurrency": 1,
        "engine": "transformers",
        "engine_version": "5.23.0",
    }
    before = vp.plan(model, **asked, gpu="L4")
    found = on_a_gpu(model, monkeypatch, lambda: large(0), concurrency=1)
    after = vp.plan(model, **asked, gpu="L4")
    another = vp.plan(model, **asked, gpu="RTX 4090")

    assert found.calibration is not None
    assert "measured" not in {before.part(name).basis.value for name in ("activations", "runtime")}
    assert (after.part("runtime").basis.value, another.part("runtime").basis.value) == ("measured", "assumed")
    assert after.part("activations").basis.value == "measured"
    assert "measured on NVIDIA L4 by a live run" in after.part("runtime").source


def test_a_driver_that_vanishes_mid_run_leaves_what_torch_measured(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML answers before the run, and never again: nothing is made up, and it is said."""
    asked = 0

    def ask() -> Machine:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise NoGpuError("the driver has gone", hint="")
        return large(0)

    found = on_a_gpu(model, monkeypatch, ask, most=4)
    runtime = next(row for row in found.rows if row.name == "runtime")

    assert asked > 4
    assert {(stage.process_bytes, stage.device_bytes) for stage in found.stages} == {(None, None)}
    assert [step.batch for step in found.ramp.ran] == [1, 2, 4]
    assert not runtime.judged
    assert found.left_behind_bytes is None
    assert any("NVML stopped answering" in line for line in found.warnings)


def test_what_stays_on_the_gpu_is_told_after_a_run_and_after_a_failure(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> Machine:
        return next(said)

    said = chain([large(0)], repeat(large(5 * GIB)))
    found = on_a_gpu(model, monkeypatch, ask, concurrency=1)
    assert found.left_behind_bytes == 5 * GIB
    assert "left on the device: 5,368,709,120 B" in live_text(found)

    said = chain([large(0)], repeat(large(5 * GIB)))
    monkeypatch.setenv("STAND_IN_FAULT", "weights")
    with pytest.raises(WeightsError, match="5,368,709,120 B more than before are held on NVIDIA L4"):
        on_a_gpu(model, monkeypatch, ask, concurrency=1)


def gone(pid: int) -> bool:
    """Whether no such process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="not Linux")
@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", -15), ("SIGKILL", -9)])
def test_the_command_that_is_stopped_mid_ramp_leaves_no_process(
    model: str, tmp_path: Path, number: str, status: int
) -> None:
    """The real command with a stand-in child that works for ten minutes, and the real child's way to end with us."""
    note = tmp_path / "pid"
    words = ["validate", "live", "--model", model, "--device", "cpu", "--ctx", "64", "--random-weights"]
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from vram_planner.cli.main import main\n"
        "from vram_planner.validate import live_run\n"
        f"live_run._CHILD = (sys.executable, {str(STAND_IN)!r})\n"
        "live_run.need = lambda *_: {'torch': '0', 'transformers': '5.23.0'}\n"
        f"main({words!r})\n"
    )
    environment = {**os.environ, "STAND_IN_FAULT": "hang:2", "STAND_IN_PID": str(note)}
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not note.exists() and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(getattr(signal, number))
    out, err = run.communicate(timeout=60)
    child = int(note.read_text())
    guard = time.monotonic() + 60
    while not gone(child) and time.monotonic() < guard:
        time.sleep(0.05)

    assert (run.returncode, out) == (status, "")
    assert gone(child)
    assert number != "SIGINT" or "error: interrupted" in err


def test_nothing_is_left_running_when_the_parent_is_interrupted() -> None:
    class Interrupted(KeyboardInterrupt):
        pass

    with pytest.raises(Interrupted), Child((sys.executable, "-c", "import time; time.sleep(600)")) as child:
        raise Interrupted

    assert not child.alive


def test_a_child_that_babbles_is_ended() -> None:
    with Child((sys.executable, "-c", "input(); print('hello')")) as child:
        reply = child.ask({}, limit_s=20)

    assert (reply.ended, reply.note) == ("died", "it answered no JSON: b'hello'")
