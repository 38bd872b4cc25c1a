"""Groups of layers that share vLLM's pool of blocks, and the blocks that a request takes of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vram_planner.units import ceil_div

DEFAULT_BLOCK = 16


class Kind(NamedTuple):
    """How a group of layers fills blocks with the tokens of one request."""

    window: int | None = None
    chunked: bool = False
    block: int = DEFAULT_BLOCK
    state_blocks: int = 0  # more than none: a state, which takes these whatever the length
    shards: int = 1  # ranks of decode context parallelism, which deal out a request's tokens among them

    def blocks(self, context: int, in_flight_tokens: int) -> int:
        """
        Blocks that one request of `context` tokens can hold at most.

        full attention  ceil(ceil(L / shards) / block)
        sliding window  ceil(min(window − 1 + in-flight, L) / block) + 1, for the window may start
                        inside a block
        chunks          ceil(min(chunk + in-flight, L) / block)
        state           1; 2 with prefix caching, 3 for Mamba2, which keeps a checkpoint of the prefill too

        Source: vLLM max_memory_usage_bytes of the specs in v1/kv_cache_interface.py.
        """
        if self.state_blocks:
            return self.state_blocks
        if self.window is None:
            return ceil_div(ceil_div(context, self.shards), self.block)
        if self.chunked:
            return ceil_div(min(self.window + in_flight_tokens, context), self.block)
        return ceil_div(min(self.window - 1 + in_flight_tokens, context), self.block) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """
    How vLLM shares one pool of blocks between kinds of layers.

    `kinds` holds one entry a group. A block of the pool covers one block of tokens (or one state) in every
    layer of one group: `bytes_per_block`, of the stage with most. `block` is the size that vLLM's configuration
    names, `stage_bytes` what a block is on each pipeline stage (empty: on all the same).
    """

    kinds: tuple[Kind, ...]
    bytes_per_block: int
    block: int
    stage_bytes: tuple[int, ...] = ()

    @property
    def tokens_per_block(self) -> int:
        """Tokens of a request that one block of the pool stands for, on all ranks that share them out."""
        return self.block * max(kind.shards for kind in self.kinds)

    def on_stage(self, index: int) -> int:
        """Bytes of a block on one pipeline stage."""
        return self.stage_bytes[index] if self.stage_bytes else self.bytes_per_block

    @property
    def state_blocks(self) -> int:
        """Blocks of a request that hold states."""
        return sum(kind.state_blocks for kind in self.kinds)

    def blocks_per_request(self, context: int, in_flight_tokens: int) -> int:
        """Blocks that a request of `context` tokens can hold at most, over all groups, states included."""
        return sum(kind.blocks(context, in_flight_tokens) for kind in self.kinds)
