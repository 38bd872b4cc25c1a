"""
The transformers engine on further families and kinds of layers.

transformers_more.jsonl: transformers 5.23.0 + torch 2.13.0 on CPU kernels under FakeTensorMode, full-size models, batch 1
and 4 (`prefill_peak` and `decode_peak` beyond the weights); models named FAMILY-default are the family's default configuration at
full width, cut to 6 or 8 layers, in transformers_configs.jsonl. transformers_device_map.jsonl: where 5.23.0 puts each layer.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture.parallel import Layout
from vram_planner.architecture.precision import DTYPES, named_format, plain
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.transformers import Transformers
from vram_planner.engines.transformers_pass import Pass
from vram_planner.engines.transformers_place import deal, shares
from vram_planner.engines.transformers_stack import Stack, make_stack
from vram_planner.engines.transformers_traits import EAGER_ONLY
from vram_planner.errors import RequestError, UnsupportedArchitectureError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture

ORACLES = Path(__file__).parent.parent / "oracles"
RECURRENT = {"granite-4.0-h-tiny", "Qwen3-Next-80B-A3B", "Mamba-Codestral-7B"}
H100 = Device(name="H100", total_bytes=int(79.19 * GIB), compute_capability=(9, 0))


def rows_of(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ORACLES / file).read_text(encoding="utf-8").splitlines()]


OLD = [row for row in rows_of("transformers.jsonl") if row["model"] in RECURRENT and "batch" in row]
MORE = rows_of("transformers_more.jsonl")
ROWS = OLD + MORE
MAPS = rows_of("transformers_device_map.jsonl")


def row_id(row: dict[str, Any]) -> str:
    return "-".join(
        str(row[key]) for key in ("model", "attn", "batch", "ctx", "logits", "static", "cards") if key in row
    )


DEFAULTS = {row["name"]: row["config"] for row in rows_of("transformers_configs.jsonl")}


@cache
def architecture(name: str) -> Architecture:
    if name in DEFAULTS:
        return architecture_from_config(DEFAULTS[name])
    config = json.loads((ORACLES / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    return architecture_from_config(config)


@cache
def stack(name: str) -> Stack:
    model = architecture(name)
    return make_stack(model, model.layers, 0)


def ask_for(name: str, work: Workload, *, layout: Layout | None = None, **options: Any) -> Ask:
    return Ask(
        architecture=architecture(name),
        precision=plain("bfloat16"),
        workload=work,
        layout=layout or Layout(),
        options=Options(**options),
        device=H100,
    )


WORK = Workload(context=4096, concurrency=2, prompt_tokens=2048)


def peaks(row: dict[str, Any]) -> list[tuple[int, int]]:
    """Ours and the table's for prefill and, where the table has it, the first decode step; on CPU's kernels for MLA."""
    layers = stack(row["model"])
    prefill = Pass(
        batch=row["batch"],
        new=row["ctx"],
        attn=row["attn"],
        math_kernel=True,
        static=row.get("static"),
    )
    decode = replace(prefill, new=1, past=row["ctx"])
    logits = row["ctx"] if row["logits"] == "full" else 1
    found = [(layers.forward(prefill, logits).n_bytes, row["prefill_peak"])]
    if "decode_peak" in row:
        later = layers.forward(decode).n_bytes
        if layers.shrinks and prefill.static is None:
            later = max(later, layers.first_decode(decode).n_bytes)
        found.append((later, row["decode_peak"]))
    return found


ERRORS = [abs(ours / theirs - 1) for row in MORE for ours, theirs in peaks(row)]


@pytest.mark.parametrize("row", [row for row in ROWS if "static" not in row], ids=row_id)
def test_caches_and_states_are_equal_to_the_byte(row: dict[str, Any]) -> None:
    """`kv_bytes_*` sums all tensors that the Cache object holds, states and indexers among them."""
    engine = Transformers()
    for generated, key in ((0, "kv_bytes_prefill"), (1, "kv_bytes_decode")):
        if key in row:
            work = Workload(
                context=row["ctx"] + generated, concurrency=row["batch"], prompt_tokens=row["ctx"]
            )
            memory = engine.memory(ask_for(row["model"], work, attn=row["attn"]))
            assert memory.bytes_of("kv_cache", "recurrent_state") == row[key]


@pytest.mark.parametrize("row", [row for row in MORE if "static" in row], ids=row_id)
def test_a_static_cache_is_equal_to_the_byte_and_so_are_its_peaks(row: dict[str, Any]) -> None:
    """Peaks to 64 bytes: one int64 counter a layer."""
    work = Workload(context=row["static"], concurrency=row["batch"], prompt_tokens=row["ctx"])
    memory = Transformers().memory(ask_for(row["model"], work, attn=row["attn"], cache="static"))

    assert memory.bytes_of("kv_cache") == row["kv_bytes_prefill"] == row["kv_bytes_decode"]
    assert memory.settings["cache"] == "static"
    for ours, theirs in peaks(row):
        assert ours == pytest.approx(theirs, abs=64, rel=2e-3)


def test_an_unknown_cache_is_refused() -> None:
    with pytest.raises(RequestError, match="offloaded"):
        Transformers().memory(ask_for("OLMo-2-7B", WORK, cache="offloaded"))


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_no_peak_is_off_by_more_than_8_percent(row: dict[str, Any]) -> None:
    """The worst are openai-gpt and diffllama; of CTRL at 256 tokens 2 MiB are more than that."""
    for ours, theirs in peaks(row):
        assert ours == pytest.approx(theirs, rel=0.08, abs=2 << 20)


def test_peaks_are_within_a_thousandth_in_the_middle_and_2_percent_in_nine_of_ten() -> None:
    """The target is 3 % (median) and 8 % (P90); the tables' own figures are far below that."""
    assert len(ERRORS) > 850
    assert median(ERRORS) < 0.001
    assert quantiles(ERRORS, n=10)[-1] < 0.02


def test_the_families_cut_short_are_as_near() -> None:
    """With 6 layers the activations are most of a peak: no cache hides an error. n, median and P90 of these rows alone."""
    errors = [
        abs(ours / theirs - 1) for row in MORE if row["model"] in DEFAULTS for ours, theirs in peaks(row)
    ]

    assert len(errors) > 500
    assert len(DEFAULTS) >= 60
    assert median(errors) < 0.001
    assert quantiles(errors, n=10)[-1] < 0.02


# The table loaded the language model alone of the first three; the fourth's tables of decays are left out on purpose.
OTHER_WEIGHTS = {"Llama-4-Scout", "Llama-3.2-11B-Vision", "Qwen3.5-9B", "MiniMax-M1"}


@pytest.mark.parametrize(
    "row",
    {row["model"]: row for row in MORE if row["model"] not in OTHER_WEIGHTS}.values(),
    ids=row_id,
)
def test_weights_are_the_modules_bytes(row: dict[str, Any]) -> None:
    """Within 2 in 1000, or 5 MiB: some register tables of positions or masks as buffers (GPT-J, GPT, GPT-BigCode, XGLM)."""
    weights = Transformers().memory(ask_for(row["model"], WORK, attn="eager")).bytes_of("weights")

    assert weights == pytest.approx(row["param_bytes"] + row["buffer_bytes"], rel=2e-3, abs=5 << 20)


@pytest.mark.parametrize("row", MAPS, ids=row_id)
def test_layers_go_where_device_map_auto_puts_them(row: dict[str, Any]) -> None:
    """To the byte; where module boundaries of the small vocabulary-heavy models decide, to one layer."""
    found = shares(architecture(row["model"]), plain("bfloat16"), row["cards"])
    theirs = [count for count in row["layers"] if count]

    assert len(found) == len(theirs)
    assert all(abs(ours.n_layers - count) <= 1 for ours, count in zip(found, theirs, strict=True))
    assert max(share.weights_bytes for share in found) == pytest.approx(max(row["bytes"]), rel=0.01)


def test_nearly_all_device_maps_are_equal_to_the_byte() -> None:
    exact = [
        [share.weights_bytes for share in shares(architecture(row["model"]), plain("bfloat16"), row["cards"])]
        == [n_bytes for n_bytes in row["bytes"] if n_bytes]
        for row in MAPS
    ]

    assert sum(exact) >= len(exact) - 1


@given(
    layers=st.lists(st.integers(1, 1000), min_size=1, max_size=60),
    embedding=st.integers(0, 5000),
    cards=st.integers(1, 9),
)
def test_dealing_loses_nothing_and_keeps_the_order(layers: list[int], embedding: int, cards: int) -> None:
    used, cards_of = deal(embedding, layers, (3, 7), cards)

    assert sum(used) == embedding + sum(layers) + 10
    assert cards_of == sorted(cards_of)
    assert len(cards_of) == len(layers)


def test_states_are_a_part_of_their_own() -> None:
    memory = Transformers().memory(ask_for("granite-4.0-h-tiny", WORK))
    longer = Transformers().memory(ask_for("granite-4.0-h-tiny", replace(WORK, context=8192)))
    part = next(part for part in memory.parts if part.name == "activations")

    assert memory.bytes_of("recurrent_state") == longer.bytes_of("recurrent_state") > 0
    assert part.low < part.n_bytes
    assert any("mamba-ssm" in warning for warning in memory.warnings)


def test_a_model_of_states_alone_has_no_slope_and_no_attention() -> None:
    memory = Transformers().memory(ask_for("mamba-130m", WORK))
    capacity = Transformers().capacity(ask_for("mamba-130m", WORK), memory)

    assert memory.kv.bytes_per_token == memory.bytes_of("kv_cache") == 0
    assert "attn_implementation" not in memory.launch
    assert capacity.max_concurrency > 1


def test_a_text_leaves_nothing_in_cross_attention_and_the_plan_says_so() -> None:
    """Llama-3.2-11B-Vision: 8 layers · 6,404 tokens · 2 · 8 heads · 128 · 2 B are 200 MiB an image."""
    memory = Transformers().memory(ask_for("Llama-3.2-11B-Vision", WORK))

    assert memory.kv.bytes_per_token == 32 * 2 * 8 * 128 * 2
    assert any("an image adds 200 MiB" in warning for warning in memory.warnings)


def test_the_indexers_keys_are_cached_beside_the_latents() -> None:
    memory = Transformers().memory(ask_for("DeepSeek-V3.2-published", WORK))

    assert memory.kv.bytes_per_token == 61 * (512 + 64 + 128) * 2


def test_falcons_new_decoder_caches_every_query_head() -> None:
    """FalconAttention._split_heads broadcasts 8 KV heads to 128 before it caches them."""
    memory = Transformers().memory(ask_for("falcon-40b", WORK))

    assert memory.kv.bytes_per_token == 60 * 2 * 128 * 64 * 2


def test_mla_with_sdpa_takes_cudas_kernel_as_best_and_the_cpus_as_high() -> None:
    work = Workload(context=2048, concurrency=1, prompt_tokens=2048)
    row = next(row for row in MORE if row["model"] == "DeepSeek-V3.2-published" and row["attn"] == "sdpa")
    memory = Transformers().memory(ask_for("DeepSeek-V3.2-published", work, attn="sdpa"))
    part = next(part for part in memory.parts if part.name == "activations")

    assert part.n_bytes < part.high
    assert part.high + memory.bytes_of("kv_cache") == pytest.approx(row["prefill_peak"], rel=0.01)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("nf4", 4096 * 11008 * 2),
        ("nf4-double", 4096 * 11008 * 2 + 2 * 4096 * 11008 // 64 * 4),
        ("bnb-int8", 2 * 4096 * 11008 * 2),
        ("int8wo", 4096 * 11008 * 2),
    ],
)
def test_packing_on_load_needs_the_tensor_in_16_bits_and_what_it_is_packed_with(name: str, more: int) -> None:
    tiny = Workload(context=2, concurrency=1, prompt_tokens=1)
    packed = named_format(name, DTYPES["bfloat16"])
    assert packed is not None
    memory = Transformers().memory(replace(ask_for("OLMo-2-7B", tiny), precision=packed))

    assert memory.bytes_of("activations", "kv_cache") == more


@pytest.mark.parametrize("name", ["nf4", "bnb-int8", "int8wo", "hqq-4bit"])
def test_experts_are_not_packed_while_loading(name: str) -> None:
    """`type(module) is nn.Linear` (replace_with_bnb_linear); Qwen3MoeExperts has two parameters and no Linear."""
    packed = named_format(name, DTYPES["bfloat16"])
    assert packed is not None
    memory = Transformers().memory(replace(ask_for("Qwen3-30B-A3B", WORK), precision=packed))
    experts = 48 * 128 * 3 * 2048 * 768 * 2

    assert memory.bytes_of("weights") > experts
    assert any("experts" in warning for warning in memory.warnings)


def test_experts_packed_in_the_checkpoint_are_loaded_so() -> None:
    model = architecture("Qwen3-30B-A3B")
    packed = named_format("nf4", DTYPES["bfloat16"])
    assert packed is not None
    ask = ask_for("Qwen3-30B-A3B", WORK)
    stored = replace(ask, architecture=replace(model, precision=packed), precision=packed)

    assert Transformers().memory(stored).bytes_of("weights") < model.weights_bytes(plain("bfloat16")) / 3


def test_a_kind_of_layer_that_is_not_modelled_is_refused() -> None:
    known = architecture("OLMo-2-7B")
    odd: Any = replace(known.layers[0], mixer=Odd())  # type: ignore[arg-type]

    with pytest.raises(UnsupportedArchitectureError, match="Odd"):
        make_stack(replace(known, layers=(odd,)), (odd,), 0).forward(Pass(batch=1, new=8))


class Odd:
    """A mixer that no engine knows."""

    n_heads = 1
    cache = state = indexer = None
    weights = ()


@pytest.mark.parametrize("name", ["bloom-7b1", "gpt-j-6b", "MiMo-V2-Flash"])
def test_families_without_sdpa_run_eager(name: str) -> None:
    memory = Transformers().memory(ask_for(name, WORK))

    assert architecture(name).model_type in EAGER_ONLY
    assert memory.settings["attn"] == "eager"


NAMES = st.sampled_from(
    ["granite-4.0-h-tiny", "Qwen3.5-9B", "LFM2-1.2B", "gemma-4-E2B-text", "Llama-4-Scout"]
)


@given(name=NAMES, prompt=st.integers(1, 3000), generated=st.integers(0, 3000), batch=st.integers(1, 20))
def test_more_requests_and_longer_prompts_never_cost_less(
    name: str, prompt: int, generated: int, batch: int
) -> None:
    def cost(requests: int, tokens: int) -> int:
        work = Workload(context=tokens + generated, concurrency=requests, prompt_tokens=tokens)
        return sum(part.n_bytes for part in Transformers().memory(ask_for(name, work)).parts)

    assert cost(batch, prompt) <= cost(batch + 1, prompt)
    assert cost(batch, prompt) <= cost(batch, prompt + 1)


def test_compressed_layers_cost_an_entry_a_group_and_run_eager_on_a_dynamic_cache() -> None:
    """
    DeepSeek-V4 with 8 layers: 3 · (512 + 128) numbers each 4 tokens, 3 · 512 each 128, whatever waits for its group.

    Once the prompt's views are let go of, that is.
    """
    work = Workload(context=4096, concurrency=1, prompt_tokens=2048)
    name = "DeepSeek-V4-Flash-8-layers"
    memory = Transformers().memory(ask_for(name, work))

    assert memory.settings["attn"] == "eager"
    assert memory.kv.bytes_per_token == 2 * (3 * (512 + 128) // 4 + 3 * 512 // 128)
    refused: tuple[dict[str, Any], ...] = ({"attn": "flash_attention_2"}, {"cache": "static"})
    for asked in refused:
        with pytest.raises(RequestError):
            Transformers().memory(ask_for(name, work, **asked))
