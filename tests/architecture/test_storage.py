import pytest

from vram_planner.architecture import storage
from vram_planner.architecture.storage import Blocks, Groups, Storage, Tiles
from vram_planner.architecture.weight import Role, Weight

SQUARE = Weight(name="w", shape=(4096, 4096), role=Role.LINEAR)
EXPERTS = Weight(name="experts.up", shape=(8, 256, 512), role=Role.EXPERT)


@pytest.mark.parametrize(
    ("stored", "total"),
    [
        (storage.BFLOAT16, 4096 * 4096 * 2),
        (storage.FP8_TENSOR, 4096 * 4096 + 4),
        (storage.FP8_CHANNEL, 4096 * 4096 + 4096 * 4),
        (storage.FP8_BLOCK, 4096 * 4096 + 32 * 32 * 4),
        (storage.MXFP4, 4096 * 128 * 17),
        (storage.NVFP4, 4096 * 256 * 9 + 8),
        (storage.NF4, 4096 * 4096 // 64 * 36 + 16 * 4),
        (storage.NF4_DOUBLE, 1024 * (256 * 33 + 4) + (16 + 256) * 4),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_bytes_of_a_square_matrix(stored: Storage, total: int) -> None:
    assert stored.nbytes(SQUARE) == total


def test_awq_packs_integers_scales_and_zero_points() -> None:
    """Source: AutoAWQ WQLinear_GEMM: qweight (in, out/8) and qzeros (in/128, out/8) int32, scales (in/128, out) 16 bits."""
    expected = 4096 * 512 * 4 + 32 * 512 * 4 + 32 * 4096 * 2

    assert Groups("awq", 4, 128).nbytes(SQUARE) == expected


def test_gptq_adds_the_order_of_inputs() -> None:
    """Source: AutoGPTQ QuantLinear: as AWQ, and g_idx (in) int32."""
    assert (
        Groups("gptq", 4, 128, index_bytes=4).nbytes(SQUARE) - Groups("awq", 4, 128).nbytes(SQUARE)
        == 4096 * 4
    )


def test_tiles_at_the_edge_have_a_scale_of_their_own() -> None:
    """576 rows are 4.5 tiles of 128: DeepSeek-V3's kv_a_proj_with_mqa has 5 x 56 scales."""
    weight = Weight(name="kv_a", shape=(576, 7168), role=Role.LINEAR)

    assert storage.FP8_BLOCK.nbytes(weight) == 576 * 7168 + 5 * 56 * 4


def test_rows_are_padded_to_blocks_unless_blocks_run_on() -> None:
    """Rows of 40 in blocks of 32: two blocks each, or 8 x 40 / 32 = 10 in all."""
    weight = Weight(name="w", shape=(8, 40), role=Role.LINEAR)

    assert Blocks("q", 32, 17).nbytes(weight) == 8 * 2 * 17
    assert Blocks("q", 32, 17, across_rows=True).nbytes(weight) == 10 * 17


def test_each_expert_is_a_matrix_of_its_own() -> None:
    one = Weight(name="w", shape=(256, 512), role=Role.LINEAR)

    for stored in (
        storage.FP8_TENSOR,
        storage.FP8_BLOCK,
        storage.NVFP4,
        Groups("gptq", 4, 128, index_bytes=4),
    ):
        assert stored.nbytes(EXPERTS) == 8 * stored.nbytes(one)


def test_tiles_of_the_whole_extent() -> None:
    assert Tiles("t", 0, 0).nbytes(SQUARE) == 4096 * 4096 + 4
