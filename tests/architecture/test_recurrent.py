"""Recurrent mixers, each against numbers worked out by hand."""

import pytest

from vram_planner.architecture.attention import FullAttention, Mixer
from vram_planner.architecture.cache import StateCache
from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.recurrent import (
    GatedDeltaNet,
    KimiDelta,
    LightningAttention,
    Mamba,
    Mamba2,
    ShortConv,
)
from vram_planner.architecture.rnn import LinearRecurrentUnit, MatrixLstm, Rwkv, RwkvChannelMix
from vram_planner.architecture.side_by_side import ConvolvedAttention, SideBySide
from vram_planner.architecture.weight import MixedWeight, Role, Weight, count_parameters, linear

MAMBA = Mamba(hidden=4, inner=8, state_size=3, step_rank=2, kernel=4)
MAMBA2 = Mamba2(hidden=4, inner=8, heads=4, head_dim=2, groups=2, state_size=3, kernel=4)
DELTA = GatedDeltaNet(
    hidden=4,
    key_heads=2,
    value_heads=4,
    key_dim=3,
    value_dim=5,
    kernel=4,
    fused=("in_proj_qkvz", "in_proj_ba"),
)
KDA = KimiDelta(hidden=4, heads=2, head_dim=3, kernel=4, gate_rank=3)
LIGHTNING = LightningAttention(hidden=4, heads=2, head_dim=3)
CONV = ShortConv(hidden=4, kernel=3)
RWKV = Rwkv(hidden=4, inner=6)
MLSTM = MatrixLstm(hidden=4, heads=2, key_width=4, value_width=6)
LRU = LinearRecurrentUnit(hidden=4, width=6, heads=2, kernel=4)
ATTENTION = FullAttention(hidden=4, n_heads=2, n_kv_heads=1, head_dim=3)
BOTH = SideBySide(attention=ATTENTION, recurrent=MAMBA2, extras=linear("linear", 4, 4))
CCA = ConvolvedAttention(hidden=4, n_heads=4, n_kv_heads=2, head_dim=3, depthwise=2, grouped=2)


@pytest.mark.parametrize(
    ("mixer", "parameters"),
    [
        # in 2·8·4, conv 8·4 + 8, x (2 + 6)·8, dt 8·2 + 8, A 8·3, D 8, out 4·8
        (MAMBA, 64 + 40 + 64 + 24 + 24 + 8 + 32),
        # C = 8 + 2·2·3 = 20: in (8 + 20 + 4)·4, conv 20·4 + 20, A D dt 3·4, norm 8, out 4·8
        (MAMBA2, 128 + 100 + 12 + 8 + 32),
        # keys 6, values 20, C = 32: qkvz (32 + 20)·4, ba 8·4, conv 32·4, A dt 2·4, norm 5, out 4·20
        (DELTA, 208 + 32 + 128 + 8 + 5 + 80),
        # A = 6: q k v 3·6·4, conv 18·4, f and g 2·(3·4 + 6·3), b 2·4, A_log 2, dt 6, norm 3, o 4·6
        (KDA, 72 + 72 + 60 + 8 + 2 + 6 + 3 + 24),
        # A = 6: qkv 18·4, gate 6·4, out 4·6, norm 6
        (LIGHTNING, 72 + 24 + 24 + 6),
        # in 12·4, conv 4·3, out 4·4
        (CONV, 48 + 12 + 16),
        # key value receptance 3·6·4, output 4·6, decay and bonus 2·6, mixing 3·4
        (RWKV, 72 + 24 + 12 + 12),
        # q k 2·4·4, v and gate 2·6·4, i and f 2·(2·4 + 2), norm 6, out 4·6
        (MLSTM, 32 + 48 + 20 + 6 + 24),
        # x and y 2·(6·4 + 6), out 4·6 + 4, conv 6·4 + 6, recurrent 6, gates 2·(2·3·3 + 6)
        (LRU, 60 + 28 + 30 + 6 + 48),
        # Mamba-2 as above, q 6·4, k v 2·3·4, o 4·6, the linear layer between 16
        (BOTH, 280 + 24 + 24 + 24 + 16),
        # q 12·4, k 6·4, v 2·3·4, depthwise 18·2 + 18, grouped 18·3·2 + 18, temperature 2, o 4·12
        (CCA, 48 + 24 + 24 + 54 + 126 + 2 + 48),
    ],
)
def test_parameters(mixer: Mixer, parameters: int) -> None:
    assert count_parameters(mixer.weights) == parameters
    assert mixer.indexer is None
    assert mixer.score_flops(1) > 0


@pytest.mark.parametrize(
    ("mixer", "state"),
    [
        (MAMBA, StateCache(kind="mamba", heads=8, state_elements=24, conv_channels=8, conv_tokens=3)),
        (
            MAMBA2,
            StateCache(
                kind="mamba2",
                heads=4,
                state_elements=24,
                conv_channels=20,
                conv_tokens=3,
                group_channels=12,
                groups=2,
            ),
        ),
        (DELTA, StateCache(kind="gated_delta", heads=4, state_elements=60, conv_channels=32, conv_tokens=3)),
        (
            KDA,
            StateCache(
                kind="kimi_delta",
                heads=2,
                state_elements=18,
                conv_channels=18,
                conv_tokens=3,
                float32_state=True,
            ),
        ),
        (LIGHTNING, StateCache(kind="linear", heads=2, state_elements=18)),
        (CONV, StateCache(kind="short_conv", heads=4, state_elements=0, conv_channels=4, conv_tokens=2)),
        (
            RWKV,
            StateCache(
                kind="rwkv", heads=6, state_elements=18, conv_channels=8, conv_tokens=1, float32_state=True
            ),
        ),
        (MLSTM, StateCache(kind="mlstm", heads=2, state_elements=4 * 6 // 2 + 4 + 2, float32_state=True)),
        (
            LRU,
            StateCache(
                kind="rg_lru", heads=2, state_elements=6, conv_channels=6, conv_tokens=3, float32_state=True
            ),
        ),
        (
            CCA,
            StateCache(
                kind="convolved_attention", heads=2, state_elements=3, conv_channels=18, conv_tokens=2
            ),
        ),
    ],
)
def test_what_a_sequence_keeps(mixer: Mixer, state: StateCache) -> None:
    """Shapes as transformers' caches have them after a decode step of small models, less a token of kernel."""
    assert mixer.state == state


@pytest.mark.parametrize("mixer", [MAMBA, MAMBA2, DELTA, KDA, LIGHTNING, CONV, RWKV, MLSTM, LRU])
def test_a_state_alone_does_not_grow(mixer: Mixer) -> None:
    assert mixer.cache is None
    assert mixer.n_heads == 1
    assert mixer.score_flops(1) == mixer.score_flops(10**6)


def test_side_by_side_keeps_both() -> None:
    assert BOTH.cache == ATTENTION.cache
    assert BOTH.state == MAMBA2.state
    assert BOTH.n_heads == 2
    assert BOTH.score_flops(10) == ATTENTION.score_flops(10) + MAMBA2.score_flops(10)
    assert CCA.cache.n_heads == 2


def test_rows_of_heads_and_groups_are_dealt_out_differently() -> None:
    """8 rows of 4 heads and 6 rows of one group on 2 ranks: 4 and all 6."""
    weight = MixedWeight(name="in_proj", shape=(14, 4), role=Role.LINEAR, parts=((8, 4), (6, 1)))

    assert weight.share(2) == (4 + 6, 14)
    assert weight.share(1) == (14, 14)


def test_jamba_norms_and_zamba_heads() -> None:
    plain = count_parameters(MAMBA.weights)
    jamba = Mamba(hidden=4, inner=8, state_size=3, step_rank=2, kernel=4, step_norms=True)
    zamba = Mamba(hidden=4, inner=8, state_size=3, step_rank=2, kernel=4, heads=2)

    assert count_parameters(jamba.weights) == plain + 2 + 3 + 3
    assert count_parameters(zamba.weights) == plain
    assert zamba.weights[3].shape == (2, 8, 4)


def test_gates_of_full_rank() -> None:
    """Two gates of 6·4 instead of 3·4 + 6·3."""
    full = KimiDelta(hidden=4, heads=2, head_dim=3, kernel=4, gate_rank=None)

    assert count_parameters(full.weights) == count_parameters(KDA.weights) - 2 * (30 - 24)


def test_channel_mixing() -> None:
    """Key 5·4, value 4·5, receptance 4·4, two mixing vectors."""
    block = RwkvChannelMix(hidden=4, intermediate=5)

    assert count_parameters(block.weights) == 20 + 20 + 16 + 8
    assert block.active_share == (1, 1)


def test_experts_in_a_latent_space() -> None:
    """Router 3·8; experts 3·2·5·4 on 4 of 8 dimensions; to it 4·8 and back 8·4."""
    block = MixtureOfExperts(
        hidden=8, n_experts=3, top_k=1, expert_intermediate=5, gated=False, latent=4, latent_bias=True
    )

    assert count_parameters(block.weights) == 24 + 120 + 64 + 12


def test_a_router_of_its_own() -> None:
    own = (Weight(name="gate.fc", shape=(7, 8), role=Role.ROUTER),)
    block = MixtureOfExperts(hidden=8, n_experts=3, top_k=1, expert_intermediate=5, own_router=own)

    assert count_parameters(block.weights) == 56 + 3 * 3 * 5 * 8
