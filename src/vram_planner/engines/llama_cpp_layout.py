"""llama.cpp: what it runs with, which layer lies where, and how many bytes of tensors each GPU and the host hold."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_planner.architecture.gguf import GGML_TYPES, rope_factor_bytes, rope_factor_tensors
from vram_planner.architecture.precision import Place
from vram_planner.architecture.storage import Blocks
from vram_planner.engines.llama_cpp_kernels import ADA
from vram_planner.engines.llama_cpp_layer_inputs import with_first_layer, with_output
from vram_planner.units import ceil_div, round_up

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vram_planner.architecture.gguf import GgufMix
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.storage import Storage
    from vram_planner.architecture.weight import Weight

_ROW_PADDING = 512  # MATRIX_ROW_PADDING, ggml/src/ggml-cuda/common.cuh
_ALIGNMENT = 128  # of tensors in a CUDA buffer
_HOST_ALIGNMENT = 32  # of tensors in a host buffer
_TWICE = ("gemma3n", "gemma4")  # families whose head is a copy of the embedding on the host too
HOST = -1  # the device that is no GPU
_EXPERTS = ("experts.", "router.per_expert_scale")  # ffn_{gate,up,gate_up,down}_exps.* in a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """
    What llama-server runs with, after its defaults.

    `context` is one slot's, rounded up to 256 cells; `unified` means that the slots share one cache of
    `slots` × `context` cells instead of having one each. `outputs` is how many tokens of a micro-batch get logits.
    `gpu_layers` are the last ones (-ngl, the output counts as one), None for all; `moe_on_host` the first layers whose
    experts stay on the host (--n-cpu-moe); `kv_on_host` keeps every cache there (--no-kv-offload). `shares` are those of
    --tensor-split, empty for equal cards. `row_numbers`: keys and values go to rows of the cache that inputs name, which
    is so since August 2025. `overrides` are the patterns of --override-tensor with their devices. `projector` are the
    bytes of a multimodal projector, on the first GPU. `grown` asks for the graph of a full cache where that is larger than
    the one that llama.cpp reserves at its start (MiniMax-M3). `cards` is the kind of GPU (llama_cpp_kernels.py).
    """

    slots: int
    context: int
    ubatch: int
    type_k: str
    type_v: str
    flash: bool
    gpus: int
    outputs: int
    unified: bool = False
    swa_full: bool = False
    gpu_layers: int | None = None
    moe_on_host: int = 0
    kv_on_host: bool = False
    shares: tuple[float, ...] = ()
    row_numbers: bool = True
    overrides: tuple[tuple[str, int], ...] = ()
    projector: int = 0
    grown: bool = False
    cards: str = ADA

    @property
    def without_overrides(self) -> Setting:
        """The same with tensors where the layers are."""
        return replace(self, overrides=()) if self.overrides else self

    @property
    def without_slots(self) -> Setting:
        """The same for one slot."""
        return replace(self, slots=1)

    @property
    def n_ctx(self) -> int:
        """Cells over all slots: what `-c` takes."""
        return self.slots * self.context

    @property
    def fed(self) -> int:
        """Tokens of a micro-batch: min(n_ctx, n_ubatch)."""
        return min(self.n_ctx, self.ubatch)

    @property
    def tokens(self) -> int:
        """
        Tokens of the largest micro-batch: min(n_ctx, n_ubatch), rounded up to a multiple of the slots.

        Source: src/llama-context.cpp, graph_reserve.
        """
        return round_up(self.fed, self.slots)

    @property
    def streams(self) -> int:
        """Separate caches."""
        return 1 if self.unified else self.slots

    @property
    def stream_cells(self) -> int:
        """Cells of one of them in a layer that keeps all tokens."""
        return self.n_ctx // self.streams

    @property
    def host_attends(self) -> bool:
        """Whether attention is told to run on the host. Source: src/llama-graph.cpp, build_attn_mha."""
        return self.kv_on_host and not self.flash

    def all_on_gpus(self, n_layers: int) -> bool:
        """Whether every layer and the output are offloaded."""
        return self.gpu_layers is None or self.gpu_layers > n_layers

    def pipelined(self, n_layers: int) -> bool:
        """
        Whether several GPUs work on several micro-batches at once, which takes four copies of each input.

        Source: src/llama-context.cpp, pipeline_parallel.
        """
        moved = self.moe_on_host > 0 or bool(self.overrides)
        return self.gpus > 1 and self.all_on_gpus(n_layers) and not self.kv_on_host and not moved


def row_bytes(type_name: str, elements: int) -> int:
    """Bytes of a row of that ggml type."""
    stored = GGML_TYPES[type_name]
    if isinstance(stored, Blocks):
        return ceil_div(elements, stored.elements) * stored.block_bytes
    return elements * stored.element_bytes


def row_padding(type_name: str, elements: int) -> int:
    """
    What a CUDA buffer adds to a quantised tensor whose rows are no multiple of 512: what is missing of one row.

    Source: ggml_backend_cuda_buffer_type_get_alloc_size, ggml/src/ggml-cuda/ggml-cuda.cu.
    """
    return row_bytes(type_name, -elements % _ROW_PADDING) if isinstance(GGML_TYPES[type_name], Blocks) else 0


def is_experts(name: str) -> bool:
    """Whether --n-cpu-moe leaves a tensor on the host. Source: common/common.h, LLM_FFN_EXPS_REGEX."""
    return name.startswith(_EXPERTS)


def device_of(index: int, n_layers: int, setting: Setting) -> int:
    """
    The GPU of a layer, or of the output (index n_layers), among equal cards; HOST for the first ones that -ngl leaves.

        floor((i − first) · n / offloaded), first = L + 1 − offloaded, the output counted as a layer

    With --tensor-split the first GPU whose share, summed up, lies above (i − first) / offloaded.
    Source: src/llama-model.cpp, get_layer_buft_list (`-sm layer`, split by free memory or by --tensor-split).
    """
    offloaded = n_layers + 1 if setting.gpu_layers is None else min(setting.gpu_layers, n_layers + 1)
    first = n_layers + 1 - offloaded
    if index < first:
        return HOST
    if not setting.shares:
        return (index - first) * setting.gpus // offloaded
    return _share_of(_single((index - first) / offloaded), setting.shares)


def _share_of(at: float, shares: tuple[float, ...]) -> int:
    """The first GPU whose summed share lies above that part of the layers; in single precision, as llama.cpp has them."""
    sums, total = [], 0.0
    for share in shares:
        total = _single(total + _single(share))
        sums.append(total)
    return next((device for device, upto in enumerate(sums) if _single(upto / total) > at), len(shares) - 1)


def _single(number: float) -> float:
    return float(struct.unpack("f", struct.pack("f", number))[0])


@dataclass(frozen=True, slots=True)
class Weighed:
    """Bytes of some tensors: in a CUDA buffer, in a host buffer, and those of experts among them."""

    gpu: int
    host: int
    gpu_experts: int
    host_experts: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The tensors of each layer, of the output and of the input, and the rotary factors that each device has."""

    layers: tuple[Weighed, ...]
    output: Weighed
    embedding: int
    everywhere: int

    def on(self, setting: Setting, device: int) -> int:
        """Bytes of tensors on a GPU or the host."""
        count, held, total = len(self.layers), False, self.embedding if device == HOST else 0
        for index, one in enumerate((*self.layers, self.output)):
            place = device_of(index, count, setting)
            held = held or (place == device and index < count)
            apart = index < setting.moe_on_host
            if device == HOST:
                total += one.host if place == HOST else one.host_experts if apart else 0
            elif place == device:
                total += one.gpu - (one.gpu_experts if apart else 0)
        return total + (self.everywhere if held else 0)


def loaded(architecture: Architecture, mix: GgufMix) -> Loaded:
    """
    The sizes of all tensors, worked out once and kept beside the architecture.

    The input embedding stays on the host. A tied head is loaded a second time, onto the GPU.
    """
    kept: dict[str, Loaded] = vars(architecture).setdefault("_llama_cpp_loaded", {})
    if mix.name not in kept:
        kept[mix.name] = _load(architecture, mix)
    return kept[mix.name]


def weights_on(architecture: Architecture, mix: GgufMix, setting: Setting, device: int) -> int:
    """Bytes of tensors on a GPU or the host, kept beside the architecture too."""
    kept: dict[tuple[object, ...], int] = vars(architecture).setdefault("_llama_cpp_weights", {})
    key = (
        *(mix.name, setting.gpus, setting.shares, setting.gpu_layers),
        *(setting.moe_on_host, setting.overrides, device),
    )
    if key not in kept:
        kept[key] = loaded(architecture, mix).on(setting, device)
        if setting.overrides:
            from vram_planner.engines.llama_cpp_overrides import overridden_bytes  # noqa: PLC0415  seldom needed

            kept[key] += overridden_bytes(architecture, mix, setting, device)
    return kept[key]


def copied_weights(architecture: Architecture, mix: GgufMix, index: int | None) -> dict[str, int]:
    """
    Bytes that each tensor of a layer, or of the output (None), takes when it is copied to a GPU to be used there.

    Source: ggml/src/ggml-backend.cpp, op_offload: products of 32 tokens and more run on the GPU whatever holds the matrix.
    """
    kept: dict[tuple[str, int | None], dict[str, int]] = vars(architecture).setdefault(
        "_llama_cpp_copies", {}
    )
    if (mix.name, index) not in kept:
        place, sizes = Place(architecture, index), {}
        weights = outside(architecture) if index is None else architecture.layers[index].weights
        weights = (*weights, *(with_first_layer(architecture) if index == 0 else ()))
        for weight in weights:
            for stored, piece in mix.stored(weight, place):
                name = piece.name if piece.name not in sizes else f"mixer.{piece.name}"
                sizes[name] = stored.nbytes(piece) + row_padding(stored.name, piece.columns)
        kept[mix.name, index] = sizes
    return kept[mix.name, index]


def outside(architecture: Architecture) -> tuple[Weight, ...]:
    """The tensors of the output: norm and head, the embedding itself where it serves as head."""
    tables = [weight for weight in architecture.embedding if weight.name == "embed_tokens"]
    tied = tables if architecture.tied_head else ()
    return (*architecture.final_norm, *architecture.head, *tied, *with_output(architecture))


def _load(architecture: Architecture, mix: GgufMix) -> Loaded:
    layers = tuple(
        _weigh(mix, layer.weights, Place(architecture, index))
        for index, layer in enumerate(architecture.layers)
    )
    nowhere, first = Place(architecture, None), with_first_layer(architecture)
    elsewhere = (*first, *with_output(architecture))
    if first:
        more = _weigh(mix, first, nowhere)
        layers = (
            replace(layers[0], gpu=layers[0].gpu + more.gpu, host=layers[0].host + more.host),
            *layers[1:],
        )
    output = _weigh(mix, outside(architecture), nowhere)
    if architecture.tied_head and not architecture.model_type.startswith(_TWICE):
        # On the host the embedding serves as head; on a GPU the head is a copy.
        tied = [weight for weight in architecture.embedding if weight.name == "embed_tokens"]
        again = _weigh(mix, tied, nowhere)
        output = Weighed(output.gpu, output.host - again.host, 0, 0)
    embedding = sum(
        round_up(mix.weight_bytes(weight, nowhere), _HOST_ALIGNMENT)
        for weight in architecture.embedding
        if weight not in elsewhere
    )
    factors = rope_factor_tensors(architecture) * round_up(rope_factor_bytes(architecture), _ALIGNMENT)
    return Loaded(layers, output, embedding, factors)


def sizes_of(stored: Storage, piece: Weight) -> tuple[int, int]:
    """Bytes of a tensor in a CUDA buffer and in a host buffer."""
    plain = stored.nbytes(piece)
    padded = round_up(plain + row_padding(stored.name, piece.columns), _ALIGNMENT)
    return padded, round_up(plain, _HOST_ALIGNMENT)


def _weigh(mix: GgufMix, weights: Iterable[Weight], place: Place) -> Weighed:
    """Sizes padded and aligned as the buffers do: to 128 bytes on CUDA, to 32 on the host."""
    gpu = host = gpu_experts = host_experts = 0
    for weight in weights:
        for stored, piece in mix.stored(weight, place):
            padded, plain = sizes_of(stored, piece)
            gpu, host = gpu + padded, host + plain
            if is_experts(piece.name):
                gpu_experts, host_experts = gpu_experts + padded, host_experts + plain
    return Weighed(gpu, host, gpu_experts, host_experts)
