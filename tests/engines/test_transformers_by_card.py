"""
Each card's own answer where `device_map="auto"` deals a model out over cards with unlike free memory.

transformers_max_memory.jsonl: `_get_device_map("auto", max_memory)` of transformers 5.23.0 on meta modules in bfloat16, and
whether accelerate 1.14's own infer_auto_device_map says the same for the same balanced memory. Tolerance: none.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.architecture.parallel import Layout
from vram_planner.architecture.precision import plain
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.transformers import Transformers
from vram_planner.engines.transformers_place import placed_within
from vram_planner.errors import RequestError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.planning.by_card import by_card
from vram_planner.planning.request import PlanRequest
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture

ORACLES = Path(__file__).parent.parent / "oracles"
ROWS = [
    json.loads(line)
    for line in (ORACLES / "transformers_max_memory.jsonl").read_text(encoding="utf-8").splitlines()
]
GB = 10**9
DEVICE = Device(name="", total_bytes=80 * GIB, compute_capability=(9, 0))
WORK = Workload(context=4096, concurrency=2, prompt_tokens=2048)


@cache
def architecture(name: str) -> Architecture:
    config = json.loads((ORACLES / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    return architecture_from_config(config)


def ask_for(name: str, cards: int) -> Ask:
    return Ask(
        architecture=architecture(name),
        precision=plain("bfloat16"),
        workload=WORK,
        layout=Layout(tp=cards),
        options=Options(),
        device=DEVICE,
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']}-{row['max_memory']}")
def test_every_card_gets_what_transformers_and_accelerate_give_it(row: dict[str, Any]) -> None:
    dealt, host_bytes = placed_within(architecture(row["model"]), plain("bfloat16"), row["max_memory"])

    assert [share.weights_bytes for share in dealt] == row["bytes"]
    assert [share.n_layers for share in dealt] == row["layers"]
    assert (host_bytes, row["accelerate_agrees"]) == (row["host_bytes"], True)


def test_the_table_has_models_enough_and_cards_that_are_unlike() -> None:
    unlike = {row["model"] for row in ROWS if len(set(row["max_memory"])) > 1}

    assert len(unlike) >= 12
    assert any(row["host_bytes"] for row in ROWS)


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen3-30B-A3B", "gemma-2-9b", "granite-4.0-h-tiny"])
def test_cards_sum_to_the_model_and_the_fullest_is_the_plans(name: str) -> None:
    ask = ask_for(name, 2)
    cards, host_bytes = Transformers().by_card(ask, (80 * GIB, 80 * GIB))
    whole = Transformers().memory(replace(ask, layout=Layout()))
    dealt = Transformers().memory(ask)

    assert host_bytes == 0
    assert sum(card.held_bytes for card in cards) == whole.bytes_of("kv_cache", "recurrent_state")
    assert sum(card.n_layers for card in cards) == len(ask.architecture.layers)
    assert cards[1].first_layer == cards[0].n_layers
    # Both cards register the rotary tables, some hundred bytes.
    assert sum(card.weights_bytes for card in cards) - whole.bytes_of("weights") in range(1 << 16)
    fullest = max(card.weights_bytes + card.held_bytes + card.activation_bytes for card in cards)
    assert fullest == dealt.bytes_of("weights", "kv_cache", "recurrent_state", "activations")


def test_a_card_in_the_middle_makes_no_logits() -> None:
    many = Workload(context=2, concurrency=512, prompt_tokens=1)
    cards, _ = Transformers().by_card(replace(ask_for("gemma-2-9b", 3), workload=many), (24 * GIB,) * 3)

    assert all(card.n_layers for card in cards)
    assert cards[1].activation_bytes < min(cards[0].activation_bytes, cards[2].activation_bytes)


def test_cards_without_layers_hold_no_cache() -> None:
    """The first has no room for more than the embedding, the second for nothing."""
    table = 4096 * 128256 * 2
    cards, _ = Transformers().by_card(ask_for("Llama-3.1-8B", 3), (2 * table + 2000, 1000, 80 * GIB))

    assert [card.n_layers for card in cards] == [0, 0, 32]
    assert [card.held_bytes for card in cards[:2]] == [0, 0]
    assert (cards[0].weights_bytes, cards[1].weights_bytes) == (table, 0)
    assert cards[1].activation_bytes == 0


def test_a_request_is_dealt_out_and_other_engines_refused() -> None:
    words = {"model": "8b", "ctx": 4096, "concurrency": 2, "gpu": "none"}
    cards, host_bytes = by_card(PlanRequest.of(**words, engine="transformers"), (10 * GB, 10 * GB))
    _, spilled = by_card(PlanRequest.of(**words, engine="transformers"), (6 * GB, 6 * GB))

    assert [card.n_layers for card in cards] == [16, 16]
    assert (host_bytes, spilled > 4 * GB) == (0, True)
    with pytest.raises(RequestError, match="deals no layers out"):
        by_card(PlanRequest.of(**words, engine="vllm"), (10 * GB, 10 * GB))
