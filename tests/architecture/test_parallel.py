import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture.parallel import Layout, rank_weight_bytes, stage_layers, valid_tp, why_not_tp
from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.resolve import resolve


@pytest.mark.parametrize(
    ("n_layers", "pp", "stages"),
    [(28, 1, (28,)), (28, 2, (14, 14)), (61, 2, (31, 30)), (61, 4, (15, 15, 16, 15)), (30, 4, (7, 8, 8, 7))],
)
def test_layers_of_each_stage(n_layers: int, pp: int, stages: tuple[int, ...]) -> None:
    """Source: vLLM get_pp_indices: what is left over goes to the stages before the last."""
    assert stage_layers(n_layers, pp) == stages


@given(st.integers(1, 200), st.integers(1, 16))
def test_stages_hold_all_layers(n_layers: int, pp: int) -> None:
    if pp <= n_layers:
        stages = stage_layers(n_layers, pp)
        assert sum(stages) == n_layers
        assert max(stages) - min(stages) <= 1


@pytest.mark.parametrize(("tp", "expected"), [(1, (8, 8)), (2, (4, 8)), (8, (1, 8)), (16, (1, 8))])
def test_kv_heads_are_copied_past_their_number(tp: int, expected: tuple[int, int]) -> None:
    """Source: vLLM QKVParallelLinear, num_kv_head_replicas."""
    assert Weight(name="k_proj", shape=(1024, 4096), role=Role.LINEAR, units=8).share(tp) == expected


def test_valid_sizes_of_the_7b() -> None:
    """28 query heads, 4 KV heads, 152,064 rows: 7 and 28 divide the heads, yet not the vocabulary."""
    model = resolve("7b").architecture

    assert valid_tp(model) == (1, 2, 4)
    assert why_not_tp(model, 3) == "28 attention heads"
    assert "vocabulary" in (why_not_tp(model, 7) or "")


def test_latent_attention_splits_by_query_heads_only() -> None:
    assert {1, 2, 4, 8, 16, 32, 64} <= set(valid_tp(resolve("deepseek-ai/DeepSeek-V3").architecture))


@pytest.mark.parametrize(
    "model", ["7b", "8b", "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-30B-A3B", "openai/gpt-oss-20b"]
)
def test_more_ranks_never_need_more_weights_on_one(model: str) -> None:
    architecture = resolve(model).architecture
    totals = [
        max(rank_weight_bytes(architecture, architecture.precision, Layout(tp=tp)))
        for tp in valid_tp(architecture)
        if tp <= architecture.n_heads
    ]

    assert totals == sorted(totals, reverse=True)


def test_one_rank_holds_the_model_and_the_padding_of_its_vocabulary() -> None:
    model = resolve("7b").architecture
    (total,) = rank_weight_bytes(model, model.precision, Layout())

    assert model.vocabulary % 64 == 0
    assert total == model.weights_bytes()


def test_two_ranks_share_all_but_norms_and_output_biases() -> None:
    model = resolve("7b").architecture
    (half,) = rank_weight_bytes(model, model.precision, Layout(tp=2))
    norms = (2 * 28 + 1) * model.hidden * 2

    assert 2 * half - model.weights_bytes() == norms


def test_pipeline_stages_add_up_where_the_head_is_not_tied() -> None:
    model = resolve("7b").architecture

    assert sum(rank_weight_bytes(model, model.precision, Layout(pp=4))) == model.weights_bytes()


def test_a_tied_head_is_held_on_the_last_stage_again() -> None:
    model = resolve("meta-llama/Llama-3.2-1B").architecture
    table = model.vocabulary * model.hidden * 2

    assert model.tied_head
    assert sum(rank_weight_bytes(model, model.precision, Layout(pp=2))) == model.weights_bytes() + table


def test_expert_parallelism_deals_out_whole_experts() -> None:
    model = resolve("Qwen/Qwen3-30B-A3B").architecture
    cut = rank_weight_bytes(model, model.precision, Layout(tp=8))
    dealt = rank_weight_bytes(model, model.precision, Layout(tp=8, expert_parallel=True))

    assert cut == dealt


def test_layout_counts_its_gpus() -> None:
    assert Layout(tp=4, pp=2, dp=3).gpus == 24
    assert Layout(tp=4, dp=3, expert_parallel=True).expert_ranks == 12
