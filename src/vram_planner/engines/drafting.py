"""What is asked of speculative decoding, whichever of vLLM, SGLang and TensorRT-LLM does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Collection

    from vram_planner.engines.base import Ask


def asked_method(ask: Ask, engine: str, methods: Collection[str], with_model: Collection[str]) -> str | None:
    """
    The method asked for, one of `methods`, None without any; those of `with_model` name a model, the others none.

    Raises RequestError for a method that `engine` has not, and for options that do not go with it.
    """
    method, options = ask.options.speculative, ask.options
    known = ", ".join(methods)
    if method is None:
        if options.speculative_tokens is not None or ask.draft is not None:
            raise RequestError(
                "--speculative-tokens and --draft-model say nothing without a method",
                hint=f"--speculative {known}",
            )
        return None
    if method not in methods:
        raise RequestError(
            f"{engine}'s speculative decoding has no method {method[:40]!r} here", hint=f"one of {known}"
        )
    if (ask.draft is not None) != (method in with_model):
        raise RequestError(
            f"--speculative {method} {'names no model' if method in with_model else 'takes no model'}",
            hint=f"--speculative {method}:MODEL" if method in with_model else f"--speculative {method}",
        )
    return method


def drafted_tokens(ask: Ask, method: str) -> int:
    """Tokens drafted at once: as asked, or the checkpoint's own layers for it; RequestError where neither is there."""
    tokens = ask.options.speculative_tokens or (
        len(ask.architecture.draft_mixers) if method == "mtp" else None
    )
    if tokens is None:
        raise RequestError(
            f"--speculative {method} needs a number of tokens to draft", hint="--speculative-tokens 3"
        )
    return tokens
