import pytest

from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts
from vram_planner.architecture.weight import Role, count_elements, count_parameters


def test_gated_mlp_has_three_matrices_and_a_plain_one_two() -> None:
    assert count_parameters(DenseMLP(hidden=64, intermediate=256).weights) == 3 * 64 * 256
    assert count_parameters(DenseMLP(hidden=64, intermediate=256, gated=False).weights) == 2 * 64 * 256


def test_biases_of_an_mlp() -> None:
    plain = count_parameters(DenseMLP(hidden=64, intermediate=256).weights)

    assert count_parameters(DenseMLP(hidden=64, intermediate=256, bias=True).weights) - plain == 2 * 256 + 64


@pytest.mark.parametrize("bias", [False, True])
def test_fused_gate_and_up_hold_the_same(bias: bool) -> None:
    fused = DenseMLP(hidden=64, intermediate=256, fused=True, bias=bias)

    assert count_parameters(fused.weights) == count_parameters(
        DenseMLP(hidden=64, intermediate=256, bias=bias).weights
    )


def test_experts_of_mixtral() -> None:
    """Source: transformers MixtralExperts: gate_up (8, 2 x 14336, 4096), down (8, 4096, 14336), router (8, 4096)."""
    block = MixtureOfExperts(hidden=4096, n_experts=8, top_k=2, expert_intermediate=14336)

    assert count_parameters(block.weights) == 8 * 3 * 14336 * 4096 + 8 * 4096
    assert block.active_share == (2, 8)


def test_the_balancing_bias_is_stored_yet_no_parameter() -> None:
    block = MixtureOfExperts(hidden=64, n_experts=16, top_k=2, expert_intermediate=32, correction_bias=True)

    assert count_elements(block.weights) - count_parameters(block.weights) == 16


def test_shared_block_and_its_gate() -> None:
    bare = MixtureOfExperts(hidden=64, n_experts=16, top_k=2, expert_intermediate=32)
    shared = DenseMLP(hidden=64, intermediate=128, prefix="shared_expert.")
    block = MixtureOfExperts(
        hidden=64, n_experts=16, top_k=2, expert_intermediate=32, shared=shared, shared_gate=True
    )

    assert count_parameters(block.weights) - count_parameters(bare.weights) == 3 * 64 * 128 + 64


def test_biases_of_experts_and_router() -> None:
    bare = MixtureOfExperts(hidden=64, n_experts=4, top_k=2, expert_intermediate=32)
    block = MixtureOfExperts(
        hidden=64, n_experts=4, top_k=2, expert_intermediate=32, bias=True, router_bias=True
    )

    assert count_parameters(block.weights) - count_parameters(bare.weights) == 4 * (2 * 32 + 64) + 4
    assert all(weight.role is not Role.EXPERT for weight in block.weights if weight.name.endswith(".bias"))
