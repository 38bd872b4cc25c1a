"""llama.cpp's answer in words: parts with their formulas, settings, the command that starts it, warnings."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.cache import StateCache
from vram_planner.architecture.gguf_dynamic import DYNAMIC_TYPES
from vram_planner.basis import Basis, Part
from vram_planner.engines.llama_cpp_cache import (
    cells_of,
    held_on,
    honours_window,
    kv_bytes,
    states_bytes,
    value_width,
)
from vram_planner.engines.llama_cpp_compute import compute_bytes
from vram_planner.engines.llama_cpp_layout import HOST, weights_on
from vram_planner.units import MIB

if TYPE_CHECKING:
    from vram_planner.architecture.gguf import GgufMix
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.base import Ask, Options
    from vram_planner.engines.llama_cpp_draft import Draft
    from vram_planner.engines.llama_cpp_layout import Setting

RELEASE = "0.5.0"
BUILD = "b11434"
RUNTIME = (244 * MIB, 350 * MIB, 453 * MIB)
_BATCH = 2048
_UBATCH = 512
_ALL = 99
# Of 5,490 compute buffers asked of llama.cpp none of 1,949 on one GPU is 0.5 % above ours; of 2,075 on several, one is 5.1 %, but
# for a model with states whose quantised cache ends a GPU's layers (its result is turned back on the next GPU): 11.3 %. Of
# 1,466 with --override-tensor two are 9.8 % above ours.
_WORST_PERCENT = 2
_WORST_PERCENT_SHARED = 6
_WORST_PERCENT_SHARED_STATES = 12
_WORST_PERCENT_MOVED = 10
_WORST_PERCENT_OF = {
    **dict.fromkeys(("nemotron", "orion", "mpt"), 35),  # LayerNorm, not asked
}
_CODE = f"https://github.com/ggml-org/llama.cpp/blob/{BUILD}"
NOT_MODELLED = (
    "multi-token prediction layers and EAGLE heads",
    "LoRA adapters and control vectors",
    "-sm tensor, cards of unequal size",
    "temporaries that CUDA kernels take from ggml's pool while they run",
)


def weights(architecture: Architecture, mix: GgufMix, setting: Setting, device: int) -> Part:
    """The tensors of one card."""
    where = "" if setting.gpus == 1 else f" on GPU {device} of {setting.gpus}, split by layers"
    head = "; the tied head is a second copy of it" if architecture.tied_head else ""
    host, count = weights_on(architecture, mix, setting, HOST), len(architecture.layers)
    if setting.all_on_gpus(count) and not setting.moe_on_host and not setting.overrides:
        held, left = (
            f"tensors of {count} layers and the head",
            f"the embedding of {host:,} B stays on the host{head}",
        )
    else:
        layers = count if setting.gpu_layers is None else max(0, setting.gpu_layers - 1)
        experts = f", the experts of the first {setting.moe_on_host} left out" if setting.moe_on_host else ""
        experts += ", less or more what --override-tensor says" if setting.overrides else ""
        held = f"tensors of {layers} of {count} layers{experts}"
        held += " and the head" if setting.gpu_layers != 0 else ""
        left = f"{host:,} B stay on the host"
    n_bytes, spread = weights_on(architecture, mix, setting, device), mix.spread(architecture)
    return Part(
        name="weights",
        n_bytes=n_bytes,
        low_bytes=int(n_bytes * spread.least) if spread else None,
        high_bytes=int(n_bytes * spread.most) if spread else None,
        basis=mix.basis,
        source=f"{mix.source}; placement: {_CODE}/src/llama-model.cpp; padding: {_CODE}/ggml/src/ggml-cuda/ggml-cuda.cu",
        detail=f"{mix.title}: {held}{where}; {left}",
    )


def cache(architecture: Architecture, setting: Setting, device: int, n_bytes: int) -> Part:
    """The cache of one card, allocated in full at the start."""
    windowed = honours_window(architecture)
    terms = []
    for kept, indexer, count in held_on(architecture, setting, device):
        if isinstance(kept, StateCache):
            continue
        values = value_width(architecture, kept, setting)
        terms.append(
            f"{count} {'indexers' if indexer else 'layers'} × {setting.streams} × "
            f"{cells_of(kept, setting, windowed=windowed):,} cells × "
            f"({kept.n_heads * kept.key_dim} {setting.type_k} + {values} {setting.type_v})"
        )
    return Part(
        name="kv_cache",
        n_bytes=n_bytes,
        basis=Basis.FORMULA,
        source=f"{_CODE}/src/llama-kv-cache.cpp; windows: {_CODE}/src/llama-kv-cache-iswa.cpp",
        detail=" + ".join(terms) or "no layer keeps a cache",
    )


def states(architecture: Architecture, setting: Setting, device: int, n_bytes: int) -> Part:
    """The states of one card, one for each slot whatever the context."""
    terms = [
        f"{count} layers × {setting.slots} × ({kept.conv_channels * kept.conv_tokens} + {kept.state_elements}) × 4 B"
        for kept, _, count in held_on(architecture, setting, device)
        if isinstance(kept, StateCache)
    ]
    return Part(
        name="recurrent_state",
        n_bytes=n_bytes,
        basis=Basis.FORMULA,
        source=f"{_CODE}/src/llama-memory-recurrent.cpp; sizes: {_CODE}/src/llama-hparams.cpp",
        detail=" + ".join(terms) or "no layer with a state on this card",
    )


def compute(architecture: Architecture, mix: GgufMix, setting: Setting, device: int) -> Part:
    """
    The compute buffer of one card.

    The best figure reserves logits of every token of a micro-batch, as llama.cpp's interface does by default
    (and llama-server did until it asked for one output a slot); the low one reserves one output a slot.
    The high one is what our model of the allocator was wrong by at most.
    """
    n_bytes = compute_bytes(architecture, mix, setting, device)
    few = replace(setting, outputs=min(setting.outputs, setting.slots))
    fewest = compute_bytes(architecture, mix, few, device)
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
        high_bytes=n_bytes + n_bytes * worst_percent(architecture, setting) // 100,
    )


def worst_percent(architecture: Architecture, setting: Setting) -> int:
    """By how much llama.cpp's compute buffer may be above ours, as far as it was asked."""
    if setting.overrides:
        usual = _WORST_PERCENT_MOVED
    elif setting.gpus == 1:
        usual = _WORST_PERCENT
    else:
        turned = bool(architecture.states) and setting.type_v.startswith("q")
        usual = _WORST_PERCENT_SHARED_STATES if turned else _WORST_PERCENT_SHARED
    return max(usual, _WORST_PERCENT_OF.get(architecture.model_type, 0))


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


def settings(architecture: Architecture, mix: GgufMix, setting: Setting) -> dict[str, object]:
    """The options after defaults, and what lies in host memory."""
    return {
        "engine_version": RELEASE,
        "file_type": mix.title,
        "n_ctx": setting.n_ctx,
        "n_ctx_per_slot": setting.context,
        "slots": setting.slots,
        "n_batch": max(_BATCH, setting.ubatch),
        "n_ubatch": setting.ubatch,
        "ubatch": setting.ubatch,
        "type_k": setting.type_k,
        "type_v": setting.type_v,
        "flash_attn": setting.flash,
        "kv_unified": setting.unified,
        "swa_full": setting.swa_full,
        "ngl": _ALL if setting.gpu_layers is None else setting.gpu_layers,
        "n_cpu_moe": setting.moe_on_host,
        "override_tensor": as_words(setting.overrides) or None,
        "gpus": setting.gpus,
        "kv_offload": not setting.kv_on_host,
        "tensor_split": ",".join(f"{share:g}" for share in setting.shares) or None,
        "host_weights_bytes": weights_on(architecture, mix, setting, HOST),
        "host_cache_bytes": kv_bytes(architecture, setting, HOST) + states_bytes(architecture, setting, HOST),
        "host_compute_bytes": compute_bytes(architecture, mix, setting, HOST),
    }


def launch(
    architecture: Architecture,
    mix: GgufMix,
    setting: Setting,
    options: Options,
    *,
    draft: Draft | None = None,
) -> str:
    """The command; `{model_file}` stands for the name of its file, without a folder."""
    layers = max(_ALL, len(architecture.layers) + 1) if setting.gpu_layers is None else setting.gpu_layers
    file = getattr(mix, "path", "") or f"{{model_file}}-{mix.title}.gguf"
    words = [
        f"llama-server -m {file}",
        f"-c {setting.n_ctx} -np {setting.slots} -ngl {layers} -fa {'on' if setting.flash else 'off'}",
    ]
    if setting.ubatch != _UBATCH:
        words.append(f"-b {max(_BATCH, setting.ubatch)} -ub {setting.ubatch}")
    if (setting.type_k, setting.type_v) != ("f16", "f16"):
        words.append(f"-ctk {setting.type_k} -ctv {setting.type_v}")
    if setting.overrides:
        words.append(f"-ot {shlex.quote(as_words(setting.overrides))}")
    if setting.moe_on_host:
        words.append(f"--n-cpu-moe {setting.moe_on_host}")
    words += ["--kv-unified"] * setting.unified + ["--swa-full"] * setting.swa_full
    words += ["-nkvo"] * setting.kv_on_host
    if setting.gpus > 1:
        words.append("-sm layer")
    if setting.shares:
        words.append("-ts " + ",".join(f"{share:g}" for share in setting.shares))
    if options.split_mode == "none":
        words.append("-sm none")
    words += _host_words(options)
    if draft is not None:
        named = getattr(draft.mix, "path", "") or f"DRAFT-{draft.mix.title}.gguf"
        words.append(f"--spec-type draft-simple -md {named} --spec-draft-n-max {draft.tokens}")
    return " ".join(words)


def _host_words(options: Options) -> list[str]:
    found = [] if options.cache_ram is None else [f"--cache-ram {options.cache_ram // MIB}"]
    return found + (
        [] if options.ctx_checkpoints is None else [f"--ctx-checkpoints {options.ctx_checkpoints}"]
    )


def as_words(overrides: tuple[tuple[str, int], ...]) -> str:
    """Patterns and buffers as --override-tensor takes them."""
    return ",".join(
        f"{pattern}={'CPU' if device == HOST else f'CUDA{device}'}" for pattern, device in overrides
    )


def warnings(ask: Ask, mix: GgufMix, setting: Setting) -> tuple[str, ...]:
    """What the user may not expect."""
    found = []
    if ask.options.split_mode == "none":
        words = "with -sm none llama.cpp uses one GPU and leaves the others empty"
        found += [words] if ask.layout.tp * ask.layout.pp > 1 else []
    elif ask.layout.tp > 1:
        found.append(f"llama.cpp splits by layers (-sm layer): tp {ask.layout.tp} is read as that many GPUs")
    if ask.options.version not in (None, RELEASE, BUILD):
        found.append(f"figures are those of llama.cpp {RELEASE} ({BUILD}), not of {ask.options.version}")
    if mix.name == "mxfp4_moe" and ask.precision is not mix:
        found.append("as GGUF the experts stay MXFP4 and the other matrices become Q8_0 (MXFP4_MOE)")
    if mix.usual in DYNAMIC_TYPES and mix.spread(ask.architecture) is None:
        found.append(
            "the published dynamic files of R1 are older than MLA in llama.cpp: they need one with attn_k_b and attn_v_b "
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
