"""Detection over NVML's real C interface: pynvml loads a library that we compile, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vram_planner.errors import NoGpuError
from vram_planner.hardware_profiles import detect, driver_present, find_gpu
from vram_planner.units import MIB

_SOURCE = Path(__file__).with_name("nvml_stub.c")
_LIBRARY = "libnvidia-ml.so.1"
_ASK = """
import ctypes, dataclasses, json, os
from vram_planner.errors import PlannerError
from vram_planner.hardware_profiles import choices_on, detect, driver_present
answer = {"driver_present": driver_present()}
try:
    machine = detect()
except PlannerError as error:
    answer |= {"error": type(error).__name__, "status": error.exit_status}
    answer |= {"message": str(error), "hint": error.hint}
else:
    answer["machine"] = dataclasses.asdict(machine)
    answer["choices"] = [
        [choice.count, gpu.name, gpu.total_bytes, gpu.total_basis, gpu.total_detail]
        for choice in choices_on(machine)
        for gpu in [choice.gpu]
    ]
if "NVML_STUB" in os.environ:
    answer["still_running"] = ctypes.CDLL("libnvidia-ml.so.1").nvmlStubRunning()
answer["ram_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
print(json.dumps(answer))
"""

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to compile the NVML stub with")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the stub is found by LD_LIBRARY_PATH")
pytestmark = [needs_linux, needs_gcc]


def _compile(folder: Path, *flags: str) -> Path:
    library = folder / _LIBRARY
    strict = ("-Wall", "-Wextra", "-Werror", "-Wno-stringop-truncation")
    subprocess.run(
        ["gcc", *strict, *flags, "-shared", "-fPIC", "-o", str(library), str(_SOURCE)], check=True, timeout=60
    )
    return folder


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _compile(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def old_stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _compile(tmp_path_factory.mktemp("nvml_old"), "-DOLD_DRIVER")


def _ask(folder: Path | None, scene: str | None) -> dict[str, Any]:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("LD_LIBRARY_PATH", "NVML_STUB")
    }
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    if folder is not None:
        environment["LD_LIBRARY_PATH"] = str(folder)
    if scene is not None:
        environment["NVML_STUB"] = scene
    run = subprocess.run(
        [sys.executable, "-c", _ASK], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    answer: dict[str, Any] = json.loads(run.stdout)
    assert answer.get("still_running", 0) == 0, "NVML was started and not stopped"
    return answer


def test_one_card_is_read_with_its_reserve_apart(stub: Path) -> None:
    answer = _ask(stub, "one")

    (gpu,) = answer["machine"]["gpus"]
    assert answer["machine"]["driver_version"] == "580.95.05"
    assert answer["machine"]["cuda_driver_version"] == "13.0"
    assert (gpu["index"], gpu["name"]) == (0, "NVIDIA GeForce RTX 4090")
    assert gpu["uuid"] == "GPU-00000000-0000-0000-0000-000000000000"
    assert gpu["total_bytes"] == 24564 * MIB
    assert gpu["reserved_bytes"] == 430 * MIB
    assert gpu["used_bytes"] == 10 * MIB
    assert gpu["free_bytes"] == 24124 * MIB
    assert gpu["compute_capability"] == "8.9"
    assert gpu["processes"] == []
    assert gpu["mig_enabled"] is gpu["problem"] is gpu["memory_note"] is None
    assert gpu["lost"] is False
    card = find_gpu("4090").gpu
    assert answer["choices"] == [[1, card.name, card.total_bytes, "measured", card.total_detail]]


def test_an_old_driver_counts_its_reserve_as_used(old_stub: Path) -> None:
    """Before 510 there is no second version of the memory query and no third of the process query."""
    (gpu,) = _ask(old_stub, "busy")["machine"]["gpus"]

    assert gpu["total_bytes"] == 24564 * MIB
    assert gpu["reserved_bytes"] is None
    assert gpu["used_bytes"] == 6430 * MIB
    assert gpu["free_bytes"] == 18134 * MIB
    assert [process["pid"] for process in gpu["processes"]] == [4001, 4002, 4003, 4004]


def test_a_refused_struct_version_falls_back_to_the_first(stub: Path) -> None:
    (gpu,) = _ask(stub, "refuses_memory_v2")["machine"]["gpus"]

    assert (gpu["total_bytes"], gpu["reserved_bytes"], gpu["used_bytes"]) == (24564 * MIB, None, 440 * MIB)


@pytest.mark.parametrize(
    ("scene", "count", "product"),
    [("two", 2, "NVIDIA GeForce RTX 4090"), ("eight", 8, "NVIDIA H100 SXM5 80GB")],
)
def test_equal_cards_are_counted_together(stub: Path, scene: str, count: int, product: str) -> None:
    answer = _ask(stub, scene)

    gpus = answer["machine"]["gpus"]
    assert [gpu["index"] for gpu in gpus] == list(range(count))
    assert [gpu["used_bytes"] for gpu in gpus] == [(index + 1) * 10 * MIB for index in range(count)]
    assert len({gpu["uuid"] for gpu in gpus}) == count
    assert [choice[:2] for choice in answer["choices"]] == [[count, product]]


def test_two_variants_of_one_name_are_told_apart_by_memory(stub: Path) -> None:
    answer = _ask(stub, "variants")

    assert [choice[:2] for choice in answer["choices"]] == [
        [1, "NVIDIA GeForce RTX 3080 10GB"],
        [1, "NVIDIA GeForce RTX 3080 12GB"],
    ]


def test_a_card_that_the_catalogue_lacks_keeps_nvml_s_name_and_memory(stub: Path) -> None:
    ((count, name, total_bytes, basis, _),) = _ask(stub, "unknown_name")["choices"]

    assert (count, name, basis) == (1, "NVIDIA RTX 9999 Prototype", "assumed")
    assert total_bytes == 24564 * MIB - 330 * MIB - 24564 * MIB // 400


def test_a_lost_card_is_reported_and_the_other_read(stub: Path) -> None:
    answer = _ask(stub, "lost")

    well, lost = answer["machine"]["gpus"]
    assert (well["problem"], well["total_bytes"]) == (None, 24564 * MIB)
    assert lost["lost"] is True
    assert lost["problem"].startswith("lost: it fell off the bus")
    assert lost["total_bytes"] is lost["used_bytes"] is lost["processes"] is None
    assert [choice[:2] for choice in answer["choices"]] == [[1, "NVIDIA GeForce RTX 4090"]]


def test_the_processes_of_others_are_listed_once_each(stub: Path) -> None:
    """4001 computes and draws, 4004 is a client of MPS; what 4002 uses we may not see; our own is left out."""
    (gpu,) = _ask(stub, "busy")["machine"]["gpus"]

    assert gpu["used_bytes"] == 6000 * MIB
    assert gpu["free_bytes"] == 18134 * MIB
    assert gpu["processes"] == [
        {"pid": 4001, "used_bytes": 5000 * MIB},
        {"pid": 4002, "used_bytes": None},
        {"pid": 4003, "used_bytes": 300 * MIB},
        {"pid": 4004, "used_bytes": 100 * MIB},
    ]


def test_processes_that_we_may_not_list_are_unknown_not_none_at_all(stub: Path) -> None:
    (gpu,) = _ask(stub, "processes_hidden")["machine"]["gpus"]

    assert gpu["processes"] is None
    assert gpu["total_bytes"] == 24564 * MIB


def test_unified_memory_is_assumed_to_be_the_machine_s(stub: Path) -> None:
    answer = _ask(stub, "unified")

    (gpu,) = answer["machine"]["gpus"]
    assert gpu["total_bytes"] is gpu["used_bytes"] is gpu["free_bytes"] is None
    assert gpu["assumed_total_bytes"] == answer["ram_bytes"]
    assert gpu["memory_note"].startswith("NVML reads no memory on this board (unified memory); assumed")
    ((count, name, total_bytes, basis, detail),) = answer["choices"]
    assert (count, name, total_bytes, basis) == (1, "NVIDIA DGX Spark GB10", answer["ram_bytes"], "assumed")
    assert detail == gpu["memory_note"]


def test_the_slices_of_a_card_in_mig_mode_are_the_devices(stub: Path) -> None:
    answer = _ask(stub, "mig")

    (gpu,) = answer["machine"]["gpus"]
    assert gpu["mig_enabled"] is True
    assert gpu["compute_capability"] == "8.0"
    assert [(piece["index"], piece["total_bytes"], piece["uuid"][:5]) for piece in gpu["mig_slices"]] == [
        (0, 40192 * MIB, "MIG-0"),
        (3, 40192 * MIB, "MIG-0"),
    ]
    assert [piece["free_bytes"] for piece in gpu["mig_slices"]] == [39752 * MIB] * 2
    ((count, name, total_bytes, _, detail),) = answer["choices"]
    assert (count, name, total_bytes) == (2, "NVIDIA A100 SXM4 80GB 3g.40gb", 40192 * MIB)
    assert detail == "what NVML counts for this MIG slice"


@pytest.mark.parametrize(
    ("scene", "message", "cure"),
    [
        ("none", "there is no GPU (0 found)", ""),
        ("driver_not_loaded", "installed but not loaded", "modprobe nvidia"),
        ("version_mismatch", "of different versions", "restart the machine"),
        ("no_permission", "no permission to ask the NVIDIA driver", "/dev/nvidia*"),
        ("card_no_permission", "GPU 0: no permission to read it", ""),
        ("lost_later", "GPU 0: lost: it fell off the bus", ""),
        ("mig_empty", "in MIG mode, but without a slice", ""),
    ],
)
def test_no_usable_gpu_is_an_error_with_a_cure(stub: Path, scene: str, message: str, cure: str) -> None:
    answer = _ask(stub, scene)

    assert answer["error"] == "NoGpuError"
    assert answer["status"] == 4
    assert message in answer["message"]
    assert cure in answer["hint"]
    assert "name the card instead: --gpu" in answer["hint"]


# A real driver would answer here; every other test of this file brings its own library.
@pytest.mark.skipif(driver_present(), reason="this machine has a real NVIDIA driver")
def test_without_the_library_there_is_no_driver() -> None:
    answer = _ask(None, None)

    assert answer["driver_present"] is False
    assert (answer["error"], answer["status"]) == ("NoGpuError", 4)
    assert answer["message"] == "no NVIDIA driver here (libnvidia-ml.so.1 is not found)"
    assert "name the card instead: --gpu" in answer["hint"]


def test_a_library_on_the_search_path_is_a_sign_of_a_driver(stub: Path) -> None:
    assert _ask(stub, "one")["driver_present"] is True


def test_without_pynvml_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)

    with pytest.raises(NoGpuError, match="nvidia-ml-py is not installed") as caught:
        detect()
    assert "pip install nvidia-ml-py" in caught.value.hint


def test_only_one_module_knows_pynvml() -> None:
    package = Path(detect.__code__.co_filename).parents[1]
    knowing = [path.name for path in package.rglob("*.py") if '"pynvml"' in path.read_text(encoding="utf-8")]
    importing = [
        path for path in package.rglob("*.py") if "import pynvml" in path.read_text(encoding="utf-8")
    ]

    assert knowing == ["nvml.py"]
    assert importing == []
