"""An option as a manifest for Kubernetes: a Deployment, or a LeaderWorkerSet where a replica spans nodes, and its Service."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from vram_planner.architecture.parallel import Layout
from vram_planner.errors import RequestError
from vram_planner.hardware_profiles import find_gpu
from vram_planner.planning.sizing_launch import PORTS, pods, reachable

if TYPE_CHECKING:
    from vram_planner.planning.sizing_option import Option

# Device plugins: https://github.com/NVIDIA/k8s-device-plugin, https://github.com/ROCm/k8s-device-plugin
_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
# As in the examples of the engines' own pages for NVIDIA cards; others are yours to name.
_IMAGES = {("vllm", "nvidia"): "vllm/vllm-openai:latest", ("sglang", "nvidia"): "lmsysorg/sglang:latest"}
_YOUR_IMAGE = "YOUR_IMAGE"
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_LONGEST_NAME = 40  # Kubernetes allows 63, and LeaderWorkerSet adds the pod's numbers
_NAME_LABEL, _ROLE = "leaderworkerset.sigs.k8s.io/name", "leader"


def kubernetes_yaml(option: Option) -> str:
    """
    The documents for `kubectl apply -f`: replicas, GPUs, commands, a readiness probe and a Service in front.

    Fields: apps/v1 Deployment; leaderworkerset.x-k8s.io/v1 LeaderWorkerSet (kubernetes-sigs/lws @ 060ab4da17ee,
    api/leaderworkerset/v1/leaderworkerset_types.go). RequestError for an engine that is no server, or a maker of cards
    whose resource we do not know. Leaves out: host memory and processor, storage of the weights, fast network devices.
    """
    vendor = find_gpu(option.gpu).gpu.vendor
    if option.engine not in PORTS or vendor not in _RESOURCES:
        raise RequestError(
            f"there is no manifest for {option.engine} on cards of {vendor}",
            hint=f"--engine {', '.join(PORTS)} on cards of {' or '.join(_RESOURCES)}",
        )
    name = _name(option)
    per_replica = option.gpus // option.replicas
    nodes = option.nodes_a_replica
    if nodes == 1:
        documents = _deployment(option, name, vendor, per_replica)
    else:
        documents = _leader_worker_set(option, name, vendor, nodes=nodes)
    head = (
        f"# {option.replicas} replicas of {per_replica} × {option.gpu}, {option.model} in {option.quant}\n"
        + (
            f"# name an image of {option.engine} for these cards\n"
            if (option.engine, vendor) not in _IMAGES
            else ""
        )
        + (
            "# --nnodes is there in vLLM 0.32; an old release needs Ray\n"
            if option.engine == "vllm" and nodes > 1 and option.dp == 1
            else ""
        )
        + "".join(f"# warning: {text}\n" for text in option.warnings)
    )
    return head + "---\n".join("\n".join(_yaml(document, 0)) + "\n" for document in documents)


def _deployment(option: Option, name: str, vendor: str, gpus: int) -> list[dict[str, Any]]:
    labels = {"app": name}
    command = reachable(option.command, option.engine)
    pod = {"metadata": {"labels": labels}, "spec": _pod(option, vendor, command, gpus=gpus, serves=True)}
    spec = {"replicas": option.replicas, "selector": {"matchLabels": labels}, "template": pod}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec},
        _service(name, option.engine, labels),
    ]


def _leader_worker_set(option: Option, name: str, vendor: str, *, nodes: int) -> list[dict[str, Any]]:
    layout = Layout(tp=option.tp, pp=option.pp, dp=option.dp, expert_parallel=option.ep)
    commands = pods(option.command, layout, engine=option.engine, nodes=nodes)
    gpus = layout.gpus // nodes
    leader = _pod(option, vendor, commands.leader, gpus=gpus, serves=True)
    template = {
        "size": nodes,
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": {"metadata": {"labels": {"role": _ROLE}}, "spec": leader},
        "workerTemplate": {"spec": _pod(option, vendor, commands.worker, gpus=gpus, serves=False)},
    }
    return [
        {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": name},
            "spec": {"replicas": option.replicas, "leaderWorkerTemplate": template},
        },
        # The set makes a headless Service of its own name itself.
        _service(f"{name}-{_ROLE}", option.engine, {_NAME_LABEL: name, "role": _ROLE}),
    ]


def _pod(option: Option, vendor: str, command: str, *, gpus: int, serves: bool) -> dict[str, Any]:
    token = {"secretKeyRef": {"name": "hf-token", "key": "token", "optional": True}}
    container: dict[str, Any] = {
        "name": option.engine.replace(".", "-"),
        "image": _IMAGES.get((option.engine, vendor), _YOUR_IMAGE),
        "command": ["sh", "-c", f"exec {command}"],
        "env": [{"name": "HF_TOKEN", "valueFrom": token}],
        "resources": {"limits": {_RESOURCES[vendor]: str(gpus)}},
        "volumeMounts": [{"name": "dshm", "mountPath": "/dev/shm"}],  # noqa: S108  ranks talk through it
    }
    if serves:
        port = PORTS[option.engine]
        container["ports"] = [{"containerPort": port}]
        container["readinessProbe"] = {"httpGet": {"path": "/health", "port": port}, "periodSeconds": 10}
    return {"containers": [container], "volumes": [{"name": "dshm", "emptyDir": {"medium": "Memory"}}]}


def _service(name: str, engine: str, selector: dict[str, str]) -> dict[str, Any]:
    port = PORTS[engine]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"name": "http", "port": port, "targetPort": port}]},
    }


def _name(option: Option) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", option.model.rsplit("/", 1)[-1].lower()).strip("-")
    return (
        words[:_LONGEST_NAME].strip("-") if words[:1].isalpha() else f"m-{words}"[:_LONGEST_NAME].strip("-")
    )


def _yaml(value: Any, depth: int) -> list[str]:
    """Lines of block style; texts that could be read as something else are quoted as JSON, which YAML reads."""
    indent = "  " * depth
    lines: list[str] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, dict | list):
                lines += [f"{indent}{key}:", *_yaml(inner, depth + 1)]
            else:
                lines.append(f"{indent}{key}: {_scalar(inner)}")
        return lines
    for item in value:
        if isinstance(item, dict):
            first, *rest = _yaml(item, depth + 1)
            lines += [f"{indent}- {first.strip()}", *rest]
        else:
            lines.append(f"{indent}- {_scalar(item)}")
    return lines


def _scalar(value: str | float) -> str:
    if (
        isinstance(value, str)
        and _PLAIN.fullmatch(value)
        and value.lower() not in ("true", "false", "null", "yes", "no")
    ):
        return value
    return json.dumps(value, ensure_ascii=False)
