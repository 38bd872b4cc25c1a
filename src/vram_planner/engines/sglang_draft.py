"""Speculative decoding in SGLang: what drafts, its weights, its rows in the pool, and the states of drafted tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from vram_planner.architecture.parallel import rank_weight_bytes, table_bytes, weights_on_rank
from vram_planner.architecture.precision import Place
from vram_planner.basis import Basis, Part
from vram_planner.engines.drafting import asked_method
from vram_planner.engines.eagle_head import head_bytes
from vram_planner.engines.layouts import replica
from vram_planner.engines.sglang_cells import cache_of, element_bytes
from vram_planner.engines.sglang_defaults import profile_of
from vram_planner.errors import ParallelError, RequestError, UnsupportedArchitectureError
from vram_planner.units import format_gib

if TYPE_CHECKING:
    from vram_planner.architecture.attention import Mixer
    from vram_planner.engines.base import Ask
    from vram_planner.engines.sglang_cells import Cells
    from vram_planner.engines.sglang_defaults import Profile

METHODS: Final = ("mtp", "eagle", "eagle3", "draft", "ngram")
FLAGS: Final = {"mtp": "EAGLE", "eagle": "EAGLE", "eagle3": "EAGLE3", "draft": "STANDALONE", "ngram": "NGRAM"}
RUNNING = 48  # --max-running-requests where speculation is on and none was set
_WITH_MODEL: Final = ("eagle", "eagle3", "draft")
_SOURCE = (
    "https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/speculative/eagle_worker_v2.py"
)
_DEEP, _SHALLOW, _NGRAM = (5, 4, 8), (3, 1, 4), (12, 1, 12)
_DEEP_FAMILIES = ("llama", "grok")
_VOCABULARY_MULTIPLE = 64


def steps_of(ask: Ask) -> tuple[int, int, int]:
    """
    Steps, branches and tokens to verify (--speculative-num-steps, -eagle-topk, -num-draft-tokens).

    `--speculative-tokens` N is a chain: N steps, N + 1 tokens to verify. Without it SGLang takes (5, 4, 8) for Llama and
    Grok, (3, 1, 4) for the others and for a draft model of its own, 12 tokens for n-grams.
    Source: auto_choose_speculative_params, arg_groups/speculative_hook.py.
    """
    tokens, method = ask.options.speculative_tokens, ask.options.speculative
    if method == "ngram":
        return (tokens, 1, tokens) if tokens else _NGRAM
    if tokens:
        return tokens, 1, tokens + 1
    return _DEEP if method != "draft" and ask.architecture.model_type in _DEEP_FAMILIES else _SHALLOW


def drafted(ask: Ask) -> int:
    """Tokens that a request verifies in a step, 0 without speculation."""
    return 0 if ask.options.speculative is None else steps_of(ask)[2]


def speculating(ask: Ask) -> Ask:
    """The ask with SGLang's 48 running requests filled in; refuses what SGLang refuses, and what is not modelled."""
    method = asked_method(ask, "SGLang", METHODS, _WITH_MODEL)
    if method is None:
        return ask
    _check(ask, method, profile_of(ask.options.version))
    return replace(ask, options=replace(ask.options, max_num_seqs=ask.options.max_num_seqs or RUNNING))


def _check(ask: Ask, method: str, profile: Profile) -> None:
    model, draft, rule = ask.architecture, ask.draft, profile["speculation"]
    if rule is None:
        raise UnsupportedArchitectureError(
            f"speculative decoding of SGLang {profile['title']} is not modelled",
            hint="leave --engine-version out for the newest release",
        )
    if ask.layout.pp > 1:
        raise ParallelError("a draft beside pipeline stages is not modelled", hint="--tp in place of --pp")
    if model.states and not rule["states"]:
        raise UnsupportedArchitectureError(
            f"states of drafted tokens are not modelled for SGLang {profile['title']}",
            hint="leave --engine-version out for the newest release",
        )
    if "compressed" in model.kinds and method != "ngram":
        raise UnsupportedArchitectureError(
            f"speculative decoding of {model.model_type} is not modelled: its draft layers have pools of their own",
            hint="leave --speculative out",
        )
    if method == "mtp" and not model.draft_mixers:
        raise RequestError(
            f"{model.model_type}: no layers for multi-token prediction are known from this configuration",
            hint="--speculative draft:MODEL, eagle3:MODEL or ngram",
        )
    if method == "draft" and ask.layout.attention_dp > 1:
        raise ParallelError(
            "SGLang runs no standalone draft model with --dp-attention", hint="leave one of the two out"
        )
    if draft is not None and (method == "eagle3") != (draft.model_type == "eagle3"):
        raise RequestError(
            f"the model named is {'no ' if method == 'eagle3' else 'an '}EAGLE-3 head by its configuration",
            hint="--speculative eagle3:MODEL for one whose class is named so, eagle or draft for others",
        )


def reserve_gib(ask: Ask, profile: Profile) -> float:
    """What the default fraction keeps back for drafting: up to 0.5.13, and not for n-grams from 0.5.3 on."""
    method, rule = ask.options.speculative, profile["speculation"]
    if method is None or (method == "ngram" and profile["rule"] != "tiers"):
        return 0.0
    return float(rule["reserve_gib"].get("draft" if method == "draft" else "other", 0.0))


def draft_parts(ask: Ask) -> tuple[Part, ...]:
    """
    The part `draft_model`: what drafting adds to a rank's weights.

    mtp      the checkpoint's layers for it        eagle    fc (H, 2·H) and the layers
    eagle3   fc, layers, norm and a head           draft    a whole model
    All but `draft` also allocate an embedding, and `mtp` and `eagle` a head, which the target's replace once the pools are
    made: the pool is sized with the copies, and they are free afterwards (the low end leaves them out). Up to 0.5.13 the
    draft is loaded after the pool was sized, and lies outside the budget.
    Source: EagleDraftWorker.alloc_memory_pool and init_lm_head, speculative/eagle_worker_v2.py; issue 36452.
    """
    method = ask.options.speculative
    if method in (None, "ngram"):
        return ()
    layers, copies, what = _weights_of(ask)
    counted = profile_of(ask.options.version)["speculation"]["counted"]
    copied = (
        f"; {format_gib(copies)} GiB of copies of embedding and head until the pools are made"
        if copies
        else ""
    )
    return (
        Part(
            name="draft_model",
            n_bytes=layers + (copies if counted else 0),
            basis=Basis.FORMULA,
            source=_SOURCE,
            detail=f"{what}: {drafted(ask)} tokens verified at once{copied if counted else ''}",
            low_bytes=layers,
            in_budget=counted,
        ),
    )


def _weights_of(ask: Ask) -> tuple[int, int, str]:
    """Bytes of the draft's own tensors and of the tables that the target's replace, and what it is in words."""
    model, draft, layout = ask.architecture, ask.draft, replica(ask)
    if draft is None:
        tables = table_bytes(replace(model, embedding_extras=()), ask.precision, layout, _VOCABULARY_MULTIPLE)
        place = Place(replace(model, layers=model.layers[-1:]), None)
        layers = weights_on_rank(model.draft_layers, ask.precision, place, layout)
        # A tied head is no table of its own.
        return layers, sum(tables), f"{len(model.draft_mixers)} layers for multi-token prediction"
    what = f"{ask.options.speculative} of {draft.parameters:,} parameters in {draft.precision.name}"
    if ask.options.speculative == "draft":
        (whole,) = rank_weight_bytes(draft, draft.precision, layout, vocabulary_multiple=_VOCABULARY_MULTIPLE)
        return whole, 0, what
    embedding, head = table_bytes(
        replace(draft, embedding_extras=()), draft.precision, layout, _VOCABULARY_MULTIPLE
    )
    eagle3 = draft.model_type == "eagle3"
    return head_bytes(draft, layout), embedding if eagle3 else embedding + head, what


def with_draft(cells: Cells, ask: Ask, n_layers: int, full_bytes: int) -> Cells:
    """
    The pool with the draft's rows: one for each token of the target's pool, of the draft's own size.

    From 0.5.14 on the sizing counts for each draft layer what a layer of the target takes (of its full attention where it
    has a window pool), whatever the draft's own size; before, nothing.
    Source: DefaultPoolConfigurator.__init__ and HybridSWAPoolConfigurator.__init__, model_executor/pool_configurator.py.
    """
    layers = _draft_mixers(ask)
    if not layers:
        return cells
    element = element_bytes(ask)
    rows = sum(
        cache.elements_per_token(ask.layout.attention_tp) * element
        for cache in map(cache_of, layers)
        if cache
    )
    counted = cells.counted_bytes or cells.unit_bytes
    if profile_of(ask.options.version)["speculation"]["counted"]:
        each = full_bytes * cells.unit if cells.window is not None else counted // max(1, n_layers)
        counted += each * len(layers)
    unit = cells.unit_bytes + rows * cells.unit
    return replace(
        cells,
        unit_bytes=unit,
        counted_bytes=None if counted == unit else counted,
        draft_bytes=rows * cells.unit,
    )


def _draft_mixers(ask: Ask) -> tuple[Mixer, ...]:
    if ask.options.speculative == "mtp":
        return tuple(ask.architecture.draft_mixers)
    return () if ask.draft is None else tuple(layer.mixer for layer in ask.draft.layers)


def extra_slots(ask: Ask) -> int:
    """Slots that a request holds beside its context while drafted tokens are verified."""
    return drafted(ask)


def launch_flags(ask: Ask) -> dict[str, object]:
    """The options that start the server so."""
    method = ask.options.speculative
    if method is None:
        return {}
    steps, branches, tokens = steps_of(ask)
    chain = (
        {} if method == "ngram" else {"--speculative-num-steps": steps, "--speculative-eagle-topk": branches}
    )
    return {
        "--speculative-algorithm": FLAGS[method],
        "--speculative-draft-model-path": "{draft}" if method in _WITH_MODEL else None,
        **chain,
        "--speculative-num-draft-tokens": tokens,
    }
