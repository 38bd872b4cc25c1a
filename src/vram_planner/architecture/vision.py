"""What an engine must know of a vision tower to say how much running it takes: shapes, and the largest picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Eye:
    """
    A vision transformer as a picture sees it; its tensors are among the model's `towers`.

    `kind` is the code that runs it: "qwen2", "qwen2_5", "qwen3" or "siglip". `width` and `inner` are the sizes of
    its residual stream and of its MLP, `gated` that the MLP has two matrices in. `out` is the width of what a
    token of the picture becomes. A patch is `pixels` numbers, and `patches_per_token` of them become one token.
    `image_tokens` is what the largest picture becomes that its processor lets through.
    """

    kind: str
    width: int
    inner: int
    out: int
    pixels: int
    patches_per_token: int
    image_tokens: int
    gated: bool = False
