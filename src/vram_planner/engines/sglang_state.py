"""SGLang's slots of recurrent states: a share of what the weights leave, beside the tokens of the attention layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import stage_layers
from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.cache import StateCache
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.base import Ask
    from vram_planner.engines.sglang_defaults import Profile

# States take 0.9 bytes for each byte of tokens (--mamba-full-memory-ratio): 9 of 19.
_SHARE, _WHOLE = 9, 19
_CONV_BYTES, _STATE_BYTES = 2, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """
    Slots of states on one rank: bytes of one over all its layers, how many a request counts for, and those set aside.

    The prefix cache keeps states of its own, so a request counts for 3 slots, and for 5 where states are written
    to a pair of further slots while the next batch is prepared (extra_buffer).
    Source: KVCacheConfigurator._handle_max_mamba_cache and _calculate_mamba_ratio, mem_cache/kv_cache_configurator.py.
    """

    slot_bytes: int
    per_request: int
    spare: int

    def slots(self, budget: int) -> int:
        """Slots within a budget of states and tokens: ⌊budget · 0.9/1.9 / slot⌋ − the spare one."""
        return max(0, budget * _SHARE // (_WHOLE * self.slot_bytes) - self.spare)

    def taken(self, budget: int) -> int:
        """Bytes of all slots, the spare one too; the tokens get the rest of the budget."""
        return (self.slots(budget) + self.spare) * self.slot_bytes

    def requests(self, budget: int) -> int:
        """Requests that may run at once: slots / slots of a request."""
        return self.slots(budget) // self.per_request

    def least_budget(self, requests: int, token_bytes: int) -> int:
        """
        The budget from which on there are slots for the requests and `token_bytes` beside them.

        The tokens' rest grows with the budget but falls by one slot where a slot is won; the answer lies past the
        last such fall: n slots with (10/9) · n · slot < token_bytes, and budget = token_bytes + n · slot.
        """
        for_states = ceil_div((requests * self.per_request + self.spare) * self.slot_bytes * _WHOLE, _SHARE)
        beside = _WHOLE - _SHARE
        n = max(ceil_div(token_bytes * _SHARE, beside * self.slot_bytes) - 1, self.spare)
        return max(for_states, token_bytes + n * self.slot_bytes)


def state_bytes(state: StateCache, tp: int) -> int:
    """
    Bytes of one layer's state of one slot: conv channels/tp · (kernel − 1) · 2 + state/tp · 4.

    The convolution's inputs are bfloat16 and the state is float32, whatever the model's dtype. With fewer groups
    of channels than ranks each rank copies one. Source: Mamba2StateShape.create and mamba2_state_dtype,
    configs/mamba_utils.py. Leaves out: a config's own `mamba_ssm_dtype`, and --mamba-ssm-dtype.
    """
    channels = state.conv_channels
    if state.groups and state.groups % tp:
        channels += (tp - state.groups) * state.group_channels // state.groups
    return (
        ceil_div(channels, tp) * state.conv_tokens * _CONV_BYTES
        + ceil_div(state.state_elements, tp) * _STATE_BYTES
    )


def states_of(ask: Ask, profile: Profile) -> States | None:
    """
    The slots of this model on any rank, None without recurrent layers.

    Every pipeline stage is charged the largest stage's share. Raises UnsupportedArchitectureError for models that
    this release does not run, or whose slots it sizes by another rule.
    """
    architecture = ask.architecture
    if not architecture.states:
        return None
    rule = profile["states"]
    per_request = rule["slots"].get(architecture.model_type) if rule else None
    if per_request is None:
        raise UnsupportedArchitectureError(
            f"SGLang {profile['title']} has no state pool for {architecture.model_type!r} that we know",
            hint="try --engine vllm"
            + (
                ""
                if ask.options.version is None
                else ", or leave --engine-version out for the newest release"
            ),
        )
    return States(
        slot_bytes=max(_stage_bytes(architecture, ask)), per_request=per_request, spare=rule["spare"]
    )


def _stage_bytes(architecture: Architecture, ask: Ask) -> list[int]:
    if ask.layout.pp == 1:
        return [
            sum(state_bytes(state, ask.layout.attention_tp) * count for state, count in architecture.states)
        ]
    found, start = [], 0
    for count in stage_layers(len(architecture.layers), ask.layout.pp):
        mixers = [layer.mixer for layer in architecture.layers[start : start + count]]
        found.append(
            sum(state_bytes(m.state, ask.layout.attention_tp) for m in mixers if m.state is not None)
        )
        start += count
    return found
