"""Speculative decoding in TensorRT-LLM's PyTorch backend: the draft's weights, and what a token costs more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from vram_planner.architecture.parallel import rank_weight_bytes, weights_on_rank
from vram_planner.architecture.precision import Place
from vram_planner.basis import Basis, Part
from vram_planner.engines.drafting import asked_method, drafted_tokens
from vram_planner.engines.eagle_head import head_bytes
from vram_planner.engines.layouts import replica
from vram_planner.errors import ParallelError, RequestError, UnsupportedArchitectureError

if TYPE_CHECKING:
    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.base import Ask

METHODS: Final = ("mtp", "eagle3", "draft", "ngram")
_WITH_MODEL: Final = ("eagle3", "draft")
_TYPES: Final = {"mtp": "MTP", "eagle3": "Eagle", "draft": "DraftTarget", "ngram": "NGram"}
_SOURCE = "https://github.com/NVIDIA/TensorRT-LLM/blob/main/tensorrt_llm/_torch/pyexecutor/_util.py"


def speculating(ask: Ask) -> Ask:
    """The ask with the number of drafted tokens filled in; refuses what its PyTorch backend has not."""
    method = asked_method(ask, "TensorRT-LLM", METHODS, _WITH_MODEL)
    if method is None:
        return ask
    _check(ask, method, ask.architecture)
    return replace(ask, options=replace(ask.options, speculative_tokens=drafted_tokens(ask, method)))


def _check(ask: Ask, method: str, model: Architecture) -> None:
    if ask.layout.pp > 1:
        raise ParallelError("a draft beside pipeline stages is not modelled", hint="--tp in place of --pp")
    if model.states or model.indexers:
        raise UnsupportedArchitectureError(
            f"speculative decoding of {model.model_type} is not modelled for TensorRT-LLM: "
            "states of drafted tokens, and an indexer's draft layers, are not",
            hint="leave --speculative out",
        )
    if method == "mtp" and not model.draft_mixers:
        raise RequestError(
            f"{model.model_type}: no layers for multi-token prediction are known from this configuration",
            hint="--speculative draft:MODEL, eagle3:MODEL or ngram",
        )
    if ask.draft is not None and (method == "eagle3") != (ask.draft.model_type == "eagle3"):
        raise RequestError(
            f"the model named is {'no ' if method == 'eagle3' else 'an '}EAGLE-3 head by its configuration",
            hint="--speculative eagle3:MODEL for one whose class is named so, draft for others",
        )


def draft_parts(ask: Ask) -> tuple[Part, ...]:
    """
    The part `draft_model`: loaded before the dry run, so what is free for the cache is less by it.

    mtp      the checkpoint's layers for it; embedding and head are the model's
    eagle3   fc, layers, a norm and a head of its own; the embedding is the model's
    draft    a whole model, cut over the same ranks
    """
    method, draft, layout = ask.options.speculative, ask.draft, replica(ask)
    if method in (None, "ngram"):
        return ()
    if draft is None:
        place = Place(replace(ask.architecture, layers=ask.architecture.layers[-1:]), None)
        n_bytes = weights_on_rank(ask.architecture.draft_layers, ask.precision, place, layout)
        what = f"{len(ask.architecture.draft_mixers)} layers for multi-token prediction"
    else:
        what = f"{method} of {draft.parameters:,} parameters in {draft.precision.name}"
        n_bytes = (
            head_bytes(draft, layout)
            if method == "eagle3"
            else max(rank_weight_bytes(draft, draft.precision, layout, vocabulary_multiple=64))
        )
    return (
        Part(
            name="draft_model",
            n_bytes=n_bytes,
            basis=Basis.FORMULA,
            source=_SOURCE,
            detail=f"{what}: {ask.options.speculative_tokens} tokens drafted at once",
        ),
    )


def draft_caches(ask: Ask) -> tuple[KvCache, ...]:
    """
    What the draft's layers keep of a token: in the target's pool (mtp, eagle3), or one of the draft's own beside it.

    The layer of an EAGLE-3 head is a further layer of the target's pool, of the target's heads. A draft model's pool has as
    many tokens as the target's, so a token costs the sum of both.
    Source: KvCacheCreator._get_kv_size_per_token and get_num_spec_layers, _util.py and speculative/utils.py.
    """
    method = ask.options.speculative
    if method == "mtp":
        mixers = tuple(ask.architecture.draft_mixers)
    elif method == "eagle3" and ask.draft is not None:
        mixers = tuple(ask.architecture.layers[-1].mixer for _ in ask.draft.layers)
    else:
        mixers = () if ask.draft is None else tuple(layer.mixer for layer in ask.draft.layers)
    return tuple(mixer.cache for mixer in mixers if mixer.cache is not None)


def configuration(ask: Ask) -> str:
    """The option that starts the server so: a file of options, written in place."""
    method, tokens = ask.options.speculative, ask.options.speculative_tokens
    assert method is not None  # noqa: S101  asked for by the caller
    length = "num_nextn_predict_layers" if method == "mtp" else "max_draft_len"
    model = ', "speculative_model_dir": "{draft}"' if method in _WITH_MODEL else ""
    text = f'{{"speculative_config": {{"decoding_type": "{_TYPES[method]}", "{length}": {tokens}{model}}}}}'
    return f"--extra_llm_api_options <(echo '{text}')"
