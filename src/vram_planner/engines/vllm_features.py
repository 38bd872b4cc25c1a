"""What vLLM can be asked for beyond serving a model alone: adapters, drafting, offloading, a fixed pool, shared tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.engines.vllm_context import check_context_parallel
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.basis import Part
    from vram_planner.engines.base import Ask
    from vram_planner.engines.vllm_setting import Setting


def settled(ask: Ask) -> Ask:
    """
    The ask with its features checked and filled in; data-parallel replicas of a mixture share one set of experts.

    Source: vLLM 0.32 layers/fused_moe/config.py, FusedMoEParallelConfig.make (flatten_tp_across_dp).
    """
    check_context_parallel(ask)
    if ask.options.max_loras:
        from vram_planner.engines.vllm_lora import check_lora  # noqa: PLC0415  for adapters alone

        check_lora(ask)
    if _drafts(ask):
        from vram_planner.engines.vllm_draft import speculating  # noqa: PLC0415  for drafting alone

        ask = speculating(ask)
    return replace(ask, layout=replace(ask.layout, shared_experts=True))


def _drafts(ask: Ask) -> bool:
    options = ask.options
    return options.speculative is not None or options.speculative_tokens is not None or ask.draft is not None


def caching(ask: Ask) -> Ask:
    """The ask with the layers of what drafts for it behind its own: for what they cache, not for their weights."""
    if not _drafts(ask):
        return ask
    from vram_planner.engines.vllm_draft import with_draft_layers  # noqa: PLC0415  for drafting alone

    return with_draft_layers(ask)


def feature_parts(ask: Ask, setting: Setting) -> tuple[Part, ...]:
    """The parts `draft_model` and `lora`, where they were asked for."""
    found: tuple[Part, ...] = ()
    if _drafts(ask):
        from vram_planner.engines.vllm_draft import draft_parts  # noqa: PLC0415  for drafting alone

        found = draft_parts(ask)
    if ask.options.max_loras:
        from vram_planner.engines.vllm_lora import lora_parts  # noqa: PLC0415  for adapters alone

        found = (*found, *lora_parts(ask, setting))
    return found


def not_modelled(ask: Ask) -> tuple[str, ...]:
    """What the asked features hold that is not in the plan, and those that were not asked for."""
    found = []
    if ask.options.max_loras:
        found.append("what the kernels of LoRA hold and take during a step, and its CUDA graphs")
    if ask.options.speculative is not None:
        found.append("what drafting and checking hold during a step, and the graphs of the draft")
    if ask.layout.dp > 1 and _routed(ask):
        found.append("the buffers in which data-parallel ranks exchange the tokens of their experts")
    if ask.options.cpu_offload:
        found.append("host memory")
    return tuple(found)


def _routed(ask: Ask) -> bool:
    return any(
        weight.name.startswith("experts.") for layer, _ in ask.architecture.groups for weight in layer.weights
    )


def launch_words(ask: Ask) -> tuple[str, ...]:
    """The flags that ask vLLM for the same."""
    options, words = ask.options, []
    if options.max_loras:
        words += ["--enable-lora", f"--max-loras {options.max_loras}"]
        words += [f"--max-lora-rank {options.max_lora_rank}"] if options.max_lora_rank else []
        words += ["--fully-sharded-loras"] if options.fully_sharded_loras else []
    if options.speculative is not None:
        words.append(_speculative_config(ask))
    if options.cpu_offload:
        words.append(f"--cpu-offload-gb {options.cpu_offload / GIB:g}")
    if options.kv_cache_memory:
        words.append(f"--kv-cache-memory-bytes {options.kv_cache_memory}")
    if options.prefix_caching is not None:
        words.append(f"--{'' if options.prefix_caching else 'no-'}enable-prefix-caching")
    if (options.decode_context_parallel_size or 1) > 1:
        words.append(f"--decode-context-parallel-size {options.decode_context_parallel_size}")
    return tuple(words)


def _speculative_config(ask: Ask) -> str:
    method = ask.options.speculative or ""
    named = {"draft": "draft_model"}.get(method, method)
    fields = [f'"method": "{named}"']
    fields += ['"model": "{draft}"'] if ask.draft is not None else []
    fields.append(f'"num_speculative_tokens": {ask.options.speculative_tokens}')
    return f"--speculative-config '{{{', '.join(fields)}}}'"
