"""
llama-server: /props, the `meta` of /v1/models, /slots, and /metrics where --metrics was given.

Sources: llama.cpp tools/server/server-context.cpp (get_props, get_model_info: `meta.size` is llama_model_size, the bytes
of all tensors; `n_ctx` is one slot's). Sizes of buffers are in its log alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.errors import ServerError
from vram_planner.validate.server_facts import Gauges, ServerFacts, entries, inner, number, only, text, whole
from vram_planner.validate.server_metrics import parse_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.validate.server_http import Client


class LlamaServer:
    """See `server_facts.Reader`."""

    name = "llama.cpp"
    owner = "llamacpp"
    ignores_eos = True

    def marked(self, client: Client) -> bool:
        """Its own page tells of its slots."""
        found = client.json_if_there("/props")
        return found is not None and ("total_slots" in found or "default_generation_settings" in found)

    def read(self, client: Client, models: tuple[Mapping[str, Any], ...]) -> ServerFacts:
        """See `Reader.read`. Raises ServerError where it has no model loaded."""
        props = client.json_if_there("/props") or {}
        first = next(iter(models), {})
        meta = inner(first, "meta")
        name = text(first.get("id")) or text(props.get("model_alias"))
        if name is None:
            raise ServerError("it has no model loaded", hint="start it with -m FILE.gguf")
        slots = whole(props.get("total_slots"))
        context = whole(inner(props, "default_generation_settings").get("n_ctx")) or whole(meta.get("n_ctx"))
        return ServerFacts(
            engine=self.name,
            title="llama-server",
            version=text(props.get("build_info")),
            model=name,
            source=text(props.get("model_path")) or name,
            context=context,
            seats=slots,
            kv_cache_tokens=slots * context if slots and context else None,
            max_concurrency=float(slots) if slots else None,
            weights_bytes=whole(meta.get("size")),
            weights_whole=True,
            parameters=whole(meta.get("n_params")),
            options=only(slots=slots),
            told=only(
                model_ftype=text(props.get("model_ftype")) or text(meta.get("ftype")),
                n_ctx_train=whole(meta.get("n_ctx_train")),
                n_ctx_of_a_slot=context,
                total_slots=slots,
            ),
            not_told=(
                (
                    "sizes of its buffers, layers on the GPU, type of the cache: its start-up log has them "
                    "(vram-plan validate log)"
                ),
            ),
        )

    def gauges(self, client: Client) -> Gauges:
        """See `Reader.gauges`; without --metrics the busy slots alone."""
        found = parse_metrics(client.text_if_there("/metrics") or "")
        if found.named("llamacpp:requests_processing"):
            return Gauges(
                running=found.total("llamacpp:requests_processing"),
                waiting=found.total("llamacpp:requests_deferred"),
                usage=number(found.total("llamacpp:kv_cache_usage_ratio")),
            )
        answer = client.get("/slots")
        slots = _slots(answer.body) if answer.status == 200 else ()  # noqa: PLR2004  HTTP's word for yes
        return Gauges(
            running=float(sum(row.get("is_processing") is True for row in slots)) if slots else None
        )


def _slots(body: bytes) -> tuple[Mapping[str, Any], ...]:
    from json import loads  # noqa: PLC0415  the one page that is a list

    try:
        return entries(loads(body))
    except (ValueError, RecursionError):
        return ()
