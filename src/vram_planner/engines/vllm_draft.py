"""Speculative decoding in vLLM: what drafts, its weights, its layers in the pool, and the states of drafted tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from vram_planner.architecture.feed_forward import NoFeedForward
from vram_planner.architecture.model import Layer
from vram_planner.architecture.parallel import rank_weight_bytes, table_bytes, weights_on_rank
from vram_planner.architecture.precision import Place
from vram_planner.architecture.weight import Role
from vram_planner.basis import Basis, Part
from vram_planner.engines.drafting import asked_method, drafted_tokens
from vram_planner.engines.eagle_head import head_bytes
from vram_planner.engines.vllm_weights import HeldLayer, as_held
from vram_planner.errors import ParallelError, RequestError, UnsupportedArchitectureError

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.base import Ask

METHODS: Final = ("mtp", "eagle", "eagle3", "draft", "ngram")
_WITH_MODEL: Final = ("eagle", "eagle3", "draft")
_SOURCE = "https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/v1/worker/gpu/spec_decode"
_VOCABULARY_MULTIPLE = 64
# qwen3_next_mtp.py and qwen3_5_mtp.py deal out the joint projection, the others copy it.
_CUT_JOINTS: Final = ("qwen3_next", "qwen3_5")


def speculating(ask: Ask) -> Ask:
    """
    The ask with the number of drafted tokens filled in; refuses what vLLM refuses.

    MTP drafts as many tokens as the checkpoint has layers for it, unless told otherwise; the others must be told.
    Source: vLLM 0.32 config/speculative.py, SpeculativeConfig.__post_init__.
    """
    method = asked_method(ask, "vLLM", METHODS, _WITH_MODEL)
    if method is None:
        return ask
    _check(ask, method)
    return replace(ask, options=replace(ask.options, speculative_tokens=drafted_tokens(ask, method)))


def _check(ask: Ask, method: str) -> None:
    model, draft = ask.architecture, ask.draft
    if method != "ngram" and ask.layout.pp > 1:
        raise ParallelError(
            "a draft model beside pipeline stages is not modelled", hint="--tp in place of --pp, or ngram"
        )
    if "compressed" in model.kinds and method != "ngram":
        raise UnsupportedArchitectureError(
            f"speculative decoding of {model.model_type} is not modelled: its draft layers have pages of their own",
            hint="leave --speculative out",
        )
    if method == "mtp" and not model.draft_mixers:
        raise RequestError(
            f"{model.model_type}: no layers for multi-token prediction are known from this configuration",
            hint="--speculative draft:MODEL, eagle3:MODEL or ngram",
        )
    if method == "mtp" and model.model_type == "step3p7":
        raise UnsupportedArchitectureError(
            "multi-token prediction of step3p7 is not modelled for vLLM", hint="--speculative ngram"
        )
    if draft is None:
        return
    if method == "draft" and draft.vocabulary != model.vocabulary:
        raise RequestError(
            "target and draft model should have the same vocabulary size: target model vocabulary"
            f" {model.vocabulary:,}, draft model vocabulary {draft.vocabulary:,}",
            hint="a draft model of the same family",
        )
    if (method == "eagle3") != (draft.model_type == "eagle3"):
        raise RequestError(
            f"the model named is {'no ' if method == 'eagle3' else 'an '}EAGLE-3 head by its configuration",
            hint="--speculative eagle3:MODEL for one whose class is named so, eagle or draft for others",
        )


def with_draft_layers(ask: Ask) -> Ask:
    """The ask with the draft's layers behind the model's own: for what they cache, not for their weights."""
    if ask.options.speculative == "mtp":
        drafting = tuple(_caching(mixer) for mixer in ask.architecture.draft_mixers)
    elif ask.draft is not None:
        drafting = ask.draft.layers
    else:
        return ask
    layers = (*ask.architecture.layers, *drafting)
    return replace(ask, architecture=replace(ask.architecture, layers=layers))


def _caching(mixer: object) -> Layer:
    return Layer(mixer=mixer, feed_forward=NoFeedForward(), norms=())  # type: ignore[arg-type]  # a Mixer, by the fields


def draft_parts(ask: Ask) -> tuple[Part, ...]:
    """
    The part `draft_model`: what drafting adds to a rank's weights; none where nothing is loaded for it.

    mtp      the checkpoint's layers for it; embedding and head are the model's own
    eagle    fc (H, 2·H) and the layers, the first without its first norm; embedding and head are the model's own
    eagle3   fc, the layers, a norm, a head of its own; the embedding is the model's, unless the checkpoint brings
             another, which is the upper bound
    draft    a whole model, cut over the same ranks
    Source: v1/worker/gpu/spec_decode/eagle/utils.py, load_eagle_model; model_executor/models/llama_eagle.py.
    """
    method = ask.options.speculative
    if method == "mtp":
        n_bytes, detail = (
            _mtp_bytes(ask),
            f"{len(ask.architecture.draft_mixers)} layers for multi-token prediction",
        )
    elif ask.draft is not None:
        n_bytes = head_bytes(ask.draft, ask.layout) if method != "draft" else _whole_bytes(ask, ask.draft)
        detail = f"{method} of {ask.draft.parameters:,} parameters in {ask.draft.precision.name}"
    else:
        return ()
    own = 0
    if method == "eagle3" and ask.draft is not None:
        own, _ = table_bytes(
            replace(ask.draft, embedding_extras=()), ask.draft.precision, ask.layout, _VOCABULARY_MULTIPLE
        )
    return (
        Part(
            name="draft_model",
            n_bytes=n_bytes,
            basis=Basis.FORMULA,
            source=_SOURCE,
            detail=f"{detail}: {ask.options.speculative_tokens} tokens drafted at once",
            high_bytes=n_bytes + own,
        ),
    )


def _mtp_bytes(ask: Ask) -> int:
    """The draft layers, held as the model's own layers are."""
    first = ask.architecture.layers[-1]
    cut = ask.architecture.model_type.startswith(_CUT_JOINTS)
    weights = tuple(
        replace(weight, units=weight.shape[0]) if cut and weight.role is Role.JOIN else weight
        for weight in ask.architecture.draft_layers
    )
    layer = HeldLayer(
        mixer=ask.architecture.draft_mixers[0],
        feed_forward=first.feed_forward,
        norms=(),
        held=weights,
    )
    model, precision = as_held(replace(ask.architecture, layers=(layer,)), ask.precision, ask.layout)
    return weights_on_rank(model.layers[0].weights, precision, Place(model, None), ask.layout)


def _whole_bytes(ask: Ask, draft: Architecture) -> int:
    (n_bytes,) = rank_weight_bytes(*as_held(draft, draft.precision, ask.layout), ask.layout)
    return n_bytes
