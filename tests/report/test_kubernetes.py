"""The manifest of an option: fields of the public APIs, and commands that the engines' own pages show."""

from __future__ import annotations

from typing import Any

import pytest

import vram_planner as vp
from vram_planner.errors import RequestError
from vram_planner.report.kubernetes import kubernetes_yaml

yaml = pytest.importorskip("yaml")  # comes with huggingface_hub

# kubernetes-sigs/lws @ 060ab4da17ee, api/leaderworkerset/v1/leaderworkerset_types.go: the json names.
SPEC = {"replicas", "leaderWorkerTemplate", "rolloutStrategy", "startupPolicy", "networkConfig"}
TEMPLATE = {"leaderTemplate", "workerTemplate", "size", "restartPolicy", "subGroupPolicy", "volumeClaimTemplates",
            "persistentVolumeClaimRetentionPolicy"}  # fmt: skip
VARIABLES = ("$(LWS_LEADER_ADDRESS)", "$(LWS_GROUP_SIZE)", "$(LWS_WORKER_INDEX)")


def documents(**asked: Any) -> tuple[Any, list[dict[str, Any]]]:
    model = asked.pop("model")
    wanted = asked.pop("wanted", {})
    found = vp.size(model, ctx=8192, **asked)
    option = next(
        each for each in found.options if all(getattr(each, name) == value for name, value in wanted.items())
    )
    return option, list(yaml.safe_load_all(kubernetes_yaml(option)))


def command(pod: dict[str, Any]) -> str:
    (container,) = pod["spec"]["containers"]
    assert container["command"][:2] == ["sh", "-c"]
    return str(container["command"][2])


def test_a_replica_over_nodes_is_a_leader_worker_set() -> None:
    """https://docs.vllm.ai/en/latest/deployment/frameworks/lws.html, without Ray."""
    option, (lws, service) = documents(model="671b", users=8, gpus=["H100"], wanted={"pp": 2})
    template = lws["spec"]["leaderWorkerTemplate"]
    leader, worker = template["leaderTemplate"], template["workerTemplate"]

    assert (lws["apiVersion"], lws["kind"]) == ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
    assert set(lws["spec"]) <= SPEC
    assert set(template) <= TEMPLATE
    assert (lws["spec"]["replicas"], template["size"]) == (option.replicas, 2)
    assert template["restartPolicy"] == "RecreateGroupOnPodRestart"
    assert command(worker) == command(leader) + " --headless"
    assert command(leader) == (
        "exec vllm serve deepseek-ai/DeepSeek-R1 --max-model-len 8192 --tensor-parallel-size 8 --pipeline-parallel-size 2"
        " --nnodes $(LWS_GROUP_SIZE) --node-rank $(LWS_WORKER_INDEX) --master-addr $(LWS_LEADER_ADDRESS)"
    )
    for pod in (leader, worker):
        assert pod["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert service["metadata"]["name"] != lws["metadata"]["name"]  # which the set's own headless Service has
    assert service["spec"]["selector"] == {
        "leaderworkerset.sigs.k8s.io/name": lws["metadata"]["name"],
        **leader["metadata"]["labels"],
    }


def test_data_parallel_ranks_over_nodes_begin_where_the_first_node_ends() -> None:
    """https://docs.vllm.ai/en/stable/serving/data_parallel_deployment/"""
    option, (lws, _) = documents(model="671b", users=8, gpus=["H100"], wanted={"dp": 4, "tp": 4})
    template = lws["spec"]["leaderWorkerTemplate"]
    leader, worker = (command(template[name]) for name in ("leaderTemplate", "workerTemplate"))

    assert option.ep
    assert f"--data-parallel-size {option.dp} --enable-expert-parallel" in leader
    assert "--data-parallel-size-local 2 --data-parallel-address $(LWS_LEADER_ADDRESS)" in leader
    assert worker == f"{leader} --headless --data-parallel-start-rank $((2 * ${{LWS_WORKER_INDEX}}))"


def test_sglang_over_nodes_is_as_in_the_example_of_the_set() -> None:
    """kubernetes-sigs/lws @ 060ab4da17ee, docs/examples/sglang/lws.yaml."""
    _, (lws, _) = documents(model="671b", users=8, gpus=["H100"], engine="sglang", wanted={"tp": 16})
    template = lws["spec"]["leaderWorkerTemplate"]
    leader, worker = (command(template[name]) for name in ("leaderTemplate", "workerTemplate"))

    assert leader == f"{worker} --host 0.0.0.0"
    assert all(variable in worker for variable in VARIABLES)
    assert "--dist-init-addr $(LWS_LEADER_ADDRESS):20000 --nnodes $(LWS_GROUP_SIZE)" in worker


@pytest.mark.parametrize(("engine", "quant", "port"), [("vllm", None, 8000), ("sglang", None, 30000),
                                                       ("llama.cpp", "q4_k_m", 8080), ("tensorrt-llm", None, 8000)])  # fmt: skip
def test_replicas_on_a_node_are_a_deployment(engine: str, quant: str | None, port: int) -> None:
    option, (deployment, service) = documents(
        model="8b", users=300, gpus=["L40S"], engine=engine, quants=[quant]
    )
    pod = deployment["spec"]["template"]

    assert deployment["kind"] == "Deployment"
    assert deployment["spec"]["replicas"] == option.replicas > 1
    assert (
        deployment["spec"]["selector"]["matchLabels"]
        == pod["metadata"]["labels"]
        == service["spec"]["selector"]
    )
    assert command(pod).startswith(f"exec {option.command}")
    assert ("--host 0.0.0.0" in command(pod)) is (engine != "vllm")
    assert service["spec"]["ports"][0]["port"] == port
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"nvidia.com/gpu": str(option.gpus // option.replicas)}


def test_cards_of_others_have_their_resource_and_an_image_to_name() -> None:
    option, (deployment, _) = documents(model="8b", users=300, gpus=["MI300X"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]

    assert list(container["resources"]["limits"]) == ["amd.com/gpu"]
    assert container["image"] == "YOUR_IMAGE"
    assert "# name an image of vllm for these cards" in kubernetes_yaml(option)


def test_what_is_no_server_has_no_manifest() -> None:
    option = vp.size("8b", users=1, ctx=2048, gpus=["L40S"], engine="transformers").options[0]

    with pytest.raises(RequestError, match="no manifest"):
        kubernetes_yaml(option)
