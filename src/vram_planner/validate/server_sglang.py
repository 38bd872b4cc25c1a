"""
SGLang: /server_info (/get_server_info before 0.5.9), /v1/models, and /metrics where --enable-metrics was given.

Sources: sglang 0.5.2 to 0.5.23, srt/entrypoints/http_server.py (server_info: the server's arguments, what the
scheduler settled, and `internal_states` per replica with `memory_usage` in GiB), srt/entrypoints/v1_loads.py,
srt/observability/metrics_collector.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.errors import ServerError
from vram_planner.units import GIB
from vram_planner.validate.server_facts import (
    Gauges,
    ServerFacts,
    entries,
    inner,
    number,
    only,
    release,
    text,
    whole,
)
from vram_planner.validate.server_metrics import parse_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.validate.server_http import Client

_PAGES = ("/server_info", "/get_server_info")
_TOLD = (
    "attention_backend", "mem_fraction_static", "max_running_requests", "max_total_tokens", "page_size", "tp_size",
    "pp_size", "dp_size", "kv_cache_dtype", "quantization", "dtype", "chunked_prefill_size", "device", "cuda_graph_max_bs",
)  # fmt: skip


class Sglang:
    """See `server_facts.Reader`."""

    name = "sglang"
    owner = "sglang"
    ignores_eos = True

    def marked(self, client: Client) -> bool:
        """Its own page tells of its scheduler."""
        found = _info(client)
        return found is not None and ("internal_states" in found or "max_total_num_tokens" in found)

    def read(self, client: Client, models: tuple[Mapping[str, Any], ...]) -> ServerFacts:
        """See `Reader.read`. Raises ServerError where the page is missing."""
        info = _info(client)
        if info is None:
            raise ServerError(
                "it is SGLang, but tells nothing of itself: neither /server_info nor /get_server_info is there",
                hint="ask the server itself, not its router",
            )
        first = next(iter(models), {})
        state = next(iter(entries(info.get("internal_states"))), {})
        memory = inner(state, "memory_usage")
        weights, cache = number(memory.get("weight")), number(memory.get("kvcache"))
        tokens = whole(info.get("max_total_num_tokens")) or whole(memory.get("token_capacity"))
        name = text(first.get("id")) or text(info.get("served_model_name"))
        source = text(info.get("model_path"))
        if name is None and source is None:
            raise ServerError("it names no model", hint="start it with one")
        return ServerFacts(
            engine=self.name,
            title="SGLang",
            version=release(info.get("version")),
            model=name or str(source),
            source=source or name,
            context=whole(first.get("max_model_len")) or whole(info.get("context_length")),
            seats=_seats(info, state),
            kv_cache_tokens=tokens,
            kv_pool_bytes=None if not cache else round(cache * GIB),
            weights_bytes=None if not weights else round(weights * GIB),
            pinned="--max-total-tokens" if whole(info.get("max_total_tokens")) is not None else None,
            options=_options(info),
            told=only(**{key: info.get(key) for key in _TOLD}, memory_usage=dict(memory) or None),
            not_told=("activations; its start-up log says what was left of the card",),
        )

    def gauges(self, client: Client) -> Gauges:
        """See `Reader.gauges`; without --enable-metrics by /v1/loads."""
        found = parse_metrics(client.text_if_there("/metrics") or "")
        if found.named("sglang:num_running_reqs"):
            return Gauges(
                running=found.total("sglang:num_running_reqs"),
                waiting=found.total("sglang:num_queue_reqs"),
                usage=found.most("sglang:token_usage"),
                preemptions=found.total("sglang:num_retracted_reqs_total"),
            )
        loads = entries((client.json_if_there("/v1/loads") or {}).get("loads"))
        if not loads:
            return Gauges()
        return Gauges(
            running=sum(number(row.get("num_running_reqs")) or 0 for row in loads),
            waiting=sum(number(row.get("num_waiting_reqs")) or 0 for row in loads),
            usage=max(number(row.get("token_usage")) or 0 for row in loads),
        )


def _info(client: Client) -> dict[str, Any] | None:
    for page in _PAGES:
        if found := client.json_if_there(page):
            return found
    return None


def _seats(info: Mapping[str, Any], state: Mapping[str, Any]) -> int | None:
    """What the scheduler settled per replica; the argument alone is what was asked for."""
    replicas = whole(info.get("dp_size")) or 1
    settled = whole(state.get("effective_max_running_requests_per_dp"))
    return settled * replicas if settled is not None else whole(info.get("max_running_requests"))


def _options(info: Mapping[str, Any]) -> dict[str, Any]:
    share, kind = number(info.get("mem_fraction_static")), text(info.get("kv_cache_dtype"))
    dtype = text(info.get("dtype"))
    return only(
        engine_version=release(info.get("version")) if _is_release(info.get("version")) else None,
        gpu_memory_utilization=share if share and share <= 1 else None,
        kv_dtype=None if kind == "auto" else kind,
        dtype=None if dtype == "auto" else dtype,
        tp=whole(info.get("tp_size")),
        pp=whole(info.get("pp_size")),
        max_num_seqs=whole(info.get("max_running_requests")),
        max_num_batched_tokens=whole(info.get("chunked_prefill_size")),
    )


def _is_release(version: Any) -> bool:
    """A build from a checkout calls itself 0.0.0.dev1."""
    return release(version) not in (None, "0.0.0")
