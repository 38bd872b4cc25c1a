"""GGUF: ggml's number formats, and files that mix them tensor by tensor as llama.cpp's quantiser does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from vram_planner.architecture.attention import Latent
from vram_planner.architecture.gguf_2023 import SOURCE_2023, choose_type_2023
from vram_planner.architecture.gguf_dynamic import (
    DYNAMIC_TYPES,
    Spread,
    dynamic_2_type,
    dynamic_base,
    dynamic_spread,
    dynamic_type,
    revised,
)
from vram_planner.architecture.gguf_mix import Category, Tensor, category_of, choose_type
from vram_planner.architecture.gguf_names import (
    RULES_2023,
    RULES_2025,
    RULES_OF_R1,
    RULES_SINCE,
    by_maker,
    of_model,
    plain_name,
    read_file_type,
    tensor_types,
)
from vram_planner.architecture.gguf_written import (
    APART,
    as_written,
    convolutions,
    split,
    stacked,
    unused_tensors,
)
from vram_planner.architecture.precision import Place
from vram_planner.architecture.recurrent import GatedDeltaNet
from vram_planner.architecture.storage import Blocks, Plain, Storage
from vram_planner.architecture.weight import Role
from vram_planner.basis import Basis
from vram_planner.errors import PrecisionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight

# Elements and bytes of a block. Source: llama.cpp, ggml/src/ggml-common.h (block_* and their static asserts).
_BLOCKS = (
    ("q4_0", 32, 18), ("q4_1", 32, 20), ("q5_0", 32, 22), ("q5_1", 32, 24), ("q8_0", 32, 34),
    ("q2_k", 256, 84), ("q3_k", 256, 110), ("q4_k", 256, 144), ("q5_k", 256, 176), ("q6_k", 256, 210),
    ("q8_k", 256, 292), ("iq1_s", 256, 50), ("iq1_m", 256, 56), ("iq2_xxs", 256, 66), ("iq2_xs", 256, 74),
    ("iq2_s", 256, 82), ("iq3_xxs", 256, 98), ("iq3_s", 256, 110), ("iq4_nl", 32, 18), ("iq4_xs", 256, 136),
    ("tq1_0", 256, 54), ("tq2_0", 256, 66), ("mxfp4", 32, 17),
)  # fmt: skip
GGML_TYPES: Mapping[str, Plain | Blocks] = MappingProxyType(
    {"f32": Plain("f32", 4), "f16": Plain("f16", 2), "bf16": Plain("bf16", 2)}
    | {name: Blocks(name, elements, n_bytes) for name, elements, n_bytes in _BLOCKS}
)
# What a tensor becomes whose rows are no multiple of the block. Source: tensor_type_fallback, src/llama-quant.cpp.
_FALLBACK = {
    "q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "tq1_0": "q4_0", "tq2_0": "q4_0",
    "iq1_s": "iq4_nl", "iq1_m": "iq4_nl", "iq2_xxs": "iq4_nl", "iq2_xs": "iq4_nl", "iq2_s": "iq4_nl",
    "iq3_xxs": "iq4_nl", "iq3_s": "iq4_nl", "iq4_xs": "iq4_nl",
}  # fmt: skip
_LLAMA_3_TOKENS = 128_256
_UNSCALED = 8192
_FLOAT32 = (Role.NORM, Role.BIAS, Role.BUFFER, Role.ROUTER)
_INDEXER_WEIGHTS = "indexer.weights_proj"
# Gemma 3n and 4: quantize &= ... "altup", "laurel", "per_layer_model_proj". Source: src/llama-quant.cpp.
_LEFT_IN_16_BITS = ("per_layer_model_projection", "laurel.", "altup")
_TINY = ("altup.correction_coefs", "altup.prediction_coefs")  # in float32: conversion/gemma.py
_AFTER_UNUSED = "q_norm"  # where a layer that borrows its cache has tensors of its own all the same
_TWO_BYTES = 2
_LLAMAS = (
    "llama",
    "mistral",
    "iquestcoder",
    "internlm3",
)  # families that become files of the architecture llama
_NARROW_ROUTERS = ("dbrx",)  # its router has a name that the converter's list of float32 tensors lacks
_LONG_ROPE, _LONGEST_WITHOUT_FACTORS = (
    ("phi3", "phimoe"),
    16_384,
)  # Phi-4 of 14B: 16,384 tokens and no factors
_WITH_FACTORS = ("gemma4", "llama4", "nemotron-nas")
_RULES = "llama.cpp b11434, src/llama-quant.cpp, llama_tensor_get_type ({} importance matrix)"
_DYNAMIC_SOURCES = {
    "ud-iq1_s": "1.58-bit DeepSeek-R1: 140,231,438,464 bytes published (130.60 GiB); types read of the loader's counts",
    "ud-iq1_m": "1.73-bit DeepSeek-R1: 158 GiB published, its table's GB; types chosen to meet that",
    "ud-iq2_xxs": "2.22-bit DeepSeek-R1: 183 GiB published, its table's GB; types read of the layers' sizes",
    "ud-q2_k_xl": "2.51-bit DeepSeek-R1: 211.03 GiB in the loader's log; types read of its counts",
}
_UNSLOTH = "Unsloth's dynamic {}, https://unsloth.ai/blog/deepseekr1-dynamic"
_UNSLOTH_2 = (
    "Unsloth's Dynamic 2.0, whose maps are made for each model and not published "
    "(https://unsloth.ai/docs/basics/unsloth-dynamic-2.0-ggufs): types that loaders counted in published files"
)


@dataclass(frozen=True, slots=True)
class GgufMix:
    """
    A GGUF file type: `name` in small letters (see `gguf_names`), types chosen tensor by tensor.

    One-dimensional tensors, norms and routers stay in float32; Q8_0 and the float types are the same
    everywhere else; the K and IQ mixes give more bits to some tensors of some layers.
    `follows` is llama-quantize's own type whose rules hold, where that is not `name`; `imatrix` says that the file was
    made with an importance matrix; `rules` whose rules hold where they are not llama.cpp's of today; `kept` has
    tensors with a type of their own.
    """

    container: ClassVar[str] = "gguf"

    name: str
    by_layer: bool = True
    imatrix: bool = False
    rules: str = ""
    kept: tuple[tuple[str, str], ...] = ()
    follows: str = ""

    @property
    def element_bytes(self) -> int:
        """Unquantised numbers are 16-bit."""
        return 4 if self.usual == "f32" else 2

    @property
    def title(self) -> str:
        """As files are named: Q4_K_M."""
        return plain_name(self.name).upper()

    @property
    def usual(self) -> str:
        """The file type whose rules hold."""
        return self.follows or self.name

    @property
    def dynamic(self) -> bool:
        """Whether it is one of Unsloth's mixes."""
        return self.usual.startswith("ud-")

    @property
    def basis(self) -> Basis:
        """The dynamic mixes are our reading of published files; the others follow the quantiser's own rules."""
        return Basis.ASSUMED if self.dynamic else Basis.FORMULA

    @property
    def source(self) -> str:
        """Where the rules come from."""
        if self.rules == RULES_2023:
            return SOURCE_2023
        if self.dynamic and (self.rules == RULES_SINCE or self.usual not in _DYNAMIC_SOURCES):
            return _UNSLOTH_2
        if self.usual in _DYNAMIC_SOURCES:
            return _UNSLOTH.format(_DYNAMIC_SOURCES[self.usual])
        return _RULES.format("with an" if self.imatrix else "no")

    def spread(self, architecture: Architecture) -> Spread | None:
        """Published size over ours, least and most; None where the rules are known."""
        if not self.dynamic or self._of_r1(architecture):
            return None
        return dynamic_spread(self.usual, experts=bool(gguf_facts(architecture)["n_experts"]))

    def weight_bytes(self, weight: Weight, place: Place) -> int:
        """Bytes of one whole tensor as the file stores it."""
        return sum(storage.nbytes(piece) for storage, piece in self.stored(weight, place))

    def stored(self, weight: Weight, place: Place) -> tuple[tuple[Storage, Weight], ...]:
        """
        The tensors that the file has for this weight, each with its format.

        MLA's up-projection is stored as two: attn_k_b with rows of one head's keys, attn_v_b with rows of the latent.
        """
        if weight.name == _AFTER_UNUSED and (unused := unused_tensors(place)):
            own = ((GGML_TYPES["f32"], weight),)
            return (*own, *(pair for other in unused for pair in self.stored(other, place)))
        narrow = weight.role is Role.ROUTER and place.architecture.model_type in _NARROW_ROUTERS
        narrow &= self.usual != "f32"
        left = weight.name.startswith(_LEFT_IN_16_BITS)
        whole = (weight.role in _FLOAT32 and not (narrow or left)) or weight.name.endswith(_TINY)
        whole |= weight.name.startswith("indexer.") and place.architecture.model_type.startswith(APART)
        if weight.name == _INDEXER_WEIGHTS:  # in float32 only where nothing is quantised
            whole = self.usual in ("f32", "f16", "bf16")
        if left and not whole and len(weight.shape) > 1:
            name = "f16" if self.element_bytes == _TWO_BYTES else "f32"
            return tuple((GGML_TYPES[name], piece) for piece in stacked(weight, place.architecture))
        if whole or len(weight.shape) == 1:
            stored = "f16" if weight.role is Role.ROUTER and self.rules == RULES_2023 else "f32"
            return tuple((GGML_TYPES[stored], piece) for piece in convolutions(weight, place))
        if weight.role is Role.TOWER or narrow:
            return ((GGML_TYPES["f16"], weight),)
        # The published dynamic files are older than the split of MLA's up-projection.
        fused = self.dynamic and self._of_r1(place.architecture)
        pieces = split(as_written(weight, place), place, fused=fused)
        return tuple((GGML_TYPES[self._type(piece, place)], piece) for piece in pieces)

    def _of_r1(self, architecture: Architecture) -> bool:
        """Whether one of the four maps of DeepSeek-R1 holds. Raises PrecisionError where it was asked for in vain."""
        if self.usual not in DYNAMIC_TYPES or self.rules == RULES_SINCE:
            return False
        if gguf_facts(architecture)["latent_experts"]:
            return True
        if self.rules == RULES_OF_R1:
            raise PrecisionError(
                f"{self.title} by its bits is a mix made for DeepSeek-V3 and R1 only",
                hint=f"choose {self.title} (Dynamic 2.0), IQ1_S or another GGUF type",
            )
        return False

    def _type(self, weight: Weight, place: Place) -> str:
        facts = gguf_facts(place.architecture)
        tensor = replace(
            _tensor(weight, place, facts), imatrix=self.imatrix, fused_apart=self.rules == RULES_2025
        )
        kept = tensor_types(self.kept)
        # One tensor in the file where our layer has queries, keys and values apart.
        name = "qkv_proj" if tensor.category is Category.ATTENTION_QKV else weight.name
        if name in kept:
            chosen = kept[name]
        elif self.rules == RULES_2023:
            chosen = choose_type_2023(self.usual, tensor)
        elif not self.dynamic:
            chosen = choose_type(self.usual, tensor)
        elif self._of_r1(place.architecture):
            chosen = dynamic_type(self.usual, weight.name, place.layer, facts["first_experts"])
        else:
            later = revised(place.architecture.model_type)
            known = dynamic_2_type(self.usual, weight.name, tensor, later=later)
            chosen = known or choose_type(dynamic_base(self.usual), tensor)
        return fit_row(chosen, weight.columns)


def fit_row(name: str, columns: int) -> str:
    """The type itself, or what the quantiser falls back to where a row is no multiple of its block."""
    stored = GGML_TYPES[name]
    if isinstance(stored, Plain) or columns % stored.elements == 0:
        return name
    other = _FALLBACK.get(name, "f16")
    elements = getattr(GGML_TYPES[other], "elements", 1)
    return other if columns % elements == 0 else "f16"


def gguf_precision(name: str, model: str = "") -> GgufMix:
    """
    The file type of that name, in any case: 'q4_k_m', 'IQ1_S', 'Q4_K_L', 'UD-Q4_K_XL', '1.58bit' (see `gguf_names`).

    `model` tells DeepSeek-R1, whose dynamic files have maps of their own, from its sisters of the same shape.
    Raises PrecisionError for a name that llama-quantize and the makers we know do not use.
    """
    found = read_file_type(name)
    if model:
        found = of_model(found, model)
    follows = "" if found.base == found.name else found.base
    return GgufMix(found.name, imatrix=found.imatrix, rules=found.rules, kept=found.kept, follows=follows)


def by_whom(name: str, model: str, architecture: Architecture) -> GgufMix:
    """
    The file type of that name of that model; `model` may name the repository of a maker: unsloth/DeepSeek-R1-GGUF.

    Raises PrecisionError as `gguf_precision` does.
    """
    maker, _, short = model.lower().partition("/")
    if "gguf" in short:
        later = (
            maker == "unsloth"
            and revised(architecture.model_type)
            and bool(gguf_facts(architecture)["n_experts"])
        )
        name = by_maker(name.strip().lower(), maker, revised=later)
    return gguf_precision(name, model)


def rope_factor_bytes(architecture: Architecture) -> int:
    """
    Bytes of `rope_freqs`, the float32 factors that the converter writes for Llama 3.1 and later and for Gemma 4.

    LongRoPE has two such tensors (`rope_factor_tensors`). An Architecture does not keep its rotary settings: we know these
    models by their vocabulary and length.
    Source: llama.cpp b11434, conversion/llama.py, gemma.py and phi.py, generate_extra_tensors.
    """
    widths = {cache.key_dim for cache, _ in architecture.caches}
    scaled = (architecture.max_context or 0) > _UNSCALED
    if not widths or not (
        architecture.model_type.startswith(_WITH_FACTORS)
        or _long_rope(architecture)
        or (architecture.model_type == "llama" and architecture.vocabulary == _LLAMA_3_TOKENS and scaled)
    ):
        return 0
    return max(widths) // 2 * 4


def rope_factor_tensors(architecture: Architecture) -> int:
    """How many tensors of factors a device has: LongRoPE's for short and for long contexts, else one."""
    return 2 if _long_rope(architecture) else 1


def _long_rope(architecture: Architecture) -> bool:
    return (
        architecture.model_type.startswith(_LONG_ROPE)
        and (architecture.max_context or 0) > _LONGEST_WITHOUT_FACTORS
    )


def _tensor(weight: Weight, place: Place, facts: dict[str, Any]) -> Tensor:
    fused = facts["fused"] and weight.name in ("q_proj", "k_proj", "v_proj")
    layer = place.layer or 0
    return Tensor(
        category=Category.ATTENTION_QKV if fused else category_of(weight.name),
        columns=weight.columns,
        stacked=weight.stack > 1,
        layer=layer,
        n_layers=facts["n_layers"],
        value_index=facts["value_index"].get(layer, 0),
        n_values=len(facts["value_index"]),
        # In a file the experts of a layer come before the shared one; Granite's dense layers have that name too.
        down_index=facts["down_index"][layer] + (weight.name.startswith("shared") and facts["n_experts"] > 0)
        if facts["down_index"]
        else 0,
        query_groups=facts["query_groups"],
        n_experts=facts["n_experts"],
        is_70b=facts["is_70b"],
        tied=facts["tied"],
        falcon=facts["falcon"],
    )


def gguf_facts(architecture: Architecture) -> dict[str, Any]:
    """What the quantiser's rules look at, worked out once for each architecture and kept beside it."""
    kept: dict[str, Any] | None = vars(architecture).get("_gguf_facts")
    if kept is None:
        kept = _find_facts(architecture)
        vars(architecture)["_gguf_facts"] = kept
    return kept


def _find_facts(architecture: Architecture) -> dict[str, Any]:
    values: dict[int, int] = {}
    downs: list[int] = []
    n_downs = 0
    expert_layers = []
    for index, layer in enumerate(architecture.layers):
        weights = (*layer.weights, *unused_tensors(Place(architecture, index)))
        categories = [category_of(weight.name) for weight in weights if len(weight.shape) > 1]
        if Category.ATTENTION_V in categories or Category.ATTENTION_QKV in categories:
            values[index] = len(values)
        downs.append(n_downs)
        n_downs += categories.count(Category.FFN_DOWN)
        if any(weight.role is Role.EXPERT for weight in layer.weights):
            expert_layers.append(index)
    first = architecture.layers[0].mixer
    if isinstance(first, GatedDeltaNet):  # such files state one number of heads for all layers
        first = next((layer.mixer for layer in architecture.layers if layer.mixer.cache is not None), first)
    cache = first.cache
    kv_heads = cache.n_heads if cache is not None else 0
    n_layers = len(architecture.layers)
    n_experts = max((layer.feed_forward.active_share[1] for layer, _ in architecture.groups), default=1)
    return {
        "n_layers": n_layers,
        "value_index": values,
        "down_index": downs,
        "query_groups": first.n_heads // kv_heads if kv_heads else 0,
        "n_experts": n_experts if n_experts > 1 else 0,
        "is_70b": _is_70b(architecture.model_type, n_layers, first.n_heads, kv_heads),
        "tied": architecture.tied_head,
        "fused": bool(
            getattr(first, "fused_qkv", getattr(getattr(first, "inner", None), "fused_qkv", False))
        ),
        "falcon": architecture.model_type == "falcon",
        "first_experts": expert_layers[0] if expert_layers else 0,
        "latent_experts": bool(expert_layers) and isinstance(first, Latent),
    }


def _is_70b(model_type: str, n_layers: int, heads: int, kv_heads: int) -> bool:
    """What llama.cpp calls LLM_TYPE_70B. Source: src/models/{llama,qwen2,deci}.cpp, load_arch_hparams."""
    if n_layers != 80:  # noqa: PLR2004  Llama 2/3 70B, Qwen2 72B
        return False
    return model_type.startswith(("qwen2", "nemotron-nas")) or (model_type in _LLAMAS and heads != kv_heads)
