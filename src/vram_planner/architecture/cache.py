"""What a layer keeps between two tokens. Engines decide by these shapes how many bytes that costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCache:
    """
    A cache that grows with every token: keys and values of one layer.

    `n_heads` KV heads of `key_dim` and `value_dim` elements. `latent` marks MLA's one
    compressed vector a token, which no rank can split and which has no separate value.
    `window` is the number of last tokens that are ever read again; None keeps all. `chunked` says that
    it is not the last `window` tokens but those of the current chunk (Llama 4). `fixed_tokens` is set for a
    cache that is filled once, whatever the context: the encoder's or the image's tokens of cross-attention.
    """

    n_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    latent: bool = False
    chunked: bool = False
    fixed_tokens: int | None = None

    def heads_on_rank(self, tp: int) -> int:
        """KV heads that one of `tp` ranks holds; fewer heads than ranks are replicated."""
        return 1 if self.latent else max(1, -(-self.n_heads // tp))

    def elements_per_token(self, tp: int = 1) -> int:
        """Numbers that one token adds on one rank: H·(d_k + d_v), or the latent's width."""
        return self.heads_on_rank(tp) * (self.key_dim + self.value_dim)

    def ranks_holding_each_head(self, tp: int) -> int:
        """How many ranks hold a copy of the same head."""
        return tp if self.latent else max(1, tp // self.n_heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCache:
    """
    A state that is overwritten with every token and never grows: recurrent layers keep one a sequence.

    `kind` names the layer's arithmetic ("mamba", "mamba2", "gated_delta", "linear", "short_conv", "rwkv" …),
    by which engines choose their layout. `conv_channels` × `conv_tokens` are the last inputs of the short
    convolution (kernel − 1 of them); `group_channels` of those channels belong to `groups` (Mamba2's B and C)
    that tensor parallelism copies where it has more ranks than groups. `state_elements` is the recurrent state of all
    `heads`, which is what tensor parallelism deals out. `float32_state` says that the model asks for a
    float32 state whatever its dtype.
    """

    kind: str
    heads: int
    state_elements: int
    conv_channels: int = 0
    conv_tokens: int = 0
    group_channels: int = 0
    groups: int = 0
    float32_state: bool = False
