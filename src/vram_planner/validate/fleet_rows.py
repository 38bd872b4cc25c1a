"""From what a node's tasks said to its rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vram_planner._version import __version__
from vram_planner.validate.fleet_result import Fault, FleetDevice, FleetNode
from vram_planner.validate.fleet_tasks import SAME_EVERYWHERE

if TYPE_CHECKING:
    from vram_planner.validate.fleet_tasks import Job

_SEE = "see `vram-plan gpus auto` on that node"
_NOT_KEPT_AWAY = "Ray lends no GPU here: other jobs were not kept away"
_NOT_LENT = "Ray does not lend it"


def listed_node(job: Job, *, on_cpu: bool) -> FleetNode:
    """What the inventory of a node said, or why it said nothing."""
    node, said = job.node, job.said[0] if job.said else {}
    machine = said.get("machine") or {}
    fault, skipped = job.fault, None
    if fault is None and said.get("version") != __version__:
        fault = Fault(
            problem=f"it has vram-planner {said.get('version')}, and this is {__version__}: nothing more was asked",
            hint=SAME_EVERYWHERE,
        )
    elif fault is None and not machine and not on_cpu:
        if node.gpus or said["driver"]:
            fault = Fault(problem=str(said["problem"]), hint=_SEE)
        else:
            skipped = "no GPU"
    if on_cpu:
        devices = [] if fault else [FleetDevice(index=None, name="cpu", **said["ram"])]
    else:
        devices = [_listed_gpu(gpu) for gpu in machine.get("gpus", ())]
    return FleetNode(
        name=node.name,
        node_id=node.node_id,
        address=node.address,
        gpus=node.gpus,
        version=said.get("version"),
        driver=machine.get("driver_version"),
        packages=said.get("packages", {}),
        devices=tuple(devices),
        fault=fault,
        skipped=skipped,
        notes=(_NOT_KEPT_AWAY,) if machine and not node.gpus and not on_cpu else (),
    )


def measured_node(listed: FleetNode, job: Job) -> FleetNode:
    """The node with the figures of its devices: all, or those that were told before it was lost."""
    told = {said["index"]: said for said in job.said if "index" in said}
    fault = job.fault
    whole = told.pop(None, None) if listed.devices[0].index is not None else None
    if whole is not None:
        fault = _fault(whole)
    devices = tuple(_measured_device(device, told.get(device.index)) for device in listed.devices)
    if fault is None:
        # Nothing went wrong: a device of which nothing was told is not among those that Ray lends.
        devices = tuple(
            device if device.index in told else replace(device, fault=None, skipped=_NOT_LENT)
            for device in devices
        )
    return replace(listed, devices=devices, fault=fault)


def _measured_device(device: FleetDevice, said: dict[str, Any] | None) -> FleetDevice:
    if said is None:
        return device
    if "live" in said:
        return replace(device, live=said["live"], fault=None)
    return replace(device, fault=_fault(said))


def _fault(said: dict[str, Any]) -> Fault:
    return Fault(problem=said["problem"], hint=said["hint"], status=said["status"])


def _listed_gpu(gpu: dict[str, Any]) -> FleetDevice:
    problem = gpu["problem"]
    return FleetDevice(
        index=gpu["index"],
        name=gpu["name"],
        total_bytes=gpu["total_bytes"],
        free_bytes=gpu["free_bytes"],
        fault=None if problem is None else Fault(problem=problem, hint=_SEE),
    )
