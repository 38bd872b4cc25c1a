from vram_planner.architecture.attention import FullAttention
from vram_planner.architecture.cache import KvCache
from vram_planner.architecture.passes import Rerun, Uncached
from vram_planner.architecture.weight import count_parameters

INNER = FullAttention(hidden=8, n_heads=2, n_kv_heads=1, head_dim=4)


def test_attention_without_a_cache_has_weights_alone() -> None:
    """q and o: 8 x 8; k and v: 4 x 8; scores: 4 · 2 heads · 4 · 10 tokens."""
    mixer = Uncached(inner=INNER)

    assert count_parameters(mixer.weights) == 64 + 64 + 32 + 32
    assert mixer.cache is None
    assert mixer.state is None
    assert mixer.n_heads == 2
    assert mixer.score_flops(10) == 320


def test_a_second_run_has_a_cache_alone() -> None:
    """No tensors, a cache as in the first run, and the products of 1,000 parameters beside the scores."""
    mixer = Rerun(inner=INNER, parameters=1000)

    assert mixer.weights == ()
    assert mixer.cache == KvCache(n_heads=1, key_dim=4, value_dim=4)
    assert mixer.n_heads == 2
    assert mixer.score_flops(10) == 2000 + 320
