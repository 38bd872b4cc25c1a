"""A start-up log of vLLM, SGLang, llama.cpp or Ollama read as a record, and compared with the plan part by part."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RecordError
from vram_planner.validate import log_patterns as known
from vram_planner.validate.evidence import Replayed, Skipped, replay_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MOST_LINES = 200_000
_LONGEST_LINE = 4_000
_NEEDED = {"vllm": 1, "sglang": 1, "llama.cpp": 1, "ollama": 1}


def read_log(lines: Iterable[str]) -> dict[str, Any]:
    """
    The record that a log holds: settings, and `measured` figures as `docs/reference/records.md` defines them.

    The engine is the one whose lines are most. Raises RecordError where no line is known.
    """
    texts = [line[:_LONGEST_LINE] for _, line in zip(range(_MOST_LINES), lines, strict=False)]
    candidates = [
        _read_server("vllm", known.VLLM, texts),
        _read_server("sglang", known.SGLANG, texts),
        _read_llama_cpp(texts),
    ]
    best = max(candidates, key=lambda row: len(row.get("measured", row.get("measured_mib", {}))))
    figures = best.get("measured", best.get("measured_mib", {}))
    if len(figures) < _NEEDED[best["engine"]]:
        raise RecordError(
            "no start-up line of vLLM, SGLang, llama.cpp or Ollama was found",
            hint="give the engine's own output from its start, at level INFO",
        )
    return best


def _read_server(engine: str, patterns: tuple[known.Pattern, ...], lines: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"id": "log", "engine": engine, "measured": {}}
    for line in lines:
        for pattern in patterns:
            where, field = (
                (row["measured"], pattern.field[1:]) if pattern.field[0] == "." else (row, pattern.field)
            )
            # The first line wins: with several ranks it is rank 0's.
            if where.get(field) is None and (found := pattern.expression.search(line)):
                where[field] = known.read_value(pattern, found)
    if engine == "vllm":
        _finish_vllm(row, lines)
    return {name: value for name, value in row.items() if value is not None}


def _finish_vllm(row: dict[str, Any], lines: list[str]) -> None:
    """What follows from several lines: the engine, the model's name, and weights and the rest told in one sum."""
    log, served = row["measured"], row.pop("served_name", None)
    if row.get("model") is None:
        row["model"] = served
    if any(known.VLLM_V0.search(line) for line in lines):
        row["v1"] = False
    need = log.pop("need_len", None), log.pop("need_gib", None)
    if None not in need:
        log["kv_gib_needed_for_len"] = dict(zip(("len", "gib"), need, strict=True))
    # Since 0.27: "… GiB for consumed memory (weights + non-torch)"; what stays allocated after the run is in it.
    if log.get("non_torch_gib") is None and {"consumed_gib", "model_loading_gib"} <= log.keys():
        log["non_torch_gib"] = round(log["consumed_gib"] - log["model_loading_gib"], 4)


def _read_llama_cpp(lines: list[str]) -> dict[str, Any]:
    """Ollama's log holds llama.cpp's lines of each model that it started: the last one that was loaded counts."""
    ollama = any(known.OLLAMA.search(line) for line in lines)
    starts = [at for at, line in enumerate(lines) if known.OLLAMA_START.search(line)] if ollama else []
    name = "ollama" if ollama else "llama.cpp"
    for first, end in reversed(list(pairwise([*starts, len(lines)]))):
        row = _read_start(name, lines[first:end])
        if row["measured_mib"]:
            return row
    return _read_start(name, lines)


def _read_start(engine: str, lines: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"id": "log", "engine": engine, "measured_mib": {}}
    buffers = row["measured_mib"]
    several = sum(known.LLAMA_CPP_CARD.search(line) is not None for line in lines) > 1
    for line in lines:
        for pattern in known.LLAMA_CPP:
            if pattern.field not in row and (found := pattern.expression.search(line)):
                row[pattern.field] = known.read_value(pattern, found)
        if buffer := known.LLAMA_CPP_BUFFER.search(line):
            name = f"{buffer[1]} {buffer[2]}"
            buffers[name] = buffers.get(name, 0.0) + float(buffer[3])
        elif buffer := known.LLAMA_CPP_OLD_BUFFER.search(line):
            buffers[f"{buffer[1]} model"] = buffers.get(f"{buffer[1]} model", 0.0) + float(buffer[2])
        elif total := known.LLAMA_CPP_TOTAL.search(line):
            buffers["KV total"] = buffers.get("KV total", 0.0) + float(total[1])
        elif vram := known.LLAMA_CPP_VRAM.search(line):
            # The first of the two lines is the tensors', the second the cache's; a sum over cards has no card's name.
            kind = "KV" if "kv self" in line else "model"
            buffers[f"{'all cards' if several else 'CUDA0'} {kind}"] = float(vram[1])
    return row


def compare_log(lines: Iterable[str], overrides: Mapping[str, Any]) -> tuple[dict[str, Any], Replayed]:
    """
    The record of a log, and the plan's figures beside it. `overrides` fill in what the log does not say.

    Raises RecordError where the log, with the overrides, does not say enough to plan it.
    """
    row = {**read_log(lines), **{name: value for name, value in overrides.items() if value is not None}}
    (replayed,) = replay_all([{**row, "partly": False}])
    if isinstance(replayed, Skipped):
        raise RecordError(
            f"this log cannot be planned: {replayed.reason}",
            hint="say what it leaves out: --model, --gpu, --gpu-total, --engine-version, --ctx, --tp",
        )
    return row, replayed


def explain_difference(component: str, ours: float, logged: float) -> str:
    """In a few words, what usually makes a component differ."""
    if abs(ours / logged - 1) < 0.01:  # noqa: PLR2004  a log's own rounding
        return ""
    if component == "weights":
        return "another format than planned, padding by the kernel, or a draft model"
    if component == "activation":
        return "an encoder's run, a quantised kernel's work space, or another sampler"
    if component in ("KV pool", "KV tokens", "KV blocks", "concurrency"):
        return "follows from the parts above, or another process had memory of the card"
    return "another build: compute buffers change between releases" if component == "compute buffer" else ""
