"""What to start where: one line a replica, Ray between the nodes of a larger one, a router in front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.parallel import Layout

_PORT = 8000
_RAY_PORT = 6379


@dataclass(frozen=True, slots=True)
class Start:
    """A command and where it runs."""

    where: str
    command: str


def starts(launch: str, *, layout: Layout, replicas: int, node_gpus: int) -> tuple[Start, ...]:
    """
    The start of every replica; of one larger than a node, Ray on each of its nodes first.

    Source: vLLM examples/online_serving/multi-node-serving.sh, and
    https://docs.vllm.ai/en/stable/deployment/frameworks/lws/ for a LeaderWorkerSet, whose leader and workers run
    the same lines.
    """
    each = "" if replicas == 1 else f"each of {replicas} replicas, "
    nodes = ceil_div(layout.gpus, node_gpus)
    found: list[Start] = []
    if nodes > 1:
        found = [
            Start(f"{each}node 1 of {nodes}", f"ray start --head --port={_RAY_PORT}"),
            Start(f"{each}the other nodes", f"ray start --address=NODE_1:{_RAY_PORT}"),
            Start(f"{each}node 1 of {nodes}", f"{launch} --distributed-executor-backend ray"),
            Start(
                "or Kubernetes",
                f"a LeaderWorkerSet: replicas {replicas}, size {nodes}, leader and workers as above",
            ),
        ]
    else:
        cards = "its own GPU" if layout.gpus == 1 else f"its own {layout.gpus} GPUs of one node"
        found = [Start(f"{each}{cards}" if each else "the node", launch)]
    if replicas > 1:
        found.append(
            Start("in front", f"a router or load balancer over the {replicas} servers, fewest requests first")
        )
    return tuple(found)
