"""Several GPUs through NVML: which are asked for, what each says, its lock, and that it is as it was afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vram_planner.errors import NoGpuError, RequestError
from vram_planner.hardware_profiles.machine import DetectedGpu, GpuProcess, Machine, MigSlice
from vram_planner.validate import devices, lock
from vram_planner.validate.device_set import GpuSet, gpu_numbers, place_on
from vram_planner.validate.faults import BusyError, CannotMeasureError
from vram_planner.validate.lock import device_lock, device_locks

STUB = Path(__file__).parent.parent / "hardware_profiles" / "nvml_stub.c"
ASK = """
import json
from vram_planner.validate.device_set import place_on
place = place_on("cuda", "all")
print(json.dumps([place.name, place.facts, place.environment()["CUDA_VISIBLE_DEVICES"], place.lock_names,
                  place.read().device_bytes, place.left_behind(), place.left_behind_bytes]))
"""


def gpu(index: int, used: int, *processes: GpuProcess, **more: Any) -> DetectedGpu:
    facts = {"name": "NVIDIA L4", "total_bytes": 1000, "free_bytes": 900 - used, **more}
    return DetectedGpu(index=index, uuid=f"GPU-{9 - index}", used_bytes=used, processes=processes, **facts)


def machine(*gpus: DetectedGpu) -> Machine:
    return Machine(driver_version="570.1", cuda_driver_version="12.8", gpus=gpus)


TWO = machine(gpu(0, 10), gpu(1, 20, GpuProcess(pid=5, used_bytes=7)))
LOST = DetectedGpu(index=2, lost=True, problem="lost: it fell off the bus")


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        (1, (1,)),
        ("1", (1,)),
        ("1,0", (0, 1)),
        (" 0 , 1 ", (0, 1)),
        ((1, 0), (0, 1)),
        ("all", (0, 1)),
        ("ALL", (0, 1)),
    ],
)
def test_gpus_are_named_by_number_and_ordered(asked: Any, numbers: tuple[int, ...]) -> None:
    assert gpu_numbers(asked, lambda: TWO) == numbers


@pytest.mark.parametrize("asked", ["", "0,", "x", "-1", "0;1", "0,0", (), (1, 1), "99999999999"])
def test_what_names_no_gpu_is_refused(asked: Any) -> None:
    with pytest.raises(RequestError) as caught:
        gpu_numbers(asked, lambda: TWO)

    assert "or all" in caught.value.hint


def test_all_leaves_out_what_does_not_answer_and_naming_it_says_why() -> None:
    three = machine(*TWO.gpus, LOST)

    assert gpu_numbers("all", lambda: three) == (0, 1)
    with pytest.raises(NoGpuError, match="GPU 2: lost"):
        place_on("cuda", (0, 2), lambda: three)
    with pytest.raises(RequestError, match="no GPU 7"):
        place_on("cuda", (0, 7), lambda: three)


def test_one_of_all_is_one_gpu_and_the_cpu_is_the_cpu() -> None:
    one = place_on("cuda", "all", lambda: machine(gpu(0, 10)))

    assert (one.cards, one.name, one.lock_names) == ((), "NVIDIA L4", ("GPU-9",))
    assert place_on("cpu", "all").name == "cpu"


def test_each_gpu_is_told_by_itself() -> None:
    place = place_on("cuda", "0,1", lambda: TWO)

    assert isinstance(place, GpuSet)
    assert (place.name, place.alike, place.free_bytes) == ("2 x NVIDIA L4", True, 890 + 880)
    assert [row["other_processes"] for row in place.facts["gpus"]] == [0, 1]
    assert [row["free_bytes"] for row in place.facts["gpus"]] == [890, 880]
    assert {row["driver"] for row in place.facts["gpus"]} == {"570.1"}
    # CUDA numbers them as they are named here, whatever its own order.
    assert place.environment()["CUDA_VISIBLE_DEVICES"] == "GPU-9,GPU-8"


def test_unlike_gpus_are_named_one_by_one() -> None:
    place = place_on("cuda", "all", lambda: machine(gpu(0, 1), gpu(1, 1, name="NVIDIA A10", total_bytes=500)))

    assert isinstance(place, GpuSet)
    assert (place.name, place.alike, place.plan_gpu) == ("NVIDIA L4 + NVIDIA A10", False, "custom:500B")


def test_slices_are_refused_together() -> None:
    piece = MigSlice(index=0, uuid="MIG-1", name="1g.10gb", total_bytes=10, used_bytes=0, free_bytes=10)
    mixed = machine(gpu(0, 1), gpu(1, 1, mig_enabled=True, mig_slices=(piece,)))
    with pytest.raises(CannotMeasureError, match="GPU 1 is in MIG mode") as caught:
        place_on("cuda", "all", lambda: mixed)

    assert "--parallel each" in caught.value.hint


def test_the_process_is_followed_on_every_gpu() -> None:
    said = iter(
        [
            TWO,
            TWO,
            machine(
                gpu(0, 310, GpuProcess(pid=9, used_bytes=300)), gpu(1, 70, GpuProcess(pid=9, used_bytes=50))
            ),
        ]
    )
    place = place_on("cuda", "all", lambda: next(said))
    place.follow(9)
    seen = place.read()

    assert (seen.process_bytes, seen.device_bytes, seen.grown_bytes) == (350, 380, 350)
    assert [(card.process_bytes, card.device_bytes, card.grown_bytes) for card in seen.cards] == [
        (300, 310, 300),
        (50, 70, 50),
    ]


def test_a_gpu_that_vanishes_leaves_the_others_told() -> None:
    said = iter([TWO, TWO, machine(gpu(0, 310), LOST)])
    place = place_on("cuda", "all", lambda: next(said))
    seen = place.read()

    assert (seen.device_bytes, [card.device_bytes for card in seen.cards]) == (None, [310, None])
    assert [card.vanished for card in place.cards] == [False, True]


def test_clean_up_is_waited_for_on_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    own = GpuProcess(pid=9, used_bytes=50)
    said = [TWO, TWO, machine(gpu(0, 10), gpu(1, 70, own)), machine(gpu(0, 10), gpu(1, 70)), TWO]
    rest = iter(said)
    monkeypatch.setattr(devices, "_POLL_S", 0.0)
    place = place_on("cuda", "all", lambda: next(rest))
    place.follow(9)

    assert place.left_behind() == 0
    assert next(rest, None) is None


def test_what_stays_is_told_of_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_SETTLE_S", 0.01)
    monkeypatch.setattr(devices, "_POLL_S", 0.001)
    said = iter([TWO, TWO])
    place = place_on("cuda", "all", lambda: next(said, machine(gpu(0, 10), gpu(1, 64))))

    assert place.left_behind() == 44
    assert isinstance(place, GpuSet)
    assert place.left_behind_bytes == (0, 44)


def test_a_gpu_that_is_gone_afterwards_is_not_called_clean() -> None:
    said = iter([TWO, TWO])
    place = place_on("cuda", "all", lambda: next(said, machine(gpu(0, 10), LOST)))

    assert place.left_behind() is None
    assert isinstance(place, GpuSet)
    assert place.left_behind_bytes == (0, None)


def test_locks_are_taken_in_one_order_and_let_go_of_together(tmp_path: Path) -> None:
    with device_lock("GPU-8", tmp_path):
        with pytest.raises(BusyError, match="GPU-8"), device_locks(("GPU-9", "GPU-8", "GPU-7"), tmp_path):
            pass
        # What came before it in the order was taken, and is free again; what came after was never touched.
        with device_locks(("GPU-9", "GPU-7"), tmp_path):
            pass
    order: list[str] = []
    with pytest.MonkeyPatch.context() as patch:

        def watched(device: str, folder: Path | None = None) -> Any:
            order.append(device)
            return device_lock(device, folder)

        patch.setattr(lock, "device_lock", watched)
        with device_locks(("GPU-9", "GPU-7", "GPU-8"), tmp_path):
            pass

    assert order == ["GPU-7", "GPU-8", "GPU-9"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to compile the NVML stub with")
@pytest.mark.skipif(sys.platform != "linux", reason="the stub is found by LD_LIBRARY_PATH")
def test_two_gpus_through_nvmls_own_c_interface(tmp_path: Path) -> None:
    library = tmp_path / "libnvidia-ml.so.1"
    command = ["gcc", "-shared", "-fPIC", "-o", str(library), str(STUB)]
    subprocess.run(command, check=True, timeout=60)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "NVML_STUB": "two"}
    run = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    name, facts, visible, locks, device_bytes, left, by_card = json.loads(run.stdout)

    assert name == "2 x NVIDIA GeForce RTX 4090"
    assert [row["gpu"] for row in facts["gpus"]] == [0, 1]
    assert all(row["total_bytes"] and row["free_bytes"] for row in facts["gpus"])
    assert visible.split(",") == locks
    assert len(set(locks)) == 2
    assert (device_bytes > 0, left, by_card) == (True, 0, [0, 0])
