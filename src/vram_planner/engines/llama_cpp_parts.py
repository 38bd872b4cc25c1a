"""llama.cpp's answer in words: parts with their formulas, settings, the command that starts it, warnings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.gguf_mix import DYNAMIC_TYPES
from vram_planner.basis import Basis, Part
from vram_planner.engines.llama_cpp_compute import compute_bytes
from vram_planner.engines.llama_cpp_layout import caches_on, honours_window, loaded, weights_on, window_cells
from vram_planner.units import MIB

if TYPE_CHECKING:
    from vram_planner.architecture.gguf import GgufMix
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.base import Ask
    from vram_planner.engines.llama_cpp_layout import Setting

RELEASE = "0.5.0"
BUILD = "b11434"
RUNTIME = (244 * MIB, 350 * MIB, 453 * MIB)
_BATCH = 2048
_UBATCH = 512
_WORST_PERCENT = 3  # 568 of 584 buffers asked of llama.cpp are equal, the worst is 2.5 % low
_CODE = f"https://github.com/ggml-org/llama.cpp/blob/{BUILD}"
NOT_MODELLED = (
    "layers left on the CPU (-ngl below all, --cpu-moe, -ot)",
    "vision or audio projector (mmproj)",
    "draft model and multi-token prediction layers",
    "LoRA adapters and control vectors",
    "-sm row and -sm tensor",
    "temporaries that CUDA kernels take from ggml's pool while they run",
    "prompt cache (8 GiB by default) and all else in host memory",
)


def weights(architecture: Architecture, mix: GgufMix, setting: Setting, device: int) -> Part:
    """The tensors of one card."""
    where = "" if setting.gpus == 1 else f" on GPU {device} of {setting.gpus}, split by layers"
    head = "; the tied head is a second copy of it" if architecture.tied_head else ""
    host = loaded(architecture, mix).host
    return Part(
        name="weights",
        n_bytes=weights_on(architecture, mix, setting.gpus)[device],
        basis=mix.basis,
        source=f"{mix.source}; placement: {_CODE}/src/llama-model.cpp; padding: {_CODE}/ggml/src/ggml-cuda/ggml-cuda.cu",
        detail=(
            f"{mix.title}: tensors of {len(architecture.layers)} layers and the head{where}; "
            f"the embedding of {host:,} B stays on the host{head}"
        ),
    )


def cache(architecture: Architecture, setting: Setting, device: int, n_bytes: int) -> Part:
    """The cache of one card, allocated in full at the start."""
    windowed = honours_window(architecture)
    terms = []
    for kept, count in caches_on(architecture, setting.gpus)[device]:
        cells = setting.stream_cells
        if kept.window is not None and windowed:
            cells = window_cells(setting, kept.window)
        terms.append(
            f"{count} layers × {setting.streams} × {cells:,} cells × "
            f"({kept.n_heads * kept.key_dim} {setting.type_k} + {kept.n_heads * kept.value_dim} {setting.type_v})"
        )
    return Part(
        name="kv_cache",
        n_bytes=n_bytes,
        basis=Basis.FORMULA,
        source=f"{_CODE}/src/llama-kv-cache.cpp; windows: {_CODE}/src/llama-kv-cache-iswa.cpp",
        detail=" + ".join(terms),
    )


def compute(architecture: Architecture, setting: Setting, device: int) -> Part:
    """
    The compute buffer of one card.

    The best figure reserves logits of every token of a micro-batch, as llama.cpp's interface does by default
    (and llama-server did until it asked for one output a slot); the low one reserves one output a slot.
    The high one is what our model of the allocator was wrong by at most.
    """
    n_bytes = compute_bytes(architecture, setting, device)
    fewest = compute_bytes(
        architecture, replace(setting, outputs=min(setting.outputs, setting.slots)), device
    )
    return Part(
        name="compute_buffer",
        n_bytes=n_bytes,
        basis=Basis.FORMULA,
        source=f"{_CODE}/src/llama-graph.cpp laid out as {_CODE}/ggml/src/ggml-alloc.c does",
        detail=(
            f"graph of {setting.tokens:,} tokens over {setting.stream_cells:,} cells, flash attention "
            f"{'on' if setting.flash else 'off'}, logits of {setting.outputs:,} tokens "
            f"({architecture.vocabulary:,} × {setting.outputs:,} × 4 B); with one output a slot {fewest:,} B"
        ),
        low_bytes=min(fewest, n_bytes),
        high_bytes=n_bytes + n_bytes * _WORST_PERCENT // 100,
    )


def runtime() -> Part:
    """The CUDA context, which no formula gives."""
    low, best, high = RUNTIME
    return Part(
        name="runtime",
        n_bytes=best,
        basis=Basis.ASSUMED,
        source="CUDA contexts in users' logs: RTX 5070 244, A40 297, P100 398, RTX 4090 453 MiB",
        detail="350 MiB for context and kernels; seen between 244 and 453",
        low_bytes=low,
        high_bytes=high,
    )


def settings(setting: Setting, mix: GgufMix) -> dict[str, object]:
    """The options after defaults."""
    return {
        "engine_version": RELEASE,
        "file_type": mix.title,
        "n_ctx": setting.n_ctx,
        "n_ctx_per_slot": setting.context,
        "slots": setting.slots,
        "n_batch": max(_BATCH, setting.ubatch),
        "n_ubatch": setting.ubatch,
        "type_k": setting.type_k,
        "type_v": setting.type_v,
        "flash_attn": setting.flash,
        "ngl": 99,
        "gpus": setting.gpus,
    }


def launch(setting: Setting, mix: GgufMix) -> str:
    """The command; `{model_file}` stands for the name of its file, without a folder."""
    words = [
        f"llama-server -m {{model_file}}-{mix.title}.gguf",
        f"-c {setting.n_ctx} -np {setting.slots} -ngl 99 -fa {'on' if setting.flash else 'off'}",
    ]
    if setting.ubatch != _UBATCH:
        words.append(f"-b {max(_BATCH, setting.ubatch)} -ub {setting.ubatch}")
    if (setting.type_k, setting.type_v) != ("f16", "f16"):
        words.append(f"-ctk {setting.type_k} -ctv {setting.type_v}")
    if setting.gpus > 1:
        words.append("-sm layer")
    return " ".join(words)


def warnings(ask: Ask, mix: GgufMix, setting: Setting) -> tuple[str, ...]:
    """What the user may not expect."""
    found = []
    if ask.layout.tp > 1:
        found.append(f"llama.cpp splits by layers (-sm layer): tp {ask.layout.tp} is read as that many GPUs")
    if ask.options.version not in (None, RELEASE, BUILD):
        found.append(f"figures are those of llama.cpp {RELEASE} ({BUILD}), not of {ask.options.version}")
    if mix.name == "mxfp4_moe" and ask.precision is not mix:
        found.append("as GGUF the experts stay MXFP4 and the other matrices become Q8_0 (MXFP4_MOE)")
    if mix.name in DYNAMIC_TYPES:
        found.append(
            "the published 1.58-bit file is older than MLA in llama.cpp: it needs one with attn_k_b and attn_v_b "
            "tensors, or its cache is 71 times as large"
        )
    windows = any(cache.window is not None for cache, _ in ask.architecture.caches)
    if windows and not honours_window(ask.architecture):
        found.append("llama.cpp ignores this model's sliding window: every layer keeps all tokens")
    if setting.context != ask.workload.context:
        found.append(
            f"a slot's context of {ask.workload.context:,} tokens is rounded up to {setting.context:,}"
        )
    return tuple(found)
