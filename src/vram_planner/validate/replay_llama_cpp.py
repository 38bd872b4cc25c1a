"""
A record of llama.cpp, or of a program that embeds it, as a request.

The architecture comes from the record's own hyperparameters, or from the name of the model. Caches are compared over all
cards and the host together, for their sum does not depend on who holds which layer; tensors and compute buffers only where
the log's layers lie as the plan puts them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vram_planner.architecture.gguf import by_whom, gguf_precision
from vram_planner.architecture.parallel import Layout
from vram_planner.architecture.weight import Role
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.llama_cpp import settle
from vram_planner.engines.llama_cpp_cache import kv_bytes
from vram_planner.engines.llama_cpp_compute import compute_bytes, copies_weights
from vram_planner.engines.llama_cpp_layout import HOST, weights_on
from vram_planner.errors import PlannerError, PrecisionError, RecordError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import resolve
from vram_planner.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vram_planner.architecture.gguf import GgufMix
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.llama_cpp_layout import Setting

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
# Fine-tunes, and builds with further layers that a plain start does not load: the shapes are their base's.
_SAME_SHAPES = {
    "Reflection-Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
    "DeepSeek-R1-Distill-Qwen-14B-Uncensored": "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
    "GLM-Z1-32B-0414": "zai-org/GLM-4-32B-0414",
    "Llama-Hf-70B": "meta-llama/Llama-2-70b-hf",
    "Qwen3.6-27B-MTP": "Qwen/Qwen3.6-27B",
    "Qwen3.6-35B-A3B-MTP": "Qwen/Qwen3.6-35B-A3B",
    "openhermes-2.5-mistral-7b": "mistralai/Mistral-7B-v0.1",
    "phi-2-layla-v1-chatml": "microsoft/phi-2",
    "mistral-small-2409-22b": "mistralai/Mistral-Small-Instruct-2409",
    "mistral-small3.2-24b-instruct-2506-q8_0": "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
}
_EMBEDS = re.compile(r"(?i)llama\.cpp \(|llama-cpp-python")
_TYPE = re.compile(r"(?i)[-._](?P<ud>ud-)?(?P<type>i?q\d\w*|tq\d_0|mxfp4(?:_moe)?|b?f16|f32)$")
_ALIKE_TYPES = frozenset({"f16", "bf16", "f32", "q8_0", "mxfp4_moe"})  # which every maker fills alike
_QUANT = re.compile(r"(?i)[ _-]+(UD-)?(I?Q\d\w*|BF16|F16|XL)$")
_TYPES = {"MXFP4": "mxfp4_moe"}  # as logs write it
_CELLS = 256  # what a context is rounded up to, since October 2025
_ROOM_BYTES = 1024 * GIB  # a card that never bounds what is compared
_ALIKE = 0.01
# What backends call a card; "all cards" is what the reader calls the sums that builds of 2023 printed.
_CARD = re.compile(
    r"(?:(?:CUDA|ROCm|HIP|MUSA|Vulkan|SYCL|CANN|Metal|MTL|OpenCL)\d*|all cards)(?= (?:KV|model)$)"
)
# Whose compute buffers the plan counts: HIP compiles CUDA's code.
_AS_CUDA = re.compile(r"CUDA\d|ROCm\d")


def embedded(name: str) -> str:
    """
    Our name of an engine that is llama.cpp inside: "ollama(llama runner)" -> ollama, "llama.cpp (LocalAI)" -> llama.cpp.

    Forks keep their own, for they have other graphs.
    """
    if name.startswith("ollama"):
        return "ollama"
    return "llama.cpp" if _EMBEDS.match(name) else name


def replay(row: dict[str, Any]) -> dict[str, Any]:
    """Predicted and logged buffers in MiB; PlannerError with the reason where a row cannot be replayed."""
    _check(row)
    architecture = _architecture(row)
    _check_latent(row, architecture)
    slots, gpus = row.get("n_parallel") or 1, _cards(row)
    done, _, of = str(row.get("offloaded") or "").partition("/")
    mix = _mix(row, architecture)
    ask = Ask(
        architecture=architecture,
        precision=mix or gguf_precision("F16"),
        workload=Workload(context=row["n_ctx"] // slots, concurrency=slots, prompt_tokens=1),
        layout=Layout(pp=gpus),
        options=Options(
            version=row.get("engine_version"),
            kv_dtype=_kv_dtype(row),
            ubatch=row.get("n_ubatch"),
            flash_attn=_flash(row),
            slots=slots,
            kv_unified=_unified(row, slots),
            ngl=int(done) if of.strip() and done.strip() != of.strip() else None,
        ),
        device=Device(name="any", total_bytes=_ROOM_BYTES),
    )
    found = {"version": row.get("engine_version") or "?", "fitted": False}
    return found | {"pairs": _pairs(row, architecture, _sized(row, settle(ask)), mix)}


def _sized(row: dict[str, Any], setting: Setting) -> Setting:
    """The same with the one cache as large as logged: only its sum is rounded up to 256 cells, not a slot's share."""
    fits = row["n_ctx"] % setting.slots == 0 and row["n_ctx"] % _CELLS == 0
    return replace(setting, context=row["n_ctx"] // setting.slots) if setting.unified and fits else setting


def _check(row: dict[str, Any]) -> None:
    reasons = {
        "it is a projection, not a measurement": row.get("breakdown_is_projection"),
        "no n_ctx": not row.get("n_ctx"),
        "builds of today round so short a context up": 0 < (row.get("n_ctx") or 0) < _CELLS,
        "a part of it is on other machines (RPC)": "RPC" in str(row.get("gpu")),
    }
    for reason, holds in reasons.items():
        if holds:
            raise RecordError(reason, hint="such rows are not compared")


def _check_latent(row: dict[str, Any], architecture: Architecture) -> None:
    """MLA's keys and values were kept in full before April 2025 (b5140)."""
    if row["measured_mib"].get("V") and all(cache.latent for cache, _ in architecture.caches):
        raise RecordError(
            "an older build kept MLA's keys and values in full", hint="a build of today does not"
        )


def _cards(row: dict[str, Any]) -> int:
    return max(1, len(_card_names(row["measured_mib"])))


def _card_names(log: dict[str, float]) -> list[str]:
    """The cards that hold layers, in the order of their numbers."""
    names = {found[0] for name in log if (found := _CARD.match(name))}
    return sorted(names, key=lambda name: int("".join(filter(str.isdigit, name)) or 0))


def _mix(row: dict[str, Any], architecture: Architecture) -> GgufMix | None:
    """
    The file's type, by its own name where the log has that, for makers mix types of one name in their own ways.

    None where neither is told or known, and where the maker of a file with experts is not.
    """
    stem = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", str(row.get("file") or ""))
    found = _TYPE.search(stem)
    maker = "unsloth" if found and found["ud"] else str(row.get("quantized_by") or "").lower()
    said = str(row.get("file_type") or "")
    name = f"{found['ud'] or ''}{found['type']}".lower() if found else _TYPES.get(said, said)
    experts = any(weight.role is Role.EXPERT for layer, _ in architecture.groups for weight in layer.weights)
    if not name or (experts and not found and name.lower() not in _ALIKE_TYPES):
        return None
    matrix = "-imatrix" if row.get("imatrix") and maker != "unsloth" else ""
    for each in (f"{name}{matrix}", name):
        try:
            return by_whom(each, f"{maker}/gguf", architecture)
        except PrecisionError:
            continue
    return None


def _flash(row: dict[str, Any]) -> bool | None:
    said = row.get("flash_attn")
    return said.endswith("enabled") if isinstance(said, str) else said


def _unified(row: dict[str, Any], slots: int) -> bool | None:
    """One cache for all slots: what the log's `seqs` says, else as always before August 2025."""
    seqs = next((cache.get("seqs") for cache in row.get("kv_caches") or ()), None)
    return True if slots > 1 and seqs in (None, 1) else None


def _architecture(row: dict[str, Any]) -> Architecture:
    kind = _MODEL_TYPES.get(str(row.get("arch")))
    needed = ("n_layer", "n_embd", "n_head", "n_head_kv", "n_ff", "n_vocab")
    # Of a mixture by another name than Mixtral's, n_ff is the width that a block without experts would have.
    mixed = row.get("n_expert") and row.get("arch") != "llama" and not row.get("n_ff_exp")
    if kind is not None and not mixed and all(row.get(name) for name in needed):
        return architecture_from_config(_config(kind, row))
    if row.get("model") is None:
        raise RecordError("neither a model's name nor all hyperparameters", hint="add 'model'")
    found = _named(str(row["model"]))
    if row.get("n_layer") not in (None, len(found.layers)):
        raise RecordError(
            f"{row['model']!r} has another number of layers", hint="name the model that was run"
        )
    return found


def _named(name: str) -> Architecture:
    hint = ""
    for spelling in _spellings(name):
        try:
            return resolve(_SAME_SHAPES.get(spelling, spelling)).architecture
        except PlannerError as error:
            hint = hint or error.hint
    raise RecordError(f"the model {name!r} is not known", hint=hint)


def _spellings(name: str) -> Iterator[str]:
    """As written; without remarks and file type; a directory that stands for its owner; an Ollama tag as a name."""
    yield name
    plain = _QUANT.sub("", re.sub(r"\s*\(.*\)$", "", name)).strip()
    yield plain
    yield re.sub(r"[\s:]+", "-", plain)
    yield plain.replace("_", "/", 1)


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
        width = row.get("n_ff_exp") or row["n_ff"]
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


def _pairs(
    row: dict[str, Any], architecture: Architecture, setting: Setting, mix: GgufMix | None
) -> dict[str, tuple[float, float]]:
    """
    What was logged against the plan's, the sum over all cards; compute buffers of several cards apart, for they are a
    pipeline's.
    """
    log, devices, names = row["measured_mib"], range(setting.gpus), _card_names(row["measured_mib"])
    ours = [kv_bytes(architecture, setting, device) / MIB for device in (*devices, HOST)]
    logged = log.get("KV total") or sum(value for name, value in log.items() if name.endswith(" KV"))
    pairs = {"KV cache": (sum(ours), float(logged))} if logged else {}
    if not _placed_alike(log, names, ours[:-1]) or not _host_alike(log, architecture, setting, mix):
        return pairs
    if mix is not None and all(log.get(f"{name} model") for name in names):
        weights = sum(weights_on(architecture, mix, setting, device) for device in devices) / MIB
        pairs["weights"] = (weights, float(sum(log[f"{name} model"] for name in names)))
    computed = [log.get(f"{name} compute") for name in names if _AS_CUDA.match(name)]
    known = mix is not None or not copies_weights(architecture, setting)
    if row.get("flash_attn") is None or not known or not computed or not all(computed):
        return pairs
    kind, apart = mix or gguf_precision("F16"), ", several cards" if setting.gpus > 1 else ""
    buffers = sum(compute_bytes(architecture, kind, setting, device) for device in devices) / MIB
    pairs[f"compute buffer{apart}"] = (buffers, float(sum(filter(None, computed))))
    if "weights" in pairs and setting.gpu_layers is None:
        pairs[f"total{apart}"] = (
            sum(mine for mine, _ in pairs.values()),
            sum(theirs for _, theirs in pairs.values()),
        )
    return pairs


def _placed_alike(log: dict[str, float], names: list[str], ours: list[float]) -> bool:
    """Whether each card's cache is as large as the plan's: then its layers are the same."""
    theirs = [log.get(f"{name} KV") for name in names]
    return len(theirs) == len(ours) and all(
        value is not None and abs(value - own) <= _ALIKE * own
        for value, own in zip(theirs, ours, strict=True)
    )


def _host_alike(
    log: dict[str, float], architecture: Architecture, setting: Setting, mix: GgufMix | None
) -> bool:
    """Whether no more tensors were left on the host than in the plan: `-ot` is not in a log."""
    logged = sum(value for name, value in log.items() if re.match(r"(CPU|\w+_Host)\w* model", name))
    return mix is None or logged <= 2 * weights_on(architecture, mix, setting, HOST) / MIB
