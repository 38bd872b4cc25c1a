from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.planning.cells import equals_the_plan

import vram_planner as vp
from vram_planner.cli.main import main
from vram_planner.errors import NotInstalledError, PlannerError, RequestError
from vram_planner.hardware_profiles import all_gpus
from vram_planner.model_profiles.resolve import model_names

NAMES = list(model_names())
CARDS = [f"{count}x {gpu.name}" for gpu in all_gpus() for count in (1, 2, 3, 8)]


def test_without_numpy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(NotInstalledError) as caught:
        vp.sweep(models=["7b"], gpus=["H100"], ctx=[8192], concurrency=[1])

    assert "vram-planner[sweep]" in caught.value.hint
    assert caught.value.exit_status == 4


class TestWithNumpy:
    @pytest.fixture(autouse=True)
    def _numpy(self) -> None:
        pytest.importorskip("numpy")

    @pytest.mark.parametrize(
        "options",
        [
            {"model": "google/gemma-3-4b-it", "engine": "llama.cpp", "quant": "q4_k_m", "mmproj": "auto"},
            {"model": "8b", "speculative": "draft:meta-llama/Llama-3.2-1B-Instruct", "speculative_tokens": 3},
        ],
        ids=["projector", "draft"],
    )
    def test_a_second_model_is_in_every_cell(self, options: dict[str, Any]) -> None:
        plan = vp.plan(ctx=4096, concurrency=2, gpu="H100", calibration=False, **options)
        model, quant = options.pop("model"), options.pop("quant", None)
        table = vp.sweep(
            models=[model], gpus=["H100"], ctx=[4096], concurrency=[2], quants=[quant], **options
        )

        assert next(iter(table.rows()))["total_bytes"] == plan.total_bytes

    # Another pipeline stage is the fullest where the cache is small: found by this test, kept.
    @example(
        models=["deepseek-ai/DeepSeek-V3"],
        gpus=["8x NVIDIA Tesla P100 PCIe 16GB"],
        ctx=[1, 4862],
        concurrency=[2992],
        quant=None,
        options={"pp": 2},
    )
    @settings(max_examples=24, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        models=st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True),
        gpus=st.lists(st.sampled_from(CARDS), min_size=1, max_size=3, unique=True),
        ctx=st.lists(st.integers(1, 300_000), min_size=1, max_size=2, unique=True),
        concurrency=st.lists(st.integers(1, 3000), min_size=1, max_size=2, unique=True),
        quant=st.sampled_from([None, "fp8", "awq", "q4_k_m"]),
        options=st.fixed_dictionaries(
            {},
            optional={
                "engine_version": st.sampled_from(["0.32", "0.24", "0.19", "0.14", "0.8.5", "0.6.3"]),
                "kv_dtype": st.just("fp8"),
                "max_num_seqs": st.sampled_from([1, 64, 2000]),
                "max_num_batched_tokens": st.sampled_from([512, 16384]),
                "gpu_memory_utilization": st.sampled_from([0.5, 0.95]),
                "enforce_eager": st.just(value=True),
                "pp": st.just(2),
                "dp": st.just(2),
                "ep": st.just(value=True),
            },
        ),
    )
    def test_each_cellequals_the_plan(
        self,
        *,
        models: list[str],
        gpus: list[str],
        ctx: list[int],
        concurrency: list[int],
        quant: str | None,
        options: dict[str, Any],
    ) -> None:
        table = vp.sweep(
            models=models, gpus=gpus, ctx=ctx, concurrency=concurrency, quants=[quant], **options
        )
        rows = iter(table.to_rows())
        for model in models:
            for gpu in gpus:
                for length in ctx:
                    for count in concurrency:
                        equals_the_plan(next(rows), model, quant, gpu, (length, count), **options)

    @pytest.mark.parametrize(
        "model",
        [
            "deepseek-ai/DeepSeek-Coder-V2-Lite-Base",
            "671b",
            "google/gemma-3-27b-it",
            "Qwen/Qwen3-Next-80B-A3B-Instruct",
        ],
    )
    def test_fixed_parts_that_change_along_both_axes(self, model: str) -> None:
        """Latent attention's dummy grows with the context, max_num_seqs beyond its default with the concurrency."""
        gpus, lengths, counts = ("A100", "8x H100"), (70_000, 512, 4096), (300, 1, 2000, 64)
        table = vp.sweep(models=[model], gpus=gpus, ctx=lengths, concurrency=counts)
        rows = iter(table.to_rows())
        for gpu in gpus:
            for length in lengths:
                for count in counts:
                    equals_the_plan(next(rows), model, None, gpu, (length, count))

    @settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        model=st.sampled_from(NAMES),
        engine=st.sampled_from(["sglang", "llama.cpp", "transformers", "tensorrt-llm", "ollama"]),
        gpu=st.sampled_from(CARDS),
        ctx=st.integers(1, 100_000),
        concurrency=st.integers(1, 300),
    )
    def test_other_engines_equal_the_plan_too(
        self, *, model: str, engine: str, gpu: str, ctx: int, concurrency: int
    ) -> None:
        quant = "q4_k_m" if engine in ("llama.cpp", "ollama") else None
        table = vp.sweep(
            models=[model], gpus=[gpu], ctx=[ctx], concurrency=[concurrency], quants=[quant], engine=engine
        )
        equals_the_plan(table.to_rows()[0], model, quant, gpu, (ctx, concurrency), engine=engine)

    @pytest.mark.parametrize("engine", ["sglang", "llama.cpp", "transformers", "tensorrt-llm", "ollama"])
    def test_engines_without_a_table_are_planned_cell_by_cell(self, engine: str) -> None:
        quant = "q4_k_m" if engine in ("llama.cpp", "ollama") else None
        table = vp.sweep(
            models=["8b"], gpus=["RTX 4090", "2x H100"], ctx=[2048, 9000], concurrency=[1, 5],
            quants=[quant], engine=engine,
        )  # fmt: skip
        rows = iter(table.to_rows())
        for gpu in ("RTX 4090", "2x H100"):
            for length in (2048, 9000):
                for count in (1, 5):
                    equals_the_plan(next(rows), "8b", quant, gpu, (length, count), engine=engine)

    def test_speeds_equal_the_plan(self) -> None:
        table = vp.sweep(models=["7b"], gpus=["H100"], ctx=[8192], concurrency=[4, 64], speed=True)

        for row, count in zip(table.rows(), (4, 64), strict=True):
            plan = vp.plan("7b", gpu="H100", ctx=8192, concurrency=count)
            assert plan.performance is not None
            assert row["ttft_s"] == plan.performance.ttft_s.best
            assert row["output_tokens_per_s"] == plan.performance.output_tokens_per_s.best

    def test_columns_arrays_and_rows_agree(self) -> None:
        table = vp.sweep(models=["7b", "nobody/nothing"], gpus=["H100", "3x L4"], ctx=["8K"], concurrency=[1])
        columns, rows = table.to_dict(), table.to_rows()

        assert len(table) == len(rows) == 4
        assert columns["total_bytes"] == [row["total_bytes"] for row in rows]
        assert [row["verdict"] for row in rows] == ["fits", "refused", "refused", "refused"]
        assert table.array("total_bytes").tolist()[0] == rows[0]["total_bytes"]
        assert rows[2]["reason"] is not None
        assert rows[2]["total_bytes"] is None

    def test_what_no_sweep_can_be_is_refused(self) -> None:
        asked: dict[str, Any] = {"models": ["7b"], "gpus": ["H100"], "ctx": [1024], "concurrency": [1]}
        wrong: list[dict[str, Any]] = [
            {"ctx": []},
            {"ctx": [0]},
            {"concurrency": [0]},
            {"gpus": ["no such card"]},
        ]
        for change in wrong:
            with pytest.raises(PlannerError):
                vp.sweep(**{**asked, **change})
        with pytest.raises(RequestError):
            vp.sweep(
                models=["7b"] * 9000, gpus=["all"], ctx=[1, 2, 3, 4, 5, 6], concurrency=list(range(1, 9))
            )

    def test_the_command_prints_all_rows_as_csv_and_says_whether_something_fits(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = "sweep --model 7b --gpu H100 --gpu L4 --ctx 8192 --concurrency 4 --concurrency 8 --format csv"
        with pytest.raises(SystemExit) as ended:
            main(asked.split())
        lines = capsys.readouterr().out.splitlines()

        assert ended.value.code == 0
        assert len(lines) == 5
        assert lines[0].startswith("model,quant,gpu,count,tp,pp,ctx,concurrency,fits,verdict,total_bytes")

        with pytest.raises(SystemExit) as ended:
            main(["sweep", "--model", "70b", "--gpu", "L4", "--ctx", "8192", "--concurrency", "4"])
        assert ended.value.code == 3
