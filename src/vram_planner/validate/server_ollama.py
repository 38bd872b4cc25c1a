"""
Ollama: /api/version and /api/ps. It has no metrics: how busy it is, it does not tell.

Sources: ollama/ollama at fb3076099, api/types.go ProcessModelResponse and llm/llama_server.go MemorySize: `size_vram` are
the buffers on the GPUs (model, cache, compute) that its llama-server logged, without the context of the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.errors import ServerError
from vram_planner.validate.server_facts import Gauges, ServerFacts, entries, inner, only, release, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.validate.server_http import Client

_PS = "/api/ps"


class Ollama:
    """See `server_facts.Reader`. `owned_by` is the name space of a model there, "library" for its own."""

    name = "ollama"
    owner = "library"
    ignores_eos = False

    def marked(self, client: Client) -> bool:
        """Its own page lists what is loaded."""
        found = client.json_if_there(_PS)
        return found is not None and isinstance(found.get("models"), list)

    def read(self, client: Client, models: tuple[Mapping[str, Any], ...]) -> ServerFacts:  # noqa: ARG002  lists all on disk
        """See `Reader.read`. Raises ServerError where nothing is loaded."""
        loaded = entries((client.json_if_there(_PS) or {}).get("models"))
        first = next(iter(loaded), {})
        name = text(first.get("name")) or text(first.get("model"))
        if name is None:
            raise ServerError(
                "Ollama has no model loaded now", hint="load it: ollama run NAME, then ask again"
            )
        size, vram = whole(first.get("size")), whole(first.get("size_vram"), 0)
        details = inner(first, "details")
        context = whole(first.get("context_length"))
        return ServerFacts(
            engine=self.name,
            title="Ollama",
            version=release((client.json_if_there("/api/version") or {}).get("version")),
            model=name,
            source=f"ollama:{name}",
            context=context,
            vram_bytes=vram,
            told=only(
                size=size,
                size_vram=vram,
                context_length=context,
                parameter_size=text(details.get("parameter_size")),
                quantization_level=text(details.get("quantization_level")),
                loaded_models=len(loaded),
            ),
            pinned=None
            if size is None or vram is None or vram >= size
            else "a part of the model is on the CPU",
            not_told=(
                "OLLAMA_NUM_PARALLEL and OLLAMA_KV_CACHE_TYPE: say --slots and --kv-dtype if they are set",
                "how many requests run or wait",
                *(() if context else ("context_length: Ollama before 0.9.7 does not tell it; say --ctx",)),
            ),
        )

    def gauges(self, client: Client) -> Gauges:  # noqa: ARG002  it tells none
        """See `Reader.gauges`."""
        return Gauges()
