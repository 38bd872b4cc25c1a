from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from vram_planner.errors import NotInstalledError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.validate import models

BUILD = "vram_planner.validate.models.architecture_from_config"
QWEN2 = {
    "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "tie_word_embeddings": False,
}  # fmt: skip
# 2 · (64·64 + 64 + 2·(64·32 + 32) + 64·64 + 3·64·128 + 2·64) + 2·100·64 + 64
QWEN2_PARAMETERS = (
    2 * (64 * 64 + 64 + 2 * (64 * 32 + 32) + 64 * 64 + 3 * 64 * 128 + 2 * 64) + 2 * 100 * 64 + 64
)


class Config:
    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def to_dict(self) -> dict[str, Any]:
        return self.values


def pretend(monkeypatch: pytest.MonkeyPatch, *, counted: int) -> None:
    """A transformers that knows three models: one as ours, one that it cannot build, one that we refuse."""

    def build(config: Config) -> Any:
        if config.values["model_type"] == "broken":
            raise KeyError("rope")
        return SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: counted)])

    class Meta:
        def __init__(self, name: str) -> None:
            assert name == "meta"

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None: ...

    mapping = {
        "qwen2": lambda: Config(QWEN2),
        "broken": lambda: Config({"model_type": "broken"}),
        "no_such_family": lambda: Config({"model_type": "no_such_family"}),
    }
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(device=Meta))
    monkeypatch.setitem(
        sys.modules,
        "transformers",
        SimpleNamespace(CONFIG_MAPPING=mapping, AutoModelForCausalLM=SimpleNamespace(from_config=build)),
    )
    auto = SimpleNamespace(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES=dict.fromkeys(mapping, "Model"))
    monkeypatch.setitem(sys.modules, "transformers.models.auto.modeling_auto", auto)


def test_each_entry_gets_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, counted=QWEN2_PARAMETERS)
    rows = {row.model_type: row for row in models.walk_models()}

    assert (rows["qwen2"].status, rows["qwen2"].ours) == ("equal", QWEN2_PARAMETERS)
    assert (rows["broken"].status, rows["broken"].detail) == ("not built", "KeyError: 'rope'")
    assert rows["no_such_family"].status == "refused"
    assert [row.model_type for row in models.walk_models("qwen")] == ["qwen2"]


def test_a_drifted_family_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, counted=QWEN2_PARAMETERS + 1)
    (row,) = models.walk_models("qwen2")

    assert (row.status, row.ours, row.theirs) == ("differs", QWEN2_PARAMETERS, QWEN2_PARAMETERS + 1)


def test_what_only_the_module_allocates_is_told_and_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    built = architecture_from_config(QWEN2)
    pretend(monkeypatch, counted=QWEN2_PARAMETERS + 7)
    monkeypatch.setattr(BUILD, lambda _: replace(built, unstored=7))
    (row,) = models.walk_models("qwen2")
    assert (row.status, row.theirs) == ("explained", QWEN2_PARAMETERS + 7)
    assert row.detail == "7 of transformers' are in no checkpoint"

    monkeypatch.setattr(BUILD, lambda _: replace(built, unstored=8))
    (row,) = models.walk_models("qwen2")
    assert (row.status, row.detail) == ("differs", "")


def test_without_torch_it_cannot_be_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NotInstalledError) as caught:
        list(models.walk_models())

    assert caught.value.exit_status == 4
    assert "validate" in caught.value.hint
