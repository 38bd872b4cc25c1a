"""
The graph of each projector (mmproj) that llama.cpp reserves at its start, and how large the picture is for which it does.

Source (b11434): tools/mtmd/models/*.cpp, one function here for a file there; tools/mtmd/clip.cpp, load_hparams.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from vram_planner.engines.llama_cpp_clip import Clip, Made, Vit
from vram_planner.engines.llama_cpp_clip_sound import FRAMES, gemma4a
from vram_planner.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vram_planner.architecture.projector import Projector

_FLOAT = 4
_RESAMPLER_HEAD = 128
_RMS_VIT = (3200, 45)  # width and layers of InternViT-6B, which has norms without a mean


def siglip(clip: Clip) -> Made:
    """Gemma 3 (pooled to fewer tokens) and Idefics 3, SmolVLM (patches side by side). Source: models/siglip.cpp."""
    projector, merge = clip.projector, clip.projector.merge
    stream = clip.tower(clip.embedded(), Vit(tokens=clip.patches, position=()))
    tokens = clip.patches // merge**2
    if projector.kind == "idefics3":
        return clip.product("mm.model.fc", _side_by_side(clip, stream), _padded(clip) // merge**2)
    pooled = clip.rows(clip.width, tokens, clip.same(stream))
    normed = clip.over(clip.over(clip.same(pooled.seen)))
    kernel = projector.tensors["mm.input_projection.weight"]
    turned = clip.new(kernel.shape[0] * kernel.shape[1] * (_FLOAT if kernel.type_name == "f32" else 2))
    return clip.rows(kernel.shape[1], tokens, turned, normed)


def _padded(clip: Clip) -> int:
    """Patches of the picture with its sides rounded up to whole tokens."""
    merge, side = clip.projector.merge, clip.side // clip.projector.patch
    return (-(-side // merge) * merge) ** 2


def _side_by_side(clip: Clip, stream: Made) -> Made:
    """Patches side by side, merge × merge of them, become one wide row. Source: clip.cpp, build_patch_merge_permute."""
    if _padded(clip) != clip.patches:
        stream = clip.rows(clip.width, _padded(clip), stream)
    return clip.same(clip.same(stream.seen).seen)


def internvl(clip: Clip) -> Made:
    """A class token in front, taken off again; patches side by side. Source: models/internvl.cpp."""
    projector, tokens = clip.projector, clip.patches + 1
    first = clip.new(clip.width * _FLOAT)
    stream = clip.rows(clip.width, tokens, clip.embedded(), first)
    rms = (projector.width, projector.layers) == _RMS_VIT
    found = clip.tower(stream, Vit(tokens=tokens, rms=rms, position=()))
    cut = clip.rows(clip.width, clip.patches, found)
    merged = clip.norm(clip.same(clip.same(cut.seen).seen), "mm.model.mlp.0", rms=False)
    after = clip.patches // projector.merge**2
    middle = clip.over(clip.product("mm.model.mlp.1", merged, after))
    return clip.product("mm.model.mlp.3", middle, after)


def llama4(clip: Clip) -> Made:
    """Patches unfolded in float32, a class token, turns in two dimensions. Source: models/llama4.cpp."""
    projector, tokens = clip.projector, clip.patches + 1
    columns = clip.rows(3 * projector.patch**2, clip.patches, clip.picture())
    stream = clip.rows(clip.width, tokens, clip.rows(clip.width, clip.patches, columns).seen)
    rows, columns_at = "positions by row", "positions by column"

    def turned(made: Made) -> Made:
        once = clip.new(made.n_bytes, made, clip.numbers(columns_at, tokens))
        return clip.over(once, clip.numbers(rows, tokens))

    found = clip.tower(stream, Vit(tokens=tokens, position=(), turned=turned))
    after = clip.patches // projector.merge**2
    merged = clip.rows(clip.width, clip.patches, found)
    merged = clip.same(merged.seen)
    middle = clip.over(clip.product("mm.model.mlp.1", merged, after))
    middle = clip.over(clip.product("mm.model.mlp.2", middle, after))
    return clip.product("mm.model.fc", middle, after)


def pixtral(clip: Clip) -> Made:
    """Turns in two dimensions; Mistral Small 3.1 merges patches; a token at the end of each row. Source: models/pixtral.cpp."""
    projector, tokens, merge = clip.projector, clip.patches, clip.projector.merge

    def turned(made: Made) -> Made:
        once = clip.new(made.n_bytes, made, clip.numbers("positions by row", tokens))
        return clip.over(once, clip.numbers("positions by column", tokens))

    found = clip.tower(clip.embedded(), Vit(tokens=tokens, rms=True, turned=turned))
    if projector.has("mm.patch_merger.weight"):
        weighed = clip.over(clip.same(found))
        turned_over = clip.same(weighed.seen)
        tokens //= merge**2
        columns = clip.rows(clip.width * merge**2, tokens, turned_over.seen, turned_over)
        found = clip.product("mm.patch_merger", columns.seen, tokens)
    middle = clip.over(clip.product("mm.1", found, tokens))
    result = clip.product("mm.2", middle, tokens)
    if not projector.has("v.token_embd.img_break"):
        return result
    side, width = clip.side // projector.patch // merge, result.n_bytes // tokens
    leaf = Made(clip.graph.leaf(width * side), width * side)
    ends = clip.over(clip.over(leaf))
    return clip.new(result.n_bytes + ends.n_bytes, result.seen, ends).seen


def _two_frames(clip: Clip) -> Made:
    """A still picture as two equal frames, its patches in groups of four. Source: models/qwen2vl.cpp."""
    first = clip.convolution(clip.picture())
    both = clip.over(first, clip.convolution(clip.picture(), "v.patch_embd.weight.1"))
    return clip.same(clip.same(both.seen).seen)


def _qwen_turns(clip: Clip) -> Callable[[Made], Made]:
    return lambda made: clip.new(made.n_bytes, made, clip.numbers("positions", 4 * clip.patches))


def _merger(clip: Clip, stream: Made) -> Made:
    after = clip.patches // 4
    middle = clip.over(clip.product("mm.0", stream.seen, after))
    return clip.product("mm.2", middle, after)


def qwen2vl(clip: Clip) -> Made:
    """Qwen2-VL, and Qwen2.5-VL with its windows: a mask over all pairs of patches. Source: models/qwen2vl.cpp."""
    projector, tokens = clip.projector, clip.patches
    windows = projector.full_every
    vit = Vit(tokens=tokens, rms=projector.kind == "qwen2.5vl_merger", turned=_qwen_turns(clip))
    stream, mask = _two_frames(clip), None
    if projector.has("v.pre_ln.weight"):
        stream = clip.norm(stream, "v.pre_ln", rms=vit.rms)
    if windows:
        mask = clip.input("window mask", tokens * tokens * _FLOAT)
        if clip.flash:
            mask = clip.new(mask.n_bytes // 2, mask)
        order = clip.numbers("order in windows", tokens // 4)
        stream = clip.new(stream.n_bytes, stream.seen, order).seen
    for index in range(projector.layers):
        near = windows and (index + 1) % windows
        stream = clip.layer(index, stream, vit, mask if near else None)
    if projector.has("v.post_ln.weight"):
        stream = clip.norm(stream, "v.post_ln", rms=vit.rms)
    result = _merger(clip, stream)
    if windows:
        result = clip.new(result.n_bytes, result.seen, clip.numbers("order", tokens // 4))
    return result


def _learned(clip: Clip) -> Made:
    """Learned positions, stretched where the picture is of another size than theirs, in groups of four."""
    projector, size = clip.projector, clip.patches * clip.width * _FLOAT
    if projector.tensors["v.position_embd.weight"].shape[0] == clip.patches:
        made = clip.new(size)
    else:
        made = clip.same(clip.same(clip.new(size).seen).seen)
    return clip.same(made.seen)


def qwen3vl(clip: Clip) -> Made:
    """Qwen3-VL and Qwen3.5: learned positions; what some layers give goes beside the result. Source: models/qwen3vl.cpp."""
    projector, tokens, after = clip.projector, clip.patches, clip.patches // 4
    stream = clip.over(clip.over(_two_frames(clip)), _learned(clip))
    vit = Vit(tokens=tokens, turned=_qwen_turns(clip))
    beside: Made | None = None
    for index in range(projector.layers):
        stream = clip.layer(index, stream, vit)
        name = f"v.deepstack.{index}"
        if projector.has(f"{name}.fc1.weight"):
            middle = clip.product(f"{name}.fc1", clip.norm(stream.seen, f"{name}.norm", rms=False), after)
            feature = clip.product(f"{name}.fc2", clip.over(middle), after)
            beside = (
                feature if beside is None else clip.new(beside.n_bytes + feature.n_bytes, beside, feature)
            )
    if projector.has("v.post_ln.weight"):
        stream = clip.norm(stream, "v.post_ln", rms=False)
    result = _merger(clip, stream)
    return result if beside is None else clip.new(result.n_bytes + beside.n_bytes, result, beside)


def llava(clip: Clip) -> Made:
    """CLIP's tower up to the last layer but one, and two matrices (LLaVA 1.5). Source: models/llava.cpp."""
    projector = clip.projector
    classed = projector.has("v.class_embd")
    tokens, stream = clip.patches + classed, clip.embedded()
    if classed:
        stream = clip.rows(clip.width, tokens, stream)
    positions = clip.rows(clip.width, tokens, clip.numbers("positions", tokens))
    stream = clip.over(stream, positions)
    if projector.has("v.pre_ln.weight"):
        stream = clip.norm(stream, "v.pre_ln", rms=False)
    for index in range(projector.layers):
        stream = clip.layer(index, stream, Vit(tokens=tokens))
    if projector.has("v.post_ln.weight"):
        stream = clip.norm(stream, "v.post_ln", rms=False)
    chosen = clip.rows(clip.width, clip.patches, stream.seen, clip.numbers("patches", clip.patches))
    middle = clip.over(clip.product("mm.0", chosen, clip.patches))
    return clip.product("mm.2", middle, clip.patches) if projector.has("mm.2.weight") else middle


def gemma4v(clip: Clip) -> Made:
    """Gemma 4: positions from two tables, values normed too, pooled to fewer tokens. Source: models/gemma4v.cpp."""
    projector, tokens = clip.projector, clip.patches
    stream = clip.same(clip.convolution(clip.over(clip.picture())).seen)
    across, down = clip.numbers("positions across", tokens), clip.numbers("positions down", tokens)
    for positions in (across, down):
        stream = clip.over(stream, clip.rows(clip.width, tokens, positions))

    def turned(made: Made) -> Made:
        once = clip.over(made, across) if not made.view else clip.new(made.n_bytes, made, across)
        return clip.over(once, down)

    found = clip.tower(stream, Vit(tokens=tokens, rms=True, turned=turned, normed_values=True))
    after = tokens // projector.merge**2
    pooled = clip.rows(clip.width, after, clip.same(found))
    scaled = clip.over(clip.same(pooled.seen))
    if projector.has("v.std_bias") and projector.has("v.std_scale"):
        scaled = clip.over(clip.over(scaled))
    return clip.product("mm.input_projection", clip.over(scaled), after)


def glm4v(clip: Clip) -> Made:
    """GLM-4.1V: as Qwen2-VL, then a convolution over merged patches and a gated block. Source: models/glm4v.cpp."""
    projector, after = clip.projector, clip.patches // clip.projector.merge**2
    stream = clip.over(_two_frames(clip))
    if projector.has("v.norm_embd.weight"):
        stream = clip.norm(stream, "v.norm_embd", rms=True)
    position = (_learned(clip),) if projector.has("v.position_embd.weight") else None
    vit = Vit(tokens=clip.patches, rms=True, position=position, turned=_qwen_turns(clip))
    merged = clip.same(clip.tower(stream, vit))
    shape = projector.tensors["mm.patch_merger.weight"]
    width = _FLOAT if shape.type_name == "bf16" else 2
    columns = clip.new(shape.shape[1] * shape.shape[2] * shape.shape[3] * after * width, merged)
    merged = clip.over(clip.same(clip.rows(shape.shape[0], after, columns.seen)).seen)
    normed = clip.over(clip.norm(clip.product("mm.model.fc", merged, after), "mm.post_norm", rms=False))
    gate, up = clip.product("mm.gate", normed, after), clip.product("mm.up", normed, after)
    return clip.product("mm.down", clip.new(up.n_bytes, gate, up), after)


def minicpmv(clip: Clip) -> Made:
    """MiniCPM-V up to 4.5: SigLIP, and a resampler whose queries attend over the patches. Source: models/minicpmv.cpp."""
    tokens, shape = clip.patches, clip.projector.tensors["resampler.query"].shape
    queries, wide = shape[0], clip.projector.rows("resampler.proj.weight")
    learned = clip.rows(clip.width, tokens, clip.numbers("positions", tokens))
    found = clip.tower(clip.embedded(), Vit(tokens=tokens, position=(learned,)))
    asked = clip.over(clip.over(clip.rows(wide, queries)))
    values = clip.norm(clip.product("resampler.kv", found, tokens), "resampler.ln_kv", rms=False)
    key = clip.over(values, _sines(clip, wide))
    three = [
        clip.product("resampler.attn.q", asked, queries),
        clip.product("resampler.attn.k", key, tokens),
        clip.product("resampler.attn.v", values, tokens),
    ]
    query, key, value = (made.seen for made in three)
    clip.graph.expand(query.number, key.number, value.number)
    if clip.flash:
        mixed = clip.new(query.n_bytes, query, *(clip.new(made.n_bytes // 2, made) for made in (key, value)))
    else:
        turned = clip.new(value.n_bytes, value)
        scores = clip.over(clip.rows(queries * wide // _RESAMPLER_HEAD, tokens, key, query))
        mixed = clip.same(clip.new(query.n_bytes, turned, scores).seen)
    mixed = clip.norm(clip.product("resampler.attn.out", mixed.seen, queries), "resampler.ln_post", rms=False)
    return clip.product("resampler.proj", mixed, queries)


def _sines(clip: Clip, wide: int) -> Made:
    """Positions as sines and cosines of frequencies, a quarter of the width each."""
    tokens, quarter = clip.patches, wide // 4
    repeated = clip.rows(quarter, tokens, clip.numbers("frequencies", quarter))
    halves = []
    for name in ("positions across", "positions down"):
        angle = clip.over(repeated, clip.numbers(name, tokens))
        halves.append(clip.rows(2 * quarter, tokens, clip.same(angle), clip.same(angle)))
    return clip.rows(4 * quarter, tokens, *halves)


_GRAPHS: Mapping[str, Callable[[Clip], Made]] = {
    "gemma3": siglip,
    "idefics3": siglip,
    "internvl": internvl,
    "llama4": llama4,
    "pixtral": pixtral,
    "qwen2vl_merger": qwen2vl,
    "qwen2.5vl_merger": qwen2vl,
    "qwen3vl_merger": qwen3vl,
    "mlp": llava,
    "gemma4v": gemma4v,
    "gemma4a": gemma4a,
    "glm4v": glm4v,
    "resampler": minicpmv,
}
# Of those with pictures of any size: tokens a side of the one that the buffer is reserved for, and tokens of the largest.
_SIDES = {
    "pixtral": (16, 1024),
    "gemma4v": (16, 1120),
    **dict.fromkeys(("qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "glm4v"), (46, 4096)),
}
# Each token of a picture sees all others: they must go through in one micro-batch, but for models of two widths.
_WITHIN_UBATCH = "gemma4v"
_CAUSAL = (1536, 2560)


def graph_of(kind: str) -> Callable[[Clip], Made]:
    """The graph of a kind of projector. Raises UnsupportedArchitectureError for one that is not modelled."""
    if kind not in _GRAPHS:
        raise UnsupportedArchitectureError(
            f"llama.cpp's projector {kind[:40]!r} is not modelled",
            hint=f"leave --mmproj out and keep room for it; those modelled: {', '.join(sorted(_GRAPHS))}",
        )
    return _GRAPHS[kind]


def sides_of(projector: Projector, ubatch: int) -> tuple[int, int]:
    """
    Pixels a side of the picture that the buffer is reserved for, and of the largest square that is let through.

        n · merge · patch;  n 46 for Qwen and GLM, 16 for Pixtral and Gemma 4; the largest: 64, 32 and 33

    The others have pictures of one size. Gemma 4's, but for E2B's and E4B's, have no more tokens than a micro-batch; its sound
    has 3,000 frames. A larger picture makes the
    buffer grow when it comes. Source: clip.cpp, load_hparams; clip-model.h, set_limit_image_tokens and
    set_warmup_n_tokens; server-context.cpp ("cap image_max_tokens").
    """
    if projector.kind == "gemma4a":
        return FRAMES, FRAMES
    if projector.kind not in _SIDES:
        return projector.image, projector.image
    first, tokens = _SIDES[projector.kind]
    if projector.kind == _WITHIN_UBATCH and projector.out not in _CAUSAL:
        tokens = min(tokens, ubatch)
    most = isqrt(tokens)
    token = projector.merge * projector.patch
    return min(first, most) * token, most * token
