"""In what a family's modeling code differs from Llama's where memory is concerned; by `model_type`, for 5.23.0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture

# `_supports_sdpa` is false: sinks, capped scores, position biases or old code.
EAGER_ONLY = frozenset(
    {
        *(
            "bigbird_pegasus",
            "bloom",
            "codegen",
            "cpmant",
            "deepseek_v4",
            "falcon_mamba",
            "flint",
            "gemma2",
            "git",
            "gpt_neo",
            "gpt_neox_japanese",
            "mvp",
            "prophetnet",
            "trocr",
        ),
        *("gpt_oss", "gptj", "granite_swa", "granitemoe_swa", "hy_v4", "inkling2_text", "mamba", "mamba2"),
        *("mimo_v2_flash", "mpt", "openai-gpt", "rwkv", "vaultgemma", "xglm", "xlstm"),
    }
)
# Their forward knows no logits_to_keep, so generate computes the logits of every position.
KEEPS_ALL_LOGITS = frozenset(
    {"gemma4_assistant", "gemma4_unified_assistant", "prophetnet", "trocr", "whisper", "xlstm"}
)
# These scale or cap the logits out of place, so that two copies of them live at once (gemma2, granite: `logits / x`).
_TWO_LOGITS = frozenset(
    {"gemma2", "gemma3n", "granite", "granitemoe", "granitemoehybrid", "cohere", "cohere2"}
)
# One rotary table for sliding layers and one for the others (Gemma3RotaryEmbedding).
_TWO_ROPES = frozenset({"gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "olmo3"})
# Norms stand behind the blocks alone: no normalised copy of a block's input (Olmo2DecoderLayer).
_POST_NORM = frozenset({"olmo2", "olmo3", "exaone4"})
# The residual stream is float32 (`residual_in_fp32`).
_WIDE_RESIDUAL = frozenset({"mamba", "mamba2", "falcon_mamba"})
# The shared expert runs first, and its output waits for the routed ones (Qwen2MoeSparseMoeBlock).
_SHARED_FIRST = frozenset(
    {"afmoe", "laguna", "minimax_m3_vl_text"}
    | {"qwen2_moe", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text", "ernie4_5_moe", "ernie4_5_vl_moe"}
)
# Routers that hand over float32 weights, so that weighted outputs are float32 too: those with a correction bias …
_ROUTES_IN_FLOAT = frozenset({"afmoe", "deepseek_v2", "gemma4", "gemma4_text", "minimax", "mixtral"})
# … but for these, which cast them back.
_CASTS_ROUTES = frozenset(
    {"ernie4_5_moe", "ernie4_5_vl_moe", "longcat_flash", "lfm2_moe", "laguna", "inkling_text"}
)
# Every expert is given every token (Llama4TextExperts).
_ALL_EXPERTS = frozenset({"llama4", "llama4_text"})
# A window of 0 where none is asked for, or a mask of its own: it is made all the same.
_IDLE_MASK = frozenset({"qwen2_moe", "gpt_bigcode", "doge"})
# Python code for the activation (NewGELUActivation, BloomGelu): two more tensors of I.
_GELU_IN_STEPS = frozenset({"gpt2", "phi", "gptj", "gpt_neo", "codegen", "bloom", "openai-gpt"})
# relu², in two steps (ReLUSquaredActivation): one more tensor of I.
_SQUARES = frozenset({"arcee", "fuyu", "jais2", "nanochat", "nemotron", "nemotron_h", "persimmon"})
# xIELU without its CUDA kernel (XIELUActivation._xielu_python): three more, and where x is above zero.
_XIELU = frozenset({"apertus"})
# The product of gate and up is normed in float32 before it is projected down (BitNetMLP.ffn_sub_norm).
_NORMS_PRODUCT = frozenset({"bitnet"})
# Each of queries and keys is turned in float32 and cast back (Ernie's apply_rotary_pos_emb).
_TURNS_EACH_IN_FLOAT = frozenset({"ernie4_5", "ernie4_5_moe", "ernie4_5_vl_moe", "modernbert-decoder"})
# Attention's output is gated by a projection made before it (AfmoeAttention.forward).
_GATES_FIRST = frozenset({"afmoe"})
# Sinks weigh the output, and take no place among the scores (granite_swa's eager_attention_forward) …
_SINKS_APART = frozenset({"granite_swa", "granitemoe_swa"})
# A mask or a bias of its own for each head: B · h · L · K more (DogeAttention.prepare_dynamic_mask, InklingRelativeLogits).
_MASKS_EACH_HEAD = frozenset({"doge", "inkling_text", "inkling2_text"})
_DISTANCES = "rel_logits_proj"
# Sinks stand among the scores of latent attention, and its softmax is in the model's dtype.
_LATENT_SINKS = frozenset({"hy_v4"})
# The indexer's keys are turned in float32 and cached so (Dots3NoteTextIndexer).
_WIDE_INDEXER = frozenset({"dots3_note", "dots3_note_text"})
# … or scores and softmax are float32, with the sink beside them (flint's).
_SCORES_IN_FLOAT = frozenset({"flint"})
# Queries and keys are turned by their position in float32 (Cohere's apply_rotary_pos_emb).
_TURNS_IN_FLOAT = frozenset({"cohere", "cohere2", "cohere2_moe", "cohere_compass_text"})
# Bytes of one score at eager attention's peak where it is not b + 4 + 4, in 16 bits.
_SCORE_BYTES = {
    **dict.fromkeys(("gptj", "codegen", "gpt_neo", "mpt"), 12),  # scores, masked and their softmax in float32
    **dict.fromkeys(("bloom",), 14),  # a copy with alibi as well
    **dict.fromkeys(("gpt2", "llama4", "llama4_text"), 4),  # softmax in the model's dtype
    **dict.fromkeys(("falcon",), 8),
    # Softmax in the model's dtype, with scores and what is made of them beside one another.
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "plbart", "biogpt", "bigbird_pegasus"), 4),
    **dict.fromkeys(("mvp", "xglm", "trocr"), 4),
    **dict.fromkeys(("openai-gpt",), 6),
    **dict.fromkeys(("gpt_neox_japanese",), 8),  # zeros to add to, scores, masked ones and their softmax
    **dict.fromkeys(
        ("inkling2_text",), 12
    ),  # scores; with the sink in float32; their softmax; and in b again
    **dict.fromkeys(("diffllama",), 12),  # the first half's softmax lives beside the second's
    **dict.fromkeys(
        ("mimo_v2_flash",), 4
    ),  # less their maximum, and their softmax, both in the model's dtype
}
# The decoder layer holds on to attention's scores (`hidden_states, attention_states = self.self_attn(…)`).
_KEEPS_SCORES = frozenset({"llama4", "llama4_text", "mimo_v2_flash"})
# Hidden states that a layer holds beyond Llama's, in its feed-forward block; and in one with experts.
_KEPT_STATES = {"stablelm": 2, "gpt2": 2, "gpt_bigcode": 1, "minimax": -1}
_KEPT_BESIDE_EXPERTS = {"gemma4": 3, "gemma4_text": 3}
# Layers that read an earlier layer's cache run the tokens alone whose logits are kept (Gemma4TextModel.forward).
_SKIPS_BORROWED = frozenset({"gemma4", "gemma4_text"})
_MIXES = "attn_hc.fn"
_FLOAT_BYTES = 4
_CHUNK_OF = {"nemotron_h": 128}
_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What `forward` does beyond Llama's; see the sets above."""

    logit_copies: int = 1
    rope_sets: int = 1
    post_norm: bool = False
    wide_residual: bool = False
    shared_first: bool = False
    routes_in_float: bool | None = None  # None: where the router has a correction bias
    all_experts: bool = False
    idle_mask: bool = False
    turns_in_float: bool = False
    turns_each_in_float: bool = False
    act_width: int = 2  # tensors of I that live in an MLP without a gate
    act_flags: int = 0  # and booleans of it
    norms_product: bool = False
    gates_first: bool = False
    sinks_apart: bool = False
    scores_in_float: bool = False
    masks_each_head: bool = False
    distances: int = 0  # of a table of biases that the mask of each head is gathered from
    latent_sinks: bool = False
    indexer_bytes: int | None = None  # of a number of its keys, where they have not the model's dtype
    score_bytes: int | None = None
    keeps_scores: bool = False
    skips_borrowed: bool = False
    kept_states: int = 0
    kept_beside_experts: int = 0
    every_head: bool = False  # keys and values are cached for each query head (Falcon's new decoder)
    unfused: bool = False  # a single KV head is broadcast, which no fused kernel takes (Falcon 7B)
    chunk: int = _CHUNK  # tokens that Mamba 2 handles at once
    per_layer_width: int = 0  # numbers a token of all layers' own embeddings, alive through the pass
    streams: int = 1  # residual streams
    mixed_streams: int = 0  # residual streams that each block mixes by learned weights (DeepSeek-V4)


def traits_of(architecture: Architecture) -> Traits:
    """The traits of a model, by its type and its tensors."""
    kind = architecture.model_type
    extras = {weight.name: weight for weight in architecture.embedding_extras}
    per_layer = extras.get("embed_tokens_per_layer")
    streams = sum(name.startswith("altup_projections") for name in extras)
    kv_heads = max((cache.n_heads for cache, _ in architecture.caches), default=0)
    width = 0 if per_layer is None else per_layer.shape[-1]
    return Traits(
        logit_copies=2 if kind in _TWO_LOGITS else 1,
        rope_sets=2 if kind in _TWO_ROPES else 1,
        post_norm=kind in _POST_NORM,
        wide_residual=kind in _WIDE_RESIDUAL,
        shared_first=kind in _SHARED_FIRST,
        routes_in_float=True if kind in _ROUTES_IN_FLOAT else False if kind in _CASTS_ROUTES else None,
        all_experts=kind in _ALL_EXPERTS,
        idle_mask=kind in _IDLE_MASK,
        chunk=_CHUNK_OF.get(kind, _CHUNK),
        act_width=5 if kind in _XIELU else 4 if kind in _GELU_IN_STEPS else 3 if kind in _SQUARES else 2,
        act_flags=int(kind in _XIELU),
        norms_product=kind in _NORMS_PRODUCT,
        turns_each_in_float=kind in _TURNS_EACH_IN_FLOAT,
        gates_first=kind in _GATES_FIRST,
        sinks_apart=kind in _SINKS_APART,
        scores_in_float=kind in _SCORES_IN_FLOAT,
        masks_each_head=kind in _MASKS_EACH_HEAD,
        distances=_distances(architecture) if kind in _MASKS_EACH_HEAD else 0,
        latent_sinks=kind in _LATENT_SINKS,
        indexer_bytes=_FLOAT_BYTES if kind in _WIDE_INDEXER else None,
        turns_in_float=kind in _TURNS_IN_FLOAT,
        score_bytes=_SCORE_BYTES.get(kind),
        keeps_scores=kind in _KEEPS_SCORES,
        skips_borrowed=kind in _SKIPS_BORROWED,
        kept_states=_KEPT_STATES.get(kind, 0),
        kept_beside_experts=_KEPT_BESIDE_EXPERTS.get(kind, 0),
        every_head=kind == "falcon" and kv_heads > 1,
        unfused=kind == "falcon" and kv_heads == 1,
        # A model with towers looks the embeddings of all layers up itself, and keeps what it looked up.
        per_layer_width=(2 if architecture.towers else 1) * width,
        streams=streams + 1,
        mixed_streams=next(
            (w.columns // architecture.hidden for w in architecture.layers[0].norms if w.name == _MIXES), 0
        ),
    )


def _distances(architecture: Architecture) -> int:
    """How far a bias by distance reaches, at most: columns of InklingRelativeLogits' `proj`, 0 without it."""
    return max(
        (
            weight.columns
            for layer, _ in architecture.groups
            for weight in layer.weights
            if _DISTANCES in weight.name
        ),
        default=0,
    )
