"""The engines that can be asked, and which of them answers at an address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.errors import ServerError
from vram_planner.validate.server_facts import Reader, entries, text
from vram_planner.validate.server_llama_cpp import LlamaServer
from vram_planner.validate.server_ollama import Ollama
from vram_planner.validate.server_sglang import Sglang
from vram_planner.validate.server_vllm import Vllm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.validate.server_http import Client

# SGLang and llama-server answer some of Ollama's pages too, so that Ollama comes last.
READERS: tuple[Reader, ...] = (Sglang(), LlamaServer(), Vllm(), Ollama())


def identify(client: Client) -> tuple[Reader, tuple[Mapping[str, Any], ...]]:
    """
    Who listens there, by `owned_by` of /v1/models, else by a page that only one of them has; and its models.

    Raises ServerError where none of them is recognised.
    """
    models = entries(client.json("/v1/models").get("data"))
    owners = {text(row.get("owned_by")) for row in models}
    for reader in READERS:
        if reader.owner in owners:
            return reader, models
    for reader in READERS:
        if reader.marked(client):
            return reader, models
    told = ", ".join(sorted(owner for owner in owners if owner)) or "nobody"
    raise ServerError(
        f"{client.url} is an OpenAI API, but none of vLLM, SGLang, llama-server and Ollama (its models are owned by {told})",
        hint="give the address of the engine itself, not of a proxy before it",
    )
