import pytest

from vram_planner.architecture.precision import FORMATS, Except, Place, plain, quantised
from vram_planner.architecture.storage import BFLOAT16
from vram_planner.architecture.weight import Role, Weight
from vram_planner.model_profiles.resolve import resolve


def test_published_size_of_deepseek_v3() -> None:
    """
    The 163 files of DeepSeek-V3 are 688,586,727,753 bytes with their headers (Hugging Face file listing).

    They hold the model, the MTP layer and once more its embedding and head. Tolerance 2e-5: some 91,000
    tensors have a header entry of about 130 bytes.
    """
    model = resolve("deepseek-ai/DeepSeek-V3").architecture
    place = Place(model, None)
    draft = sum(model.precision.weight_bytes(weight, place) for weight in model.draft_layers)
    tables = 2 * model.vocabulary * model.hidden * 2

    assert model.weights_bytes() + draft + tables == pytest.approx(688_586_727_753, rel=2e-5)


def test_gpt_oss_20b_keeps_all_but_the_experts_in_16_bits() -> None:
    """Source: `metadata.total_size` of openai/gpt-oss-20b, 13,761,264,768; exact."""
    assert resolve("openai/gpt-oss-20b").architecture.weights_bytes() == 13_761_264_768


@pytest.mark.parametrize("name", ["fp8", "fp8-block", "int8", "awq", "gptq", "nf4", "nvfp4", "w4a16"])
def test_formats_are_smaller_and_leave_embedding_and_head(name: str) -> None:
    model = resolve("7b").architecture
    stored = quantised(name, BFLOAT16, *FORMATS[name])
    tables = 2 * model.vocabulary * model.hidden * 2

    assert tables < model.weights_bytes(stored) < model.weights_bytes()


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("half", 2), ("float32", 4)])
def test_plain_is_elements_times_bytes(dtype: str, size: int) -> None:
    model = resolve("7b").architecture

    assert model.weights_bytes(plain(dtype)) == model.parameters * size


def test_buffers_stay_in_float32() -> None:
    buffer = Weight(name="b", shape=(256,), role=Role.BUFFER)

    assert plain("bfloat16").weight_bytes(buffer, Place(resolve("7b").architecture, None)) == 1024


def test_except_leaves_what_it_names() -> None:
    model = resolve("7b").architecture
    inner = quantised("fp8", BFLOAT16, *FORMATS["fp8"])
    down = next(weight for weight in model.layers[0].weights if weight.name == "down_proj")
    everywhere = Except(inner=inner, names=frozenset({"down_proj"}))
    once = Except(inner=inner, in_layers=frozenset({(0, "down_proj")}))
    gained = down.elements - 4

    assert not everywhere.by_layer
    assert once.by_layer
    assert model.weights_bytes(everywhere) - model.weights_bytes(inner) == 28 * gained
    assert model.weights_bytes(once) - model.weights_bytes(inner) == gained
