"""What a layer keeps between two tokens. Engines decide by these shapes how many bytes that costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCache:
    """
    A cache that grows with every token: keys and values of one layer.

    `n_heads` KV heads of `key_dim` and `value_dim` elements. `latent` marks MLA's one
    compressed vector a token, which no rank can split and which has no separate value.
    `window` is the number of last tokens that are ever read again; None keeps all.
    """

    n_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    latent: bool = False

    def heads_on_rank(self, tp: int) -> int:
        """KV heads that one of `tp` ranks holds; fewer heads than ranks are replicated."""
        return 1 if self.latent else max(1, -(-self.n_heads // tp))

    def elements_per_token(self, tp: int = 1) -> int:
        """Numbers that one token adds on one rank: H·(d_k + d_v), or the latent's width."""
        return self.heads_on_rank(tp) * (self.key_dim + self.value_dim)

    def ranks_holding_each_head(self, tp: int) -> int:
        """How many ranks hold a copy of the same head."""
        return tp if self.latent else max(1, tp // self.n_heads)
