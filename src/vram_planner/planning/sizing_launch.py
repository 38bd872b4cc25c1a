"""What to start where: one line a replica, one for each node of a larger one (or Ray), a router in front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.parallel import Layout

_RAY_PORT = 6379
_RPC_PORT = 13345
_DIST_PORT = 20000
_SGLANG_PORT = 30000
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Start:
    """A command and where it runs."""

    where: str
    command: str


def starts(launch: str, layout: Layout, *, engine: str, replicas: int, node_gpus: int) -> tuple[Start, ...]:
    """
    The start of every replica; of one larger than a node, what goes on each of its nodes; and the router in front.

    Source: vLLM examples/online_serving/multi-node-serving.sh,
    https://docs.vllm.ai/en/stable/serving/data_parallel_deployment/ ,
    https://docs.vllm.ai/en/stable/deployment/frameworks/lws/ for a LeaderWorkerSet, whose leader and workers run
    the same lines, https://docs.sglang.io/references/multi_node_deployment/multi_node.html and
    https://docs.sglang.io/advanced_features/router.html .
    """
    each = "" if replicas == 1 else f"each of {replicas} replicas, "
    nodes = ceil_div(layout.gpus, node_gpus)
    if nodes == 1:
        cards = "its own GPU" if layout.gpus == 1 else f"its own {layout.gpus} GPUs of one node"
        found = [Start(f"{each}{cards}" if each else "the node", launch)]
    else:
        found = _over_nodes(launch, layout, engine, nodes, each)
        words = f"a LeaderWorkerSet: replicas {replicas}, size {nodes}, leader and workers as above"
        found.append(Start("or Kubernetes", words))
    if replicas > 1:
        found.append(Start("in front", _router(engine, replicas)))
    return tuple(found)


def _over_nodes(launch: str, layout: Layout, engine: str, nodes: int, each: str) -> list[Start]:
    if engine == "sglang":
        words = f"{launch} --nnodes {nodes} --dist-init-addr NODE_1:{_DIST_PORT} --node-rank"
        return [Start(f"{each}node {rank + 1} of {nodes}", f"{words} {rank}") for rank in range(nodes)]
    if layout.dp > 1:
        local = layout.dp // nodes
        words = (
            f"{launch} --data-parallel-size-local {local} --data-parallel-address NODE_1"
            f" --data-parallel-rpc-port {_RPC_PORT}"
        )
        later = (f"{words} --headless --data-parallel-start-rank {local * node}" for node in range(1, nodes))
        return [
            Start(f"{each}node 1 of {nodes}", words),
            *(Start(f"{each}node {node} of {nodes}", line) for node, line in enumerate(later, 2)),
        ]
    return [
        Start(f"{each}node 1 of {nodes}", f"ray start --head --port={_RAY_PORT}"),
        Start(f"{each}the other nodes", f"ray start --address=NODE_1:{_RAY_PORT}"),
        Start(f"{each}node 1 of {nodes}", f"{launch} --distributed-executor-backend ray"),
    ]


def _router(engine: str, replicas: int) -> str:
    if engine != "sglang":
        return f"a router or load balancer over the {replicas} servers, fewest requests first"
    shown = [f"http://REPLICA_{number}:{_SGLANG_PORT}" for number in range(1, min(replicas, _SHOWN) + 1)]
    urls = " ".join(shown) + (" ..." if replicas > _SHOWN else "")
    return f"python -m sglang_router.launch_router --worker-urls {urls} --policy cache_aware"
