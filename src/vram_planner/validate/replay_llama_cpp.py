"""A record of llama.cpp as a request: the architecture comes from the record's own hyperparameters."""

from __future__ import annotations

from typing import Any

from vram_planner.architecture.gguf import gguf_precision
from vram_planner.architecture.parallel import Layout
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.register import engine
from vram_planner.errors import PlannerError, RecordError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import resolve
from vram_planner.units import GIB, MIB

# llama.cpp's architecture -> ours, where its hyperparameters say all that the cache and the graph need.
_MODEL_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "phi3": "phi3",
    "granite": "granite",
    "glm4": "glm4",
    "phi2": "phi",
}
_ROOM_BYTES = 1024 * GIB  # a card that never bounds what is compared


def replay(row: dict[str, Any]) -> dict[str, Any]:
    """Predicted and logged buffers in MiB; PlannerError with the reason where a row cannot be replayed."""
    _check(row)
    architecture = _architecture(row)
    slots = row.get("n_parallel") or 1
    ask = Ask(
        architecture=architecture,
        precision=gguf_precision(row.get("file_type") or "F16"),
        workload=Workload(context=row["n_ctx"] // slots, concurrency=slots, prompt_tokens=1),
        layout=Layout(),
        options=Options(
            kv_dtype=_kv_dtype(row),
            ubatch=row.get("n_ubatch"),
            flash_attn=row.get("flash_attn"),
            slots=slots,
        ),
        device=Device(name="any", total_bytes=_ROOM_BYTES),
    )
    memory = engine("llama.cpp").memory(ask)
    parts = {part.name: part.n_bytes / MIB for part in memory.parts}
    return {"pairs": _pairs(row, parts), "version": row.get("engine_version") or "?", "fitted": False}


def _check(row: dict[str, Any]) -> None:
    reasons = {
        "it is a projection, not a measurement": row.get("breakdown_is_projection"),
        "no n_ctx": not row.get("n_ctx"),
        "several cards share the layers": any(
            name.startswith("CUDA1") for name in row.get("measured_mib", {})
        ),
        "layers stay on the CPU": _partly_offloaded(row),
    }
    for reason, holds in reasons.items():
        if holds:
            raise RecordError(reason, hint="such rows are not compared")


def _partly_offloaded(row: dict[str, Any]) -> bool:
    done, _, of = str(row.get("offloaded") or "").partition("/")
    return bool(of.strip()) and done.strip() != of.strip()


def _architecture(row: dict[str, Any]) -> Any:
    kind = _MODEL_TYPES.get(str(row.get("arch")))
    needed = ("n_layer", "n_embd", "n_head", "n_head_kv", "n_ff", "n_vocab")
    if kind is not None and all(row.get(name) for name in needed):
        return architecture_from_config(_config(kind, row))
    if row.get("model") is None:
        raise RecordError("neither a model's name nor all hyperparameters", hint="add 'model'")
    try:
        return resolve(str(row["model"])).architecture
    except PlannerError as error:
        raise RecordError(f"the model {row['model']!r} is not known", hint=error.hint) from error


def _config(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    config = {
        "model_type": kind,
        "hidden_size": row["n_embd"],
        "num_hidden_layers": row["n_layer"],
        "num_attention_heads": row["n_head"],
        "num_key_value_heads": row["n_head_kv"],
        "intermediate_size": row["n_ff"],
        "vocab_size": row["n_vocab"],
        "head_dim": row.get("n_embd_head_k"),
        "max_position_embeddings": row.get("n_ctx_train"),
        "torch_dtype": "float16",
        "tie_word_embeddings": False,
    }
    if row.get("n_expert"):
        width = row["n_ff"]
        config |= {
            "num_experts": row["n_expert"],
            "num_experts_per_tok": row.get("n_expert_used") or 8,
            "moe_intermediate_size": width,
        }
        if kind == "llama":
            config |= {"model_type": "mixtral", "num_local_experts": row["n_expert"]}
    return {name: value for name, value in config.items() if value is not None}


def _kv_dtype(row: dict[str, Any]) -> str:
    keys, values = row.get("type_k") or "f16", row.get("type_v") or "f16"
    if "none" in values:
        return str(keys)
    return str(keys) if keys == values else f"{keys}/{values}"


def _pairs(row: dict[str, Any], parts: dict[str, float]) -> dict[str, tuple[float, float]]:
    log = row["measured_mib"]
    single = len([name for name in log if name.endswith(" KV")]) == 1
    found = {
        "KV cache": (parts["kv_cache"], log.get("KV total")),
        "compute buffer": (parts["compute_buffer"], log.get("CUDA0 compute") if single else None),
        "weights": (parts["weights"], log.get("CUDA0 model") if single and row.get("file_type") else None),
    }
    pairs = {name: (ours, float(theirs)) for name, (ours, theirs) in found.items() if theirs}
    if len(pairs) == len(found):
        pairs["total"] = (
            sum(ours for ours, _ in pairs.values()),
            sum(theirs for _, theirs in pairs.values()),
        )
    return pairs
