"""Names that end in a number format: the model that they begin with, in that format."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture.precision import Uniform
from vram_planner.architecture.storage import Groups
from vram_planner.architecture.weight import count_parameters
from vram_planner.errors import PlannerError, PrecisionError
from vram_planner.model_profiles.resolve import resolve

if TYPE_CHECKING:
    from vram_planner.architecture.storage import Storage


def linear_of(name: str) -> "Storage | None":
    precision = resolve(name).architecture.precision
    assert isinstance(precision, Uniform)
    return precision.linear


@pytest.mark.parametrize(
    ("name", "base", "format_"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct", "awq"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct", "gptq"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "Qwen/Qwen2.5-7B-Instruct", "gptq-int8"),
        ("TheBloke/Llama-2-7B-Chat-GPTQ", "meta-llama/Llama-2-7b-chat-hf", "gptq"),
        ("casperhansen/llama-3-8b-instruct-awq", "meta-llama/Meta-Llama-3-8B-Instruct", "awq"),
        (
            "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
            "meta-llama/Meta-Llama-3.1-8B-Instruct",
            "awq",
        ),
        (
            "neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8",
            "meta-llama/Meta-Llama-3.1-8B-Instruct",
            "fp8",
        ),
        ("Qwen/Qwen3-14B-FP8", "Qwen/Qwen3-14B", "fp8-block"),
        ("RedHatAI/Qwen3-8B-FP8-dynamic", "Qwen/Qwen3-8B", "fp8-dynamic"),
        ("someone/qwen3-8b-fp8-dynamic", "Qwen/Qwen3-8B", "fp8-dynamic"),
        ("RedHatAI/Qwen3-8B-quantized.w8a8", "Qwen/Qwen3-8B", "w8a8"),
        ("RedHatAI/Qwen3-8B-quantized.w4a16", "Qwen/Qwen3-8B", "w4a16"),
        ("RedHatAI/Qwen3-8B-quantized.w8a16", "Qwen/Qwen3-8B", "w8a16"),
        ("someone/Qwen3-8B-w4a16", "Qwen/Qwen3-8B", "w4a16"),
        ("nvidia/Llama-3.3-70B-Instruct-NVFP4", "meta-llama/Llama-3.3-70B-Instruct", "nvfp4"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "meta-llama/Llama-3.3-70B-Instruct", "nvfp4"),
        ("amd/Llama-3.3-70B-Instruct-MXFP4", "meta-llama/Llama-3.3-70B-Instruct", "mxfp4"),
        ("unsloth/Qwen3-8B-bnb-4bit", "Qwen/Qwen3-8B", "nf4"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "Qwen/Qwen3-8B", "nf4"),
        ("unsloth/DeepSeek-V3-bf16", "deepseek-ai/DeepSeek-V3", "bfloat16"),
        ("unsloth/Qwen3-8B-GGUF:Q4_K_M", "Qwen/Qwen3-8B", "q4_k_m"),
        ("bartowski/Qwen_Qwen3-8B-GGUF:IQ4_XS", "Qwen/Qwen3-8B", "iq4_xs-imatrix"),
        ("bartowski/Qwen_Qwen3-8B-GGUF:Q4_K_L", "Qwen/Qwen3-8B", "q4_k_l"),
        ("mradermacher/Qwen3-8B-i1-GGUF:IQ4_XS", "Qwen/Qwen3-8B", "iq4_xs-imatrix"),
        ("TheBloke/Llama-2-7B-GGUF:Q2_K", "meta-llama/Llama-2-7b-hf", "q2_k-2023"),
        ("unsloth/Qwen3-30B-A3B-GGUF:UD-Q4_K_XL", "Qwen/Qwen3-30B-A3B", "ud-q4_k_xl"),
        ("unsloth/DeepSeek-R1-GGUF:1.58bit", "deepseek-ai/DeepSeek-R1", "ud-iq1_s"),
        ("unsloth/DeepSeek-R1-GGUF:UD-Q2_K_XL", "deepseek-ai/DeepSeek-R1", "ud-q2_k_xl"),
        ("someone/Qwen3-8B-Q4_K_M-GGUF", "Qwen/Qwen3-8B", "q4_k_m"),
        ("Qwen/Qwen3-8B:Q6_K", "Qwen/Qwen3-8B", "q6_k"),
        ("TheBloke/CodeLlama-34B-Instruct-GGUF:Q4_K_M", "codellama/CodeLlama-34b-Instruct-hf", "q4_k_m-2023"),
        ("RedHatAI/Qwen3-32B-NVFP4A16", "Qwen/Qwen3-32B", "nvfp4"),
        ("RedHatAI/Qwen3-30B-A3B-FP8-block", "Qwen/Qwen3-30B-A3B", "fp8-block"),
        ("RedHatAI/Llama-3.1-8B-Instruct-INT8-W8A8", "meta-llama/Llama-3.1-8B-Instruct", "w8a8"),
        ("RedHatAI/Qwen2.5-7B-Instruct-INT4-W4A16", "Qwen/Qwen2.5-7B-Instruct", "w4a16"),
        ("nvidia/DeepSeek-R1-FP4-v2", "deepseek-ai/DeepSeek-R1", "nvfp4"),
        ("nvidia/DeepSeek-R1-0528-NVFP4-v2", "deepseek-ai/DeepSeek-R1-0528", "nvfp4"),
        (
            "hugging-quants/Meta-Llama-3.1-8B-Instruct-BNB-NF4",
            "meta-llama/Meta-Llama-3.1-8B-Instruct",
            "nf4",
        ),
        ("ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g", "google/gemma-3-27b-it", "gptq"),
        ("OPEA/DeepSeek-V3-int4-sym-gptq-inc", "deepseek-ai/DeepSeek-V3", "gptq"),
        ("amd/Llama-3.1-70B-Instruct-FP8-KV", "meta-llama/Llama-3.1-70B-Instruct", "fp8"),
        ("amd/Llama-3.3-70B-Instruct-MXFP4-Preview", "meta-llama/Llama-3.3-70B-Instruct", "mxfp4"),
        ("jakiAJK/DeepSeek-R1-Distill-Qwen-7B_AWQ", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "awq"),
        (
            "jakiAJK/DeepSeek-R1-Distill-Llama-8B_GPTQ-int4",
            "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
            "gptq",
        ),
        ("google/gemma-3-27b-it-qat-q4_0-gguf", "google/gemma-3-27b-it", "q4_0"),
        ("google/gemma-3-27b-it-qat-q4_0-unquantized", "google/gemma-3-27b-it", "bfloat16"),
        ("Qwen/Qwen-7B-Chat-Int4", "Qwen/Qwen-7B-Chat", "gptq"),
        ("Qwen/Qwen-7B-Chat-Int8", "Qwen/Qwen-7B-Chat", "gptq-int8"),
        ("cognitivecomputations/DeepSeek-R1-AWQ", "deepseek-ai/DeepSeek-R1", "awq"),
        ("QuantTrio/GLM-4.6-AWQ", "zai-org/GLM-4.6", "awq"),
        ("gaunernst/gemma-3-27b-it-int4-awq", "google/gemma-3-27b-it", "awq"),
        ("cpatonn/Qwen3-Coder-30B-A3B-Instruct-AWQ-4bit", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "awq"),
        ("32b-awq", "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "awq"),
    ],
)
def test_the_beginning_is_the_model_and_the_ending_its_format(name: str, base: str, format_: str) -> None:
    variant, original = resolve(name), resolve(base)

    assert variant.name == name
    assert variant.alias_of == f"{name}: {base} in {format_}"
    assert variant.architecture.precision.name == format_
    assert variant.architecture.layers == original.architecture.layers
    assert variant.provenance == original.provenance
    assert "read from its name" in variant.note or "Unsloth" in variant.note


def test_a_row_of_that_very_name_says_more() -> None:
    assert resolve("Qwen/Qwen3-8B-FP8").alias_of is None
    assert resolve("Qwen3-8B-FP8").name == "Qwen/Qwen3-8B-FP8"
    assert resolve("nvidia/Qwen3-235B-A22B-NVFP4").provenance == "verbatim"


def test_a_directory_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "Qwen3-8B-AWQ"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, '
        '"num_attention_heads": 4, "vocab_size": 100}'
    )
    monkeypatch.chdir(tmp_path)

    assert resolve("Qwen3-8B-AWQ").provenance == "local file"


def test_the_group_of_a_name_is_taken() -> None:
    """TheBloke's branches and others say -32g, -g128."""
    assert linear_of("someone/Qwen3-8B-GPTQ-4bit-32g") == Groups("gptq", 4, 32, index_bytes=4)
    assert linear_of("someone/Qwen3-8B-AWQ-4bit-g64") == Groups("awq", 4, 64)
    assert linear_of("someone/Qwen3-8B-AWQ") == Groups("awq", 4, 128)


def test_qwen3_8b_awq_has_its_published_size() -> None:
    """5.68 GiB. Source: kaito-project/kaito @ 056b8280, model catalogue, from metadata.total_size."""
    n_bytes = resolve("Qwen/Qwen3-8B-AWQ").architecture.weights_bytes()

    assert round(n_bytes / 2**30, 2) == 5.68


@pytest.mark.parametrize(
    ("name", "gib"),
    [("Qwen/Qwen3.5-122B-A10B-GPTQ-Int4", 73.47), ("Qwen/Qwen3.5-397B-A17B-GPTQ-Int4", 219.56)],
)
def test_qwen3_5_in_four_bits_has_its_published_size(name: str, gib: float) -> None:
    """Experts alone, and the drafting layers in 16 bits. Source: kaito-project/kaito @ 056b8280."""
    model = resolve(name).architecture
    drafts = 2 * count_parameters(model.draft_layers)

    assert (model.weights_bytes() + drafts) / 2**30 == pytest.approx(gib, rel=1e-3)


def test_fp8_weights_never_mean_an_fp8_cache() -> None:
    cached = resolve("someone/Qwen3-8B-FP8-dynamic").architecture

    assert cached.precision.element_bytes == 2


def test_mxfp4_is_of_the_experts_where_there_are_any() -> None:
    assert linear_of("someone/Qwen3-30B-A3B-MXFP4") is None
    assert linear_of("someone/Qwen3-8B-MXFP4") is not None


def test_nvfp4_leaves_the_projections_of_a_latent_alone() -> None:
    """As NVIDIA's own DeepSeek-V3.1 does, to within the drafting layer that its list names."""
    own = resolve("nvidia/DeepSeek-V3.1-NVFP4").architecture.weights_bytes()

    assert resolve("someone/DeepSeek-V3.1-NVFP4").architecture.weights_bytes() == own


def test_a_gguf_repository_without_a_type_says_so() -> None:
    variant = resolve("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF")

    assert variant.architecture.precision.name == "bfloat16"
    assert any("--quant q4_k_m" in note for note in variant.architecture.notes)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        (
            "mlx-community/Qwen3-30B-A3B-4bit",
            "MLX's own format .about 17.2 GB",
            "Qwen/Qwen3-30B-A3B --quant awq",
        ),
        ("mlx-community/Qwen3-8B-8bit", "only MLX on Apple silicon", "--quant fp8"),
        ("lmstudio-community/Qwen3-8B-MLX-4bit", "only MLX on Apple silicon", "--quant awq"),
        ("mlx-community/Qwen3-8B-bf16", "only MLX on Apple silicon", "--model Qwen/Qwen3-8B"),
        ("someone/Qwen3-8B-4bit", "the name does not say", "--model Qwen/Qwen3-8B --quant awq"),
        ("someone/Qwen3-8B-GGUF:UD-Q9_K_XL", "no GGUF file type", "Q4_K_M"),
    ],
)
def test_what_cannot_be_loaded_or_known_is_refused(name: str, message: str, hint: str) -> None:
    with pytest.raises(PrecisionError, match=message) as error:
        resolve(name)

    assert hint in error.value.hint


@pytest.mark.parametrize(
    "name", ["someone/nothing-AWQ", "someone/7b-awq", "-AWQ", "x/-GGUF", "a-GGUF:Q4_K_M"]
)
def test_unknown_beginnings_stay_unknown(name: str) -> None:
    with pytest.raises(PlannerError) as error:
        resolve(name, offline=True)

    assert error.value.hint


@given(
    st.text(max_size=60),
    st.sampled_from(["-AWQ", "-GGUF:Q4_K_M", "-4bit", "-GPTQ-Int8", "-fp8", "-gguf:", ":q4_k_m", "-AWQ-0g"]),
)
def test_any_text_before_an_ending_gives_only_planner_errors(text: str, ending: str) -> None:
    with suppress(PlannerError):
        resolve(f"{text}{ending}", offline=True)


@pytest.mark.parametrize("ending", ["-AWQ-4bit-0g", "-GPTQ-4bit-99999999999g"])
def test_a_group_that_makes_no_sense_is_no_ending(ending: str) -> None:
    with pytest.raises(PlannerError):
        resolve(f"someone/Qwen3-8B{ending}", offline=True)


@pytest.mark.parametrize(
    ("name", "base", "said"),
    [
        ("turboderp/Llama-3.1-8B-Instruct-exl2", "meta-llama/Llama-3.1-8B-Instruct", "EXLlama"),
        ("x/Mistral-7B-Instruct-v0.2-4.0bpw-h6-exl2", "mistralai/Mistral-7B-Instruct-v0.2", "EXLlama"),
        (
            "mobiuslabsgmbh/Llama-3.1-8b-instruct_4bitgs64_hqq_calib",
            "meta-llama/Llama-3.1-8B-Instruct",
            "HQQ",
        ),
        ("Intel/DeepSeek-R1-int4-AutoRound", "deepseek-ai/DeepSeek-R1", "AutoRound"),
        ("Intel/Qwen3-8B-int4-AutoRound-inc", "Qwen/Qwen3-8B", "AutoRound"),
        ("OPEA/Qwen2.5-7B-Instruct-int4-sym-inc", "Qwen/Qwen2.5-7B-Instruct", "AutoRound"),
        ("pytorch/Qwen3-8B-INT4", "Qwen/Qwen3-8B", "does not say which"),
        ("pytorch/Qwen3-8B-torchao-int4", "Qwen/Qwen3-8B", "torchao"),
        (
            "ISTA-DASLab/Meta-Llama-3.1-8B-Instruct-AQLM-PV-2Bit-1x16",
            "meta-llama/Meta-Llama-3.1-8B-Instruct",
            "AQLM",
        ),
        ("x/Qwen3-8B-GPTQ-Int4-Int8Mix", "Qwen/Qwen3-8B", "mix of 4 and 8 bits"),
    ],
)
def test_a_format_that_a_name_leaves_open_is_refused_by_name(name: str, base: str, said: str) -> None:
    with pytest.raises(PrecisionError, match=said) as caught:
        resolve(name, offline=True)

    assert f"is {base} in " in str(caught.value)
    assert f"--model {base} " in caught.value.hint


def test_a_copy_under_a_mirrors_name_is_the_original() -> None:
    copy, original = resolve("unsloth/Llama-3.3-70B-Instruct"), resolve("meta-llama/Llama-3.3-70B-Instruct")

    assert copy.architecture == original.architecture
    assert copy.alias_of == "unsloth/Llama-3.3-70B-Instruct: a copy of meta-llama/Llama-3.3-70B-Instruct"
    assert "unchanged copy" in copy.note


def test_another_organisations_model_of_that_name_is_no_copy() -> None:
    with pytest.raises(PlannerError, match="not in the local cache"):
        resolve("someone/Llama-3.3-70B-Instruct", offline=True)
