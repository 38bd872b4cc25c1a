"""
The live check on every GPU node of a Ray cluster, gathered into one table.

Ray does the placing, the waiting and the noticing of lost nodes; vram-planner is installed on every node and is
asked there by name. Two rounds: what each node has (takes nothing of it), then the measurement, for which Ray
lends all its GPUs, so that no other Ray job is measured along.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner._version import __version__
from vram_planner.errors import NotInstalledError, RequestError
from vram_planner.validate.fleet_node import inventory as node_inventory
from vram_planner.validate.fleet_node import measure as node_measure
from vram_planner.validate.fleet_result import Fleet, FleetError, FleetNode
from vram_planner.validate.fleet_rows import listed_node, measured_node
from vram_planner.validate.fleet_tasks import Job, Node, gather, nodes_of, submit
from vram_planner.validate.live_options import LiveOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Tell = Callable[[str], None]

_INSTALL = "pip install 'vram-planner[fleet]'"
_START = "start one: `ray start --head`, then `ray start --address=HOST:6379` on the others, and run this on one of them"
_CONNECT_S = 5.0
_INVENTORY_S = 120.0
# Of the words of `live`, those that are not LiveOptions.
_WORKLOAD = frozenset({"ctx", "prompt_tokens", "dtype", "attn", "offline"})


def fleet(
    model: str | None = None,
    *,
    address: str = "auto",
    node_limit_s: float = 3600.0,
    wait_s: float = 60.0,
    tell: Tell = lambda _: None,
    **options: Any,
) -> Fleet:
    """
    Run `validate.live` on every GPU of every node of a Ray cluster; without a model, list what the nodes have.

    `address` is "auto" (the cluster that this machine is part of) or host:port. A node's GPUs must come free within
    `wait_s` seconds, and its checks end within `node_limit_s`. `options` are those of `validate.live`, without `gpu`.
    What goes wrong on a node stands in its row. Raises NotInstalledError without Ray, FleetError where there is no cluster or no node.
    """
    asked = _asked(options)
    if node_limit_s <= 0 or wait_s <= 0:
        raise RequestError("a time limit must be above zero", hint="as in 3600 and 60")
    ray = _ray()
    with _connected(ray, address):
        nodes = nodes_of(ray)
        if not nodes:
            raise FleetError("the cluster has no living node", hint=_START)
        listed = _listed(ray, nodes, tell, on_cpu=asked["device"] == "cpu")
        if model is not None:
            listed = _measured(ray, listed, _Work(_where(model), asked, node_limit_s, wait_s, tell))
        return Fleet(
            address=str(ray.get_runtime_context().gcs_address),
            ray=str(ray.__version__),
            model=model,
            asked={} if model is None else asked,
            nodes=tuple(listed.values()),
        )


class _Work:
    """What every node is asked, and how long it may take."""

    def __init__(self, model: str, asked: dict[str, Any], limit_s: float, wait_s: float, tell: Tell) -> None:
        self.model, self.asked, self.limit_s, self.wait_s, self.tell = model, asked, limit_s, wait_s, tell
        self.on_cpu = asked["device"] == "cpu"

    def job(self, ray: Any, node: Node) -> Job:
        """The task of one node: all the GPUs that Ray lends there, or one CPU."""
        gpus = 0 if self.on_cpu else node.gpus
        cpus = min(1, node.cpus) if self.on_cpu else 0
        what = "GPUs" if gpus else "CPUs"
        stream = submit(ray, node, node_measure, self.model, self.asked, gpus, cpus=cpus, gpus=gpus)
        late = f"its {what} did not come free within {self.wait_s:g} s: other Ray work has them"
        return Job(node=node, stream=stream, begin_s=self.wait_s, limit_s=self.limit_s, late=late)

    def look(self, jobs: Sequence[Job]) -> None:
        """How far all are."""
        over = sum(job.over for job in jobs)
        begun = sum(bool(job.said) and not job.over for job in jobs)
        self.tell(f"{over} of {len(jobs)} nodes done, {begun} measuring")


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    """The words of `live`, refused here where they are wrong, before any node is asked."""
    if "gpu" in options:
        raise RequestError(
            "a fleet is measured on all its GPUs", hint="for one GPU use `validate live --gpu`"
        )
    asked = {"device": "cuda", **options}
    known = set(LiveOptions.__dataclass_fields__) | _WORKLOAD
    unknown = sorted(set(asked) - known)
    if unknown:
        raise RequestError(f"no option is called {unknown[0][:40]!r}", hint="those of validate.live")
    LiveOptions(**{name: value for name, value in asked.items() if name not in _WORKLOAD})
    return asked


def _where(model: str) -> str:
    """A path of this machine in full: tasks run in another folder. It must be there on every node."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else model


def _ray() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module("ray")
    except ImportError as error:
        raise NotInstalledError(f"this needs Ray ({error})", hint=_INSTALL) from error


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Connected to the cluster, and let go of it; a connection that the caller has made is used and kept."""
    if ray.is_initialized():
        yield
        return
    where = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    if where != "auto":
        _knock(ray, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address=where, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()
        raise FleetError(
            f"no Ray cluster can be used at {where[:80]}: {said[0] if said else error!r}", hint=_START
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(ray: Any, where: str) -> None:
    """Whether anything listens there: Ray itself would try for minutes."""
    host, colon, port = where.rpartition(":")
    if "://" in where or not (host and colon and port.isdecimal() and int(port) < 1 << 16):
        raise FleetError(
            f"{where[:80]!r} is no address of a cluster",
            hint="auto, or HOST:PORT as `ray start --head` prints it; ray:// (Ray Client) is not used: "
            "run this on a node of the cluster",
        )
    local = host in {"localhost", "127.0.0.1"}
    for name in (host, ray.util.get_node_ip_address()) if local else (host.strip("[]"),):
        try:
            with socket.create_connection((name, int(port)), timeout=_CONNECT_S):
                return
        except OSError as error:
            why = error
    raise FleetError(f"no Ray cluster answers at {where[:80]}: {why}", hint=_START)


def _listed(ray: Any, nodes: Sequence[Node], tell: Tell, *, on_cpu: bool) -> dict[Node, FleetNode]:
    """What each node has; nothing of it is taken."""
    tell(f"asking {len(nodes)} nodes what they have")
    late = f"it did not answer within {_INVENTORY_S:g} s"
    jobs = [
        Job(
            node=node,
            stream=submit(ray, node, node_inventory, __version__),
            begin_s=_INVENTORY_S,
            limit_s=_INVENTORY_S,
            late=late,
        )
        for node in nodes
    ]
    gather(ray, jobs, lambda _: None)
    return {job.node: listed_node(job, on_cpu=on_cpu) for job in jobs}


def _measured(ray: Any, listed: dict[Node, FleetNode], work: _Work) -> dict[Node, FleetNode]:
    """The same nodes with what was measured on those that can be."""
    ready = [node for node, found in listed.items() if found.fault is None and found.skipped is None]
    jobs = [work.job(ray, node) for node in ready]
    gather(ray, jobs, work.look)
    return {**listed, **{job.node: measured_node(listed[job.node], job) for job in jobs}}
