"""GOT-OCR 2: Qwen 2 with SAM's vision transformer and a projector of convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import qwen2
from vram_planner.model_profiles.families.common import hidden_size
from vram_planner.model_profiles.families.towers import tower_weights
from vram_planner.model_profiles.families.vision_language import language, with_towers

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config

# GotOcr2Config's own figures for its Qwen 2.
_TEXT = {
    "vocab_size": 151_860,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}
_GLOBAL = (2, 5, 8, 11)


def build(config: Config) -> Architecture:
    """Source: transformers models/got_ocr2/modeling_got_ocr2.py."""
    text = language(config, "qwen2", _TEXT)
    vision, width = config.sub("vision_config"), hidden_size(text)
    channels = vision.integer("output_channels", default=256)
    projector = tower_weights(
        "projector",
        (2 * channels, channels, 3, 3),
        (width, 2 * channels, 3, 3),
        (width, width),
        (width,),
    )
    return with_towers(config, qwen2.build(text), (*sam_tower(vision), *projector), tied=True)


def sam_tower(vision: Config) -> tuple[Weight, ...]:
    """SAM's encoder: windows with relative positions, a few global layers, a neck. Source: GotOcr2VisionEncoder."""
    width = vision.integer("hidden_size", default=768, most=10**6)
    inner = vision.integer("mlp_dim", default=3072)
    depth = vision.integer("num_hidden_layers", default=12)
    heads = vision.integer("num_attention_heads", default=12, most=10**5)
    patch = vision.integer("patch_size", default=16, most=10**4)
    side = vision.integer("image_size", default=1024, most=10**5) // patch or 1
    window = vision.integer("window_size", default=14, most=10**4)
    out = vision.integer("output_channels", default=256)
    vector = (width,)
    layer = [vector, vector, (3 * width, width), (width, width), vector, vector, vector]
    layer += [(inner, width), (inner,), (width, inner), vector]
    if vision.flag("qkv_bias", default=True):
        layer.append((3 * width,))
    stem = [(width, vision.integer("num_channels", default=3, most=10**3), patch, patch), vector]
    if vision.flag("use_abs_pos", default=True):
        stem.append((1, side, side, width))
    weights = tower_weights("vision.stem", *stem) + tower_weights(
        "vision.layers", *((depth, *shape) for shape in layer)
    )
    if vision.flag("use_rel_pos", default=True):
        everywhere = vision.integers("global_attn_indexes", default=_GLOBAL)
        n_global = sum(index in everywhere for index in range(depth))
        for count, reach in ((n_global, side), (depth - n_global, window)):
            if count:
                weights += tower_weights(
                    f"vision.positions.{reach}", (2, count, 2 * reach - 1, width // heads)
                )
    neck = [(out, width, 1, 1), (out,), (out,), (out, out, 3, 3), (out,), (out,)]
    return weights + tower_weights("vision.neck", *neck)
