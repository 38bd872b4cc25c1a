"""
The graph of Gemma 4's encoder of sound that llama.cpp reserves at its start, for 3,000 frames: 30 seconds.

A Conformer: two convolutions, then layers of feed-forward, attention within blocks of 12 frames and what comes 12 before
them, a convolution in time, feed-forward. Source (b11434): tools/mtmd/models/gemma4a.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.engines.llama_cpp_clip import Clip, Made

FRAMES = 3000  # clip-model.h, warmup_audio_size
_FLOAT, _HALF = 4, 2
_BLOCK, _BEFORE = 12, 12
_SEEN = _BLOCK + _BEFORE
_PLACES = _BEFORE + 1
_KERNEL = 9  # numbers of a convolution's kernel of 3 × 3
_PADDED = 4  # frames before the first one that the convolution in time sees


def gemma4a(clip: Clip) -> Made:
    """The whole graph; `clip.side` is the number of frames, `projector.patch` that of their bins."""
    frames, bins = clip.side, clip.projector.patch
    sound = clip.input("sound", frames * bins * _FLOAT)
    stream = clip.same(sound.seen)
    for index in range(2):
        frames, bins = ceil_div(frames, 2), ceil_div(bins, 2)
        stream = _convolved(clip, stream, f"a.conv1d.{index}", frames * bins)
    stream = clip.product("a.input_projection", clip.same(stream.seen).seen, frames)
    for index in range(clip.projector.layers):
        stream = _layer(clip, f"a.blk.{index}", stream, frames)
    if clip.projector.has("a.pre_encode.out.weight"):
        stream = clip.product("a.pre_encode.out", stream, frames)
    stream = clip.norm(stream, "mm.a.soft_emb_norm", rms=True)
    return clip.product("mm.a.input_projection", stream, frames)


def _convolved(clip: Clip, stream: Made, name: str, places: int) -> Made:
    shape = clip.projector.tensors[f"{name}.weight"]
    width = _FLOAT if shape.type_name == "bf16" else _HALF
    columns = clip.new(shape.shape[1] * _KERNEL * places * width, stream)
    made = clip.same(clip.rows(shape.shape[0], places, columns.seen).seen)
    if clip.projector.has(f"{name}.bias"):
        made = clip.over(made)
    if clip.projector.has(f"{name}.norm.weight"):
        made = clip.same(clip.over(clip.same(clip.same(made.seen))).seen)
    return clip.over(made)


def _layer(clip: Clip, layer: str, stream: Made, frames: int) -> Made:
    residual = clip.over(stream, _fed(clip, layer, "", stream, frames))
    residual = clip.over(residual, _attended(clip, layer, residual, frames))
    residual = clip.over(residual, _in_time(clip, layer, residual, frames))
    residual = clip.over(residual, _fed(clip, layer, "_1", residual, frames))
    return clip.norm(residual, f"{layer}.ln2", rms=True)


def _fed(clip: Clip, layer: str, which: str, stream: Made, frames: int) -> Made:
    """Half of a feed-forward block: what it gives is halved."""
    clip.graph.expand(stream.number)
    normed = clip.norm(stream, f"{layer}.ffn_norm{which}", rms=True)
    middle = clip.over(clip.product(f"{layer}.ffn_up{which}", normed, frames))
    fed = clip.product(f"{layer}.ffn_down{which}", middle, frames)
    return clip.over(clip.norm(fed, f"{layer}.ffn_post_norm{which}", rms=True))


def _attended(clip: Clip, layer: str, stream: Made, frames: int) -> Made:
    clip.graph.expand(stream.number)
    heads, width, blocks = clip.projector.heads, clip.width, ceil_div(frames, _BLOCK)
    normed = clip.norm(stream, f"{layer}.attn_pre_norm", rms=True)
    query, key, value = (clip.product(f"{layer}.attn_{letter}", normed, frames).seen for letter in "qkv")
    query = clip.scaled(clip.same(query), f"{layer}.per_dim_scale")
    query = clip.same(clip.rows(width, blocks * _BLOCK, query).seen)
    key = clip.scaled(clip.same(key), f"{layer}.per_dim_k_scale")

    def in_blocks(made: Made) -> Made:
        padded = clip.rows(width, blocks * _SEEN, made)
        return clip.same(clip.same(padded.seen).seen)

    scores = clip.rows(heads * _SEEN, blocks * _BLOCK, in_blocks(key), query)
    if clip.projector.has(f"{layer}.attn_k_rel.weight"):
        places = clip.input("places", width * _PLACES * _FLOAT)
        turned = clip.same(clip.rows(width, _PLACES, places).seen)
        near = clip.rows(heads * _PLACES, blocks * _BLOCK, turned, query.seen)
        shifted = clip.rows(heads * (_SEEN + 1), blocks * _BLOCK, near.seen)
        scores = clip.over(scores, clip.new(scores.n_bytes, shifted.seen).seen)
    scores = clip.over(clip.over(clip.over(scores)))
    scores = clip.over(clip.over(scores, clip.input("mask", _SEEN * _BLOCK * blocks * _FLOAT)))
    mixed = clip.rows(width, blocks * _BLOCK, in_blocks(value), scores)
    mixed = clip.same(clip.same(mixed.seen))
    if frames % _BLOCK:
        mixed = clip.rows(width, frames, mixed.seen)
    return clip.norm(clip.product(f"{layer}.attn_out", mixed, frames), f"{layer}.attn_post_norm", rms=True)


def _in_time(clip: Clip, layer: str, stream: Made, frames: int) -> Made:
    """A gated convolution over five frames. The names of its two norms are the wrong way round in the file."""
    clip.graph.expand(stream.number)
    width = clip.width
    both = clip.product(f"{layer}.conv_pw1", clip.norm(stream, f"{layer}.conv_norm", rms=True), frames)
    half = both._replace(n_bytes=both.n_bytes // 2).seen
    gated = clip.over(half, clip.over(clip.same(half)))
    padded = clip.rows(width, frames + _PADDED, clip.same(gated.seen))
    made = clip.rows(width, frames, padded)
    if clip.projector.has(f"{layer}.conv_dw.bias"):
        made = clip.over(made)
    if clip.projector.has(f"{layer}.norm_conv.weight"):
        made = clip.norm(made, f"{layer}.norm_conv", rms=True)
    return clip.product(f"{layer}.conv_pw2", clip.over(made), frames)
