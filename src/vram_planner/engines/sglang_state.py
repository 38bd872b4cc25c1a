"""SGLang's slots of recurrent states: a share of what the weights leave, beside the tokens of the attention layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import stage_layers
from vram_planner.engines.base import largest
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
    to a pair of further slots while the next batch is prepared (extra_buffer). With `drafted` tokens verified at once each
    of the `running` requests, and one more, keeps a state for each of them beside its slots.
    Source: KVCacheConfigurator._handle_max_mamba_cache and _calculate_mamba_ratio, mem_cache/kv_cache_configurator.py.
    """

    slot_bytes: int
    per_request: int
    spare: int
    drafted: int = 0
    running: int = 0

    def slots(self, budget: int) -> int:
        """
        Slots within a budget of states and tokens: ⌊budget · 0.9/1.9 / slot⌋ − the spare one.

        With D drafted tokens ⌊(budget · 0.9/1.9 − slot · (1 + D)) / (slot · (1 + D / slots of a request))⌋.
        """
        if not self.drafted:
            return max(0, budget * _SHARE // (_WHOLE * self.slot_bytes) - self.spare)
        left = budget * _SHARE - _WHOLE * self.slot_bytes * (1 + self.drafted)
        each = self.slot_bytes * (self.per_request + self.drafted)
        return max(0, left * self.per_request // (_WHOLE * each))

    def taken(self, budget: int) -> int:
        """Bytes of all slots, the spare one and those of drafted tokens too; the tokens get the rest of the budget."""
        slots = self.slots(budget)
        running = min(self.running, slots // self.per_request) + 1
        return (slots + self.spare + running * self.drafted) * self.slot_bytes

    def requests(self, budget: int) -> int:
        """Requests that may run at once: slots / slots of a request."""
        return self.slots(budget) // self.per_request

    def least_budget(self, requests: int, token_bytes: int) -> int:
        """
        The budget from which on there are slots for the requests and `token_bytes` beside them.

        The tokens' rest grows with the budget but falls by one slot where a slot is won; the answer lies past the
        last such fall: n slots with (10/9) · n · slot < token_bytes, and budget = token_bytes + n · slot.
        """
        if self.drafted:
            return self._least_with_drafts(requests, token_bytes)
        for_states = ceil_div((requests * self.per_request + self.spare) * self.slot_bytes * _WHOLE, _SHARE)
        beside = _WHOLE - _SHARE
        n = max(ceil_div(token_bytes * _SHARE, beside * self.slot_bytes) - 1, self.spare)
        return max(for_states, token_bytes + n * self.slot_bytes)

    def _least_with_drafts(self, requests: int, token_bytes: int) -> int:
        """The same by search; a slot with its drafts more than what first does, for the falls that come after it."""
        step = self.slot_bytes * (1 + self.drafted)

        def lacks(budget: int) -> bool:
            return self.requests(budget) < requests or budget - self.taken(budget) < token_bytes

        high = step
        while lacks(high):
            high *= 2
        return largest(lacks, high) + 1 + step


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


def states_of(ask: Ask, profile: Profile, drafted: int = 0) -> States | None:
    """
    The slots of this model on any rank, None without recurrent layers; `drafted` tokens are verified at once.

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
        slot_bytes=max(_stage_bytes(architecture, ask)),
        per_request=per_request,
        spare=1 if drafted else rule["spare"],
        drafted=drafted,
        running=max(1, (ask.options.max_num_seqs or 0) // ask.layout.attention_dp),
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
