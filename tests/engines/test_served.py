from __future__ import annotations

import pytest

import vram_planner as vp
from vram_planner.engines.register import ENGINES
from vram_planner.engines.register import engine as engine_of
from vram_planner.engines.served import how_served
from vram_planner.model_profiles.families import FAMILIES


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_vllm_s_list_names_every_family(family: str) -> None:
    """Source: vLLM 0.32.0 model_executor/models/registry.py and the classes of transformers 5.23.0."""
    found = how_served("vllm", "vLLM", family)

    assert [found.own, found.warning is not None, found.refusal is not None].count(True) == 1


def test_an_engine_without_a_list_says_nothing() -> None:
    assert how_served("transformers", "transformers", "llama") == how_served(
        "no engine", "x", "no such family"
    )


@pytest.mark.parametrize("engine", sorted(set(ENGINES) - {"transformers"}))
def test_every_list_knows_llama(engine: str) -> None:
    families = engine_of(engine).families

    assert how_served(families, engine, "llama").own
    assert not how_served(families, engine, "no_such_family").own


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (
            "sglang",
            "SGLang 0.5 has no implementation of gpt_neox of its own; it falls back to transformers' code",
        ),
        ("tensorrt-llm", "TensorRT-LLM 1.x has no implementation of gpt_neox of its own; only AutoDeploy"),
    ],
)
def test_other_families_are_planned_with_a_warning(engine: str, said: str) -> None:
    plan = vp.plan("EleutherAI/pythia-6.9b", ctx=2048, concurrency=1, engine=engine)

    assert any(said in warning for warning in plan.warnings)


@pytest.mark.parametrize("engine", ["llama.cpp", "ollama"])
def test_what_llama_cpp_cannot_load_is_refused(engine: str) -> None:
    with pytest.raises(
        vp.PlannerError, match="no implementation of zamba: its converter and its loader have no"
    ):
        vp.plan("Zyphra/Zamba-7B-v1", ctx=2048, concurrency=1, engine=engine)


def test_a_family_on_the_fallback_is_planned_with_a_warning() -> None:
    """Dots1ForCausalLM is in _PREVIOUSLY_SUPPORTED_MODELS with 0.23.0; transformers' class takes vLLM's attention."""
    plan = vp.plan("rednote-hilab/dots.llm1.inst", ctx=4096, concurrency=1)

    assert any(
        "no own implementation of dots1; it had one up to 0.23.0; it falls back" in warning
        for warning in plan.warnings
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "it had one up to 0.10.2: encoder-decoder models"),
        ("Zyphra/Zamba-7B-v1", "no implementation of zamba: its recurrent layers"),
    ],
)
def test_a_family_that_neither_can_serve_is_refused(model: str, message: str) -> None:
    with pytest.raises(vp.PlannerError, match=message) as caught:
        vp.plan(model, ctx=2048, concurrency=1)

    assert "--engine transformers" in caught.value.hint


@pytest.mark.parametrize(
    ("model", "until"), [("MiniMaxAI/MiniMax-M1-80k", "0.23.0"), ("mosaicml/mpt-7b", "0.28.0")]
)
def test_a_family_that_an_older_release_had_is_planned_and_says_so(model: str, until: str) -> None:
    plan = vp.plan(model, ctx=2048, concurrency=1)

    assert any(
        f"planned all the same: better with --engine-version {until}" in told for told in plan.warnings
    )


def test_a_version_that_still_had_it_is_planned() -> None:
    plan = vp.plan("MiniMaxAI/MiniMax-M1-80k", ctx=4096, concurrency=1, tp=8, engine_version="0.22")

    assert not any("implementation" in warning for warning in plan.warnings)


def test_a_family_with_code_of_its_own_is_planned_without_a_word() -> None:
    plan = vp.plan("7b", ctx=4096, concurrency=1)

    assert not any("implementation" in warning for warning in plan.warnings)


def test_a_family_without_a_plan_for_tensor_parallelism_may_hold_all_on_each_rank() -> None:
    """vLLM 0.32.0 allocates 27,713,171,456 B of StarCoder 15B on each of two ranks, 25,221,275,648 on each of eight."""
    whole = vp.plan("WizardLM/WizardCoder-15B-V1.0", ctx=4096, concurrency=1).part("weights")

    for tp, allocated in ((2, 27_713_171_456), (8, 25_221_275_648)):
        plan = vp.plan("WizardLM/WizardCoder-15B-V1.0", ctx=4096, concurrency=1, tp=tp)
        part = plan.part("weights")

        assert part.n_bytes < allocated < part.high == whole.n_bytes
        assert any("no plan to cut gpt_bigcode" in warning for warning in plan.warnings)
