"""
llama-server's draft model (`--model-draft`): a second model with a context of its own beside the first.

It has as many cells as the served model and the same batch, slots and cards; its cache is f16 whatever -ctk says, all of
its layers are on the GPUs, and one token a slot gets logits. Patterns of -ot and --n-cpu-moe are not its own.
Sources (b11434): common/speculative.cpp, common_base_params_to_speculative and common_speculative_init_result.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.gguf import GgufMix
from vram_planner.basis import Basis, Part
from vram_planner.engines.llama_cpp_cache import check_rows, kv_bytes, states_bytes
from vram_planner.engines.llama_cpp_compute import compute_bytes
from vram_planner.engines.llama_cpp_layout import weights_on
from vram_planner.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Precision
    from vram_planner.engines.base import Ask
    from vram_planner.engines.llama_cpp_layout import Setting

_DRAFTED = 3  # --spec-draft-n-max, common/common.h
_CODE = "https://github.com/ggml-org/llama.cpp/blob/b11434/common/speculative.cpp"


class Draft(NamedTuple):
    """The draft model, its file type, and what it runs with."""

    architecture: Architecture
    mix: GgufMix
    setting: Setting
    tokens: int

    def beside(self, setting: Setting) -> Draft:
        """The same beside a served model of another context."""
        return self._replace(setting=_settled(setting))

    def held(self, device: int) -> int:
        """Bytes of all of it on one card."""
        found = weights_on(self.architecture, self.mix, self.setting, device)
        found += kv_bytes(self.architecture, self.setting, device)
        found += states_bytes(self.architecture, self.setting, device)
        return found + compute_bytes(self.architecture, self.mix, self.setting, device)


def find_draft(ask: Ask, setting: Setting, mix_for: Callable[[Precision], GgufMix]) -> Draft | None:
    """
    The draft model of an ask. Raises RequestError for other ways of drafting, which are not modelled.

    An unquantised checkpoint is taken as a file of the served model's type; a GGUF file is what it is.
    """
    options = ask.options
    if options.speculative is None and ask.draft is None:
        if options.speculative_tokens is not None:
            raise RequestError(
                "--speculative-tokens says nothing without a draft model", hint="--draft-model MODEL"
            )
        return None
    if options.speculative not in (None, "draft") or ask.draft is None:
        raise RequestError(
            f"llama.cpp's drafting by {str(options.speculative)[:20]!r} is not modelled",
            hint="--speculative draft:MODEL, or leave it out",
        )
    if setting.gpus > len(ask.draft.layers):
        raise RequestError(
            f"{setting.gpus} GPUs for {len(ask.draft.layers)} layers of the draft model", hint="fewer GPUs"
        )
    stored = ask.draft.precision
    served = isinstance(ask.precision, GgufMix) and not getattr(ask.precision, "path", "")
    follows = served and getattr(stored, "container", "") != "gguf"
    found = Draft(
        architecture=ask.draft,
        mix=mix_for(ask.precision if follows else stored),
        setting=_settled(setting),
        tokens=options.speculative_tokens or _DRAFTED,
    )
    check_rows(found.architecture, found.setting)
    return found


def _settled(setting: Setting) -> Setting:
    return replace(
        setting,
        type_k="f16",
        type_v="f16",
        outputs=min(setting.outputs, setting.slots),
        gpu_layers=None,
        moe_on_host=0,
        overrides=(),
    )


def draft_parts(draft: Draft, device: int) -> tuple[Part, ...]:
    """Tensors, cache with states, and compute buffer of the draft model on one card."""
    model, setting = draft.architecture, draft.setting
    weights = weights_on(model, draft.mix, setting, device)
    cache = kv_bytes(model, setting, device) + states_bytes(model, setting, device)
    words = f"{draft.mix.title}, {model.parameters:,} parameters; {draft.tokens} tokens drafted at once"
    return (
        Part(name="draft_model", n_bytes=weights, basis=draft.mix.basis, source=_CODE, detail=words),
        Part(
            name="draft_kv_cache",
            n_bytes=cache,
            basis=Basis.FORMULA,
            source=_CODE,
            detail=f"{setting.streams} × {setting.stream_cells:,} cells in f16, as many as the served model's",
        ),
        Part(
            name="draft_compute_buffer",
            n_bytes=compute_bytes(model, draft.mix, setting, device),
            basis=Basis.FORMULA,
            source=_CODE,
            detail=f"graph of {setting.tokens:,} tokens, logits of {setting.outputs}",
        ),
    )
