import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vram_planner.errors import ConfigError, PlannerError, UnsupportedArchitectureError
from vram_planner.model_profiles.families import FAMILIES
from vram_planner.model_profiles.from_config import architecture_from_config, read_config
from vram_planner.model_profiles.resolve import resolve

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "torch_dtype": "bfloat16",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
FULL = [
    resolve(name).config
    for name in ("7b", "671b", "google/gemma-3-27b-it", "openai/gpt-oss-20b", "zai-org/GLM-4.5")
]


def test_unknown_family_names_the_nearest_and_the_how_to() -> None:
    with pytest.raises(UnsupportedArchitectureError, match="'qwen2x'") as error:
        architecture_from_config(TINY | {"model_type": "qwen2x"})

    assert "qwen2" in error.value.hint
    assert "add-a-model-family.md" in error.value.hint


def test_the_class_serves_where_model_type_is_missing() -> None:
    config = {key: value for key, value in TINY.items() if key != "model_type"}

    named = architecture_from_config(config | {"architectures": ["LlamaForCausalLM"]})
    assert named.parameters == architecture_from_config(TINY).parameters
    with pytest.raises(ConfigError, match="neither model_type nor architectures"):
        architecture_from_config(config)


@pytest.mark.parametrize("key", sorted(set(TINY) - {"model_type", "torch_dtype"}))
@pytest.mark.parametrize("value", [None, 0, -3, "64", 1e9, 10**12, [], {}, True])
def test_each_figure_is_needed_and_bounded(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        architecture_from_config(TINY | {key: value})


@pytest.mark.parametrize(
    "changed", [{"num_attention_heads": 3}, {"num_key_value_heads": 3}, {"head_dim": -8}]
)
def test_figures_that_contradict_each_other(changed: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        architecture_from_config(TINY | changed)


@given(st.dictionaries(st.sampled_from([*TINY, "quantization_config", "text_config", "layer_types"]), JSON))
def test_arbitrary_objects_give_only_planner_errors(data: Any) -> None:
    with suppress(PlannerError):
        architecture_from_config(data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_spoilt_configs_give_only_planner_errors(data: Any) -> None:
    """One or two figures of a real config replaced by anything at all."""
    config = dict(data.draw(st.sampled_from(FULL)))
    inside = data.draw(
        st.sampled_from([key for key, value in config.items() if isinstance(value, dict)] or [""])
    )
    if inside and data.draw(st.booleans()):
        inner = config[inside] = dict(config[inside])
        inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(JSON)
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(JSON)
    with suppress(PlannerError):
        architecture = architecture_from_config(config)
        assert architecture.weights_bytes() > 0
        assert architecture.active_parameters > 0


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_bare_model_type_is_the_default_model_or_refused(family: str) -> None:
    """Absent keys take transformers' own defaults; a family without a default names the key that is missing."""
    with suppress(PlannerError):
        assert architecture_from_config({"model_type": family}).parameters > 0


@pytest.mark.parametrize("end", [0, 1, 17, 60, -1])
def test_a_truncated_file_says_where(tmp_path: Path, end: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY)[:end])

    with pytest.raises(ConfigError, match=r"line 1, column \d+") as error:
        read_config(tmp_path)
    assert "complete" in error.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"\xff\xfe{}", "no UTF-8 text"),
        (b"[]", "holds no object"),
        (b"null", "holds no object"),
        (b'{"x": ' + b"9" * 5000 + b"}", "too long"),
        (b" " * (16 << 20) + b"{}", "larger than 16 MiB"),
    ],
    ids=["lists", "objects", "utf-16", "list", "null", "digits", "large"],
)
def test_hostile_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)

    with pytest.raises(ConfigError, match=message):
        read_config(file)


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY), encoding="utf-8-sig")

    assert read_config(tmp_path) == TINY


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_only_planner_errors(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "config.json"
    file.write_bytes(content)
    with suppress(PlannerError):
        architecture_from_config(read_config(file))
