"""Janus: Llama with a SigLIP tower to see, and a quantised autoencoder, an embedding and a head to draw."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.model_profiles.config import Config
from vram_planner.model_profiles.families import llama
from vram_planner.model_profiles.families.towers import siglip, tower_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.weight import Weight

Shape = tuple[int, ...]

# The tower and the autoencoder that the published models name; their sizes stand in the code only.
_TOWER = "siglip_large_patch16_384"
_EYE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "patch_size": 16,
    "image_size": 384,
}
_AUTOENCODER = "VQ-16"
_CHANNELS, _TIMES, _DEEP, _REPEATS = 128, (1, 1, 2, 2, 4), 256, 2
_CODES, _CODE = 16_384, 8
# LlamaConfig's own, on which the inner config may be silent.
_LLAMA = {"vocab_size": 32_000, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}


def build(config: Config) -> Architecture:
    """Source: deepseek-ai/Janus janus/models/modeling_vlm.py, projector.py, siglip_vit.py and vq_model.py."""
    _known(config.sub("vision_config").sub("params"), "model_name", _TOWER)
    _known(config.sub("gen_vision_config"), "cls", _AUTOENCODER)
    text = llama.build(config.sub("language_config").with_defaults(_LLAMA))
    towers = (
        *siglip(Config(_EYE)),
        *_aligner("aligner", config.sub("aligner_config").sub("params"), _EYE["hidden_size"], text.hidden),
        *tower_weights("autoencoder", *_autoencoder()),
        *_aligner("gen_aligner", config.sub("gen_aligner_config").sub("params"), _CODE, text.hidden),
        *_drawing(config),
    )
    return replace(text, model_type="multi_modality", towers=towers)


def _known(part: Config, key: str, only: str) -> None:
    if part.text(key, default=only) != only:
        raise UnsupportedArchitectureError(
            f"{part.where}{key} is {part.text(key)[:40]!r}, which is not known", hint=f"we know {only}"
        )


def _aligner(name: str, part: Config, eye: int, hidden: int) -> tuple[Weight, ...]:
    """`depth` matrices with biases, the first from the tower's width. Source: MlpProjector, mlp_gelu."""
    into = part.integer("input_dim", default=eye, most=10**6)
    out = part.integer("n_embed", default=hidden, most=10**6)
    more = part.integer("depth", default=2, most=100) - 1
    return tower_weights(name, (out, into), (out,), *[(out, out), (out,)] * more)


def _drawing(config: Config) -> tuple[Weight, ...]:
    """The head over image tokens, and their embedding. Source: VisionHead; `gen_embed`."""
    head = config.sub("gen_head_config").sub("params")
    width = head.integer("n_embed", default=2048, most=10**6)
    inner = head.integer("image_token_embed", default=2048, most=10**6)
    codes = head.integer("image_token_size", default=_CODES)
    table = config.sub("gen_vision_config").sub("params")
    rows = table.integer("image_token_size", default=_CODES)
    embed = (rows, table.integer("n_embed", default=_CODE, most=10**6))
    return tower_weights("drawing", (inner, width), (inner,), (codes, inner), (codes,), embed)


def _autoencoder() -> Iterator[Shape]:
    """VQ-16: an encoder and a decoder of convolutions, two small ones around the table of codes."""
    yield from _half((3, *(_CHANNELS * times for times in (1, *_TIMES))), _REPEATS, up=False)
    yield from _half(
        (_DEEP, *(_CHANNELS * times for times in (_TIMES[-1], *reversed(_TIMES)))), _REPEATS + 1, up=True
    )
    yield from _convolution(_DEEP, _CODE, 1)
    yield from _convolution(_CODE, _DEEP, 1)
    yield (_CODES, _CODE)


def _half(widths: Shape, repeats: int, *, up: bool) -> Iterator[Shape]:
    """
    One half: a first convolution to `widths[1]`, a level for each later width, the middle, a last convolution.

    Only the deepest level attends; all but the last level change the resolution.
    """
    yield from _convolution(widths[0], widths[1], 3)
    deepest, levels = max(widths[1:]), len(widths) - 2
    for level in range(levels):
        before, after = widths[level + 1], widths[level + 2]
        for index in range(repeats):
            yield from _residual(before if index == 0 else after, after)
            if level == (0 if up else levels - 1):
                yield from _attention(after)
        if level < levels - 1:
            yield from _convolution(after, after, 3)
    yield from _residual(deepest, deepest)
    yield from _attention(deepest)
    yield from _residual(deepest, deepest)
    last = widths[-1]
    yield from ((last,), (last,))
    yield from _convolution(last, 3 if up else _DEEP, 3)


def _convolution(into: int, out: int, side: int) -> Iterator[Shape]:
    yield from ((out, into, side, side), (out,))


def _residual(into: int, out: int) -> Iterator[Shape]:
    yield from ((into,), (into,), (out,), (out,))
    yield from _convolution(into, out, 3)
    yield from _convolution(out, out, 3)
    if into != out:
        yield from _convolution(into, out, 1)


def _attention(width: int) -> Iterator[Shape]:
    yield from ((width,), (width,))
    for _ in range(4):
        yield from _convolution(width, width, 1)
