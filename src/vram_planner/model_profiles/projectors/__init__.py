"""
A multimodal projector worked out from a model's config.json: the file (mmproj) that llama.cpp's converter would write.

Every tensor by its name, its shape and its type. Source (b11434): convert_hf_to_gguf.py --mmproj, conversion/base.py
(MmprojModel, prepare_tensors) and the family's file there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vram_planner.architecture.projector import Projector, ProjectorTensor
from vram_planner.basis import Basis
from vram_planner.errors import PrecisionError, UnsupportedArchitectureError
from vram_planner.model_profiles.config import Config
from vram_planner.model_profiles.families import model_type_of
from vram_planner.model_profiles.projectors.clip_like import gemma3, gemma4, idefics3, internvl, llava
from vram_planner.model_profiles.projectors.own import glm4v, llama4, mistral3, qwen2, qwen2_5, qwen3, qwen3_5

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vram_planner.model_profiles.projectors.sketch import Sketch

PROJECTOR_TYPES: Final = ("f16", "bf16", "q8_0", "f32")
_BLOCK: Final = 32  # numbers in a block of q8_0
_CONVERTER: Final = "https://github.com/ggml-org/llama.cpp/blob/b11434/conversion/base.py"
_FAMILIES: Final[Mapping[str, Callable[[Config, int], Sketch]]] = {
    "gemma3": gemma3,
    "gemma4": gemma4,
    "glm4v": glm4v,
    "glm4v_moe": glm4v,
    "idefics3": idefics3,
    "internvl_chat": internvl,
    "llama4": llama4,
    "llava": llava,
    "mistral3": mistral3,
    "qwen2_5_vl": qwen2_5,
    "qwen2_vl": qwen2,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5,
    "qwen3_vl": qwen3,
    "qwen3_vl_moe": qwen3,
    "smolvlm": idefics3,
}


# One of these is in the config.json of a model that sees or hears, whatever its family.
_EYES = frozenset(
    {
        "vision_config",
        "visual",
        "vision_tower",
        "mm_vision_tower",
        "audio_config",
        "img_processor",
        "embd_layer",
    }
)


def projector_from_config(
    config: Mapping[str, Any], *, hidden: int, type_name: str = "f16", name: str = "model"
) -> Projector:
    """
    The projector of a config.json in one of `PROJECTOR_TYPES`; `hidden` is the language model's width.

    Raises UnsupportedArchitectureError for a family without one that we know, PrecisionError for a type that
    the converter does not write, ConfigError for a figure that is missing or absurd.
    """
    reader = Config(config)
    family = model_type_of(reader)
    if family not in _FAMILIES and not _EYES & set(config):
        raise UnsupportedArchitectureError(
            f"this model of the family {family[:40]!r} takes text alone: it has no projector",
            hint="leave --mmproj out, or name the file as in --mmproj FILE.gguf",
        )
    if family not in _FAMILIES:
        raise UnsupportedArchitectureError(
            f"the projector of the family {family[:40]!r} is not modelled",
            hint=f"--mmproj FILE.gguf may be; worked out from a config.json are: {', '.join(sorted(_FAMILIES))}",
        )
    sketch = _FAMILIES[family](reader, hidden)
    if type_name not in sketch.types:
        raise PrecisionError(
            f"llama.cpp writes no projector of the type {type_name[:20]!r} for {family}",
            hint=f"one of {', '.join(sketch.types)}",
        )
    return _typed(sketch, type_name, f"mmproj-{name}-{type_name.upper()}.gguf")


def _typed(sketch: Sketch, type_name: str, name: str) -> Projector:
    forced = {**sketch.forced, **dict.fromkeys(sketch.plain, type_name)}
    tensors = {
        tensor: ProjectorTensor(_type_of(tensor, shape, type_name, forced), shape)
        for tensor, shape in sketch.shapes.items()
    }
    return Projector(
        kind=sketch.kind,
        layers=sketch.layers,
        width=sketch.width,
        heads=sketch.heads,
        image=sketch.image,
        patch=sketch.patch,
        merge=sketch.merge,
        full_every=sketch.full_every,
        tensors=tensors,
        basis=Basis.FORMULA,
        name=name,
        source=f"config.json as {_CONVERTER} writes it",
        sound=None if sketch.sound is None else _typed(sketch.sound, type_name, name),
    )


def _type_of(name: str, shape: tuple[int, ...], usual: str, forced: Mapping[str, str]) -> str:
    """
    The type of one tensor.

    Vectors, norms, positions and what is no weight stay float32; the kernels are float16 in a file of that type
    and float32 in any other; a row that is no whole number of q8_0's blocks stays float16.
    """
    if len(shape) == 1 or name.endswith("_norm.weight"):
        return "f32"
    if name in forced:
        return forced[name]
    if name.startswith("a.conv1d.") or name.endswith(".conv_dw.weight"):
        return "f32"
    if ".patch_embd.weight" in name or ".patch_merger.weight" in name:
        return "f16" if usual == "f16" else "f32"
    if name == "v.position_embd.weight" or not name.endswith(".weight"):
        return "f32"
    return "f16" if usual == "q8_0" and shape[-1] % _BLOCK else usual
