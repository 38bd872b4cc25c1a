"""llama.cpp (llama-server): GGUF weights, a cache of fixed size, one compute buffer for the largest micro-batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.gguf import GgufMix
from vram_planner.architecture.precision import Uniform
from vram_planner.engines import llama_cpp_parts as parts
from vram_planner.engines.base import Ask, Capacity, KvNeed, Memory, largest
from vram_planner.engines.llama_cpp_compute import compute_bytes
from vram_planner.engines.llama_cpp_layout import (
    KV_TYPES,
    Setting,
    check_rows,
    kv_bytes,
    rounded_context,
    weights_on,
)
from vram_planner.errors import PrecisionError, RequestError
from vram_planner.units import GIB, format_gib

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Precision

_UBATCH = 512
_MARGIN = GIB
_STEP = 256
_LONGEST = 1 << 28
_FLOATS = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
_KV_ALIASES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


class LlamaCpp:
    """
    llama-server of release 0.5.0 (b11434) on CUDA, every layer on the GPUs (`-ngl 99`).

    Memory = tensors + cache of slots × context cells + compute buffer + CUDA context; nothing grows with use.
    Several GPUs share the model by layers (`-sm layer`): `pp` is their number, and `tp` is read as such too.
    Checked against the release's own CUDA backend asked in no-alloc mode.
    """

    name = "llama.cpp"
    title = "llama.cpp 0.5.0"
    kinds: frozenset[str] = frozenset()
    vocabulary_multiple = 1

    def alike(self, ask: Ask) -> Hashable:  # noqa: ARG002  the same on every card
        """Every CUDA card with tensor cores has the same buffers."""
        return ()

    def usable_bytes(self, ask: Ask) -> int:
        """The card less 1 GiB: `--fit` leaves that free on every device (common/common.h, fit_params_target)."""
        if ask.device is None:
            raise RequestError("a capacity needs a card", hint="name one with --gpu")
        return max(0, ask.device.total_bytes - _MARGIN)

    def memory(self, ask: Ask) -> Memory:
        """See `Engine.memory`. Raises PrecisionError or RequestError."""
        mix, setting, architecture = mix_for(ask.precision), settle(ask), ask.architecture
        device = _fullest(architecture, mix, setting)
        cache = kv_bytes(architecture, setting, device)
        more = kv_bytes(architecture, replace(setting, context=setting.context + _STEP), device)
        return Memory(
            parts=(
                parts.weights(architecture, mix, setting, device),
                parts.cache(architecture, setting, device, cache),
                parts.compute(architecture, setting, device),
                parts.runtime(),
            ),
            kv=KvNeed(
                bytes_per_token=(more - cache) // (_STEP * setting.slots),
                bytes_per_request=cache // setting.slots,
                n_bytes=cache,
                replicated_ranks=1,
            ),
            settings=parts.settings(setting, mix),
            launch=parts.launch(setting, mix),
            not_modelled=parts.NOT_MODELLED,
            warnings=parts.warnings(ask, mix, setting),
        )

    def capacity(self, ask: Ask, memory: Memory) -> Capacity:
        """See `Engine.capacity`: the pool is what weights, compute buffer, context and margin leave."""
        usable, setting = self.usable_bytes(ask), settle(ask)
        fixed = sum(part.budgeted_bytes for part in memory.parts if part.name != "kv_cache")
        pool = max(0, usable - fixed)
        concurrency = pool / max(1, memory.kv.bytes_per_request)
        return Capacity(
            usable_bytes=usable,
            rule=f"{format_gib(usable + _MARGIN)} GiB − 1 GiB that --fit leaves free",
            kv_pool_bytes=pool,
            num_blocks=None,
            kv_cache_tokens=int(concurrency * setting.context),
            max_concurrency=concurrency,
            max_context=_longest_context(ask, setting, usable),
        )


def mix_for(precision: Precision) -> GgufMix:
    """
    The file type that stands for a precision.

    An unquantised checkpoint is a BF16, F16 or F32 file; gpt-oss' MXFP4 experts stay so in MXFP4_MOE.
    Raises PrecisionError for what llama.cpp has no type for.
    """
    if isinstance(precision, GgufMix):
        return precision
    stored = getattr(precision, "inner", precision)
    if isinstance(stored, Uniform) and stored.linear is None:
        if stored.expert is None:
            return GgufMix(_FLOATS[stored.base.name])
        if stored.expert.name == "mxfp4":
            return GgufMix("mxfp4_moe")
    raise PrecisionError(
        f"llama.cpp does not load {precision.name}",
        hint="choose a GGUF type: --quant q4_k_m, q5_k_m, q6_k or q8_0",
    )


def settle(ask: Ask) -> Setting:
    """The options after llama-server's defaults. Raises RequestError for what it refuses."""
    options, layout = ask.options, ask.layout
    if layout.dp > 1 or layout.expert_parallel:
        raise RequestError(
            "llama.cpp has neither data nor expert parallelism",
            hint="leave out --dp and --ep, or start more servers",
        )
    gpus = layout.pp * layout.tp
    if gpus > len(ask.architecture.layers):
        raise RequestError(
            f"{gpus} GPUs for {len(ask.architecture.layers)} layers", hint="use no more GPUs than layers"
        )
    type_k, type_v = _kv_types(options.kv_dtype)
    flash = options.flash_attn is not False
    _check_cache_types(ask.architecture, type_k, type_v, flash=flash)
    slots, context = options.slots or ask.workload.concurrency, rounded_context(ask.workload.context)
    ubatch = options.ubatch or _UBATCH
    setting = Setting(
        slots=slots,
        context=context,
        ubatch=ubatch,
        type_k=type_k,
        type_v=type_v,
        flash=flash,
        gpus=gpus,
        outputs=min(ubatch, slots * context),
    )
    check_rows(ask.architecture, setting)
    return setting


def _kv_types(name: str) -> tuple[str, str]:
    """'auto' is f16 for both; 'q8_0/q4_0' names keys and values."""
    if name == "auto":
        return "f16", "f16"
    keys, _, values = name.lower().partition("/")
    pair = [_KV_ALIASES.get(part, part) for part in (keys, values or keys)]
    for part in pair:
        if part not in KV_TYPES:
            raise RequestError(
                f"llama.cpp has no KV cache of type {part[:20]!r}",
                hint=f"one of {', '.join(KV_TYPES)}, or a pair for keys and values: q8_0/q4_0",
            )
    return pair[0], pair[1]


def _check_cache_types(architecture: Architecture, type_k: str, type_v: str, *, flash: bool) -> None:
    latent = any(cache.latent for cache, _ in architecture.caches)
    if latent and type_k != type_v:
        raise RequestError(
            "llama.cpp keeps one tensor for MLA: keys and values cannot differ in type",
            hint=f"--kv-dtype {type_k}",
        )
    if not flash and type_v.startswith(("q", "iq")):
        raise RequestError(
            f"a {type_v} cache of values needs flash attention in llama.cpp",
            hint=f"leave out --no-flash-attn, or quantise keys only: --kv-dtype {type_k}/f16",
        )


def _fullest(architecture: Architecture, mix: GgufMix, setting: Setting) -> int:
    if setting.gpus == 1:
        return 0
    return max(range(setting.gpus), key=lambda device: _device_bytes(architecture, mix, setting, device))


def _device_bytes(architecture: Architecture, mix: GgufMix, setting: Setting, device: int) -> int:
    """Weights, cache and compute buffer of one card."""
    return (
        weights_on(architecture, mix, setting.gpus)[device]
        + kv_bytes(architecture, setting, device)
        + compute_bytes(architecture, setting, device)
    )


def _longest_context(ask: Ask, setting: Setting, usable: int) -> int:
    """The longest context, in steps of 256, with which weights, cache and buffers fit every card."""
    mix = mix_for(ask.precision)
    room = usable - parts.RUNTIME[1]
    return min(
        _longest_on(
            ask.architecture, setting, device, room - weights_on(ask.architecture, mix, setting.gpus)[device]
        )
        for device in range(setting.gpus)
    )


def _longest_on(architecture: Architecture, setting: Setting, device: int, room: int) -> int:
    """
    The same for one card with `room` bytes beside its weights.

    A cache is quickly worked out and a compute buffer is not, so the buffer is asked at few lengths: as
    asked, at the length that this one leaves room for, and between the two by the rule of three.
    """

    def longer(steps: int) -> Setting:
        context = _STEP * max(1, steps)
        return replace(setting, context=context, outputs=min(setting.ubatch, setting.slots * context))

    def total(steps: int) -> int:
        return kv_bytes(architecture, longer(steps), device) + compute_bytes(
            architecture, longer(steps), device
        )

    def fitted(buffer: int) -> int:
        return _longest_cache(lambda steps: kv_bytes(architecture, longer(steps), device), room - buffer)

    high = fitted(compute_bytes(architecture, setting, device))
    if high == 0 or total(high) <= room:
        return _STEP * high
    low = fitted(compute_bytes(architecture, longer(high), device))
    if low == 0 or total(low) > room:
        return _STEP * largest(lambda steps: total(steps) <= room, high)
    while high - low > 1:
        slope = (total(high) - total(low)) / (high - low)
        guess = min(high - 1, max(low + 1, low + int((room - total(low)) / slope)))
        if total(guess) <= room:
            low = guess
        else:
            high = guess
    return _STEP * low


def _longest_cache(size: Callable[[int], int], room: int) -> int:
    """The most steps whose cache fits: beyond every window it is a straight line, below that we search."""
    far = _LONGEST // _STEP
    slope = size(far) - size(far - 1)
    if slope > 0:
        steps = far + (room - size(far)) // slope
        if 0 < steps < far and size(steps) <= room < size(steps + 1):
            return steps
    return largest(lambda steps: size(steps) <= room, far)
