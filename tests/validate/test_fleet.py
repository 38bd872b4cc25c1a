"""The fleet on a real Ray cluster of several nodes on loopback: CPU, versions, losses, leases, and what is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.cli import validate_fleet
from vram_planner.cli.main import main
from vram_planner.cli.progress import Steps
from vram_planner.report.fleet import fleet_text
from vram_planner.validate.fleet_run import fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vram_planner.validate.fleet_result import FleetNode

ray: Any = pytest.importorskip("ray", reason="Ray is not installed (the extra [fleet])")
for package in ("torch", "transformers", "accelerate"):
    pytest.importorskip(package, reason="torch, transformers and accelerate are not installed ([validate])")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own sockets, processes and advice
    pytest.mark.skipif(sys.platform != "linux", reason="the stub of NVML is found by LD_LIBRARY_PATH"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to compile the NVML stub with"),
]
HERE = Path(__file__).parent
STUB = HERE.parent / "hardware_profiles" / "nvml_stub.c"
CONFIG = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32000,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "max_position_embeddings": 4096,
}  # fmt: skip
LIVE: dict[str, Any] = {"ctx": 128, "random_weights": True, "save": False}


@dataclass(kw_only=True)
class Machines:
    """A cluster, its nodes by name, and a model that all of them can read."""

    cluster: Any
    folder: Path

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    @property
    def model(self) -> str:
        return str(self.folder / "model")

    def add(self, name: str, *paths: Path, environment: dict[str, str] | None = None, **options: Any) -> Any:
        """A node with a home, and with packages in front of all others."""
        home = self.folder / f"home-{name}"
        home.mkdir()
        words = {
            "XDG_CONFIG_HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([*map(str, paths), *filter(None, sys.path)]),
            **(environment or {}),
        }
        return self.cluster.add_node(
            node_name=name, env_vars=words, include_dashboard=False, **{"num_cpus": 1, **options}
        )

    def left(self) -> list[str]:
        """Measuring processes of these nodes that still run after a while: one ends when its parent is gone."""
        deadline = time.monotonic() + 30
        while (found := self._running()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def _running(self) -> list[str]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command = (place / "cmdline").read_bytes()
                home = str(self.folder).encode() in (place / "environ").read_bytes()
            except OSError:
                continue
            if home and (b"live_child" in command or b"stand_in_child" in command):
                found.append(place.name)
        return found


def other_version(folder: Path) -> Path:
    """This package as another version."""
    package = folder / "other" / "vram_planner"
    package.mkdir(parents=True)
    for entry in Path(vp.__file__).parent.iterdir():
        if entry.name not in {"_version.py", "__pycache__"}:
            (package / entry.name).symlink_to(entry)
    (package / "_version.py").write_text('__version__ = "0.0.1"\n')
    return package.parent


def two_cards(folder: Path, model: Path) -> dict[str, str]:
    """The environment of a node with NVML's stub, where a stand-in finds half of the planned weights."""
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(STUB)], check=True, timeout=60)
    plan = vp.plan(str(model), ctx=128, concurrency=1, engine="transformers", gpu="none")
    return {
        "LD_LIBRARY_PATH": str(folder),
        "NVML_STUB": "two",
        "STAND_IN": str(HERE / "stand_in_child.py"),
        "STAND_IN_WEIGHTS": str(plan.part("weights").n_bytes // 2),
        "STAND_IN_CACHE": str(plan.part("kv_cache").n_bytes),
        "STAND_IN_FAULT": "hang:1",  # of the ramp's first step; a given batch is measured
    }


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """`head` as it is, `cards` with two GPUs of which a stand-in tells, `other` in another version."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        made = Machines(cluster=import_module("ray.cluster_utils").Cluster(), folder=folder)
        try:
            made.add("head")
            cards = two_cards(folder, folder / "model")
            made.add("cards", HERE / "fleet_site", environment=cards, num_gpus=2, wait=False)
            made.add("other", other_version(folder), wait=False)
            made.cluster.wait_for_nodes()
            yield made
        finally:
            ray.shutdown()
            made.cluster.shutdown()


def by_name(nodes: tuple[FleetNode, ...]) -> dict[str, FleetNode]:
    return {node.name: node for node in nodes}


def test_an_inventory_lists_every_node_and_who_cannot_answer(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", machines.address)
    with pytest.raises(SystemExit) as end:
        main(["validate", "fleet", "--inventory", "--json"])
    told = json.loads(capsys.readouterr().out)
    nodes = {node["name"]: node for node in told["nodes"]}

    assert end.value.code == 4
    assert (told["rung"], told["model"], told["failed"]) == ("fleet", None, ["other"])
    assert nodes["head"]["skipped"] == "no GPU"
    assert [device["name"] for device in nodes["cards"]["devices"]] == ["NVIDIA GeForce RTX 4090"] * 2
    assert (nodes["cards"]["driver"], nodes["cards"]["gpus"]) == ("580.95.05", 2)
    assert nodes["cards"]["packages"]["torch"].startswith("2.")
    assert f"0.0.1, and this is {vp.__version__}" in nodes["other"]["fault"]["problem"]
    assert "on every node" in nodes["other"]["fault"]["hint"]
    assert not ray.is_initialized()


def test_a_node_lost_half_way_is_a_row_and_the_others_are_measured(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    doomed = machines.add("doomed")
    begun: list[str] = []

    class Killing(Steps):
        def __call__(self, name: str) -> None:
            if "3 measuring" in name:
                begun.append(name)
            if len(begun) == 1 and doomed in machines.cluster.worker_nodes:
                machines.cluster.remove_node(doomed, allow_graceful=False)

    monkeypatch.setattr(validate_fleet, "Steps", Killing)
    words = ["--address", machines.address, "--model", machines.model, "--ctx", "128", "--concurrency", "1"]
    with pytest.raises(SystemExit) as end:
        main(["validate", "fleet", *words, "--device", "cpu", "--random-weights", "--no-save", "--json"])
    told = json.loads(capsys.readouterr().out)
    nodes = {node["name"]: node for node in told["nodes"]}

    assert end.value.code == 4
    assert begun
    assert nodes["doomed"]["fault"]["problem"].startswith("lost: ")
    assert nodes["doomed"]["devices"][0]["live"] is None
    assert "doomed" in told["failed"]
    (device,) = nodes["head"]["devices"]
    assert (device["name"], device["held"]) == ("cpu", True)
    assert device["peak"]["measured_bytes"] > 32000 * 256 * 2 * 2
    assert device["live"]["versions"]["torch"].startswith("2.")
    assert machines.left() == []


@pytest.fixture(scope="module")
def connected(machines: Machines) -> Iterator[Machines]:
    """A connection that the caller has made: what follows uses it, and Ray's workers stay from one to the next."""
    machines.cluster.wait_for_nodes(60)  # until Ray lists no node that was ended before
    ray.init(address=machines.address, log_to_driver=False)
    yield machines
    ray.shutdown()


def errors_of(device: Any) -> dict[str, float | None]:
    return {row["name"]: row["error"] for row in device.live["rows"]}


def test_every_gpu_that_ray_lends_is_measured(connected: Machines) -> None:
    found = fleet(connected.model, concurrency=1, **LIVE)
    cards = by_name(found.nodes)["cards"]

    assert [(device.index, device.held) for device in cards.devices] == [(0, False), (1, False)]
    assert cards.faults == ()
    assert [errors_of(device)["weights"] for device in cards.devices] == [pytest.approx(1.0)] * 2
    # The plan has a real CUDA context, the stand-in one of 50 MiB.
    assert [device.worst[0] for device in cards.devices if device.worst] == ["runtime"] * 2
    assert [node.name for node in found.failed] == ["other"]
    assert (found.held, found.exit_status) == (False, 4)
    assert "the plan held on 0 of 2 measured; no full answer from other" in fleet_text(found)


def test_gpus_of_other_work_are_not_shared_and_a_caller_s_connection_is_kept(connected: Machines) -> None:
    holder = ray.remote(num_gpus=1, num_cpus=0)(_hold).remote()
    found = fleet(connected.model, wait_s=1.5, concurrency=1, **LIVE)
    ray.cancel(holder, force=True)
    cards = by_name(found.nodes)["cards"]

    assert ray.is_initialized()
    assert cards.fault is not None
    assert "GPUs did not come free within 1.5 s" in cards.fault.problem
    assert (found.held, found.exit_status) == (None, 4)
    assert "nothing was measured" in fleet_text(found)


def _hold() -> None:
    time.sleep(600)


def test_a_node_that_takes_too_long_is_stopped(connected: Machines) -> None:
    found = fleet(connected.model, node_limit_s=2, **LIVE)
    cards = by_name(found.nodes)["cards"]

    assert cards.fault is not None
    assert cards.fault.problem == "it did not end within 2 s and was stopped"
    assert connected.left() == []


def test_an_interrupt_leaves_nothing_running(connected: Machines) -> None:
    def tell(name: str) -> None:
        if "1 measuring" in name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fleet(connected.model, tell=tell, **LIVE)

    assert connected.left() == []
