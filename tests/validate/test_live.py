"""The whole live path for real, on the CPU: files, a process of its own, stages, ramp, comparison."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.errors import PlannerError
from vram_planner.report.validation import live_text
from vram_planner.validate import live_run
from vram_planner.validate.child import Child
from vram_planner.validate.devices import Place
from vram_planner.validate.faults import WeightsError
from vram_planner.validate.live_run import live
from vram_planner.validate.ramp import Ended

if TYPE_CHECKING:
    from pathlib import Path

NEEDED = "torch, transformers and accelerate are not installed (the extra [validate])"
MIB = 1 << 20


def save_model(torch: Any, transformers: Any, values: dict[str, Any], folder: Path) -> int:
    """Random weights in bfloat16 as safetensors; says how many parameters."""
    fields = dict(values)
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def made(families: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch = pytest.importorskip("torch", reason=NEEDED)
    transformers = pytest.importorskip("transformers", reason=NEEDED)
    pytest.importorskip("accelerate", reason=NEEDED)
    folders = {family: tmp_path_factory.mktemp(family) for family in families}
    for family, folder in folders.items():
        assert 80e6 < save_model(torch, transformers, families[family], folder) < 130e6
    return folders


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


def run(model: Path, **options: Any) -> Any:
    return live(str(model), ctx=256, device="cpu", **options)


@pytest.mark.parametrize("family", ["dense", "experts", "sliding"])
def test_weights_cache_and_peak_are_as_planned(made: dict[str, Path], family: str) -> None:
    found = run(made[family], most=2)
    errors = {row.name: row.error for row in found.rows}
    stages = {stage.name: stage for stage in found.stages}

    assert abs(errors["weights"]) < 0.02
    assert abs(errors["kv_cache"]) < 0.02
    assert abs(errors["peak"]) < 0.02
    assert found.held
    assert [step.batch for step in found.ramp.ran] == [1, 2]
    assert stages["weights"].process_bytes > stages["context"].process_bytes + 150 * MIB
    assert f"recommended: {found.recommendation.concurrency} at once" in live_text(found)


def test_random_weights_need_no_file(made: dict[str, Path], tmp_path: Path) -> None:
    values = json.loads((made["dense"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values))
    found = run(tmp_path, random_weights=True, concurrency=1)
    held = {stage.name: stage for stage in found.stages}["weights"].allocated_bytes
    (weights,) = (row for row in found.rows if row.name == "weights")

    assert found.held
    # The profiler's own sum of what was allocated, without asking the module.
    assert abs(held / weights.planned_bytes - 1) < 0.02


def test_too_little_memory_is_survived(made: dict[str, Path]) -> None:
    found = run(made["dense"], memory_limit_bytes=160 * MIB, headroom=0.0, most=64)

    assert found.ramp.complete
    assert 1 <= found.ramp.largest < 64
    assert found.ramp.steps[-1].ended in {Ended.RAN, Ended.SKIPPED, Ended.NO_ROOM}


def test_a_pass_that_really_runs_out_of_memory_is_survived_in_the_same_process(made: dict[str, Path]) -> None:
    """RLIMIT_AS in the real measuring process, asked for a batch that cannot fit: no fit stops it before."""
    config = json.loads((made["dense"] / "config.json").read_text())
    work = {"do": "step", "context": 66, "prompt": 64}
    place = Place()
    with Child(live_run._CHILD, environment=place.environment()) as child:

        def ask(**request: Any) -> dict[str, Any]:
            reply = child.ask(request, limit_s=300)
            assert reply.answered, reply.note
            return reply.answer

        ask(do="open", device="cpu", config=config)
        ask(do="load", config=config, dtype="bfloat16", attn="sdpa", weights=str(made["dense"]))
        before = ask(**work, batch=1)
        ask(do="limit", more_bytes=128 * MIB)
        too_many = ask(**work, batch=4096)
        after = ask(**work, batch=1)

    assert (too_many["error"], "ok" in too_many) == ("no room", False)
    assert (before["ok"], after["ok"]) == (True, True)
    assert after["process_bytes"] < before["process_bytes"] + 128 * MIB


def test_a_kill_mid_ramp_keeps_what_ran(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[Child] = []

    class Watched(Child):
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            children.append(self)

    def tell(step: str) -> None:
        if step == "2 at once" and len(children) == 1:
            threading.Timer(0.1, os.kill, (children[0].pid, signal.SIGKILL)).start()

    monkeypatch.setattr(live_run, "Child", Watched)
    found = run(made["dense"], most=2, tell=tell)

    assert [step.ended for step in found.ramp.steps] == [Ended.RAN, Ended.DIED]
    assert (found.ramp.largest, len(found.rows)) == (1, 5)
    assert not any(child.alive for child in children)


def test_damaged_weights_are_wrong_input(made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((made["dense"] / "config.json").read_bytes())
    whole = (made["dense"] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PlannerError) as caught:
        run(tmp_path, concurrency=1)
    assert caught.value.exit_status == 2
    # By the name of the configuration no header is read: the process finds it out.
    with pytest.raises(WeightsError, match="cannot be loaded"):
        run(tmp_path / "config.json", concurrency=1)
