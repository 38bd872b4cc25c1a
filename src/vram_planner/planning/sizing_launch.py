"""What to start where: one line a replica, one for each node of a larger one (or Ray), a router in front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.planning.layout_facts import nodes_of

if TYPE_CHECKING:
    from vram_planner.architecture.parallel import Layout

_RAY_PORT = 6379
_RPC_PORT = 13345
_DIST_PORT = 20000
_SHOWN = 3
PORTS = {"vllm": 8000, "sglang": 30000, "tensorrt-llm": 8000, "llama.cpp": 8080}
# These listen on 127.0.0.1 (SGLang, llama-server) or localhost (trtllm-serve) alone unless they are told otherwise.
_CLOSED = frozenset({"sglang", "tensorrt-llm", "llama.cpp"})


@dataclass(frozen=True, slots=True)
class Start:
    """A command and where it runs."""

    where: str
    command: str


class Pods(NamedTuple):
    """The commands of one replica over nodes in a LeaderWorkerSet, whose variables they use: the first node's, the others'."""

    leader: str
    worker: str


def starts(launch: str, layout: Layout, *, engine: str, replicas: int, node_gpus: int) -> tuple[Start, ...]:
    """
    The start of every replica; of one larger than a node, what goes on each of its nodes; and the router in front.

    Source: https://docs.vllm.ai/en/stable/serving/parallelism_scaling/ (Ray),
    https://docs.vllm.ai/en/stable/serving/data_parallel_deployment/ ,
    https://docs.vllm.ai/deployment/nginx.html (a router with least_conn),
    https://docs.sglang.io/references/multi_node_deployment/multi_node.html and
    https://docs.sglang.io/docs/advanced_features/sgl_model_gateway .
    """
    each = "" if replicas == 1 else f"each of {replicas} replicas, "
    nodes = nodes_of(layout, node_gpus)
    if replicas > 1 or nodes > 1:
        launch = reachable(launch, engine)
    if nodes == 1:
        found = [Start(_on_a_node(layout.gpus, node_gpus, each), launch)]
    else:
        found = _over_nodes(launch, layout, engine, nodes, each)
        words = f"a LeaderWorkerSet: replicas {replicas}, size {nodes} (--format kubernetes prints it)"
        found.append(Start("or Kubernetes", words))
    if replicas > 1:
        found.append(Start("in front", _router(engine, replicas)))
    return tuple(found)


def reachable(launch: str, engine: str) -> str:
    """The same, listening for other machines too."""
    return f"{launch} --host 0.0.0.0" if engine in _CLOSED else launch


def pods(launch: str, layout: Layout, *, engine: str, nodes: int) -> Pods:
    """
    One replica over `nodes` pods of a LeaderWorkerSet, which sets LWS_LEADER_ADDRESS, LWS_GROUP_SIZE and LWS_WORKER_INDEX.

    Source: https://docs.vllm.ai/en/latest/deployment/frameworks/lws.html (multiprocessing, no Ray; vLLM 0.32,
    engine/arg_utils.py and entrypoints/cli/serve.py, run_headless) and kubernetes-sigs/lws @ 060ab4da17ee,
    docs/examples/sglang/lws.yaml.
    """
    address, size, index = "$(LWS_LEADER_ADDRESS)", "$(LWS_GROUP_SIZE)", "$(LWS_WORKER_INDEX)"
    if engine == "sglang":
        words = f"{launch} --dist-init-addr {address}:{_DIST_PORT} --nnodes {size} --node-rank {index}"
        return Pods(reachable(words, engine), words)
    if layout.dp > 1:
        local = layout.dp // nodes
        words = _data_parallel(launch, local, address)
        # The shell's own arithmetic: ${...} is not Kubernetes' to expand.
        return Pods(
            words, f"{words} --headless --data-parallel-start-rank $(({local} * ${{LWS_WORKER_INDEX}}))"
        )
    words = f"{launch} --nnodes {size} --node-rank {index} --master-addr {address}"
    return Pods(words, f"{words} --headless")


def _on_a_node(gpus: int, node_gpus: int, each: str) -> str:
    if not each:
        return "the node"
    cards = "its own GPU" if gpus == 1 else f"its own {gpus} GPUs of one node"
    beside = " (CUDA_VISIBLE_DEVICES, and a --port of its own)" if node_gpus >= 2 * gpus else ""
    return f"{each}{cards}{beside}"


def _data_parallel(launch: str, local: int, address: str) -> str:
    return (
        f"{launch} --data-parallel-size-local {local} --data-parallel-address {address}"
        f" --data-parallel-rpc-port {_RPC_PORT}"
    )


def _over_nodes(launch: str, layout: Layout, engine: str, nodes: int, each: str) -> list[Start]:
    if engine == "sglang":
        words = f"{launch} --nnodes {nodes} --dist-init-addr NODE_1:{_DIST_PORT} --node-rank"
        return [Start(f"{each}node {rank + 1} of {nodes}", f"{words} {rank}") for rank in range(nodes)]
    if layout.dp > 1:
        local = layout.dp // nodes
        words = _data_parallel(launch, local, "NODE_1")
        later = (f"{words} --headless --data-parallel-start-rank {local * node}" for node in range(1, nodes))
        return [
            Start(f"{each}node 1 of {nodes}", words),
            *(Start(f"{each}node {node} of {nodes}", line) for node, line in enumerate(later, 2)),
        ]
    ranks = f"{launch} --nnodes {nodes} --master-addr NODE_1 --node-rank"
    return [
        Start(
            f"{each}node 1 of {nodes}, with Ray (pip install 'ray[cgraph]')",
            f"ray start --head --port={_RAY_PORT}",
        ),
        Start(f"{each}the other nodes", f"ray start --address=NODE_1:{_RAY_PORT}"),
        Start(f"{each}node 1 of {nodes}", f"{launch} --distributed-executor-backend ray"),
        Start("or without Ray (as in vLLM 0.32)", f"{ranks} 0; on the others --node-rank 1 ... --headless"),
    ]


def _router(engine: str, replicas: int) -> str:
    port = PORTS.get(engine, 8000)
    shown = [f"REPLICA_{number}:{port}" for number in range(1, min(replicas, _SHOWN) + 1)]
    more = " ..." if replicas > _SHOWN else ""
    if engine != "sglang":
        return f"a load balancer over {' '.join(shown)}{more}, fewest requests first (nginx: least_conn)"
    urls = " ".join(f"http://{each}" for each in shown) + more
    return f"python -m sglang_router.launch_router --worker-urls {urls} --policy cache_aware --host 0.0.0.0"
