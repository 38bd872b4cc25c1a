"""llama.cpp (llama-server): GGUF weights, a cache of fixed size, one compute buffer for the largest micro-batch."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.gguf import GgufMix
from vram_planner.architecture.precision import Uniform
from vram_planner.architecture.weight import Role
from vram_planner.engines import llama_cpp_host as host
from vram_planner.engines import llama_cpp_parts as parts
from vram_planner.engines.base import Ask, Capacity, KvNeed, Memory, largest
from vram_planner.engines.llama_cpp_builds import SET_ROWS, before
from vram_planner.engines.llama_cpp_cache import (
    KV_TYPES,
    check_rows,
    kv_bytes,
    rounded_context,
    states_bytes,
)
from vram_planner.engines.llama_cpp_fit import (
    device_bytes,
    fewest_moe_on_host,
    longest_context,
    most_gpu_layers,
)
from vram_planner.engines.llama_cpp_kernels import cards_of
from vram_planner.engines.llama_cpp_layout import Setting
from vram_planner.engines.llama_cpp_projector_part import (
    on_first_gpu,
    projector_left_out,
    projector_parts,
    projector_settings,
    projector_warnings,
    with_projector,
)
from vram_planner.errors import PrecisionError, RequestError
from vram_planner.units import GIB, format_gib

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Precision
    from vram_planner.basis import Part
    from vram_planner.engines.llama_cpp_draft import Draft

_UBATCH = 512
_MARGIN = GIB
_STEP = 256
_BY_REQUEST = ("kv_cache", "recurrent_state", "draft_kv_cache")
_FLOATS = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
_SPLIT_MODES = ("layer", "none")
_LARGEST_SHARE = 1e9
_KV_ALIASES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


class LlamaCpp:
    """
    llama-server of release 0.5.0 (b11434) on CUDA, every layer on the GPUs unless `-ngl` says otherwise.

    Memory = tensors + cache of slots × context cells + states + compute buffer + CUDA context; nothing grows with use (but MiniMax-M3's graph, which is counted in full).
    Several GPUs share the model by layers (`-sm layer`): `pp` is their number, and `tp` is read as such too.
    Checked against the release's own CUDA backend asked in no-alloc mode.
    """

    name = "llama.cpp"
    title = "llama.cpp 0.5.0"
    vendors = ("nvidia",)
    splits_tensors = False
    families = "llama.cpp"
    gguf = "own"
    smaller = ("q4_k_m", "q8_0")
    speed_of = "llama.cpp"
    attention_groups = None
    # Layers of the last two kinds are refused by name: as unknown to llama.cpp, or as a graph that we do not know.
    kinds = frozenset({"state", "indexer", "chunked", "mixed_heads", "cross", "compressed"})
    vocabulary_multiple = 1

    def alike(self, ask: Ask) -> Hashable:
        """A quantised cache is read by other kernels on older cards (llama_cpp_kernels.py); else all have the same buffers."""
        return () if _kv_types(ask.options.kv_dtype) == ("f16", "f16") else _cards(ask)

    def usable_bytes(self, ask: Ask) -> int:
        """The card less 1 GiB: `--fit` leaves that free on every device (common/common.h, fit_params_target)."""
        if ask.device is None:
            raise RequestError("a capacity needs a card", hint="name one with --gpu")
        return max(0, ask.device.total_bytes - _MARGIN)

    def memory(self, ask: Ask) -> Memory:
        """See `Engine.memory`. Raises UnsupportedArchitectureError, PrecisionError or RequestError."""
        mix, setting, architecture = mix_for(ask.precision), settle(ask), ask.architecture
        draft = _draft(ask, setting)
        device = _fullest(architecture, mix, setting, draft)
        cache = kv_bytes(architecture, setting, device)
        more = kv_bytes(architecture, replace(setting, context=setting.context + _STEP), device)
        return Memory(
            parts=_parts(ask, mix, setting, draft, device),
            kv=KvNeed(
                bytes_per_token=(more - cache) // (_STEP * setting.slots),
                bytes_per_request=cache // setting.slots,
                n_bytes=cache,
                replicated_ranks=1,
            ),
            settings=parts.settings(architecture, mix, setting)
            | host.settings(architecture, setting, ask.options)
            | projector_settings(ask),
            launch=with_projector(parts.launch(architecture, mix, setting, ask.options, draft=draft), ask),
            not_modelled=(
                *projector_left_out(ask),
                *parts.NOT_MODELLED,
                host.in_words(architecture, setting, ask.options),
            ),
            warnings=(*parts.warnings(ask, mix, setting), *projector_warnings(ask)),
            find_hints=lambda: self._way_out(ask, mix, setting),
        )

    def _way_out(self, ask: Ask, mix: GgufMix, setting: Setting) -> tuple[str, ...]:
        """How many layers a card takes that does not take all of them."""
        if ask.device is None or setting.gpu_layers is not None:
            return ()
        room = self.usable_bytes(ask) - parts.RUNTIME[1]
        draft = _draft(ask, setting)
        if draft is not None:
            room -= max(draft.held(device) for device in range(setting.gpus))
        if all(device_bytes(ask.architecture, mix, setting, i) <= room for i in range(setting.gpus)):
            return ()
        if setting.moe_on_host == 0:
            moe = fewest_moe_on_host(ask.architecture, mix, setting, room)
            if moe is not None:
                return (
                    f"--n-cpu-moe {moe} fits: the experts of {moe} layers in host memory, all else on the GPU",
                )
        most = most_gpu_layers(ask.architecture, mix, setting, room)
        total = len(ask.architecture.layers) + 1
        return (
            (f"--ngl {most} fits: {most} of {total} layers on the GPU, the others in host memory",)
            if most
            else ()
        )

    def capacity(self, ask: Ask, memory: Memory) -> Capacity:
        """See `Engine.capacity`: the pool is what weights, compute buffer, context and margin leave."""
        usable, setting = self.usable_bytes(ask), settle(ask)
        fixed, each = shared_out(memory.parts, setting)
        pool = max(0, usable - fixed)
        concurrency = pool / each
        return Capacity(
            usable_bytes=usable,
            rule=f"{format_gib(usable + _MARGIN)} GiB − 1 GiB that --fit leaves free",
            kv_pool_bytes=pool,
            num_blocks=None,
            kv_cache_tokens=int(concurrency * setting.context),
            max_concurrency=concurrency,
            find_longest=lambda: _longest(ask, setting, usable - memory.bytes_of("runtime")),
        )


def parts_of(ask: Ask, setting: Setting) -> tuple[Part, ...]:
    """The parts of the fullest GPU; `setting` is that of the ask."""
    mix, draft = mix_for(ask.precision), _draft(ask, setting)
    return _parts(ask, mix, setting, draft, _fullest(ask.architecture, mix, setting, draft))


def _parts(ask: Ask, mix: GgufMix, setting: Setting, draft: Draft | None, device: int) -> tuple[Part, ...]:
    architecture = ask.architecture
    found = [
        parts.weights(architecture, mix, setting, device),
        parts.cache(architecture, setting, device, kv_bytes(architecture, setting, device)),
        parts.compute(architecture, mix, setting, device),
        parts.runtime(),
    ]
    if device == 0:
        found += projector_parts(ask)
    if architecture.states:
        states = states_bytes(architecture, setting, device)
        found.insert(2, parts.states(architecture, setting, device, states))
    if draft is not None:
        from vram_planner.engines.llama_cpp_draft import draft_parts  # noqa: PLC0415  for drafting alone

        found[-1:-1] = draft_parts(draft, device)
    return tuple(found)


def shared_out(found: tuple[Part, ...], setting: Setting) -> tuple[int, int]:
    """What is budgeted whatever the requests, and what each slot takes beside that: at least a byte."""
    fixed = sum(part.budgeted_bytes for part in found if part.name not in _BY_REQUEST)
    held = sum(part.n_bytes for part in found if part.name in _BY_REQUEST)
    return fixed, max(1, held // setting.slots)


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
    gpus, shares = _shared(ask)
    layers = len(ask.architecture.layers)
    if gpus > layers:
        raise RequestError(f"{gpus} GPUs for {layers} layers", hint="use no more GPUs than layers")
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
        unified=options.kv_unified is True,
        swa_full=options.swa_full is True,
        gpu_layers=None if options.ngl is None or options.ngl > layers else options.ngl,
        moe_on_host=_moe_on_host(ask),
        overrides=overrides_of(ask.architecture, options.override_tensor, gpus),
        kv_on_host=options.kv_offload is False,
        shares=shares,
        row_numbers=not before(options.version, SET_ROWS),
        projector=on_first_gpu(ask),
        cards=_cards(ask),
    )
    check_rows(ask.architecture, setting)
    return setting


def _cards(ask: Ask) -> str:
    return cards_of(None if ask.device is None else ask.device.compute_capability)


def overrides_of(architecture: Architecture, text: str | None, gpus: int) -> tuple[tuple[str, int], ...]:
    """The patterns of --override-tensor. Raises RequestError."""
    if text is None:
        return ()
    from vram_planner.engines.llama_cpp_overrides import check_overrides, parse  # noqa: PLC0415  seldom needed

    overrides = parse(text, gpus)
    check_overrides(architecture, overrides)
    return overrides


def _shared(ask: Ask) -> tuple[int, tuple[float, ...]]:
    """
    How many GPUs hold layers, and their shares if they are not equal (`-sm`, `--tensor-split`).

    Raises RequestError. Release 0.5.0 has no split buffers on CUDA any more: `-sm row` ends with an error there.
    """
    gpus, mode, text = ask.layout.pp * ask.layout.tp, ask.options.split_mode, ask.options.tensor_split
    if mode not in (None, *_SPLIT_MODES):
        raise RequestError(
            f"--split-mode {mode[:20]!r} is not planned for", hint=f"one of {', '.join(_SPLIT_MODES)}"
        )
    gpus = 1 if mode == "none" else gpus
    if text is None:
        return gpus, ()
    try:
        shares = tuple(float(part) for part in re.split("[,/]", text))
    except ValueError:
        shares = ()
    if len(shares) != gpus or not all(0 < share < _LARGEST_SHARE for share in shares):
        raise RequestError(
            f"--tensor-split {text[:40]!r} is no share for each of {gpus} GPUs",
            hint="numbers above 0 with commas, one for each GPU that is used: 3,1",
        )
    return gpus, () if len(set(shares)) == 1 else shares


def _moe_on_host(ask: Ask) -> int:
    """The layers whose experts stay on the host: at most all. Raises RequestError where there are no experts."""
    layers = len(ask.architecture.layers)
    count = layers if ask.options.cpu_moe else ask.options.n_cpu_moe or 0
    if count and not any(
        w.role is Role.EXPERT for layer, _ in ask.architecture.groups for w in layer.weights
    ):
        raise RequestError(
            "--n-cpu-moe and --cpu-moe: this model has no experts",
            hint="leave it out, or keep layers back with --ngl",
        )
    return min(count, layers)


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


def _draft(ask: Ask, setting: Setting) -> Draft | None:
    if ask.draft is None and ask.options.speculative is None and ask.options.speculative_tokens is None:
        return None
    from vram_planner.engines.llama_cpp_draft import find_draft  # noqa: PLC0415  for drafting alone

    return find_draft(ask, setting, mix_for)


def _longest(ask: Ask, setting: Setting, room: int) -> int:
    """The longest context of a slot that the cards hold, with that of a draft model beside it."""
    mix, draft = mix_for(ask.precision), _draft(ask, setting)
    alone = longest_context(ask.architecture, mix, setting, room)
    if draft is None:
        return alone

    def fits(steps: int) -> bool:
        context = _STEP * steps
        longer = replace(setting, context=context, outputs=min(setting.ubatch, setting.slots * context))
        beside = draft.beside(longer)
        return all(
            device_bytes(ask.architecture, mix, longer, device) + beside.held(device) <= room
            for device in range(setting.gpus)
        )

    return _STEP * largest(fits, alone // _STEP)


def _fullest(architecture: Architecture, mix: GgufMix, setting: Setting, draft: Draft | None) -> int:
    if setting.gpus == 1:
        return 0
    return max(
        range(setting.gpus),
        key=lambda device: (
            device_bytes(architecture, mix, setting, device) + (draft.held(device) if draft else 0)
        ),
    )
