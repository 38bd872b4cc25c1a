"""What vLLM holds otherwise than the checkpoint: tensors kept in float32, copied to every rank, or held twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING, Final

from vram_planner.architecture import storage
from vram_planner.architecture.attention import BorrowedKv, FullAttention
from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.model import Architecture, Layer
from vram_planner.architecture.precision import Uniform
from vram_planner.architecture.storage import Tiles
from vram_planner.architecture.weight import Role, Weight
from vram_planner.errors import ParallelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vram_planner.architecture.attention import Mixer
    from vram_planner.architecture.parallel import Layout
    from vram_planner.architecture.precision import Place, Precision

_FLOAT32: Final = "float32:"
_UNQUANTISED: Final = "unquantised:"

# In every family: decays (MambaMixer, MambaMixer2, GatedDeltaNetAttention) and the norm of a lightning indexer.
_WIDE: Final = frozenset({"A_log", "indexer.k_norm", "indexer.k_norm.bias"})
# wk stands in one matrix with weights_proj, which is never quantised (deepseek_v2.py, Indexer.wk_weights_proj);
# Gemma 4's scalar of a layer is a buffer of the model's dtype.
_PLAIN: Final = frozenset({"indexer.wk", "layer_scalar"})
# Kimi delta attention keeps its convolution and its decays in float32 (kimi_k3/nvidia/kda.py).
_WIDE_IN_KIMI: Final = frozenset({"conv1d", "dt_bias", "A_log"})
# Routers with params_dtype=torch.float32, in the module of each family under model_executor/models or models.
_WIDE_ROUTERS: Final = frozenset(
    {
        "afmoe",
        "ernie4_5_moe",
        "ernie4_5_vl_moe",
        "ernie4_5_vl_moe_text",
        "glm4_moe",
        "glm4v_moe",
        "glm4v_moe_text",
        "hy_v3",
        "mimo_v2_flash",
        "minimax_m2",
        "minimax_m3",
        "minimax_m3_vl",
        "minimax_m3_vl_text",
        "step3p7",
    }
)
# Norms over all heads at once: RMSNorm(total_num_heads * head_dim) on every rank.
_WHOLE_NORMS: Final = frozenset({"olmo2", "olmo3", "olmoe", "olmo_hybrid"})
_WIDE_IN: Final = {
    # models/deepseek_v4: streams' mixing, sinks, and what a compressor adds to each place of its group.
    "deepseek_v4": (
        "attn_hc.", "ffn_hc.", "hc_head.", "compressor.position_bias", "compressor.indexer.position_bias",
    ),
    "gemma3n": ("altup.correct_output_scale",),
    "gemma3n_text": ("altup.correct_output_scale",),
}  # fmt: skip
# models/deepseek_v4/compressor.py: fused_wkv_wgate has no quantisation.
_PLAIN_IN: Final = {"deepseek_v4": ("compressor.kv_proj", "compressor.gate_proj", "compressor.indexer.kv_proj",
                                    "compressor.indexer.gate_proj")}  # fmt: skip
# Shared experts that every rank holds whole where tokens are dealt out to ranks of experts: modules that read
# use_sequence_parallel_moe for them.
_WHOLE_SHARED: Final = frozenset(
    {
        "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "kimi_k2", "llama4", "llama4_text", "nemotron_h",
        "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next",
    }
)  # fmt: skip
# model_executor/models/gemma3n.py: parallel linear layers where others have no heads to deal out.
_CUT: Final = {
    "gemma3n": ("laurel.linear_", "altup_projections.", "altup_unembed_projections."),
    "gemma3n_text": ("laurel.linear_", "altup_projections.", "altup_unembed_projections."),
}
# model_executor/layers/mamba/gdn/olmo_gdn_linear_attn.py leaves A_log in the model's dtype.
_NARROW_DECAYS: Final = frozenset({"olmo_hybrid"})
# models/deepseek_v4/nvidia/flashmla.py: a rank's heads are padded to what the kernel takes.
_KERNEL_HEADS: Final = (64, 128)
_LEAST_TILE: Final = 32
# models/kimi_k3/nvidia/model.py: min_moe_intermediate_per_partition, below which a rank's part of an expert is padded.
_LEAST_EXPERT: Final = {"kimi_linear": 256, "kimi_k3": 256, "kimi_k3_text": 256}


@dataclass(frozen=True, kw_only=True)
class HeldLayer(Layer):
    """A layer with the tensors that an engine makes of it."""

    held: tuple[Weight, ...]

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """The tensors as held."""
        return self.held


@dataclass(frozen=True, slots=True)
class HeldPrecision:
    """`inner`, but for tensors whose name says that they are in float32, or left unquantised."""

    inner: Precision
    expert: Tiles | None = None  # the tiles of FP8 experts, where ranks cut them smaller than the checkpoint

    @property
    def name(self) -> str:
        """As the format inside."""
        return self.inner.name

    @property
    def by_layer(self) -> bool:
        """Whether layers differ."""
        return self.inner.by_layer

    @property
    def element_bytes(self) -> int:
        """Bytes of one unquantised number."""
        return self.inner.element_bytes

    def weight_bytes(self, weight: Weight, place: Place) -> int:
        """Bytes of one whole tensor."""
        if weight.name.startswith(_FLOAT32):
            return storage.FLOAT32.nbytes(weight)
        if weight.name.startswith(_UNQUANTISED):
            return weight.elements * self.inner.element_bytes
        if self.expert is not None and weight.role is Role.EXPERT:
            return self.expert.nbytes(weight)
        return self.inner.weight_bytes(weight, place)


def as_held(
    architecture: Architecture, precision: Precision, layout: Layout
) -> tuple[Architecture, Precision]:
    """
    The model as vLLM 0.32 allocates it: to be counted with the precision that is returned beside it.

    In float32: decays of recurrent layers, norms of indexers, routers of some families. Whole on every rank:
    norms over all heads (OLMo). Held twice: the projection that gives keys and values at once (Gemma 4).
    Scales of FP8 experts: finer, where a rank's part of an expert is no multiple of 128.
    DeepSeek-V4: scales of a byte each instead of four, and the tables of its hash layers.
    Raises ParallelError for experts that are cut finer than vLLM can refine their scales.
    Source: parameters that vLLM 0.32.0 allocates on the meta device, and the modules named above.
    """
    known: dict[int, Layer] = {}
    for layer in architecture.layers:
        if id(layer) not in known:
            weights = tuple(_held(layer, architecture, layout))
            known[id(layer)] = layer if weights == layer.weights else _replaced(layer, weights)
    layers = tuple(known[id(layer)] for layer in architecture.layers)
    family = architecture.model_type
    final, beside = (
        tuple(_marked(weight, family, None) for weight in outside)
        for outside in (architecture.final_norm, architecture.embedding_extras)
    )
    held = HeldPrecision(_inner(architecture, precision), _expert_tiles(architecture, precision, layout))
    return replace(architecture, layers=layers, final_norm=final, embedding_extras=beside), held


def _inner(architecture: Architecture, precision: Precision) -> Precision:
    if architecture.model_type != "deepseek_v4" or not isinstance(precision, Uniform):
        return precision
    if precision.linear == storage.FP8_BLOCK:
        return replace(precision, linear=replace(storage.FP8_BLOCK, scale_bytes=1))
    return precision


def _expert_tiles(architecture: Architecture, precision: Precision, layout: Layout) -> Tiles | None:
    """
    The square tiles of `gcd(128, width / tp, hidden)` that vLLM refines the scales of FP8 experts to.

    Source: fused_moe/oracle/fp8.py, refine_fp8_moe_block_shape.
    """
    stored = getattr(getattr(precision, "inner", precision), "expert", None)
    if not isinstance(stored, Tiles) or not stored.rows or layout.expert_parallel or layout.expert_tp == 1:
        return None
    for layer, _ in architecture.groups:
        block = layer.feed_forward
        if (
            not isinstance(block, MixtureOfExperts)
            or not (width := block.expert_intermediate // layout.expert_tp) % stored.rows
        ):
            continue
        tile = gcd(stored.rows, width, block.hidden)
        if tile < _LEAST_TILE:
            raise ParallelError(
                f"tensor parallel {layout.expert_tp} cuts FP8 experts to a width of {width}, which vLLM refuses:"
                f" their scales stand for tiles of {stored.rows}",
                hint="--ep deals out whole experts; or a smaller --tp",
            )
        return replace(stored, rows=tile, columns=tile)
    return None


def plain_name(weight: Weight) -> str:
    """A tensor's name as the model has it."""
    return weight.name.removeprefix(_FLOAT32).removeprefix(_UNQUANTISED)


def _replaced(layer: Layer, weights: tuple[Weight, ...]) -> HeldLayer:
    return HeldLayer(mixer=layer.mixer, feed_forward=layer.feed_forward, norms=layer.norms, held=weights)


def _held(layer: Layer, architecture: Architecture, layout: Layout) -> Iterator[Weight]:
    family, block = architecture.model_type, layer.feed_forward
    twice = _one_for_both(layer.mixer)
    for weight in layer.weights:
        if family == "deepseek_v4" and weight.name == "sinks":
            yield replace(weight, name=f"{_FLOAT32}sinks", shape=(_kernel_heads(weight, layout.tp),), units=1)
            continue
        if weight.role is Role.EXPERT and not layout.expert_parallel and family in _LEAST_EXPERT:
            weight = _widened(weight, _LEAST_EXPERT[family] * layout.expert_tp)  # noqa: PLW2901  the same tensor, padded
        if _held_whole(weight, family, layout):
            weight = replace(weight, units=1)  # noqa: PLW2901  the same tensor, uncut
        yield _marked(weight, family, layer.mixer)
        if twice and weight.name.startswith("k_proj"):
            yield weight
    if family == "deepseek_v4" and isinstance(block, MixtureOfExperts) and not block.correction_bias:
        # A layer that chooses experts by the token's number keeps the table, in 4-byte integers.
        shape = (architecture.vocabulary, block.top_k)
        yield Weight(name=f"{_FLOAT32}tid2eid", shape=shape, role=Role.BUFFER)


def _held_whole(weight: Weight, family: str, layout: Layout) -> bool:
    """Under --ep with tp and dp, ranks take different tokens, and each needs all of the shared experts."""
    spread = layout.expert_parallel and layout.tp > 1 and layout.dp > 1
    return spread and family in _WHOLE_SHARED and weight.name.startswith("shared_expert")


def _widened(expert: Weight, least: int) -> Weight:
    """An expert's tensor with the dimension that ranks cut padded to `least`."""
    if expert.units >= least or expert.units not in expert.shape[1:]:
        return expert
    stack, rows, columns = expert.shape
    shape = (stack, least, columns) if rows == expert.units else (stack, rows, least)
    return replace(expert, shape=shape, units=least)


def _kernel_heads(sinks: Weight, tp: int) -> int:
    mine = sinks.elements // tp
    return next((heads for heads in _KERNEL_HEADS if mine <= heads), mine)


def _marked(weight: Weight, family: str, mixer: Mixer | None) -> Weight:
    name = weight.name
    if name in ("q_norm", "k_norm") and family in _WHOLE_NORMS:
        weight = replace(weight, units=1)
    if name.startswith(_CUT.get(family, ("\n",))):
        weight = replace(weight, units=min(weight.shape))
    if _is_wide(name, family, mixer):
        return replace(weight, name=_FLOAT32 + name)
    if name in _PLAIN or name in _PLAIN_IN.get(family, ()):
        return replace(weight, name=_UNQUANTISED + name)
    return weight


def _is_wide(name: str, family: str, mixer: Mixer | None) -> bool:
    if name == "A_log" and family in _NARROW_DECAYS:
        return False
    return (
        name in _WIDE
        or (name in ("router", "router.bias") and family in _WIDE_ROUTERS)
        or (name in _WIDE_IN_KIMI and _is_kimi(mixer))
        or name.startswith(_WIDE_IN.get(family, ("\n",)))
    )


def _is_kimi(mixer: Mixer | None) -> bool:
    if mixer is None or mixer.state is None:
        return False
    from vram_planner.architecture.recurrent import KimiDelta  # noqa: PLC0415  a fortieth of a cold start

    return isinstance(mixer, KimiDelta)


def _one_for_both(mixer: Mixer) -> bool:
    """Whether keys and values come from one matrix, of which vLLM stacks a second copy into qkv_proj."""
    if isinstance(mixer, BorrowedKv):
        return False
    inner = getattr(mixer, "inner", mixer)
    return isinstance(inner, FullAttention) and inner.values_from_keys
