"""The transformers engine against transformers 5.23.0 + torch 2.13.0, run full size under FakeTensorMode."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.architecture.parallel import Layout
from vram_planner.architecture.precision import plain
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.transformers import Transformers, largest_under
from vram_planner.engines.transformers_pass import Pass, rounded
from vram_planner.engines.transformers_stack import Stack, make_stack
from vram_planner.errors import ParallelError, PlannerError, RequestError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture

ORACLES = Path(__file__).parent.parent / "oracles"
# Recurrent layers are compared in test_transformers_more.py; the last is text alone in the table, its config is not.
ELSEWHERE = {"granite-4.0-h-tiny", "Qwen3-Next-80B-A3B", "Mamba-Codestral-7B", "Qwen3.5-35B-A3B"}
CPU_MATH = {"DeepSeek-V2-Lite", "DeepSeek-V3"}  # the table ran on CPU, where sdpa falls back for them
H100 = Device(name="H100", total_bytes=int(79.19 * GIB), compute_capability=(9, 0))


def table() -> list[dict[str, Any]]:
    rows = [
        json.loads(line) for line in (ORACLES / "transformers.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [row for row in rows if row["model"] not in ELSEWHERE]


ROWS = [row for row in table() if "batch" in row]
COUNTS = [row for row in table() if "batch" not in row]


def row_id(row: dict[str, Any]) -> str:
    return "-".join(str(row[key]) for key in ("model", "attn", "batch", "ctx", "logits") if key in row)


@cache
def architecture(name: str) -> Architecture:
    config = json.loads((ORACLES / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    return architecture_from_config(config)


@cache
def stack(name: str) -> Stack:
    model = architecture(name)
    return make_stack(model, model.layers, 0)


def ask_for(
    name: str = "Llama-3.1-8B",
    *,
    workload: Workload | None = None,
    layout: Layout | None = None,
    **options: Any,
) -> Ask:
    return Ask(
        architecture=architecture(name),
        precision=plain("bfloat16"),
        workload=workload or Workload(context=8192, concurrency=4, prompt_tokens=4096),
        layout=layout or Layout(),
        options=Options(**options),
        device=H100,
    )


def workload_of(row: dict[str, Any], *, generated: int) -> Workload:
    return Workload(context=row["ctx"] + generated, concurrency=row["batch"], prompt_tokens=row["ctx"])


def peaks(row: dict[str, Any]) -> tuple[int, int]:
    """Peaks of prefill and of the first decode step on the kernels of the table's machine, a CPU."""
    layers = stack(row["model"])
    prefill = Pass(batch=row["batch"], new=row["ctx"], attn=row["attn"], math_kernel=True)
    decode = replace(prefill, new=1, past=row["ctx"])
    logits = row["ctx"] if row["logits"] == "full" else 1
    later = layers.forward(decode).n_bytes
    if any(layers.windows):
        later = max(later, layers.first_decode(decode).n_bytes)
    return layers.forward(prefill, logits).n_bytes, later


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_the_cache_is_what_dynamic_cache_holds_to_the_byte(row: dict[str, Any]) -> None:
    engine, options = Transformers(), {"attn": row["attn"]}
    prefill = engine.memory(ask_for(row["model"], workload=workload_of(row, generated=0), **options))
    decode = engine.memory(ask_for(row["model"], workload=workload_of(row, generated=1), **options))

    assert prefill.kv.n_bytes == prefill.bytes_of("kv_cache") == row["kv_bytes_prefill"]
    assert decode.kv.n_bytes == decode.bytes_of("kv_cache") == row["kv_bytes_decode"]


@pytest.mark.parametrize("row", COUNTS, ids=row_id)
def test_weights_are_the_modules_bytes_and_buffers(row: dict[str, Any]) -> None:
    """To the byte but for scalars, and for V3's correction bias: float32 in real loads, bfloat16 in the table."""
    weights = Transformers().memory(ask_for(row["model"], attn="eager")).bytes_of("weights")

    assert abs(weights - row["param_bytes"] - row["buffer_bytes"]) <= (1 << 15)


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_prefill_and_decode_peak_within_a_thousandth(row: dict[str, Any]) -> None:
    prefill, decode = peaks(row)

    assert prefill == pytest.approx(row["prefill_peak"], rel=1e-3)
    assert decode == pytest.approx(row["decode_peak"], rel=1e-3)


def test_most_prefill_peaks_are_equal_to_the_byte() -> None:
    errors = [abs(peaks(row)[0] - row["prefill_peak"]) for row in ROWS]

    assert median(errors) == 0
    assert sum(error == 0 for error in errors) >= 0.9 * len(errors)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["logits"] == "last" and row["model"] not in CPU_MATH], ids=row_id
)
def test_the_engines_parts_give_the_tables_peak(row: dict[str, Any]) -> None:
    """Cache + activations of a workload that generates one token is the larger of both peaks, sampling apart."""
    memory = Transformers().memory(
        ask_for(row["model"], workload=workload_of(row, generated=1), attn=row["attn"])
    )
    live = memory.bytes_of("kv_cache", "activations")

    assert live == pytest.approx(max(row["prefill_peak"], row["decode_peak"]), rel=0.005)


def test_mla_on_cuda_needs_no_scores_but_the_band_allows_for_them() -> None:
    """The table's 5.75 GB at 2048 tokens are CPU's unfused kernel: the high end of the band, not the figure."""
    row = next(
        row for row in ROWS if row["model"] == "DeepSeek-V3" and row["attn"] == "sdpa" and row["batch"] == 1
    )
    memory = Transformers().memory(ask_for("DeepSeek-V3", workload=workload_of(row, generated=0)))
    part = next(part for part in memory.parts if part.name == "activations")

    assert part.high + memory.bytes_of("kv_cache") == row["prefill_peak"]
    assert part.n_bytes < part.high / 3


def test_mla_is_cached_compressed() -> None:
    memory = Transformers().memory(ask_for("DeepSeek-V3"))

    assert memory.kv.bytes_per_token == 61 * 576 * 2


def test_a_window_ends_the_growth_once_decoding() -> None:
    longer = Workload(context=9000, concurrency=1, prompt_tokens=100)
    memory = Transformers().memory(ask_for("Mistral-7B-v0.1", workload=longer))

    assert memory.kv.bytes_per_token == 0
    assert memory.kv.n_bytes == 32 * (2 * 8 * 4096 * 128 * 2 + 8)


def test_a_quantised_cache_is_refused() -> None:
    with pytest.raises(RequestError, match="fp8"):
        Transformers().memory(ask_for(kv_dtype="fp8"))


def test_unknown_attention_is_refused() -> None:
    with pytest.raises(RequestError, match="xformers"):
        Transformers().memory(ask_for(attn="xformers"))


def test_gpt_oss_runs_eager_and_refuses_sdpa() -> None:
    memory = Transformers().memory(ask_for("gpt-oss-20b"))

    assert memory.settings["attn"] == "eager"
    assert memory.warnings
    with pytest.raises(RequestError, match="sdpa"):
        Transformers().memory(ask_for("gpt-oss-20b", attn="sdpa"))


def test_more_cards_are_a_split_by_layers() -> None:
    """80 layers over 4 cards: 19, 22, 22 and 17, see transformers_device_map.jsonl."""
    engine = Transformers()
    alone = engine.memory(ask_for("Llama-3.1-70B"))
    split = engine.memory(ask_for("Llama-3.1-70B", layout=Layout(pp=4)))

    assert 'device_map="auto"' in split.launch
    assert alone.bytes_of("weights") / 4 < split.bytes_of("weights") < alone.bytes_of("weights") / 3
    assert split.bytes_of("kv_cache") == alone.bytes_of("kv_cache") * 22 // 80


def test_tensor_parallel_sizes_are_read_as_cards_and_only_they_are_warned_of() -> None:
    engine = Transformers()
    asked = engine.memory(ask_for("Llama-3.1-70B", layout=Layout(tp=4)))
    dealt = engine.memory(ask_for("Llama-3.1-70B", layout=Layout(pp=4)))

    assert any("no tensor parallelism" in warning for warning in asked.warnings)
    assert dealt.warnings == ()
    assert asked.parts == dealt.parts


def test_more_cards_than_layers_are_refused() -> None:
    with pytest.raises(ParallelError, match="16 layers"):
        Transformers().memory(ask_for("Llama-3.2-1B", layout=Layout(tp=17)))


def test_capacity_needs_a_card() -> None:
    ask = ask_for()
    engine = Transformers()

    with pytest.raises(RequestError, match="no card"):
        engine.capacity(replace(ask, device=None), engine.memory(ask))


def total(ask: Ask) -> int:
    return sum(part.n_bytes for part in Transformers().memory(ask).parts)


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "gemma-3-1b", "Qwen3-30B-A3B", "Phi-3-mini-4k"])
def test_capacity_is_the_last_batch_and_the_last_context_that_fit(name: str) -> None:
    engine, ask = Transformers(), ask_for(name)
    capacity = engine.capacity(ask, engine.memory(ask))
    batch, context = int(capacity.max_concurrency), capacity.max_context
    share = ask.workload.prompt_tokens / ask.workload.context

    def at(concurrency: int, tokens: int) -> int:
        prompt = int(tokens * share)
        return total(
            replace(ask, workload=Workload(context=tokens, concurrency=concurrency, prompt_tokens=prompt))
        )

    assert capacity.usable_bytes == H100.total_bytes == engine.usable_bytes(ask)
    assert at(batch, 8192) <= H100.total_bytes < at(batch + 1, 8192)
    assert at(4, context) <= H100.total_bytes
    assert context == ask.architecture.max_context or at(4, context + 1) > H100.total_bytes


def test_capacity_of_a_model_that_does_not_fit_is_nothing() -> None:
    engine, ask = Transformers(), ask_for("Llama-3.1-70B")
    capacity = engine.capacity(ask, engine.memory(ask))

    assert (capacity.kv_pool_bytes, capacity.max_concurrency, capacity.max_context) == (0, 0.0, 0)


@given(
    limit=st.integers(0, 10**9),
    slope=st.integers(1, 10**6),
    bend=st.integers(0, 100),
    ceiling=st.integers(0, 10**5),
)
def test_the_search_finds_what_counting_finds(limit: int, slope: int, bend: int, ceiling: int) -> None:
    def cost(number: int) -> int:
        return slope * number + bend * number * number // 16

    found = largest_under(cost, limit, ceiling)

    assert 0 <= found <= ceiling
    assert found == 0 or cost(found) <= limit
    assert found == ceiling or cost(found + 1) > limit


NAMES = st.sampled_from(
    ["Llama-3.2-1B", "gemma-3-1b", "Qwen3-30B-A3B", "DeepSeek-V2-Lite", "gpt-oss-20b", "Mistral-7B-v0.1"]
)
ATTENTIONS = st.sampled_from([None, "eager", "flash_attention_2"])


@given(
    name=NAMES,
    attn=ATTENTIONS,
    prompt=st.integers(1, 9000),
    generated=st.integers(0, 3000),
    batch=st.integers(1, 40),
)
def test_more_requests_and_more_prompt_never_cost_less(
    name: str, attn: str | None, prompt: int, generated: int, batch: int
) -> None:
    def cost(requests: int, tokens: int, more: int = 0) -> int:
        work = Workload(context=tokens + generated + more, concurrency=requests, prompt_tokens=tokens)
        return total(ask_for(name, workload=work, attn=attn))

    here = cost(batch, prompt)

    assert here <= cost(batch + 1, prompt)
    assert here <= cost(batch, prompt + 1)
    assert here <= cost(batch, prompt, 1)


@given(name=NAMES, batch=st.integers(1, 64), context=st.integers(2, 20_000))
def test_bands_hold_the_figure_and_parts_are_whole(name: str, batch: int, context: int) -> None:
    work = Workload(context=context, concurrency=batch, prompt_tokens=max(1, context // 2))
    memory = Transformers().memory(ask_for(name, workload=work))

    assert [part.name for part in memory.parts] == ["weights", "kv_cache", "activations", "runtime"]
    for part in memory.parts:
        assert 0 <= part.low <= part.n_bytes <= part.high
        assert part.source.startswith(("https://", "measured on one H100 "))
        assert part.detail


@given(n_bytes=st.integers(0, 10**12))
def test_rounding_is_to_the_next_512(n_bytes: int) -> None:
    assert 0 <= rounded(n_bytes) - n_bytes < 512
    assert rounded(n_bytes) % 512 == 0


def test_every_refusal_carries_its_cure() -> None:
    with pytest.raises(PlannerError) as caught:
        Transformers().memory(ask_for(kv_dtype="q8_0"))

    assert caught.value.hint
