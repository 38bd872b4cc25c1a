"""Kimi K3: Kimi Linear's layers with latent experts and a choice among residuals, and a MoonViT tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.model_profiles.families import kimi_linear
from vram_planner.model_profiles.families.common import hidden_size, norms
from vram_planner.model_profiles.families.kimi_linear import residual_choice
from vram_planner.model_profiles.families.towers import tower_weights

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight
    from vram_planner.model_profiles.config import Config


def build(config: Config) -> Architecture:
    """
    Source: vLLM 0.32.0 models/kimi_k3/nvidia/model.py and kda.py; transformers 5.23 has no module for it.

    With the routers' correction biases this comes to the published total of 2,779,931,837,184 but for 2,208
    numbers, 32 for each layer of delta attention.
    """
    tied = {"tie_word_embeddings": config.raw("tie_word_embeddings")}
    text, vision = config.sub("text_config").with_defaults(tied), config.sub("vision_config")
    width = hidden_size(text)
    last = norms(width, "norm")
    if text.raw("attn_res_block_size") is not None:
        last += residual_choice(text, "output_attn")
    return kimi_linear.build(text, final_norm=last, towers=(*_tower(vision), *_projector(vision, width)))


def _tower(vision: Config) -> tuple[Weight, ...]:
    """Source: vLLM kimi_k25_vit.py, MoonViT3dPretrainedModel; defaults of KimiK3VisionConfig."""
    width = vision.integer("vt_hidden_size", default=1024, most=10**6)
    inner = vision.integer("vt_intermediate_size", default=4096)
    depth = vision.integer("vt_num_hidden_layers", default=27)
    heads = vision.integer("qkv_hidden_size", default=1536, most=10**6)
    patch = vision.integer("patch_size", default=14, most=10**4)
    rows = vision.integer("init_pos_emb_height", default=64, most=10**4)
    columns = vision.integer("init_pos_emb_width", default=64, most=10**4)
    vector = (width,)
    layer = [vector, vector, (inner, width), (width, inner), (3 * heads, width), (width, heads)]
    if vision.flag("attn_bias", default=False):
        layer += [(3 * heads,), vector]
    if vision.flag("linear_bias", default=False):
        layer += [(inner,), vector]
    stem = [(width, 3, patch, patch), (rows, columns, width), vector]
    if vision.flag("patch_embed_proj_bias", default=False):
        stem.append(vector)
    return (
        *tower_weights("vision.stem", *stem),
        *tower_weights("vision.layers", *((depth, *shape) for shape in layer)),
    )


def _projector(vision: Config, text_width: int) -> tuple[Weight, ...]:
    """Source: vLLM kimi_k25_vit.py, KimiK25MultiModalProjector (patchmergerv2)."""
    across, down = (*vision.integers("merge_kernel_size", default=(2, 2)), 1, 1)[:2]
    merged = vision.integer("vt_hidden_size", default=1024, most=10**6) * max(1, across) * max(1, down)
    return tower_weights("projector", (merged, merged), (text_width, merged), (text_width,))
