"""Families that transformers lists but whose memory is not planned here: each with the reason."""

from __future__ import annotations

from typing import Final

_UNBUILT = (
    "transformers 5.23 cannot build its default (TypeError: unsupported operand type(s) for //), "
    "and no published configuration was seen"
)
_ENCODER = "it is an encoder: it reads a text at once, generates none, and keeps no KV cache"
_HALF = "it is the decoder of an encoder-decoder: it works only on what its encoder hands over"
_BOTH = "it has an encoder and a decoder: two stacks and a cache of cross-attention, which is not modelled"
_SPEECH = "it writes down speech with an encoder and a decoder, which is not modelled"
_MUSIC = "it makes audio from a text encoder's output through a codec, which is not modelled"
_VISION = "it is an encoder of images: it generates no text and keeps no KV cache"

# Of MODEL_FOR_CAUSAL_LM_MAPPING_NAMES of transformers 5.23.0, and what users try most beside them.
REFUSED: Final[dict[str, str]] = {
    "albert": _ENCODER,
    "bert": _ENCODER,
    "bert-generation": _HALF,
    "big_bird": _ENCODER,
    "camembert": _ENCODER,
    "clip": _VISION,
    "data2vec-text": _ENCODER,
    "deberta": _ENCODER,
    "deberta-v2": _ENCODER,
    "distilbert": _ENCODER,
    "electra": _ENCODER,
    "ernie": _ENCODER,
    "led": _BOTH,
    "longt5": _BOTH,
    "m2m_100": _BOTH,
    "megatron-bert": _ENCODER,
    "modernbert": _ENCODER,
    "mpnet": _ENCODER,
    "mt5": _BOTH,
    "musicgen": _MUSIC,
    "musicgen_melody": _MUSIC,
    "nllb-moe": _BOTH,
    "nomic_bert": _ENCODER,
    "qwen4_exp": _UNBUILT,
    "qwen4_exp_text": _UNBUILT,
    "reformer": "its layers keep hashed buckets of earlier states, not keys and values, and no engine here runs it",
    "rembert": _ENCODER,
    "roberta": _ENCODER,
    "roberta-prelayernorm": _ENCODER,
    "roc_bert": _ENCODER,
    "roformer": _ENCODER,
    "siglip": _VISION,
    "speech_to_text": _SPEECH,
    "t5": _BOTH,
    "umt5": _BOTH,
    "vit": _VISION,
    "xlm": _ENCODER,
    "xlm-roberta": _ENCODER,
    "xlm-roberta-xl": _ENCODER,
    "xlnet": "it keeps hidden states of earlier text, not keys and values, and runs a second stream: not modelled",
    "xmod": _ENCODER,
}
