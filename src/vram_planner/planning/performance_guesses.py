"""Speculative decoding, as far as speed goes: how many tokens are guessed at once, and what a guess costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask

_COST = 0.1  # of a step, where nothing is known of what guesses
_USUAL = 3  # llama.cpp's --draft-max of plans, SGLang's own number of steps


def guessed(ask: Ask) -> int:
    """
    Tokens guessed at once; none where nobody said how many of them are accepted.

    As asked, else the model's layers for it (MTP), else 3.
    """
    options = ask.options
    if options.speculative is None or options.acceptance is None:
        return 0
    own = len(ask.architecture.draft_mixers) if options.speculative == "mtp" else 0
    return options.speculative_tokens or own or _USUAL


def guess_cost(ask: Ask) -> float:
    """
    What guessing a token takes, as a share of the served model's step: by the parameters that are read for it.

    n-grams take nothing, an MTP layer its share of the layers and the head, another model its active parameters:
    (A/L + V · H) / A, or A' / A.

    A, A'  active parameters of the served and the drafting model    L layers    V, H  vocabulary, hidden size
    Source: Leviathan et al., https://arxiv.org/abs/2211.17192, the cost coefficient c of section 3.2.
    """
    if ask.options.speculative is None:
        return _COST
    served = ask.architecture
    if ask.options.speculative == "ngram":
        return 0.0
    if ask.draft is not None:
        return ask.draft.active_parameters / served.active_parameters
    head = served.vocabulary * served.hidden
    return (served.active_parameters / len(served.layers) + head) / served.active_parameters
