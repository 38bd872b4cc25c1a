"""Ollama: llama-server started with Ollama's own choices of batch, slots and attention."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.engines.layouts import per_replica
from vram_planner.engines.llama_cpp import LlamaCpp, parts_of, settle
from vram_planner.engines.llama_cpp_projector_part import projector_of
from vram_planner.errors import RequestError
from vram_planner.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vram_planner.engines.base import Ask, Capacity, Memory

SOURCE = "https://github.com/ollama/ollama/blob/fb3076099/server/sched.go"
_DEFAULT_BATCH = 512
# batch -> from so many tokens of all slots on, only while the model takes at most this share, what it may add
_LARGER = ((2048, 32_768, 60, 2 * GIB), (1024, 4_096, 75, 768 * MIB))
_MOST_PERCENT = 80
_PROJECTOR_ROOM = GIB


class Ollama(LlamaCpp):
    """
    Ollama of 2026: a llama-server per model, with `-c num_ctx × num_parallel -np num_parallel -fa auto -b N -ub N`.

    N is chosen by Ollama: 512 tokens, 1,024 above 4,096 tokens of all slots, 2,048 above 32,768, as long as the
    model leaves room for that. Memory is llama.cpp's for these options; Ollama pins another build
    than the one that was asked (b10488, b11434), whose compute buffers may differ by a few MiB.
    Source: server/sched.go automaticGenerationBatch and llm/llama_server.go startLlamaServer.
    """

    name = "ollama"
    title = "Ollama on llama.cpp 0.5.0"

    def alike(self, ask: Ask) -> Hashable:
        """The batch goes by the room on the card."""
        return None if ask.device is None else (ask.device.total_bytes, super().alike(ask))

    def memory(self, ask: Ask) -> Memory:
        """See `Engine.memory`. Raises RequestError for what only llama-server itself takes."""
        asked = self._as_started(ask)
        found = super().memory(asked)
        told = f"Ollama chooses a batch of {asked.options.ubatch:,} tokens for {_all_tokens(ask):,} tokens of all slots"
        return replace(found, launch=_launch(asked), find_hints=lambda: (*found.find_hints(), told))

    def capacity(self, ask: Ask, memory: Memory) -> Capacity:
        """See `Engine.capacity`; the batch stays what it is at the asked context."""
        return super().capacity(self._as_started(ask), memory)

    def _as_started(self, ask: Ask) -> Ask:
        """The same ask with the options that Ollama starts llama-server with."""
        options = ask.options
        placed = options.split_mode or options.tensor_split or options.kv_offload is False
        if options.kv_unified or options.swa_full or options.n_cpu_moe or placed:
            raise RequestError(
                "Ollama passes none of --kv-unified, --swa-full, --n-cpu-moe, --split-mode, --tensor-split and "
                "--no-kv-offload on to llama-server",
                hint="leave them out, or plan for --engine llama.cpp",
            )
        if _keeps_projector_back(ask):
            options = replace(options, mmproj_offload=False)
            ask = replace(ask, options=options)
        if options.ubatch is not None:
            return ask
        batch = next((size for size, above, *_ in _LARGER if _all_tokens(ask) > above), _DEFAULT_BATCH)
        if ask.device is not None and batch > _DEFAULT_BATCH:
            batch = self._batch_with_room(ask, batch)
        return replace(ask, options=replace(options, ubatch=batch))

    def _batch_with_room(self, ask: Ask, batch: int) -> int:
        """The largest batch up to `batch` whose extra Ollama finds room for on the cards together."""
        smallest = replace(ask, options=replace(ask.options, ubatch=_DEFAULT_BATCH))
        cards = ask.layout.pp * ask.layout.tp
        predicted = sum(part.n_bytes for part in parts_of(smallest, settle(smallest))) * cards
        available = ask.device.total_bytes * cards if ask.device else 0
        for size, _, percent, surcharge in _LARGER:
            if (
                size <= batch
                and predicted <= available * percent // 100
                and predicted + surcharge <= available * _MOST_PERCENT // 100
            ):
                return size
        return _DEFAULT_BATCH


def _keeps_projector_back(ask: Ask) -> bool:
    """
    Whether Ollama leaves the projector on the host: beside layers there, or on cards that it and 1 GiB do not fit.

    Source: llm/llama_server.go, shouldDisableMMProjOffload; what is free is taken for the whole card.
    """
    if ask.projector is None:
        return False
    ngl, layers = ask.options.ngl, len(ask.architecture.layers) + 1
    if ngl is not None and ngl < layers:
        return True
    found = projector_of(ask)
    return (
        found is not None
        and ask.device is not None
        and ask.device.total_bytes < found.weights + _PROJECTOR_ROOM
    )


def _all_tokens(ask: Ask) -> int:
    return ask.workload.context * (ask.options.slots or per_replica(ask))


def _launch(ask: Ask) -> str:
    options = ask.options
    words = [
        f"OLLAMA_CONTEXT_LENGTH={ask.workload.context}",
        f"OLLAMA_NUM_PARALLEL={options.slots or ask.workload.concurrency}",
    ]
    if options.kv_dtype != "auto":
        words.append(f"OLLAMA_KV_CACHE_TYPE={options.kv_dtype}")
    if options.flash_attn is not None:
        words.append(f"OLLAMA_FLASH_ATTENTION={int(options.flash_attn)}")
    return " ".join((*words, "ollama serve"))
