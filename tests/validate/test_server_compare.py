"""Served figures beside the plan's: recorded servers, and a real start-up of vLLM on an H100 told as its metrics tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import vram_planner as vp
from vram_planner.errors import RecordError, RequestError
from vram_planner.planning.calibration import load_calibrations
from vram_planner.planning.recommend import flags_for
from vram_planner.validate import server
from vram_planner.validate.evidence import read_records, replay_all
from vram_planner.validate.server_compare import Compared, at_once, request_of
from vram_planner.validate.server_facts import ServerFacts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# A start-up of vLLM 0.19.0 from the package's own records: Qwen2.5-7B-Instruct on one H100, 0.95 of it.
RECORD = "llmd-v0190-qwen-qwen2-5-7b-instruct--h100-80gb--tp1pp1dp1--8192"
CARD: dict[str, Any] = {"gpu": "H100", "max_num_seqs": 1024}


def facts_of(**told: Any) -> ServerFacts:
    return ServerFacts(
        **{"engine": "vllm", "title": "vLLM", "version": None, "model": "m", "source": "7b", **told}
    )


@pytest.fixture
def on_h100(web: Any) -> Callable[[float], str]:
    """That server as /metrics of its release would tell it, with its blocks times a factor."""

    def serve(factor: float = 1.0) -> str:
        row = next(row for row in read_records() if row["id"] == RECORD)
        blocks = int(row["measured"]["num_gpu_blocks"] * factor)
        labels = f'block_size="16",cache_dtype="auto",gpu_memory_utilization="0.95",num_gpu_blocks="{blocks}"'
        web.pages["/v1/models"] = {
            "data": [
                {
                    "id": "chat",
                    "owned_by": "vllm",
                    "root": row["model"],
                    "max_model_len": row["max_model_len"],
                }
            ]
        }
        web.pages["/version"] = {"version": row["engine_version"]}
        web.pages["/metrics"] = (
            f'vllm:cache_config_info{{{labels},kv_cache_memory_bytes="None"}} 1.0\nvllm:num_requests_running 0.0\n'
        )
        return str(web.url)

    return serve


def rows(found: Any) -> dict[str, Compared]:
    return {row.name: row for row in found.rows}


def test_a_real_start_up_on_an_h100_is_planned_within_a_tenth_of_a_per_cent(
    on_h100: Callable[..., str],
) -> None:
    found = server(on_h100(), **CARD)
    (replayed,) = replay_all(row for row in read_records() if row["id"] == RECORD)

    # What a server tells and what its log says are planned by the same code; the catalogue's card differs by a MiB.
    ours, logged = replayed.pairs["KV blocks"]  # type: ignore[union-attr]
    row = rows(found)["KV blocks"]
    assert row.served == logged == 68_500
    assert abs(row.planned / ours - 1) < 0.001
    assert found.held is True
    assert set(rows(found)) == {"KV blocks", "KV tokens", "requests of the whole context"}
    assert all(abs(row.error) < 0.001 for row in found.rows)


def test_a_cache_a_tenth_smaller_is_not_held(on_h100: Callable[..., str]) -> None:
    found = server(on_h100(0.9), **CARD)

    assert found.held is False
    assert rows(found)["KV tokens"].error == pytest.approx(1 / 0.9 - 1, abs=0.001)
    assert server(on_h100(0.9), **CARD, tolerance=0.2).held is True


def test_what_a_server_teaches_makes_the_next_plan_say_the_same(
    on_h100: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = server(on_h100(0.99), **CARD, save=True)

    assert load_calibrations() == (found.calibration,)
    assert found.calibration is not None
    assert found.calibration.learned_from == "server"
    assert "by a running server of" in found.calibration.where
    plan = vp.plan(
        "Qwen/Qwen2.5-7B-Instruct", ctx=8192, concurrency=1, gpu="H100", max_num_seqs=1024,
        gpu_memory_utilization=0.95, engine_version="0.19.0",
    )  # fmt: skip
    assert plan.capacity is not None
    assert plan.capacity.num_blocks == pytest.approx(68_500 * 0.99, abs=2)
    assert any("a running server" in line for line in plan.warnings)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vllm-0.32.0-cpu", {}, "without a card"),
        ("sglang-docs", {"gpu": "H100"}, "set by --max-total-tokens"),
        (
            "ollama-gemma3",
            {"gpu": "L4", "model": "google/gemma-3-4b-it", "quant": "q4_k_m", "ctx": 4096},
            "Ollama tells no size",
        ),
    ],
)
def test_what_teaches_nothing_is_not_saved(
    recorded: Callable[[str], str], name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecordError, match=words):
        server(recorded(name), **options, save=True)


def test_a_cpu_pool_of_four_gib_is_counted_to_the_block(recorded: Callable[[str], str]) -> None:
    """⌊4 GiB / (114,688 B · 16)⌋ = 2340 blocks, as a V0 vLLM counted for Qwen3-0.6B."""
    found = server(recorded("vllm-v0-cpu"))
    row = rows(found)["KV tokens of its bytes"]

    assert row.planned == row.served == 2340 * 16
    assert found.held is True


def test_sglang_by_its_own_sums_in_gib(recorded: Callable[[str], str]) -> None:
    """0.23 GiB at 12,288 B a token; the weights are what the free memory fell by, 6 % more than the tensors."""
    found = server(recorded("sglang-docs"))

    assert rows(found)["KV tokens of its bytes"].error == pytest.approx(-0.019, abs=0.001)
    assert rows(found)["weights"].planned == 988_065_536
    assert rows(found)["weights"].error == pytest.approx(-0.061, abs=0.001)
    assert found.held is False
    assert found.recommendation is not None
    # Its 20,480 tokens hold not one request of the 32,768 that it would take.
    assert found.recommendation.concurrency == 0


def test_llama_server_by_its_tensors(recorded: Callable[[str], str]) -> None:
    """gemma-3-270m Q4_K_M: a catalogue model planned in that format has those elements and those bytes."""
    found = server(
        recorded("llama-server"), model="google/gemma-3-270m", quant="q4_k_m", ctx=1024, concurrency=2
    )

    assert rows(found)["parameters"].error == 0
    assert rows(found)["weights"].served == 246_587_904
    assert {row.holds(0.05) for row in found.rows} == {True}


def test_ollama_by_the_sum_on_its_gpu(recorded: Callable[[str], str]) -> None:
    """Its engine of 2025 held the projector and larger graphs too: far off, and said so."""
    found = server(recorded("ollama-gemma3"), model="google/gemma-3-4b-it", quant="q4_k_m", ctx=4096)
    (row,) = (row for row in found.rows if row.name == "GPU memory")

    assert row.served == 5_964_735_424
    assert found.plan is not None
    assert row.planned == found.plan.total_bytes - found.plan.part("runtime").n_bytes
    assert found.held is False


def test_more_context_or_more_requests_than_it_serves_do_not_hold(recorded: Callable[[str], str]) -> None:
    found = server(recorded("llama-server"), ctx=2048, concurrency=2)

    assert found.held is False
    assert (rows(found)["context"].served, rows(found)["requests at once"].served) == (1024, 1)
    assert server(recorded("llama-server"), ctx=512, concurrency=2).held is True


def test_a_model_that_is_not_known_is_asked_for_and_nothing_is_judged(recorded: Callable[[str], str]) -> None:
    found = server(recorded("vllm-0.11.0-cuda"))

    assert (found.plan, found.rows, found.held) == (None, (), None)
    assert "--model" in found.warnings[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"gpu": "no such card"},
        {"model": "no such model"},
        {"quant": "no such format"},
        {"gpus": 1},
        {"tp": 0},
        {"tp": 3, "gpu": "L4"},
    ],
)
def test_a_users_own_mistake_is_wrong_input(recorded: Callable[[str], str], wrong: dict[str, Any]) -> None:
    with pytest.raises(vp.PlannerError) as caught:
        server(recorded("vllm-v0-cpu"), **wrong)
    assert caught.value.exit_status == 2


def test_a_server_elsewhere_does_not_have_this_machines_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VRAM_PLANNER_GPU")

    assert request_of(facts_of(context=10), {}, is_local=False).gpu == "none"
    assert request_of(facts_of(context=10), {}, is_local=True).gpu is None
    assert request_of(facts_of(context=10), {"gpu": "L4"}, is_local=False).gpu == "L4"
    assert request_of(facts_of(context=10), {}, is_local=False).offline is True


def test_a_context_that_nobody_tells_is_asked_for() -> None:
    with pytest.raises(RequestError, match="longest request"):
        request_of(facts_of(), {}, is_local=True)


@pytest.mark.parametrize(
    ("told", "context", "count"),
    [
        ({"kv_cache_tokens": 1000, "context": 100}, 50, 20.0),
        ({"kv_cache_tokens": 1000, "context": 100, "seats": 4}, 100, 4),
        ({"max_concurrency": 9.5, "kv_cache_tokens": 1000, "context": 100}, 100, 9.5),
        ({"context": 100}, 100, None),
    ],
)
def test_at_once_is_the_lesser_of_cache_and_seats(
    told: dict[str, Any], context: int, count: float | None
) -> None:
    assert at_once(facts_of(**told), context) == count


def test_a_row_of_what_was_asked_holds_where_more_is_served() -> None:
    asked = Compared(name="context", unit="tokens", planned=100, served=1000, how="", at_least=True)

    assert asked.holds(0.05)
    assert not Compared(name="x", unit="", planned=100, served=1000, how="").holds(0.05)
    assert Compared(name="x", unit="", planned=100, served=1000, how="", judged=False).holds(0.05)
    assert Compared(name="x", unit="", planned=1, served=0, how="").error == float("inf")


def test_ollama_has_options_to_recommend() -> None:
    assert flags_for("ollama", 4, 8192) == "OLLAMA_CONTEXT_LENGTH=8192 OLLAMA_NUM_PARALLEL=4 ollama serve"
