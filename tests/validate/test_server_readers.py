"""What recorded servers tell, read; tests/oracles/servers says where each record is from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vram_planner.errors import ServerError
from vram_planner.validate.server_facts import Gauges, inner, number, release, text, whole
from vram_planner.validate.server_http import Client
from vram_planner.validate.server_metrics import parse_metrics
from vram_planner.validate.server_readers import READERS, identify

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.validate.server_facts import ServerFacts


def read(url: str) -> tuple[ServerFacts, Gauges]:
    client = Client(url)
    reader, models = identify(client)
    return reader.read(client, models), reader.gauges(client)


def test_vllm_of_today(recorded: Callable[[str], str]) -> None:
    facts, now = read(recorded("vllm-0.32.0-cpu"))

    assert (facts.engine, facts.version, facts.model, facts.context) == ("vllm", "0.32.0", "tiny", 1024)
    assert (facts.num_blocks, facts.block_size, facts.kv_cache_tokens) == (4096, 128, 524_288)
    assert (facts.max_concurrency, facts.kv_pool_bytes) == (512.0, 1 << 30)
    assert facts.pinned is not None
    assert facts.options == {"engine_version": "0.32.0", "gpu_memory_utilization": 0.92, "block_size": 128}
    assert now == Gauges(running=0, waiting=0, usage=0, preemptions=0)


def test_vllm_0_11_on_cuda_counts_blocks_times_their_size(recorded: Callable[[str], str]) -> None:
    facts, _ = read(recorded("vllm-0.11.0-cuda"))

    assert (facts.version, facts.num_blocks, facts.kv_cache_tokens) == ("0.11.0", 9271, 9271 * 16)
    assert facts.max_concurrency == 9271 * 16 / 8192
    assert facts.options["gpu_memory_utilization"] == 0.65
    assert facts.pinned is None


def test_vllm_v0_without_a_version(recorded: Callable[[str], str]) -> None:
    facts, now = read(recorded("vllm-v0-cpu"))

    assert (facts.version, facts.num_blocks, facts.kv_pool_bytes) == (None, 2340, 4 << 30)
    assert now == Gauges()


@pytest.mark.parametrize("name", ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"])
def test_the_share_of_the_cache_has_two_names(web: Any, recorded: Callable[[str], str], name: str) -> None:
    url = recorded("vllm-0.32.0-cpu")
    web.pages["/metrics"] = f'{name}{{engine="0"}} 0.25\n{name}{{engine="1"}} 0.5\n'

    assert read(url)[1].usage == 0.5


def test_v0_is_known_by_what_it_swapped(web: Any, recorded: Callable[[str], str]) -> None:
    url = recorded("vllm-v0-cpu")
    web.pages["/version"] = {"version": "0.8.5.post1"}
    web.pages["/metrics"] += "vllm:num_requests_swapped 0\n"

    assert read(url)[0].options["engine_version"] == "0.8.5+v0"


def test_sglang(recorded: Callable[[str], str], web: Any) -> None:
    url = recorded("sglang-docs")
    facts, now = read(url)

    assert (facts.engine, facts.version, facts.source) == ("sglang", "0.0.0", "qwen/qwen2.5-0.5b-instruct")
    assert (facts.kv_cache_tokens, facts.seats, facts.context) == (20_480, 128, 32_768)
    assert facts.weights_bytes == round(0.98 * 2**30)
    assert facts.pinned == "--max-total-tokens"
    assert "engine_version" not in facts.options
    assert now == Gauges()

    web.pages["/get_server_info"] = web.pages.pop("/server_info")
    assert read(url)[0] == facts


def test_sglang_without_metrics_tells_its_loads(recorded: Callable[[str], str], web: Any) -> None:
    url = recorded("sglang-docs")
    web.pages["/v1/loads"] = {
        "loads": [
            {"dp_rank": 0, "num_running_reqs": 2, "num_waiting_reqs": 1, "token_usage": 0.5},
            {"dp_rank": 1, "num_running_reqs": 3, "num_waiting_reqs": 0, "token_usage": 0.7},
        ]
    }

    assert read(url)[1] == Gauges(running=5, waiting=1, usage=0.7)


def test_llama_server(recorded: Callable[[str], str], web: Any) -> None:
    url = recorded("llama-server")
    facts, now = read(url)

    assert (facts.engine, facts.version, facts.context, facts.seats) == ("llama.cpp", "b0-unknown", 1024, 2)
    assert (facts.parameters, facts.weights_bytes) == (268_098_176, 246_587_904)
    assert (now.running, now.waiting) == (0, 0)

    # Without --metrics that page is an error, and the busy slots tell the rest.
    web.pages["/metrics"] = (501, {"error": {"message": "This server does not support metrics endpoint."}})
    web.pages["/slots"] = [{"id": 0, "is_processing": True}, {"id": 1, "is_processing": False}]
    assert read(url)[1] == Gauges(running=1)


def test_ollama(recorded: Callable[[str], str], web: Any) -> None:
    url = recorded("ollama-gemma3")
    facts, now = read(url)

    assert (facts.engine, facts.version, facts.source) == ("ollama", "0.11.4", "ollama:gemma3:latest")
    assert (facts.vram_bytes, facts.context, facts.pinned) == (5_964_735_424, None, None)
    assert now == Gauges()

    web.pages["/api/ps"]["models"][0] |= {"context_length": 4096, "size_vram": 3_000_000_000}
    facts, _ = read(url)
    assert (facts.context, facts.pinned) == (4096, "a part of the model is on the CPU")

    web.pages["/api/ps"] = {"models": []}
    with pytest.raises(ServerError, match="no model loaded"):
        read(url)


@pytest.mark.parametrize("name", ["sglang-docs", "llama-server", "vllm-0.32.0-cpu", "ollama-gemma3"])
def test_each_is_known_by_its_pages_where_a_proxy_owns_the_models(
    web: Any, recorded: Callable[[str], str], name: str
) -> None:
    url = recorded(name)
    for row in web.pages["/v1/models"]["data"]:
        row["owned_by"] = "proxy"

    assert (
        identify(Client(url))[0].name
        == {"sgl": "sglang", "lla": "llama.cpp", "vll": "vllm", "oll": "ollama"}[name[:3]]
    )


def test_each_reader_has_the_same_shape() -> None:
    assert sorted(reader.name for reader in READERS) == ["llama.cpp", "ollama", "sglang", "vllm"]
    assert len({reader.owner for reader in READERS}) == len(READERS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside, max_size=3),
    max_leaves=8,
)
PAGES = {
    "vllm": ("/version", "version"),
    "sglang": ("/server_info", "max_total_num_tokens", "internal_states", "tp_size", "version", "dtype"),
    "llama.cpp": ("/props", "total_slots", "default_generation_settings", "model_path"),
    "ollama": ("/api/ps", "models"),
}


class Said:
    """A client of a server that says anything."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def json_if_there(self, _: str) -> Any:
        return self.page if isinstance(self.page, dict) else None

    def text_if_there(self, _: str) -> str:
        return str(self.page)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_types_are_told_nothing_crashes(reader: Any, data: st.DataObject) -> None:
    page = data.draw(st.fixed_dictionaries(dict.fromkeys(PAGES[reader.name][1:], JSON)) | JSON)
    row = data.draw(st.fixed_dictionaries(dict.fromkeys(("id", "max_model_len", "meta", "parent"), JSON)))
    client: Any = Said(page)

    try:
        facts = reader.read(client, (row,))
    except ServerError:
        return

    assert isinstance(facts.model, str)
    assert facts.context is None or facts.context > 0
    reader.marked(client)


ODD: tuple[Any, ...] = ("None", "x", True, -1, float("nan"), None, [], {}, 1 << 61)


@pytest.mark.parametrize("value", ODD)
def test_what_is_no_number_is_none(value: Any) -> None:
    assert (whole(value), number(value), release(value)) == (None, None, None)


def test_values_are_read_also_as_text() -> None:
    assert [whole(value) for value in (3, "3", 3.0)] == [3, 3, 3]
    assert [number(value) for value in (0.5, "0.5")] == [0.5, 0.5]
    assert [text(value) for value in ("a", "", " ", "a\x1b", "x" * 300)] == ["a", None, None, None, "x" * 200]
    assert [release(value) for value in ("v0.32.0+cu130", "0.11.0rc1", "b0")] == ["0.32.0", "0.11.0", None]
    assert inner({"a": {"b": 1}}, "a") == {"b": 1}
    assert inner([], "a") == {}


def test_metrics_are_read_with_escapes_timestamps_and_without_nan() -> None:
    found = parse_metrics(
        '# HELP a b\na{x="1",y="say \\"hi\\"\\n"} 1.5 1700000000000\na{x="2"} 2\nb NaN\nc +Inf\nd 3\nnonsense\ne{ 4\n'
    )

    assert [sample.value for sample in found.named("a")] == [1.5, 2]
    assert found.named("a")[0].labels == {"x": "1", "y": 'say "hi"\n'}
    assert (found.total("a"), found.most("a"), found.total("b"), found.total("c"), found.total("d")) == (
        3.5,
        2,
        None,
        None,
        3,
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_any_text_is_read_as_metrics(page: str) -> None:
    assert all(sample.name for sample in parse_metrics(page).samples)
