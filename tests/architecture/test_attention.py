import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture.attention import FullAttention, Latent, SlidingWindow
from vram_planner.architecture.cache import KvCache
from vram_planner.architecture.weight import Role, count_parameters

LLAMA_3_8B = FullAttention(hidden=4096, n_heads=32, n_kv_heads=8, head_dim=128)
DEEPSEEK_V3 = Latent(
    hidden=7168, n_heads=128, q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128
)


def test_grouped_query_attention_counts_its_four_matrices() -> None:
    """q and o: 4096 x 4096; k and v: 1024 x 4096."""
    assert count_parameters(LLAMA_3_8B.weights) == 2 * 4096 * 4096 + 2 * 1024 * 4096


def test_llama_3_8b_needs_128_kib_per_token() -> None:
    """Two times 8 heads times 128 elements of 2 bytes in each of 32 layers."""
    assert LLAMA_3_8B.cache.elements_per_token() * 2 * 32 == 131_072


def test_biases_norms_and_sinks_are_counted() -> None:
    """q has 32 x 128 outputs, k and v 8 x 128; o has 4096; the norms are one head wide; one sink a head."""
    plain = count_parameters(LLAMA_3_8B.weights)
    rich = FullAttention(
        hidden=4096,
        n_heads=32,
        n_kv_heads=8,
        head_dim=128,
        qkv_bias=True,
        out_bias=True,
        qk_norm=(128, 128),
        sinks=True,
    )

    assert count_parameters(rich.weights) - plain == (4096 + 2 * 1024) + 4096 + 2 * 128 + 32


def test_a_norm_over_all_heads_is_dealt_out_with_them() -> None:
    wide = FullAttention(hidden=64, n_heads=8, n_kv_heads=4, head_dim=8, qk_norm=(64, 32))
    units = {weight.name: weight.units for weight in wide.weights if weight.role is Role.NORM}

    assert units == {"q_norm": 8, "k_norm": 4}


def test_fused_and_separate_projections_hold_the_same() -> None:
    fused = FullAttention(hidden=64, n_heads=4, n_kv_heads=4, head_dim=16, fused_qkv=True)
    separate = FullAttention(hidden=64, n_heads=4, n_kv_heads=4, head_dim=16)

    assert count_parameters(fused.weights) == count_parameters(separate.weights)


def test_a_window_bounds_cache_and_work_but_no_weights() -> None:
    sliding = SlidingWindow(inner=LLAMA_3_8B, window=4096)

    assert sliding.weights == LLAMA_3_8B.weights
    assert sliding.cache.window == 4096
    assert sliding.score_flops(10**6) == LLAMA_3_8B.score_flops(4096)
    assert sliding.score_flops(100) == LLAMA_3_8B.score_flops(100)


def test_deepseek_v3_keeps_576_elements_a_token_and_layer() -> None:
    """Source: DeepSeek-V2, section 2.1.4: (d_c + d_h^R) elements, 512 + 64; 70,272 bytes in 61 layers of 2 bytes."""
    assert DEEPSEEK_V3.cache.elements_per_token() == 576
    assert DEEPSEEK_V3.cache.elements_per_token() * 2 * 61 == 70_272


def test_the_latent_is_on_every_rank_in_full() -> None:
    cache = DEEPSEEK_V3.cache

    assert [cache.elements_per_token(tp) for tp in (1, 8, 128)] == [576, 576, 576]
    assert cache.ranks_holding_each_head(8) == 8


def test_latent_without_query_rank_projects_in_one_step() -> None:
    lite = Latent(hidden=2048, n_heads=16, q_rank=None, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)

    assert lite.weights[0].name == "q_proj"
    assert lite.weights[0].shape == (16 * 192, 2048)


@pytest.mark.parametrize(("tp", "heads", "ranks"), [(1, 8, 1), (2, 4, 1), (8, 1, 1), (16, 1, 2), (32, 1, 4)])
def test_kv_heads_are_dealt_out_and_then_copied(tp: int, heads: int, ranks: int) -> None:
    cache = KvCache(n_heads=8, key_dim=128, value_dim=128)

    assert cache.heads_on_rank(tp) == heads
    assert cache.ranks_holding_each_head(tp) == ranks


@given(st.integers(1, 128), st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
def test_no_rank_holds_more_than_all_heads_and_together_they_hold_all(heads: int, tp: int) -> None:
    cache = KvCache(n_heads=heads, key_dim=1, value_dim=0)

    assert 1 <= cache.heads_on_rank(tp) <= heads
    assert cache.heads_on_rank(tp) * tp >= heads
