"""
Tasks on the nodes of a Ray cluster, one a node, pinned to it and never tried twice.

Each says one plain dict after the other (a Ray streaming generator), so that what a node had said before it was
lost is kept: https://docs.ray.io/en/latest/ray-core/ray-generator.html. A task that is ended is asked first
(Ray raises KeyboardInterrupt in it, and the live run cleans up behind itself) and killed after that.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vram_planner.validate.fleet_result import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOOK_S = 0.5
_GRACE_S = 15.0
_LONGEST = 300
_NOT_THERE = ("ModuleNotFoundError", "ImportError", "AttributeError", "failed to import")
SAME_EVERYWHERE = "install the same vram-planner[fleet,validate] on every node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as Ray lists it; `gpus` and `cpus` are what Ray lends there."""

    node_id: str
    name: str
    address: str
    gpus: int
    cpus: int


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One task: it must begin within `begin_s` and end within `limit_s` after that."""

    node: Node
    stream: Any
    begin_s: float
    limit_s: float
    late: str
    said: list[dict[str, Any]] = field(default_factory=list)
    fault: Fault | None = None
    over: bool = False
    deadline: float = 0.0
    coming: Any = None  # what is announced and has not arrived

    def __post_init__(self) -> None:
        """From now on."""
        self.deadline = time.monotonic() + self.begin_s

    def heard(self, said: dict[str, Any]) -> None:
        """Something was said: its time to end runs from the first word."""
        if not self.said:
            self.deadline = time.monotonic() + self.limit_s
        self.said.append(said)

    def end(self, fault: Fault | None = None) -> None:
        """Nothing more is awaited."""
        self.fault, self.over = fault, True


def nodes_of(ray: Any) -> tuple[Node, ...]:
    """The living nodes by name; two of one name are told apart by their ids."""
    found = []
    for row in ray.nodes():
        if row["Alive"]:
            named = row.get("NodeName") or row["NodeManagerAddress"]
            name = row["NodeManagerHostname"] if named == row["NodeManagerAddress"] else named
            resources = row["Resources"]
            found.append(
                Node(
                    node_id=row["NodeID"],
                    name=name,
                    address=row["NodeManagerAddress"],
                    gpus=int(resources.get("GPU", 0)),
                    cpus=int(resources.get("CPU", 0)),
                )
            )
    names = [node.name for node in found]
    told = [
        node
        if names.count(node.name) == 1
        else Node(
            node_id=node.node_id,
            name=f"{node.name}/{node.node_id[:6]}",
            address=node.address,
            gpus=node.gpus,
            cpus=node.cpus,
        )
        for node in found
    ]
    return tuple(sorted(told, key=lambda node: node.name))


def submit(
    ray: Any, node: Node, function: Callable[..., Any], *words: Any, cpus: int = 0, gpus: int = 0
) -> Any:
    """Start `function` on that node alone; the stream of what it says."""
    strategies: Any = import_module("ray.util.scheduling_strategies")
    pinned = strategies.NodeAffinitySchedulingStrategy(node_id=node.node_id, soft=False)
    task = ray.remote(function).options(
        num_cpus=cpus,
        num_gpus=gpus,
        max_retries=0,
        num_returns="streaming",
        scheduling_strategy=pinned,
    )
    return task.remote(*words)


def gather(ray: Any, jobs: Sequence[Job], look: Callable[[Sequence[Job]], None]) -> None:
    """Hear every job to its end, its fault or its limit; whatever ends this, no task is left running."""
    told = None
    try:
        while waiting := [job for job in jobs if not job.over]:
            state = [(len(job.said), job.over) for job in jobs]
            if state != told:
                look(jobs)
                told = state
            ready, _ = ray.wait([job.stream for job in waiting], num_returns=1, timeout=_LOOK_S)
            for job in waiting:
                if job.coming is not None or any(job.stream is stream for stream in ready):
                    _hear(ray, job)
                if not job.over and time.monotonic() > job.deadline:
                    _stop(ray, [job])
                    job.end(Fault(problem=_late(job)))
    finally:
        _stop(ray, [job for job in jobs if not job.over])


def _hear(ray: Any, job: Job) -> None:
    """Take what is there; what was announced and does not arrive must not keep the other jobs and the limits waiting."""
    errors: Any = import_module("ray.exceptions")
    try:
        if job.coming is None:
            job.coming = next(job.stream)
        said = ray.get(job.coming, timeout=_LOOK_S)
        job.coming = None
        job.heard(said)
    except StopIteration:
        job.end()
    except errors.GetTimeoutError:
        return
    except errors.RayError as error:
        job.end(fault_of(errors, error))


def _late(job: Job) -> str:
    if not job.said:
        return job.late
    return f"it did not end within {job.limit_s:g} s and was stopped"


def _stop(ray: Any, jobs: Sequence[Job]) -> None:
    """Ask the tasks to end, wait a little, then kill."""
    if not jobs:
        return
    for job in jobs:
        ray.cancel(job.stream)
    deadline = time.monotonic() + _GRACE_S
    while jobs and time.monotonic() < deadline:
        # Not the stream itself: its end is announced before the task has ended, and asking it for more waits for that.
        ends = [job.stream.completed() for job in jobs]
        ended, _ = ray.wait(ends, num_returns=1, timeout=_LOOK_S)
        jobs = [job for job, end in zip(jobs, ends, strict=True) if end not in ended]
    for job in jobs:
        ray.cancel(job.stream, force=True)


def fault_of(errors: Any, error: Exception) -> Fault:
    """What became of the task, in words; `errors` is ray.exceptions."""
    if isinstance(error, errors.OutOfMemoryError):
        return Fault(
            problem="Ray ended it: the node's RAM ran out", hint="a smaller model, or --memory-limit"
        )
    if isinstance(error, errors.RayTaskError):
        said = str(error).strip().splitlines()[-1][:_LONGEST]
        if any(word in str(error) for word in _NOT_THERE) and "vram_planner" in str(error):
            return Fault(
                problem=f"vram-planner is missing there, or another one ({said})", hint=SAME_EVERYWHERE
            )
        return Fault(problem=f"it failed there: {said}", hint="this is a fault of vram-planner: report it")
    if isinstance(error, errors.WorkerCrashedError):
        return Fault(problem="lost: the process there was killed", hint="see `ray logs` of that node")
    gone = (errors.NodeDiedError, errors.TaskUnschedulableError, errors.ObjectLostError)
    if isinstance(error, gone):
        return Fault(problem="lost: the node died or left the cluster", hint="start Ray there again")
    return Fault(problem=f"Ray: {str(error).strip().splitlines()[0][:_LONGEST]}", hint="see `ray status`")
