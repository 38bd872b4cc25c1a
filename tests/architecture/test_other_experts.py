"""Experts for tokens of another kind than text: counted as held, not as used."""

from vram_planner.architecture.attention import NoMixer
from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts
from vram_planner.architecture.model import Layer

IMAGES = MixtureOfExperts(hidden=8, n_experts=4, top_k=2, expert_intermediate=3, router_bias=True)
BOTH = MixtureOfExperts(
    hidden=8,
    n_experts=4,
    top_k=2,
    expert_intermediate=5,
    router_bias=True,
    shared=DenseMLP(hidden=8, intermediate=10),
    other=IMAGES,
)


def test_both_sets_are_held_and_the_text_tokens_use_one() -> None:
    """Text: 4 · 3 · 8 · 5 = 480, images: 4 · 3 · 8 · 3 = 288; routers of 4 · 8 + 4 each, shared 3 · 8 · 10 = 240."""
    layer = Layer(mixer=NoMixer(), feed_forward=BOTH, norms=())

    assert layer.parameters == 480 + 288 + 2 * 36 + 240
    assert layer.active_parameters == 240 + 36 + 240


def test_names_stay_apart() -> None:
    names = [weight.name for weight in BOTH.weights]

    assert len(names) == len(set(names))
    assert "experts.other.gate" in names
    assert "other.router" in names
