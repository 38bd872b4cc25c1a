from vram_planner.architecture.attention import FullAttention, SlidingWindow
from vram_planner.architecture.cache import KvCache
from vram_planner.architecture.cross import (
    BlockSparse,
    ChunkedAttention,
    Convolved,
    CrossAttention,
    MixtureOfAttention,
    UnevenAttention,
)
from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.weight import Role, Weight, count_parameters

GROUPED = FullAttention(hidden=64, n_heads=8, n_kv_heads=2, head_dim=16)


def test_a_chunk_bounds_cache_and_work_but_no_weights() -> None:
    """Four times 8 heads of 16, over 100 of 5,000 tokens."""
    chunked = ChunkedAttention(inner=GROUPED, chunk=100)

    assert chunked.weights == GROUPED.weights
    assert chunked.cache == KvCache(n_heads=2, key_dim=16, value_dim=16, window=100, chunked=True)
    assert chunked.score_flops(5_000) == 4 * 8 * 16 * 100


def test_an_image_fills_its_cache_once() -> None:
    """Four tiles of 1,601 tokens, two heads of 16 for keys and values; the context changes nothing."""
    cross = CrossAttention(inner=GROUPED, tokens=4 * 1601)

    assert cross.cache.fixed_tokens == 6404
    assert cross.cache.elements_per_token() == 2 * (16 + 16)
    assert cross.score_flops(1) == cross.score_flops(100_000) == 4 * 8 * 16 * 6404


def test_block_sparse_attention_keeps_all_tokens_and_an_index() -> None:
    """The indexer: 4 heads of 8 and one key from 64, two norms of 8; it reads 2 blocks of 16 of 1,000 tokens."""
    sparse = BlockSparse(inner=GROUPED, index_heads=4, index_dim=8, block=16, blocks=2)

    extra = count_parameters(sparse.weights) - count_parameters(GROUPED.weights)
    assert extra == 4 * 8 * 64 + 8 * 64 + 2 * 8
    assert sparse.cache == GROUPED.cache
    assert sparse.indexer.elements_per_token(tp=4) == 8
    assert sparse.score_flops(1_000) == 4 * 8 * 16 * 32 + 2 * 4 * 8 * 1_000
    assert sparse.state is None


def test_convolutions_keep_their_last_inputs() -> None:
    """A kernel of 4 keeps 3 inputs of each of 192 channels, whatever the window."""
    taps = Weight(name="k_sconv", shape=(32, 1, 4), role=Role.NORM)
    block = Convolved(inner=SlidingWindow(inner=GROUPED, window=10), channels=192, kernel=4, extras=(taps,))

    assert (block.state.conv_channels, block.state.conv_tokens, block.state.state_elements) == (192, 3, 0)
    assert block.cache.window == 10
    assert count_parameters(block.weights) == count_parameters(GROUPED.weights) + 128
    assert block.score_flops(50) == GROUPED.score_flops(10)


def test_experts_of_attention_share_keys_and_values() -> None:
    """JetMoe 8B, one layer: router 8 x 2048, q and o of 8 experts, a shift, k and v of 16 heads of 128."""
    block = MixtureOfAttention(hidden=2048, n_experts=8, top_k=2, n_kv_heads=16, head_dim=128)

    assert count_parameters(block.weights) == 8 * 2048 + 2 * 8 * 2048**2 + 2048 + 2 * 2048**2
    assert block.n_heads == 32
    assert block.cache.elements_per_token() == 2 * 16 * 128
    assert block.score_flops(10) == 4 * 32 * 128 * 10


def test_values_may_be_narrower_than_keys() -> None:
    """Keys of 16, values of 6: v has 2 x 6 rows, o reads 8 x 6; q and k stay."""
    uneven = UnevenAttention(inner=GROUPED, value_dim=6, window=5)
    shapes = {weight.name: weight.shape for weight in uneven.weights}

    assert shapes == {"q_proj": (128, 64), "k_proj": (32, 64), "v_proj": (12, 64), "o_proj": (64, 48)}
    assert uneven.cache == KvCache(n_heads=2, key_dim=16, value_dim=6, window=5)
    assert uneven.score_flops(100) == 2 * 8 * (16 + 6) * 5


def test_zero_experts_are_scored_and_hold_nothing() -> None:
    """Six experts and two that give back their input: eight rows in the router, six stacks; 2 of 8 are used."""
    block = MixtureOfExperts(
        hidden=10, n_experts=6, top_k=2, expert_intermediate=4, correction_bias=True, zero_experts=2
    )

    assert count_parameters(block.weights) == 8 * 10 + 3 * 6 * 4 * 10
    assert [w.shape for w in block.weights if w.role is Role.BUFFER] == [(8,)]
    assert block.active_share == (2, 8)


def test_a_router_may_score_shared_experts_too() -> None:
    """Six routed and three shared experts: nine rows, while only the six have a correction bias."""
    block = MixtureOfExperts(
        hidden=10, n_experts=6, top_k=2, expert_intermediate=4, correction_bias=True, shared_scores=3
    )

    assert block.weights[0].shape == (9, 10)
    assert [w.shape for w in block.weights if w.role is Role.BUFFER] == [(6,)]
    assert block.active_share == (2, 6)
