"""
A model over two GPUs, from the command to the report: a stand-in for the measuring process, and for NVML.

The stand-in holds what the plan gives each card, so that what is tested is the way of each card's figures. No CUDA
machine was asked.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vram_planner.cli.main import main
from vram_planner.errors import NoGpuError, RequestError
from vram_planner.hardware_profiles.machine import DetectedGpu, Machine
from vram_planner.planning.by_card import by_card
from vram_planner.planning.calibration import load_calibrations
from vram_planner.planning.request import PlanRequest
from vram_planner.report.validation import each_text, live_text
from vram_planner.validate import device_set, devices, live_gpus, live_run
from vram_planner.validate.device_set import place_on
from vram_planner.validate.faults import BusyError, CannotMeasureError, WeightsError
from vram_planner.validate.live_options import LiveOptions
from vram_planner.validate.lock import device_lock
from vram_planner.validate.ramp import Ended

STAND_IN = Path(__file__).parent / "stand_in_child.py"
MIB = 1 << 20
CONFIG = {
    "model_type": "qwen2", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "max_position_embeddings": 4096,
}  # fmt: skip
TOTAL = 400 * MIB


class Driver:
    """NVML as it answers over time: what is used on each card, what the process adds, and which have vanished."""

    def __init__(self, names: tuple[str, ...] = ("NVIDIA L4", "NVIDIA L4")) -> None:
        self.names = names
        self.used = [7 * MIB] * len(names)
        self.vanished: set[int] = set()

    def ask(self) -> Machine:
        gpus = tuple(
            DetectedGpu(
                index=index, uuid=f"GPU-{index}", name=name, total_bytes=TOTAL, used_bytes=used, processes=(),
                free_bytes=TOTAL - used, compute_capability="8.9",
                problem="lost" if index in self.vanished else None,
            )
            for index, (name, used) in enumerate(zip(self.names, self.used, strict=True))
        )  # fmt: skip
        return Machine(driver_version="570.1", cuda_driver_version="12.8", gpus=gpus)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Two cards that are there for all who ask."""
    found = Driver()
    monkeypatch.setattr(live_run, "place_on", lambda device, gpu: place_on(device, gpu, found.ask))
    monkeypatch.setattr(live_gpus, "gpu_numbers", lambda gpu: device_set.gpu_numbers(gpu, found.ask))
    return found


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setattr(live_run, "_CHILD", (sys.executable, str(STAND_IN)))
    monkeypatch.setattr(live_run, "need", lambda *_: {"torch": "0", "transformers": "5.23.0"})
    hold(monkeypatch, str(tmp_path), (300 * MIB, 300 * MIB))
    return str(tmp_path)


def hold(
    monkeypatch: pytest.MonkeyPatch, model: str, limits: tuple[int, ...], *, moved: int = 0, more: int = 0
) -> None:
    """The stand-in holds what the plan says; `moved` layers lie on the other card, `more` bytes on the second."""
    wanted = PlanRequest.of(model=model, ctx=64, concurrency=1, engine="transformers", gpu="none")
    cards, host_bytes = by_card(wanted, limits, (8, 9))
    assert not host_bytes
    rows = [
        {
            "weights": card.weights_bytes + more * number, "cache": card.held_bytes, "activations": card.activation_bytes,
            "limit": limit, "layers": card.n_layers + (moved if number else -moved),
        }
        for number, (card, limit) in enumerate(zip(cards, limits, strict=True))
    ]  # fmt: skip
    monkeypatch.setenv("STAND_IN_CARDS", json.dumps(rows))


def run(model: str, **options: Any) -> Any:
    words = {"random_weights": True, "tolerance": 0.05, "gpu": "all", "concurrency": 1, **options}
    return live_run.live(model, ctx=64, **words)


def judged(found: Any) -> dict[str, Any]:
    """All rows but runtime, which is assumed by a plan, and which the stand-in has none of."""
    return {row.name: row for row in found.rows if not row.name.startswith("runtime")}


@pytest.mark.usefixtures("driver")
def test_each_card_is_held_against_its_own_plan(model: str) -> None:
    found = run(model)
    rows = judged(found)

    assert set(rows) == {
        f"{part}, GPU {card}" for part in ("weights", "kv_cache", "activations", "peak") for card in (0, 1)
    }
    assert all(row.error == 0 for row in rows.values())
    assert rows["weights, GPU 0"].planned_bytes != rows["weights, GPU 1"].planned_bytes
    assert [(card.planned_layers, card.layers, card.left_behind_bytes) for card in found.cards] == [
        (4, 4, 0),
        (4, 4, 0),
    ]
    assert sum(card.planned_layers for card in found.cards) == CONFIG["num_hidden_layers"]
    assert [len(stage.cards) for stage in found.stages] == [2] * 5
    assert found.device == "2 x NVIDIA L4"


@pytest.mark.usefixtures("driver")
def test_the_report_and_the_document_have_every_gpu(model: str) -> None:
    found = run(model)
    text, document = live_text(found), json.loads(json.dumps(found.to_dict()))

    assert "layers planned" in text
    assert "\nGPU 0\nMiB at" in text
    assert "\nGPU 1\nMiB at" in text
    assert "driver 570.1; no MIG slices" in text
    assert "tensor parallelism, of which" in text
    assert [gpu["total_bytes"] for gpu in document["device"]["gpus"]] == [TOTAL, TOTAL]
    assert [card["index"] for card in document["cards"]] == [0, 1]
    assert len(document["stages"][2]["cards"]) == 2


@pytest.mark.usefixtures("driver")
def test_weights_too_many_on_one_card_are_found_there(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(monkeypatch, model, (300 * MIB, 300 * MIB), more=4 * MIB)
    found = run(model)
    missed = [row.name for row in judged(found).values() if not row.holds(0.05)]

    assert missed == ["weights, GPU 1", "peak, GPU 1"]


@pytest.mark.usefixtures("driver")
def test_a_layer_on_the_other_card_is_no_plan_that_held(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(monkeypatch, model, (300 * MIB, 300 * MIB), moved=1)
    found = run(model, tolerance=10.0)

    assert not found.held
    assert "GPU 0 has 3 layers where the plan has 4" in found.warnings
    assert "5 layers on GPU 1, 4 planned" in live_text(found)


@pytest.mark.usefixtures("driver")
def test_the_ramp_stops_at_the_fullest_card(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = 40 * MIB
    hold(monkeypatch, model, (first, 300 * MIB))
    found = run(model, concurrency=None, most=512, headroom=0.0)
    last = max(found.ramp.ran, key=lambda step: step.batch)
    over = [step for step in found.ramp.steps if step.ended is Ended.SKIPPED]

    assert found.ramp.limits.card_limit_bytes == (first, 300 * MIB)
    assert last.card_peak_bytes[0] <= first
    # One more would not fit on the first card; the second has room for many.
    each = (last.card_peak_bytes[0] - judged(found)["weights, GPU 0"].measured_bytes) / last.batch
    assert last.card_peak_bytes[0] + each > first
    assert last.card_peak_bytes[1] < 100 * MIB
    assert over
    assert all("on card 0 of 2" in step.note for step in over)


@pytest.mark.usefixtures("driver")
def test_the_calibration_has_the_number_of_cards(model: str) -> None:
    run(model)
    (entry,) = load_calibrations()

    assert (entry.device, entry.gpus, entry.factors) == ("NVIDIA L4", 2, {"activations": 1.0})


def test_unlike_gpus_teach_no_plan(model: str, driver: Driver) -> None:
    driver.names = ("NVIDIA L4", "NVIDIA A10")
    found = run(model)

    assert (found.calibration, load_calibrations()) == (None, ())
    assert found.device == "NVIDIA L4 + NVIDIA A10"


def test_what_does_not_fit_on_all_is_refused_before_and_after_the_start(
    model: str, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_CARDS", json.dumps([
        {"weights": 0, "cache": 0, "activations": 0, "limit": 9 * MIB, "layers": 4} for _ in range(2)
    ]))  # fmt: skip
    with pytest.raises(CannotMeasureError, match=r"do not fit on 2 x NVIDIA L4: free are 9,4"):
        run(model)
    driver.used = [TOTAL - MIB] * 2
    with pytest.raises(CannotMeasureError, match=r"free are 1,0"):
        run(model)


def test_torch_that_sees_fewer_gpus_is_told(
    model: str, monkeypatch: pytest.MonkeyPatch, driver: Driver
) -> None:
    assert len(driver.ask().gpus) == 2
    monkeypatch.setenv("STAND_IN_CARDS", "[]")
    with pytest.raises(CannotMeasureError, match="sees other GPUs"):
        run(model)


def test_a_gpu_that_vanishes_on_the_way_is_told(model: str, driver: Driver) -> None:
    def tell(step: str) -> None:
        if step == "loading the weights":
            driver.vanished.add(1)

    found = run(model, tell=tell)

    assert found.warnings[0].startswith("GPU 1 no longer answers NVML")
    assert [card.left_behind_bytes for card in found.cards] == [0, None]
    assert found.left_behind_bytes is None


def test_each_stage_of_each_card_is_seen_from_outside_when_it_is_over(
    model: str, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cards that hold more each time NVML is asked, the second twice as much more: no two stages share one look."""
    monkeypatch.setattr(devices, "_SETTLE_S", 0.0)
    quiet = driver.ask

    def ask() -> Machine:
        driver.used = [driver.used[0] + 1, driver.used[1] + 2]
        return quiet()

    driver.ask = ask  # type: ignore[method-assign]
    found = run(model)
    first, second = ([stage.cards[card].device_bytes for stage in found.stages] for card in (0, 1))

    assert [stage.name for stage in found.stages] == ["context", "weights", "prefill", "decode", "kv"]
    assert first == sorted(set(first))
    assert [2 * (one - first[0]) for one in first] == [one - second[0] for one in second]
    assert [stage.cards[1].cache_bytes for stage in found.stages][-1]


def test_how_much_is_loaded_is_told_of_the_weights_on_all_cards(
    model: str, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of what both are to hold lies on them when NVML is asked."""
    monkeypatch.setattr(devices, "_SETTLE_S", 0.0)
    planned = run(model).to_dict()["rows"]
    weights = sum(row["planned_bytes"] for row in planned if row["name"].startswith("weights"))

    class Told:
        shares: list[float] = []  # noqa: RUF012  of this test alone

        def __call__(self, step: str) -> None:
            if step == "loading the weights":
                driver.used = [used + weights // 4 for used in driver.used]

        def share(self, done: float) -> None:
            self.shares.append(done)

    run(model, tell=Told())

    assert Told.shares
    assert [min(Told.shares), max(Told.shares)] == pytest.approx([0.5, 0.5], abs=1e-6)


def test_a_failure_tells_what_stays_on_which_card(
    model: str, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(step: str) -> None:
        if step == "loading the weights":
            driver.used[1] += 5 * MIB

    monkeypatch.setattr(devices, "_SETTLE_S", 0.0)
    monkeypatch.setenv("STAND_IN_FAULT", "weights")
    with pytest.raises(WeightsError, match=r"; 5,242,880 B more than before are held on GPU 1$"):
        run(model, tell=tell)


@pytest.mark.usefixtures("driver")
def test_one_busy_gpu_of_two_turns_the_run_away(model: str) -> None:
    with device_lock("GPU-1"), pytest.raises(BusyError, match="GPU-1"):
        run(model)
    with device_lock("GPU-1"):
        assert run_one(model, 0).device == "NVIDIA L4"


def run_one(model: str, gpu: int) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        hold_on_one(patch)
        return run(model, gpu=gpu)


def hold_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in of one GPU, which says nothing of cards."""
    monkeypatch.setenv("STAND_IN_CARDS", "[]")
    monkeypatch.setenv("STAND_IN_WEIGHTS", str(MIB))
    monkeypatch.setenv("STAND_IN_CACHE", str(MIB))


@pytest.fixture
def single(model: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model, and a stand-in of one GPU."""
    hold_on_one(monkeypatch)
    return model


@pytest.mark.usefixtures("driver")
def test_each_runs_on_every_gpu_by_itself(single: str) -> None:
    found = live_gpus.live_each(single, ctx=64, random_weights=True, concurrency=1, tolerance=1e3)
    document = json.loads(json.dumps(found.to_dict()))

    assert [gpu for gpu, _ in found.runs] == [0, 1]
    assert (found.held, document["held"], document["not_measured"]) == (True, True, [])
    assert [row["gpu"] for row in document["gpus"]] == [0, 1]
    assert each_text(found).startswith("GPU 0\n\n")
    assert "\n\nGPU 1\n\n" in each_text(found)


@pytest.mark.usefixtures("driver")
def test_a_gpu_that_cannot_be_measured_does_not_stop_the_others(single: str) -> None:
    with device_lock("GPU-0"):
        found = live_gpus.live_each(
            single, ctx=64, random_weights=True, concurrency=1, tolerance=1e3, gpu="0,1"
        )

    assert ([gpu for gpu, _ in found.runs], [one.gpu for one in found.missed]) == ([1], [0])
    assert (found.held, found.missed[0].exit_status) == (False, 4)
    assert "GPU 0\n\nnot measured: process" in each_text(found)
    with device_lock("GPU-0"), device_lock("GPU-1"), pytest.raises(BusyError):
        live_gpus.live_each(single, ctx=64, random_weights=True)


@pytest.mark.usefixtures("driver")
def test_the_command_takes_several_and_each(single: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["validate", "live", "--model", single, "--ctx", "64", "--random-weights", "--concurrency", "1"]
    words += ["--gpu", "0,1", "--parallel", "each", "--tolerance", "1000", "--json"]
    with pytest.raises(SystemExit) as end:
        main(words)
    document = json.loads(capsys.readouterr().out)
    with device_lock("GPU-1"), pytest.raises(SystemExit) as partly:
        main(words)

    assert (end.value.code, document["parallel"], len(document["gpus"])) == (0, "each", 2)
    assert partly.value.code == 4


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"parallel": "tp"}, "deals out whole layers"),
        ({"parallel": "each"}, "a run of its own"),
        ({"parallel": "pp"}, "no --parallel 'pp'"),
    ],
)
def test_other_ways_over_several_gpus_are_refused(words: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        LiveOptions(**words)


def test_each_needs_gpus(model: str) -> None:
    with pytest.raises(RequestError, match="one CPU"):
        live_gpus.live_each(model, device="cpu")
    with pytest.raises(NoGpuError):
        live_gpus.live_each(model)
