"""How vision towers look at the largest picture, for engines that run one when they start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture.vision import Eye
from vram_planner.model_profiles.families.towers_qwen import patches

if TYPE_CHECKING:
    from vram_planner.model_profiles.config import Config

# Published preprocessor_config.json: max_pixels 12,845,056 over 28 x 28 (Qwen 2 and 2.5 VL), longest_edge
# 16,777,216 over 32 x 32 (Qwen 3 VL, 3.5 and 3.6). The config.json does not hold them.
_QWEN_TOKENS: Final = 16_384


def qwen2_eye(vision: Config) -> Eye:
    """Qwen 2 VL. Source: transformers models/qwen2_vl/modeling_qwen2_vl.py and image_processing_qwen2_vl.py."""
    width = vision.integer("embed_dim", default=1280, most=10**6)
    inner = width * vision.integer("mlp_ratio", default=4, most=100)
    out = vision.integer("hidden_size", default=3584, most=10**6)
    return _qwen(vision, "qwen2", (width, inner, out), patch=14)


def qwen2_5_eye(vision: Config) -> Eye:
    """Qwen 2.5 VL and Omni. Source: transformers models/qwen2_5_vl/modeling_qwen2_5_vl.py."""
    width = vision.integer("hidden_size", default=3584, most=10**6)
    inner = vision.integer("intermediate_size", default=3420)
    out = vision.integer("out_hidden_size", default=3584, most=10**6)
    return _qwen(vision, "qwen2_5", (width, inner, out), patch=14)


def qwen3_eye(vision: Config, *, deepest: int = 0) -> Eye:
    """Qwen 3 VL (with `deepest` more mergers by default), 3.5 and 3.6. Source: transformers models/qwen3_vl."""
    width = vision.integer("hidden_size", default=1152, most=10**6)
    inner = vision.integer("intermediate_size", default=4304)
    out = vision.integer("out_hidden_size", default=3584, most=10**6)
    deep = len(vision.integers("deepstack_visual_indexes", default=(0,) * deepest))
    return _qwen(vision, "qwen3", (width, inner, out * (1 + deep)), patch=16)


def _qwen(vision: Config, kind: str, sizes: tuple[int, int, int], *, patch: int) -> Eye:
    cut = patches(vision, patch)
    channels, frames, height, across = cut.kernel
    width, inner, out = sizes
    return Eye(
        kind=kind,
        width=width,
        inner=inner,
        out=out,
        pixels=channels * frames * height * across,
        patches_per_token=cut.merged,
        image_tokens=_QWEN_TOKENS,
        gated=kind == "qwen2_5",
    )


def siglip_eye(vision: Config, *, tokens: int, out: int) -> Eye:
    """SigLIP, whose pictures are all of one size and pooled to `tokens` of width `out` (Gemma 3)."""
    patch = vision.integer("patch_size", default=16, most=10**4)
    channels = vision.integer("num_channels", default=3, most=10**3)
    side = vision.integer("image_size", default=224, most=1 << 14) // patch
    return Eye(
        kind="siglip",
        width=vision.integer("hidden_size", default=768, most=10**6),
        inner=vision.integer("intermediate_size", default=3072),
        out=out,
        pixels=channels * patch * patch,
        patches_per_token=max(1, side * side // tokens),
        image_tokens=tokens,
    )
