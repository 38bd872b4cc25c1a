"""llama.cpp: which layer lies on which GPU, and how many bytes of tensors and cache each GPU holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.architecture.gguf import GGML_TYPES, rope_factor_bytes
from vram_planner.architecture.precision import Place
from vram_planner.architecture.storage import Blocks
from vram_planner.architecture.weight import Role
from vram_planner.errors import RequestError
from vram_planner.units import ceil_div, round_up

if TYPE_CHECKING:
    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.gguf import GgufMix
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight

_ROW_PADDING = 512  # MATRIX_ROW_PADDING, ggml/src/ggml-cuda/common.cuh
_ALIGNMENT = 128  # of tensors in a CUDA buffer
_CELLS = 256  # cells of a cache are rounded up to this
# Families whose windows llama.cpp honours; others that have one (Mistral 7B v0.1, Phi-3, Qwen2) keep all tokens.
_WINDOWED = (
    "gemma2",
    "gemma3",
    "gemma4",
    "gpt_oss",
    "cohere2",
    "llama4",
    "exaone4",
    "olmo3",
    "afmoe",
    "smallthinker",
)
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """
    What llama-server runs with, after its defaults.

    `context` is one slot's, rounded up to 256 cells; `unified` means that the slots share one cache of
    `slots` × `context` cells instead of having one each. `outputs` is how many tokens of a micro-batch get logits.
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

    @property
    def n_ctx(self) -> int:
        """Cells over all slots: what `-c` takes."""
        return self.slots * self.context

    @property
    def tokens(self) -> int:
        """Tokens of the largest micro-batch: min(n_ctx, n_ubatch)."""
        return min(self.n_ctx, self.ubatch)

    @property
    def streams(self) -> int:
        """Separate caches."""
        return 1 if self.unified else self.slots

    @property
    def stream_cells(self) -> int:
        """Cells of one of them in a layer that keeps all tokens."""
        return self.n_ctx // self.streams


def rounded_context(context: int) -> int:
    """A slot's context as llama.cpp rounds it. Source: src/llama-context.cpp, n_ctx_seq = GGML_PAD(…, 256)."""
    return round_up(context, _CELLS)


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


def honours_window(architecture: Architecture) -> bool:
    """Whether llama.cpp has a sliding window cache for this family."""
    return architecture.model_type.startswith(_WINDOWED)


def window_cells(setting: Setting, window: int) -> int:
    """
    Cells of one stream in a sliding layer: pad256(min(n_ctx, window · (slots if unified else 1) + ubatch)).

    Source: src/llama-kv-cache-iswa.cpp.
    """
    if setting.swa_full:
        return setting.stream_cells
    sequences = setting.slots if setting.unified else 1
    return round_up(min(setting.stream_cells, window * sequences + setting.tokens), _CELLS)


def cache_bytes(cache: KvCache, setting: Setting, *, windowed: bool) -> int:
    """
    Bytes of one layer's cache: streams · cells · (row of keys + row of values).

    Each of the two tensors is padded and aligned as weights are. MLA keeps its latent as keys and has no values.
    Source: src/llama-kv-cache.cpp.
    """
    cells = setting.stream_cells
    if cache.window is not None and windowed:
        cells = window_cells(setting, cache.window)
    total = 0
    for type_name, width in ((setting.type_k, cache.key_dim), (setting.type_v, cache.value_dim)):
        row = cache.n_heads * width
        size = setting.streams * cells * row_bytes(type_name, row) + row_padding(type_name, row)
        total += round_up(size, _ALIGNMENT)
    return total


def check_rows(architecture: Architecture, setting: Setting) -> None:
    """Refuse cache types whose blocks do not divide a head. Source: src/llama-context.cpp, llama_init_from_model."""
    for cache, _ in architecture.caches:
        for type_name, width in ((setting.type_k, cache.key_dim), (setting.type_v, cache.value_dim)):
            stored = GGML_TYPES[type_name]
            if isinstance(stored, Blocks) and width % stored.elements:
                raise RequestError(
                    f"{type_name} has blocks of {stored.elements} numbers, which heads of {width} do not fill",
                    hint="choose f16 for this model's cache",
                )


def device_of(index: int, n_layers: int, gpus: int) -> int:
    """
    The GPU of a layer, or of the output (index n_layers), among equal cards: floor(i · n / (L + 1)).

    Source: src/llama-model.cpp, get_layer_buft_list (`-sm layer`, split by free memory).
    """
    return index * gpus // (n_layers + 1)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Bytes of the tensors of each layer, of the output, of what stays on the host, and of what each card has."""

    layers: tuple[int, ...]
    output: int
    host: int
    everywhere: int

    def on_each(self, gpus: int) -> tuple[int, ...]:
        """Bytes on each of the cards."""
        shares = [self.everywhere] * gpus
        for index, size in enumerate((*self.layers, self.output)):
            shares[device_of(index, len(self.layers), gpus)] += size
        return tuple(shares)


def loaded(architecture: Architecture, mix: GgufMix) -> Loaded:
    """
    Where the tensors go with every layer offloaded; worked out once and kept beside the architecture.

    The input embedding stays on the host. A tied head is loaded a second time, onto the GPU.
    """
    kept: dict[str, Loaded] = vars(architecture).setdefault("_llama_cpp_loaded", {})
    if mix.name not in kept:
        kept[mix.name] = _load(architecture, mix)
    return kept[mix.name]


def weights_on(architecture: Architecture, mix: GgufMix, gpus: int) -> tuple[int, ...]:
    """Bytes of tensors on each of the cards, kept beside the architecture too."""
    kept: dict[tuple[str, int], tuple[int, ...]] = vars(architecture).setdefault("_llama_cpp_weights", {})
    if (mix.name, gpus) not in kept:
        kept[mix.name, gpus] = loaded(architecture, mix).on_each(gpus)
    return kept[mix.name, gpus]


def caches_on(architecture: Architecture, gpus: int) -> tuple[tuple[tuple[KvCache, int], ...], ...]:
    """The caches on each of the cards, alike ones counted together; kept beside the architecture."""
    kept: dict[int, tuple[tuple[tuple[KvCache, int], ...], ...]] = vars(architecture).setdefault(
        "_llama_cpp_caches", {}
    )
    if gpus not in kept:
        counts: list[dict[KvCache, int]] = [{} for _ in range(gpus)]
        n_layers = len(architecture.layers)
        for index, layer in enumerate(architecture.layers):
            cache = layer.mixer.cache
            if cache is not None:
                own = counts[device_of(index, n_layers, gpus)]
                own[cache] = own.get(cache, 0) + 1
        kept[gpus] = tuple(tuple(own.items()) for own in counts)
    return kept[gpus]


def kv_bytes(architecture: Architecture, setting: Setting, device: int) -> int:
    """Bytes of the cache on one card."""
    windowed = honours_window(architecture)
    return sum(
        count * cache_bytes(cache, setting, windowed=windowed)
        for cache, count in caches_on(architecture, setting.gpus)[device]
    )


def _load(architecture: Architecture, mix: GgufMix) -> Loaded:
    outside = Place(architecture, None)
    layers = []
    for index, layer in enumerate(architecture.layers):
        place = Place(architecture, index)
        layers.append(sum(_on_cuda(mix, weight, place) for weight in layer.weights))
    output = sum(_on_cuda(mix, weight, outside) for weight in (*architecture.final_norm, *architecture.head))
    tables = [weight for weight in architecture.embedding if weight.role is Role.EMBEDDING]
    if architecture.tied_head:
        output += sum(_on_cuda(mix, weight, outside) for weight in tables)
    host = sum(mix.weight_bytes(weight, outside) for weight in architecture.embedding)
    return Loaded(tuple(layers), output, host, round_up(rope_factor_bytes(architecture), _ALIGNMENT))


def _on_cuda(mix: GgufMix, weight: Weight, place: Place) -> int:
    """Bytes that a tensor takes in a CUDA buffer: padded, and aligned to 128."""
    return sum(
        round_up(stored.nbytes(piece) + row_padding(stored.name, piece.columns), _ALIGNMENT)
        for stored, piece in mix.stored(weight, place)
    )
