import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture.attention import BorrowedKv, FullAttention, Latent, SlidingWindow
from vram_planner.architecture.feed_forward import DenseMLP
from vram_planner.architecture.model import Architecture, Layer
from vram_planner.architecture.precision import plain
from vram_planner.architecture.sparse import (
    CompressedAttention,
    Compressor,
    Indexer,
    PatchAttention,
    SparseLatent,
)
from vram_planner.architecture.weight import count_parameters

LATENT = Latent(hidden=7168, n_heads=128, q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)
INDEXER = Indexer(hidden=7168, query_rank=1536, n_heads=64, head_dim=128)
DEEPSEEK_V32 = SparseLatent(inner=LATENT, top_k=2048, chooser=INDEXER)
FAR = Compressor(hidden=64, width=32, stride=4, overlap=True)
NEAR_AND_FAR = CompressedAttention(
    hidden=64,
    n_heads=4,
    head_dim=32,
    q_rank=20,
    out_groups=2,
    out_rank=10,
    window=6,
    far=FAR,
    chooser=Compressor(hidden=64, width=16, stride=4, overlap=True, prefix="compressor.indexer."),
    chooser_heads=2,
    top_k=4,
)


def test_an_indexer_counts_three_matrices_and_a_norm() -> None:
    """wq_b 64 x 128 x 1536, wk 128 x 7168, the norm's scale and shift of 128, weights_proj 64 x 7168."""
    assert count_parameters(INDEXER.weights) == 8192 * 1536 + 128 * 7168 + 256 + 64 * 7168


def test_deepseek_v32_keeps_as_much_as_vllm_allocates() -> None:
    """
    vLLM 0.32's own cache specs for DeepSeek-V3.2: pages of 64 tokens, 73,728 and 8,448 bytes.

    The latent has 576 numbers of two bytes; the indexer 128 of one byte and a four-byte scale.
    """
    indexer = DEEPSEEK_V32.indexer

    assert indexer is not None
    assert 64 * DEEPSEEK_V32.cache.elements_per_token() * 2 == 73_728
    assert 64 * (indexer.elements_per_token() + 4) == 8_448
    assert [indexer.elements_per_token(tp) for tp in (1, 8)] == [128, 128]


def test_a_layer_that_takes_over_a_choice_has_no_indexer() -> None:
    shared = SparseLatent(inner=LATENT, top_k=2048, chooser=None)

    assert shared.indexer is None
    assert shared.weights == LATENT.weights
    assert shared.cache == DEEPSEEK_V32.cache


def test_work_grows_with_the_indexer_alone_beyond_the_choice() -> None:
    """Each further token costs 2 x 64 x 128 operations: the attention reads 2,048 tokens whatever the context."""
    assert DEEPSEEK_V32.score_flops(5000) - DEEPSEEK_V32.score_flops(4000) == 1000 * 2 * 64 * 128
    assert DEEPSEEK_V32.score_flops(100) == LATENT.score_flops(100) + INDEXER.score_flops(100)


def test_compressed_attention_keeps_a_window_and_one_entry_in_four() -> None:
    cache = NEAR_AND_FAR.cache

    assert (cache.key_dim, cache.value_dim, cache.window) == (32, 0, 6)
    assert cache.compressed is not None
    assert (cache.compressed.key_dim, cache.compressed.stride) == (32, 4)
    assert NEAR_AND_FAR.indexer is not None
    assert (NEAR_AND_FAR.indexer.key_dim, NEAR_AND_FAR.indexer.stride) == (16, 4)


def test_what_waits_for_its_group_is_a_state() -> None:
    """
    Values and gates of 3 tokens in two series, and one series of the 4 tokens before.

    2 x 2 x 32 x 3 + 2 x 32 x 4 for the entries, half of that for the indexer's keys.
    """
    state = NEAR_AND_FAR.state

    assert state is not None
    assert state.state_elements == 640 + 320
    assert Compressor(hidden=64, width=32, stride=8, overlap=False).waiting_elements == 2 * 32 * 7


def test_compressed_attention_counts_its_tensors() -> None:
    """By hand: query 20 x 64 + 20 + 128 x 20, key-value 32 x 64 + 32, output 20 x 64 + 64 x 20, 4 sinks."""
    alone = CompressedAttention(
        hidden=64, n_heads=4, head_dim=32, q_rank=20, out_groups=2, out_rank=10, window=6
    )
    queries, keys, output = 20 * 64 + 20 + 128 * 20, 32 * 64 + 32, 20 * 64 + 64 * 20
    compressor = 2 * 64 * 64 + 4 * 64 + 32
    indexer = 2 * 32 * 64 + 4 * 32 + 16 + 2 * 16 * 20 + 2 * 64

    assert count_parameters(alone.weights) == queries + keys + output + 4
    assert count_parameters(NEAR_AND_FAR.weights) == queries + keys + output + 4 + compressor + indexer
    assert alone.state is None
    assert alone.indexer is None
    assert alone.cache.compressed is None


@given(st.integers(1, 10**6))
def test_longer_contexts_never_cost_less(context: int) -> None:
    for mixer in (DEEPSEEK_V32, NEAR_AND_FAR):
        assert mixer.score_flops(context) <= mixer.score_flops(context + 1)


GROUPED = FullAttention(hidden=64, n_heads=4, n_kv_heads=2, head_dim=16, qk_norm=(16, 16), qkv_bias=True)


def test_borrowed_keys_and_values_need_neither_projections_nor_cache() -> None:
    """k and v: 2 x (32 x 64 + 32); the norm on keys: 16."""
    borrowed = BorrowedKv(inner=GROUPED, window=8)

    assert borrowed.cache is None
    assert borrowed.n_heads == 4
    assert count_parameters(GROUPED.weights) - count_parameters(borrowed.weights) == 2 * (32 * 64 + 32) + 16
    assert borrowed.score_flops(1000) == GROUPED.score_flops(8)
    assert BorrowedKv(inner=GROUPED).score_flops(1000) == GROUPED.score_flops(1000)


def test_values_from_keys_save_a_matrix_and_no_cache() -> None:
    both = FullAttention(hidden=64, n_heads=4, n_kv_heads=2, head_dim=16)
    keys = FullAttention(hidden=64, n_heads=4, n_kv_heads=2, head_dim=16, values_from_keys=True)

    assert count_parameters(both.weights) - count_parameters(keys.weights) == 32 * 64
    assert keys.cache == both.cache


def test_a_window_over_a_latent_stays_a_latent() -> None:
    cache = SlidingWindow(inner=LATENT, window=512).cache

    assert cache.latent
    assert (cache.key_dim, cache.window) == (576, 512)


def test_a_gated_query_reads_two_latents() -> None:
    """q_gate_proj: 128 x (192 + 128) outputs of 2 x 1536 inputs, in place of 128 x 192 of 1536."""
    gated = Latent(
        hidden=7168,
        n_heads=128,
        q_rank=1536,
        kv_rank=512,
        nope_dim=128,
        rope_dim=64,
        value_dim=128,
        gated_query=True,
    )
    more = 128 * (192 + 128) * 2 * 1536 - 128 * 192 * 1536

    assert count_parameters(gated.weights) - count_parameters(LATENT.weights) == more


def test_patches_share_an_entry() -> None:
    patches = PatchAttention(inner=GROUPED, stride=4)

    assert patches.cache.stride == 4
    assert patches.weights == GROUPED.weights
    assert patches.score_flops(400) == GROUPED.score_flops(100) // 4


@pytest.mark.parametrize(
    ("mixer", "kinds"),
    [
        (GROUPED, set()),
        (DEEPSEEK_V32, {"indexer"}),
        (NEAR_AND_FAR, {"compressed", "indexer", "state"}),
        (PatchAttention(inner=GROUPED, stride=4), {"compressed"}),
        (BorrowedKv(inner=GROUPED), {"no_cache"}),
    ],
)
def test_engines_are_told_what_they_must_know(
    mixer: FullAttention | SparseLatent | CompressedAttention | PatchAttention | BorrowedKv, kinds: set[str]
) -> None:
    layer = Layer(mixer=mixer, feed_forward=DenseMLP(hidden=64, intermediate=64), norms=())
    model = Architecture(
        model_type="x", hidden=64, vocabulary=10, layers=(layer,), precision=plain("bfloat16")
    )

    assert model.kinds == kinds
