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
    `stride` is the number of tokens that share one entry, `compressed` a second cache of such entries that
    the same layer keeps beside the window (DeepSeek-V4).
    """

    n_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    latent: bool = False
    chunked: bool = False
    fixed_tokens: int | None = None
    stride: int = 1
    compressed: KvCache | None = None

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

    `kind` names the layer's arithmetic ("mamba", "mamba2", "gated_delta", "kimi_delta", "linear", "short_conv",
    "rwkv", "mlstm", "rg_lru", "convolved_attention"), by which engines choose their layout. `conv_channels` ×
    `conv_tokens` are the last inputs of the short convolution (kernel − 1 of them); `group_channels` of those
    channels belong to `groups` (Mamba2's B and C) that tensor parallelism copies where it has more ranks than
    groups. `state_elements` is the recurrent state of all `heads`, which is what tensor parallelism deals out.
    `float32_state` says that the model asks for a float32 state whatever its dtype. How engines lay it out:

    vLLM            conv_tokens × conv_channels/tp in the model's dtype, state_elements/tp in the same, or in float32
                    where float32_state. Source: v0.32.0 model_executor/layers/mamba/mamba_utils.py,
                    MambaStateShapeCalculator and MambaStateDtypeCalculator.
    llama.cpp       conv_tokens · conv_channels + state_elements, all in float32. Source: llama_hparams::n_embd_r, n_embd_s.
    transformers    kernel, not kernel − 1, tokens of the convolution in the model's dtype: conv_tokens + 1 for mamba,
                    mamba2, gated_delta, kimi_delta and short_conv, conv_tokens for the others. The state is in
                    float32, but in the model's dtype for linear, mlstm and convolved_attention.
                    Source: 5.23.0 cache_utils.py, LinearAttentionLayer, and the caches of one decode step.
    """

    kind: str
    heads: int
    state_elements: int
    conv_channels: int = 0
    conv_tokens: int = 0
    group_channels: int = 0
    groups: int = 0
    float32_state: bool = False
