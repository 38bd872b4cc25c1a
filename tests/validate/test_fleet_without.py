"""What the fleet says without a cluster: wrong input, no Ray, the rows from what was told, the exit status."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import vram_planner as vp
from vram_planner.cli.main import main
from vram_planner.errors import PlannerError, RequestError
from vram_planner.hardware_profiles.machine import DetectedGpu, Machine
from vram_planner.report.fleet import fleet_text
from vram_planner.validate.fleet_node import lent_gpus
from vram_planner.validate.fleet_result import Fault, Fleet, FleetDevice, FleetError, FleetNode
from vram_planner.validate.fleet_rows import listed_node, measured_node
from vram_planner.validate.fleet_run import fleet
from vram_planner.validate.fleet_tasks import Job, Node, fault_of

NODE = Node(node_id="ab" * 28, name="gpu-1", address="10.0.0.2", gpus=2, cpus=8)


def lived(planned: int = 2**30, measured: int = 2**30, *, held: bool = True) -> dict[str, Any]:
    row = {
        "planned_bytes": planned,
        "measured_bytes": measured,
        "error": planned / measured - 1,
        "judged": True,
    }
    return {
        "held": held,
        "rows": [{"name": "weights", **row, "error": 0.0}, {"name": "peak", **row}],
        "recommendation": {"concurrency": 8},
        "left_behind_bytes": 0,
    }


def node(name: str = "gpu-1", *devices: FleetDevice, **words: Any) -> FleetNode:
    return FleetNode(name=name, node_id=name * 8, address="10.0.0.2", gpus=1, devices=devices, **words)


def gpu(**words: Any) -> FleetDevice:
    return FleetDevice(index=0, name="NVIDIA L4", total_bytes=24 << 30, free_bytes=23 << 30, **words)


def of(*nodes: FleetNode, model: str | None = "8b") -> Fleet:
    asked = {"device": "cuda", "ctx": 8192}
    return Fleet(address="10.0.0.1:6379", ray="2.60.0", model=model, asked=asked, nodes=nodes)


def job(*said: dict[str, Any], fault: Fault | None = None) -> Job:
    return Job(
        node=NODE, stream=None, begin_s=1, limit_s=1, late="late", said=list(said), fault=fault, over=True
    )


HELD, DRIFTED = gpu(live=lived()), gpu(live=lived(2**30, 2**29, held=False))
LOST = Fault(problem="lost: the node died or left the cluster", hint="start Ray there again")


@pytest.mark.parametrize(
    ("found", "held", "status"),
    [
        (of(node("a", HELD), node("b", skipped="no GPU")), True, 0),
        (of(node("a", HELD), node("b", DRIFTED)), False, 3),
        (of(node("a", HELD), node("b", gpu(), fault=LOST)), True, 4),
        (of(node("a", DRIFTED), node("b", gpu(), fault=LOST)), False, 4),
        (of(node("a", gpu(fault=Fault(problem="no model", status=2)))), None, 2),
        (of(node("a", HELD, gpu(fault=Fault(problem="no model", status=2)))), True, 4),
        (of(node("a", skipped="no GPU")), None, 4),
        (of(node("a", gpu()), model=None), None, 0),
        (of(node("a", fault=LOST), model=None), None, 4),
    ],
)
def test_the_exit_status_is_the_worst_that_was_found(found: Fleet, held: bool | None, status: int) -> None:
    assert (found.held, found.exit_status) == (held, status)


def test_the_table_has_a_row_a_device_and_the_reasons_below() -> None:
    same = {"torch": "2.13.0"}
    text = fleet_text(
        of(
            node("a", HELD, DRIFTED, driver="580.95", packages=same),
            node("b", gpu(), fault=LOST, packages=same),
        )
    )
    lines = text.splitlines()

    assert lines[:2] == [
        "2 nodes of the Ray 2.60.0 cluster at 10.0.0.1:6379 · 8b, 8,192 tokens, live on cuda",
        "on each: torch 2.13.0",
    ]
    assert " ".join(lines[4].split()) == "a 0 NVIDIA L4 580.95 23.00 24.00 1.00 1.00 weights +0.00% held 8"
    assert " ".join(lines[5].split()) == "0 NVIDIA L4 580.95 23.00 24.00 1.00 0.50 peak +100.00% NOT HELD 8"
    assert " ".join(lines[6].split()) == "b 0 NVIDIA L4 23.00 24.00 lost"
    assert lines[8:] == [
        "b: lost: the node died or left the cluster",
        "hint: start Ray there again",
        "",
        "the plan held on 1 of 2 measured; no full answer from b",
    ]


def test_unlike_packages_are_a_column() -> None:
    text = fleet_text(
        of(node("a", HELD, packages={"torch": "2.13.0"}), node("b", HELD, packages={"torch": "2.9"}))
    )

    assert "on each" not in text
    assert [line.split()[-2:] for line in text.splitlines()[3:5]] == [["torch", "2.13.0"], ["torch", "2.9"]]


def listed(**words: Any) -> FleetNode:
    gpus = [
        {"index": index, "name": "NVIDIA L4", "total_bytes": 9, "free_bytes": 8, "problem": problem}
        for index, problem in enumerate((None, "lost: it fell off the bus"))
    ]
    said = {"driver": True, "machine": {"driver_version": "580", "gpus": gpus}, "packages": {}, **words}
    return listed_node(job({"version": vp.__version__, **said}), on_cpu=False)


def test_what_was_told_before_a_node_was_lost_is_kept() -> None:
    found = measured_node(listed(), job({"begun": True}, {"index": 0, "live": lived()}, fault=LOST))

    assert [device.held for device in found.devices] == [True, None]
    assert found.fault == LOST


def test_a_gpu_that_ray_does_not_lend_is_named() -> None:
    found = measured_node(
        listed(), job({"begun": True}, {"index": 1, "problem": "lost", "hint": "", "status": 4})
    )

    assert [device.skipped for device in found.devices] == ["Ray does not lend it", None]
    assert [fault.problem for fault in found.faults] == ["lost"]
    assert "Ray does not lend it" in fleet_text(of(found))


def test_a_node_that_cannot_say_which_gpus_it_lends_has_no_figures() -> None:
    refused = {"index": None, "problem": "unlike GPUs", "hint": "by the bus", "status": 2}
    found = measured_node(listed(), job({"begun": True}, refused))

    assert found.fault == Fault(problem="unlike GPUs", hint="by the bus", status=2)


def test_a_driver_that_does_not_answer_is_a_fault_and_no_driver_is_none() -> None:
    silent = listed(machine=None, problem="the NVIDIA driver is installed but not loaded")

    assert silent.fault is not None
    assert (silent.fault.problem, silent.skipped) == ("the NVIDIA driver is installed but not loaded", None)


def cards(*names: str) -> Machine:
    gpus = tuple(
        DetectedGpu(index=index, uuid=f"GPU-{index}abc-{index}", name=name)
        for index, name in enumerate(names)
    )
    return Machine(driver_version="580", cuda_driver_version="13.0", gpus=gpus)


@pytest.mark.parametrize(
    ("names", "ids", "by_bus", "expected"),
    [
        (("L4", "T4"), (), False, (0, 1)),
        (("L4", "T4"), ("1", "0"), False, (0, 1)),
        (("L4", "L4", "L4"), ("2", "0"), False, (0, 2)),
        (("L4", "T4", "T4"), ("1",), True, (1,)),
        (("L4", "T4", "T4"), ("GPU-2abc",), False, (2,)),
    ],
)
def test_lent_gpus_are_nvml_s_numbers(
    names: tuple[str, ...], ids: tuple[str, ...], by_bus: bool, expected: tuple[int, ...]
) -> None:
    assert lent_gpus(cards(*names), ids, by_bus=by_bus) == expected


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("1",), "unlike GPUs by CUDA's numbers"),
        (("MIG-1",), "NVML has no GPU MIG-1"),
        (("GPU-",), "no GPU GPU-"),
    ],
)
def test_lent_gpus_that_cannot_be_told_are_refused(ids: tuple[str, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        lent_gpus(cards("L4", "T4", "T4"), ids, by_bus=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"address": "ray://10.0.0.1:10001"}, "no address of a cluster"),
        ({"address": "10.0.0.1"}, "no address of a cluster"),
        ({"address": "127.0.0.1:1"}, "no Ray cluster answers at 127.0.0.1:1: .*refused"),
        ({"gpu": 0}, "all its GPUs"),
        ({"colour": "red"}, "no option is called 'colour'"),
        ({"device": "tpu"}, "no device is called 'tpu'"),
        ({"wait_s": 0}, "time limit must be above zero"),
    ],
)
def test_wrong_input_is_refused_before_any_node_is_asked(words: dict[str, Any], message: str) -> None:
    if "address" in words:
        pytest.importorskip("ray", reason="Ray is not installed (the extra [fleet])")
    with pytest.raises(PlannerError, match=message) as caught:
        fleet("8b", **words)

    assert caught.value.exit_status == 2


def test_without_ray_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as end:
        main(["validate", "fleet", "--model", "8b"])
    told = capsys.readouterr().err

    assert end.value.code == 4
    assert "this needs Ray" in told
    assert "hint: pip install 'vram-planner[fleet]'" in told


@pytest.mark.parametrize("words", [[], ["--model", "8b", "--inventory"]])
def test_a_model_or_an_inventory(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["validate", "fleet", *words])

    assert end.value.code == 2
    assert "give --model, or --inventory" in capsys.readouterr().err


def test_ray_is_not_loaded_before_a_fleet_is_asked() -> None:
    code = (
        "import sys, vram_planner.cli.validate, vram_planner.validate.fleet_run, vram_planner.validate.fleet_node\n"
        "print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert {"ray", "torch", "transformers"}.isdisjoint(run.stdout.split())


def test_the_public_name_is_the_function() -> None:
    assert vp.validate.fleet is fleet
    assert issubclass(FleetError, PlannerError)


class Errors:
    """Names of ray.exceptions."""

    class RayError(Exception):
        pass

    class OutOfMemoryError(RayError):
        pass

    class RayTaskError(RayError):
        pass

    class WorkerCrashedError(RayError):
        pass

    class NodeDiedError(RayError):
        pass

    class TaskUnschedulableError(RayError):
        pass

    class ObjectLostError(RayError):
        pass


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (Errors.OutOfMemoryError("…"), "Ray ended it: the node's RAM ran out"),
        (Errors.WorkerCrashedError("…"), "lost: the process there was killed"),
        (Errors.NodeDiedError("…"), "lost: the node died or left the cluster"),
        (Errors.TaskUnschedulableError("…"), "lost: the node died or left the cluster"),
        (Errors.RayTaskError("…\nKeyError: 'x'"), "it failed there: KeyError: 'x'"),
        (
            Errors.RayTaskError("…\nModuleNotFoundError: No module named 'vram_planner.validate'"),
            (
                "vram-planner is missing there, or another one "
                "(ModuleNotFoundError: No module named 'vram_planner.validate')"
            ),
        ),
        (Errors.RayError("the moon\nis full"), "Ray: the moon"),
    ],
)
def test_what_ray_says_of_a_task_becomes_a_reason(error: Exception, problem: str) -> None:
    assert fault_of(Errors, error).problem == problem


def test_a_part_of_which_nothing_was_measured_is_the_worst() -> None:
    """Its error is null in the document of the live run: the plan of it was for nothing."""
    live = lived(2**30, 2**29, held=False)
    live["rows"].append({**live["rows"][1], "name": "runtime", "measured_bytes": 0, "error": None})

    assert gpu(live=live).worst == ("runtime", None)
    assert "runtime not seen" in fleet_text(of(node("a", gpu(live=live))))
