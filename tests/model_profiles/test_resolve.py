import json
import os
import subprocess
import sys
import timeit
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.basis import Basis
from vram_planner.errors import ConfigError, HeaderError, PlannerError, UnknownModelError
from vram_planner.model_profiles.resolve import model_names, nearest, resolve

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "torch_dtype": "float16",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    return folder


def test_7b_is_the_distilled_qwen() -> None:
    """Source: transformers' module on the meta device; published total_size is the same."""
    profile = resolve("7b")

    assert profile.name == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    assert profile.alias_of == "7b stands for deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    assert profile.architecture.parameters == 7_615_616_512
    assert profile.architecture.weights_bytes() == 15_231_233_024
    assert profile.basis is Basis.FORMULA


@pytest.mark.parametrize(
    "text", ["deepseek-ai/DeepSeek-V3", "DEEPSEEK-AI/deepseek-v3", " deepseek-v3 ", "DeepSeek-V3"]
)
def test_case_and_organisation_do_not_matter(text: str) -> None:
    assert resolve(text).name == "deepseek-ai/DeepSeek-V3"


def test_a_full_name_is_no_alias() -> None:
    assert resolve("deepseek-ai/DeepSeek-V3").alias_of is None


def test_a_short_name_of_the_catalogue_says_what_it_stood_for() -> None:
    assert resolve("gpt-oss-20b").alias_of == "gpt-oss-20b stands for openai/gpt-oss-20b"


def test_an_ambiguous_short_name_lists_what_it_may_be() -> None:
    with pytest.raises(UnknownModelError, match=r"CohereForAI.* or CohereLabs"):
        resolve("c4ai-command-r-plus-08-2024")


def test_misspelt_names_get_the_nearest() -> None:
    with pytest.raises(UnknownModelError) as error:
        resolve("deepseek-ai/DeepSek-V3")

    assert "deepseek-ai/DeepSeek-V3" in error.value.hint


def test_nearest_of_nonsense_is_empty() -> None:
    assert nearest("§§§") == ()


def test_names_are_sorted() -> None:
    assert list(model_names()) == sorted(model_names(), key=str.lower)


def test_directory_and_file_give_the_same(directory: Path) -> None:
    from_directory, from_file = resolve(str(directory)), resolve(str(directory / "config.json"))

    assert from_directory.architecture == from_file.architecture
    assert from_directory.name == from_file.name == "my-model"
    assert from_directory.provenance == "local file"


def test_a_local_file_is_read_each_time(directory: Path) -> None:
    before = resolve(str(directory)).architecture.parameters
    (directory / "config.json").write_text(json.dumps(TINY | {"num_hidden_layers": 3}))

    assert resolve(str(directory)).architecture.parameters > before


def test_modelopts_own_file_is_read(directory: Path) -> None:
    """ModelOpt up to 0.29 wrote the quantisation only there."""
    (directory / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))

    assert resolve(str(directory)).architecture.precision.name == "fp8"
    assert resolve(str(directory / "config.json")).architecture.precision.name == "fp8"

    other = directory / "other.json"
    other.write_text((directory / "config.json").read_text())
    assert resolve(str(other)).architecture.precision.name == "float16"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "a" * 10_000,
        "a\0b",
        "a\nb",
        "../..",
        "no/such/thing",
        "~",
        "/",
        ".",
        "x" * 4000,
        "…",
        "a/b/c",
    ],
)
def test_odd_names_are_refused_with_a_hint(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(PlannerError) as error:
        resolve(text)

    assert error.value.hint
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("text", ["model.gguf", "x/model-00001-of-00002.safetensors", "ollama:llama3:8b"])
def test_weights_that_are_not_there_are_said_so(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))

    with pytest.raises(UnknownModelError, match=r"there is no file|has no model") as error:
        resolve(text)

    assert error.value.hint


# File modes do not bind root, and Windows has none: there is nothing unreadable to make.
@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_refused(directory: Path) -> None:
    (directory / "config.json").chmod(0)

    with pytest.raises(ConfigError, match="cannot read"):
        resolve(str(directory))


@given(st.text(max_size=200))
def test_no_text_gives_a_traceback(text: str) -> None:
    with suppress(PlannerError):
        assert resolve(text).resolved_from == text.strip()


def test_warm_resolve_takes_microseconds() -> None:
    resolve("7b")

    assert min(timeit.repeat(lambda: resolve("7b"), number=100, repeat=5)) / 100 < 20e-6


def test_a_name_loads_neither_pydantic_nor_other_families() -> None:
    code = "import sys; from vram_planner.model_profiles.resolve import resolve; resolve('7b'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(run.stdout.split())

    assert {"pydantic", "torch", "transformers", "difflib"}.isdisjoint(modules)
    assert "vram_planner.model_profiles.families.gemma3" not in modules


def test_an_alias_reads_one_row_and_no_directory() -> None:
    code = (
        "import sys\n"
        "from vram_planner.model_profiles.resolve import resolve\n"
        "seen = []\n"
        "sys.addaudithook(lambda name, args: seen.append((name, str(args[0]))) if name in ('open', 'os.listdir') else None)\n"
        "resolve('7b')\n"
        "print(*[path for name, path in seen if path.endswith('.json') or (name == 'os.listdir' and 'catalogue' in path)])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = [path.replace("\\", "/").rpartition("/")[2] for path in run.stdout.split()]

    assert names == ["aliases.json", "deepseek-ai__DeepSeek-R1-Distill-Qwen-7B.json"]


def test_a_pickle_is_never_opened(directory: Path) -> None:
    file = directory / "pytorch_model.bin"
    file.write_bytes(b"\x80\x02cposix\nsystem\n")

    with pytest.raises(ConfigError, match="pickle, which is never opened") as caught:
        resolve(str(file))
    assert "pytorch_model.bin.index.json" in caught.value.hint


def test_a_gguf_by_another_name_is_told(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(b"GGUF" + bytes(100))

    with pytest.raises(HeaderError, match="it is a GGUF file by another name") as caught:
        resolve(str(file))
    assert ".gguf" in caught.value.hint
