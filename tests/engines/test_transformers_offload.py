"""
What `device_map="auto"` leaves to the CPU's memory, all logits kept, and padding.

transformers_offload.jsonl: `_get_device_map("auto")` of transformers 5.23.0 on meta modules, for cards with so much free memory;
equal to the byte. `free_gib` lists the cards, `bytes` and `layers` go by device.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.architecture.parallel import Layout
from vram_planner.architecture.precision import DTYPES, named_format, plain
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.transformers import Transformers
from vram_planner.engines.transformers_cards import left_to_cpu, stacks_of
from vram_planner.engines.transformers_parts import free_bytes
from vram_planner.engines.transformers_pass import Pass
from vram_planner.engines.transformers_place import placed
from vram_planner.engines.transformers_stack import make_stack
from vram_planner.errors import RequestError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture

ORACLES = Path(__file__).parent.parent / "oracles"
ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (ORACLES / "transformers_offload.jsonl").read_text(encoding="utf-8").splitlines()
]
WORK = Workload(context=4096, concurrency=1, prompt_tokens=2048)


@cache
def architecture(name: str) -> Architecture:
    config = json.loads((ORACLES / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    return architecture_from_config(config)


def ask_for(name: str, total_gib: float, *, cards: int = 1, **options: Any) -> Ask:
    return Ask(
        architecture=architecture(name),
        precision=plain("bfloat16"),
        workload=WORK,
        layout=Layout(pp=cards),
        options=Options(**options),
        device=Device(name="a card", total_bytes=int(total_gib * GIB), compute_capability=(8, 9)),
    )


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row['model']}-{'-'.join(map(str, row['free_gib']))}-{row['cpu_gib']}"
)
def test_layers_stay_with_the_cpu_as_transformers_leaves_them(row: dict[str, Any]) -> None:
    free = row["free_gib"]
    found = placed(architecture(row["model"]), plain("bfloat16"), len(free), free[0] * GIB)
    cards = [str(card) for card in range(len(free)) if str(card) in row["bytes"]]
    host = sum(row["bytes"].get(place, 0) for place in ("cpu", "disk"))

    assert [share.weights_bytes for share in found.cards] == [row["bytes"][card] for card in cards]
    assert [share.n_layers for share in found.cards] == [row["layers"].get(card, 0) for card in cards]
    assert found.host_bytes == host
    assert found.host_head == (row["head"] in {"cpu", "disk"} and bool(host) and not row["tied_head"])


def test_the_first_card_runs_the_cpus_layers_and_keeps_their_cache() -> None:
    """Llama 3.1 8B: 12 layers and the embedding on a card with 8 GiB free; the other 20 keep their caches there too."""
    ask = ask_for("Llama-3.1-8B", 8 + 450 / 1024, offload=True)
    memory = Transformers().memory(ask)
    (stack,) = stacks_of(ask)

    assert ask.device is not None
    assert free_bytes(ask.device) == 8 * GIB
    assert memory.bytes_of("kv_cache") == 32 * 2 * 8 * 128 * 2 * 4096
    assert memory.bytes_of("weights") == 6285361152 + 512
    assert memory.settings["offloaded_layers"] == 20
    assert memory.settings["offloaded_bytes"] == 9775161344
    assert stack.staged_bytes == 128256 * 4096 * 2  # the head is the largest module that comes over
    assert 'device_map="auto"' in memory.launch
    assert any("20 of 32 layers and the head" in warning for warning in memory.warnings)


def test_all_experts_of_a_layer_come_over_at_once() -> None:
    """Mixtral: gate_up_proj and down_proj of 8 experts are one module, 8 · 3 · 4096 · 14336 numbers."""
    (stack,) = stacks_of(ask_for("Mixtral-8x7B", 48, offload=True))

    assert stack.staged_bytes == 8 * 3 * 4096 * 14336 * 2


def test_what_comes_over_is_a_band_at_most_beside_the_activations() -> None:
    ask = ask_for("Llama-3.1-8B", 12, offload=True)
    part = next(part for part in Transformers().memory(ask).parts if part.name == "activations")
    (stack,) = stacks_of(ask)

    assert stack.staged_bytes <= part.low < part.n_bytes == part.high


def test_a_model_that_fits_is_left_alone() -> None:
    asked, plainly = (ask_for("Llama-3.2-1B", 24, offload=offload) for offload in (True, False))

    assert left_to_cpu(asked) is None
    assert Transformers().memory(asked).parts == Transformers().memory(plainly).parts


def test_without_a_card_nothing_is_left_to_the_cpu() -> None:
    ask = replace(ask_for("Llama-3.1-8B", 8, offload=True), device=None)

    assert left_to_cpu(ask) is None


def test_a_card_too_small_for_the_embedding_is_refused() -> None:
    with pytest.raises(RequestError, match="embedding"):
        Transformers().memory(ask_for("Llama-3.1-8B", 1.5, offload=True))


def test_offloaded_quantised_weights_are_refused() -> None:
    packed = named_format("nf4", DTYPES["bfloat16"])
    assert packed is not None
    ask = replace(ask_for("Llama-3.1-8B", 4, offload=True), precision=packed)

    with pytest.raises(RequestError, match="bitsandbytes"):
        Transformers().memory(ask)


def test_a_plan_with_layers_on_the_cpu_tells_no_speed_and_is_offered_where_nothing_else_is() -> None:
    from vram_planner.planning.request import PlanRequest  # noqa: PLC0415
    from vram_planner.planning.ways_out import ways_out  # noqa: PLC0415

    asked: dict[str, Any] = {
        "model": "8b",
        "ctx": 4096,
        "concurrency": 1,
        "gpu": "RTX 4070",
        "engine": "transformers",
    }
    plan = vp.plan(**asked)
    ways = {way.flags: way for way in ways_out(PlanRequest.of(**asked), plan)}
    offered = ways["--offload"]

    assert plan.fits is False
    assert offered.plan.fits is True
    assert offered.plan.performance is None
    assert offered.note == f"{offered.plan.request['offloaded_layers']} layers on the CPU (slow)"


def full_rows() -> list[dict[str, Any]]:
    rows = [
        json.loads(line) for line in (ORACLES / "transformers.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [row for row in rows if row.get("logits") == "full" and "DeepSeek" not in row["model"]]


@pytest.mark.parametrize(
    "row", full_rows(), ids=lambda row: f"{row['model']}-{row['attn']}-{row['batch']}x{row['ctx']}"
)
def test_all_logits_kept_give_the_tables_peak(row: dict[str, Any]) -> None:
    """Rows of a plain forward, logits=full: the larger of its two peaks within 1 %, or sampling's two float32 rows more."""
    work = Workload(context=row["ctx"] + 1, concurrency=row["batch"], prompt_tokens=row["ctx"])
    ask = replace(ask_for(row["model"], 80, attn=row["attn"], logits="all"), workload=work)
    live = Transformers().memory(ask).bytes_of("kv_cache", "recurrent_state", "activations")
    peak = max(row["prefill_peak"], row["decode_peak"])
    rows = 2 * row["batch"] * ask.architecture.vocabulary * 4

    assert peak * 0.99 <= live <= peak * 1.01 + rows


def test_logits_in_float32_are_four_more_bytes_each() -> None:
    """Before 4.45 Llama 3.1 8B kept 8,192 · 128,256 logits in bfloat16 and in float32 while it copied them."""
    work = Workload(context=8192, concurrency=1, prompt_tokens=8192)
    sizes = {
        kept: Transformers()
        .memory(replace(ask_for("Llama-3.1-8B", 80, logits=kept), workload=work))
        .bytes_of("activations", "kv_cache")
        for kept in ("last", "all", "float32")
    }

    assert sizes["float32"] - sizes["all"] == 8192 * 128256 * 4
    assert sizes["all"] > sizes["last"]


PADDED: list[dict[str, Any]] = [
    json.loads(line)
    for line in (ORACLES / "transformers_padded.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize(
    "row", PADDED, ids=lambda row: f"{row['model']}-{row['attn']}-{row['batch']}x{row['ctx']}"
)
def test_padding_costs_a_mask_of_each_request(row: dict[str, Any]) -> None:
    """transformers_padded.jsonl: passes with a mask that has holes; to a thousandth, most to the byte."""
    model = architecture(row["model"])
    stack = make_stack(model, model.layers, 0)
    prefill = Pass(batch=row["batch"], new=row["ctx"], attn=row["attn"], padded=True)
    decode = prefill.decode(row["ctx"])
    later = stack.forward(decode).n_bytes
    if stack.shrinks:
        later = max(later, stack.first_decode(decode).n_bytes)

    assert stack.forward(prefill).n_bytes == pytest.approx(row["prefill_peak"], rel=1e-3)
    assert later == pytest.approx(row["decode_peak"], rel=1e-3)


def test_padded_prompts_cost_no_less_and_one_request_has_none() -> None:
    def live(concurrency: int, *, padded: bool) -> int:
        work = Workload(context=4096, concurrency=concurrency, prompt_tokens=4096)
        ask = replace(ask_for("gemma-3-1b", 80, attn="sdpa", padded=padded), workload=work)
        return Transformers().memory(ask).bytes_of("kv_cache", "activations")

    assert live(1, padded=True) == live(1, padded=False)
    assert live(4, padded=True) > live(4, padded=False)


def test_unknown_logits_are_refused() -> None:
    with pytest.raises(RequestError, match="first"):
        Transformers().memory(ask_for("Llama-3.2-1B", 24, logits="first"))
