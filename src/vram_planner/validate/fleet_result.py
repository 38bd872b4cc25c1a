"""What a fleet said: one row a device, the nodes that were lost among them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

from vram_planner.errors import PlannerError

_DRIFTED, _WRONG, _NOT_MEASURED = 3, 2, 4


class FleetError(PlannerError):
    """There is no fleet to ask: Ray is not installed, or no cluster answers at that address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a node or a device has no figures. `status` is what the error would have exited with."""

    problem: str
    hint: str = ""
    status: int = _NOT_MEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetDevice:
    """
    One GPU by NVML's number, or the CPU (`index` None); `live` is the document of its live run.

    `skipped` says why it was left out without fault.
    """

    index: int | None
    name: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    live: dict[str, Any] | None = None
    fault: Fault | None = None
    skipped: str | None = None

    @property
    def held(self) -> bool | None:
        """Whether the plan was within the tolerance; None where it was not measured."""
        return None if self.live is None else bool(self.live["held"])

    @property
    def peak(self) -> tuple[int, int] | None:
        """The planned and the measured peak in bytes."""
        row = next((row for row in self._rows if row["name"] == "peak"), None)
        return None if row is None else (row["planned_bytes"], row["measured_bytes"])

    @property
    def worst(self) -> tuple[str, float | None] | None:
        """The judged part that is furthest off, and by how much; None: nothing of it was measured."""
        judged = [(str(row["name"]), row["error"]) for row in self._rows if row["judged"]]
        return max(judged, key=lambda row: inf if row[1] is None else abs(row[1]), default=None)

    @property
    def concurrency(self) -> int | None:
        """How many at once are recommended; None where no ramp was asked for."""
        found = None if self.live is None else self.live["recommendation"]
        return None if found is None else int(found["concurrency"])

    @property
    def _rows(self) -> list[dict[str, Any]]:
        return [] if self.live is None else list(self.live["rows"])


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetNode:
    """
    One node of the cluster: what it has, what was measured, and why anything is missing.

    `fault` is the node's own (lost, another version, no time); `skipped` says why it was left out without fault.
    What it had told before it was lost is kept. `gpus` is how many Ray lends there.
    """

    name: str
    node_id: str
    address: str
    gpus: int
    version: str | None = None
    driver: str | None = None
    packages: dict[str, str] = field(default_factory=dict)
    devices: tuple[FleetDevice, ...] = ()
    fault: Fault | None = None
    skipped: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Its own, and those of its devices."""
        own = () if self.fault is None else (self.fault,)
        return own + tuple(device.fault for device in self.devices if device.fault is not None)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            **{key: value for key, value in asdict(self).items() if key != "devices"},
            "notes": list(self.notes),
            "devices": [
                {
                    **asdict(device),
                    "held": device.held,
                    "peak": None
                    if device.peak is None
                    else dict(zip(("planned_bytes", "measured_bytes"), device.peak, strict=True)),
                    "worst": None
                    if device.worst is None
                    else dict(zip(("part", "error"), device.worst, strict=True)),
                    "concurrency": device.concurrency,
                }
                for device in self.devices
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All nodes of a cluster, in the order of their names. `model` None: an inventory, nothing was measured."""

    address: str
    ray: str
    model: str | None
    asked: dict[str, Any]
    nodes: tuple[FleetNode, ...]

    @property
    def measured(self) -> tuple[FleetDevice, ...]:
        """The devices that have figures."""
        return tuple(device for node in self.nodes for device in node.devices if device.live is not None)

    @property
    def held(self) -> bool | None:
        """Whether the plan held wherever it was measured; None where nothing was."""
        return all(device.held for device in self.measured) if self.measured else None

    @property
    def failed(self) -> tuple[FleetNode, ...]:
        """Nodes of which something could not be told."""
        return tuple(node for node in self.nodes if node.faults)

    @property
    def exit_status(self) -> int:
        """
        0 all held (or all listed), 3 one did not hold, 4 a node could not be measured or was lost.

        4 goes before 3, for what is missing may be worse; 2 where nothing but wrong input was found.
        """
        faults = [fault for node in self.failed for fault in node.faults]
        if faults:
            wrong = not self.measured and all(fault.status == _WRONG for fault in faults)
            return _WRONG if wrong else _NOT_MEASURED
        if self.model is None:
            return 0
        return _NOT_MEASURED if self.held is None else 0 if self.held else _DRIFTED

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "schema_version": 1,
            "rung": "fleet",
            "address": self.address,
            "ray": self.ray,
            "model": self.model,
            "asked": self.asked,
            "held": self.held,
            "failed": [node.name for node in self.failed],
            "nodes": [node.to_dict() for node in self.nodes],
        }
