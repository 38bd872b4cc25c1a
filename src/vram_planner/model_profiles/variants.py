"""
Names of quantised copies: `Qwen/Qwen2.5-7B-Instruct-AWQ` is Qwen/Qwen2.5-7B-Instruct in awq, whoever made it.

Used for names that the catalogue does not hold itself: a row of that very name says more than its ending does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from vram_planner.architecture import storage
from vram_planner.architecture.attention import Latent
from vram_planner.architecture.precision import (
    DTYPES,
    FORMATS,
    MLX_FORMATS,
    Except,
    mlx,
    plain,
    quantised,
)
from vram_planner.architecture.storage import Groups
from vram_planner.architecture.weight import Role
from vram_planner.errors import PrecisionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.precision import Precision
    from vram_planner.architecture.storage import Plain, Storage
    from vram_planner.model_profiles.resolve import ModelProfile

# Endings in lower case, the longer ones first where one ends another; `g` is the size of a group.
_GROUP = r"(?:-(?=g|\d+g)g?(?P<g>[1-9]\d{0,4})g?)?"
_ENDINGS: Final[tuple[tuple[str, str], ...]] = (
    (r"-unsloth-bnb-4bit", "unsloth"),
    (r"-bnb-(?:4bit(?:-nf4)?|nf4)|-nf4|-4bit-bnb", "nf4"),
    (r"-bnb-8bit|-8bit-bnb", "int8"),
    (rf"[-_]gptq(?:-(?:int8|8bit|w8a16)){_GROUP}", "gptq-int8"),
    (rf"[-_]gptq(?:-(?:int4|4bit|4b|w4a16))?{_GROUP}|-int4-gptq|-4bit-gptq", "gptq"),
    # Intel's tool can pack as the two older formats do.
    (r"-int4(?:-(?:a?sym))?-gptq-inc", "gptq"),
    (r"-int4(?:-(?:a?sym))?-awq-inc", "awq"),
    (rf"[-_]awq(?:-(?:int4|4bit|w4a16))?{_GROUP}|-int4-awq|-4bit-awq", "awq"),
    (r"-fp8-dynamic|-dynamic-fp8|-fp8_dynamic", "fp8-dynamic"),
    (r"-fp8-block", "fp8-block"),
    (r"-fp8(?:-static)?(?:-per-?tensor)?(?:-kv)?", "fp8"),
    (rf"(?:-quantized\.|-int4-|-)w4a16{_GROUP}", "w4a16"),
    (r"(?:-quantized\.|-int8-|-)w8a8|-int8", "w8a8"),
    (r"(?:-quantized\.|-)w8a16", "w8a16"),
    (r"-nvfp4(?:a16|-fp8-kv)?(?:-v\d)?|-fp4(?:-v\d)?", "nvfp4"),
    (r"-mxfp4(?:-preview)?", "mxfp4"),
    (r"-bf16|-qat-(?:q4_0|int4)-unquantized", "bfloat16"),
    (r"-(?:fp16|f16)", "float16"),
    (r"-(?:mlx-)?(?P<bits>[34568])-?bits?", "mlx"),
)
# Formats whose bits or layout a name does not tell: known models are refused with that, where no config is at hand.
_UNREAD: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(rf"[-_]{word}(?![a-z])"), why)
    for word, why in (
        (r"exl[23]", "EXLlama's format, of which each file has its own bits"),
        (r"hqq", "HQQ, of which each file has its own bits and groups"),
        (r"aqlm", "AQLM, whose code books a name does not tell"),
        (r"torchao", "torchao, which names a family of formats"),
        (r"int4-int8mix", "a mix of 4 and 8 bits"),
        (r"(?:auto-?round|inc$)", "AutoRound, which packs in several ways"),
        (r"gptqmodel", "GPTQModel, which may keep single modules in other bits"),
        (r"int4$", "four bits of torchao, GPTQ or AutoRound: the name does not say which"),
    )
)
# Organisations that publish others' models again, unchanged, under their own name.
_MIRRORS: Final = frozenset(
    {"unsloth", "nousresearch", "llm-research", "ai-modelscope", "redhatai", "neuralmagic"}
)
_ANY_ENDING: Final = tuple((re.compile(rf"(?P<base>.+?)(?:{ending})"), name) for ending, name in _ENDINGS)
# `-GGUF`, `-GGUF:Q4_K_M`, `-Q4_K_M-GGUF`, `-Q4_K_M`, `:Q4_K_M`.
_TYPE = r"(?:ud-)?(?:i?q\d\w*|tq\d_0|mxfp4_moe|b?f16|f32)|\d\.\d\d-?bit"
_GGUF: Final = re.compile(
    rf"(?P<base>.+?)(?:-qat)?(?:-(?P<inside>{_TYPE}))?(?P<i1>-i1|-imat)?-gguf(?::(?P<after>{_TYPE}))?"
    rf"|(?P<plain>.+?)(?:[-:.](?P<type>(?:ud-)?i?q\d\w*|tq\d_0)|:(?P<named>{_TYPE}))"
)
# Whose `-FP8` has a scale for each tile of 128 x 128; others have one for each matrix.
_TILED: Final = frozenset({"qwen", "deepseek-ai", "minimaxai"})
_GROUP_SIZE: Final = 128
# What ModelOpt leaves alone of latent attention: hf_quant_config.json of nvidia/DeepSeek-V3.1-NVFP4.
_LATENT_KEPT: Final = frozenset({"q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"})
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True)
class Variant:
    """A name taken apart: what may be the model's own name, and the format that the rest stands for."""

    base: str
    format: str
    group: int = _GROUP_SIZE


def variant_of(text: str, find: Callable[[str], ModelProfile | None]) -> ModelProfile | None:
    """
    The model that a name with a format's ending stands for, None where its beginning is no model that `find` knows.

    Raises PrecisionError for a format that no engine planned here loads (MLX), or that the name leaves open.
    """
    if len(text) > _LONGEST or "\\" in text or text.count("/") > 1:
        return None
    for variant in _readings(text):
        base = _base(variant.base, find)
        if base is not None:
            return _as_variant(text, variant, base)
    return _copy_of(text, find)


def refusal_of(text: str, find: Callable[[str], ModelProfile | None]) -> PrecisionError | None:
    """What to say of a known model in a format that its name leaves open, where its config.json cannot be had."""
    lower = text.lower()
    if len(text) > _LONGEST or lower.count("/") > 1:
        return None
    why = next((why for word, why in _UNREAD if word.search(lower)), None)
    if why is None:
        return None
    for cut in range(len(lower) - 1, 0, -1):
        base = _base(lower[:cut], find) if lower[cut] in "-_" else None
        if base is not None:
            return PrecisionError(
                f"{text[:100]} is {base.name} in {why}",
                hint=f"give the directory of its config.json; or plan the original: --model {base.name} --quant awq",
            )
    return None


def _base(name: str, find: Callable[[str], ModelProfile | None]) -> ModelProfile | None:
    return next((found for each in _spellings(name) if (found := find(each))), None)


def _copy_of(text: str, find: Callable[[str], ModelProfile | None]) -> ModelProfile | None:
    """The original of a name of an organisation that publishes copies: unsloth/Llama-3.3-70B-Instruct."""
    organisation, slash, _ = text.lower().partition("/")
    if not slash or organisation not in _MIRRORS:
        return None
    base = _base(text.lower(), find)
    if base is None:
        return None
    remark = f"taken for an unchanged copy of {base.name} by its name"
    return replace(
        base,
        name=text,
        resolved_from=text,
        alias_of=f"{text}: a copy of {base.name}",
        note="; ".join(filter(None, (base.note, remark))),
    )


def _readings(text: str) -> Iterator[Variant]:
    lower = text.lower()
    if lower.startswith("qwen/") and lower.endswith(
        ("-chat-int4", "-chat-int8")
    ):  # the first Qwen's GPTQ copies
        yield Variant(lower[: -len("-int4")], "gptq" if lower.endswith("4") else "gptq-int8")
    for pattern, ending in _ANY_ENDING:
        match = pattern.fullmatch(lower)
        if match is not None:
            found, name = match.groupdict(), ending
            if name == "mlx":
                name = f"mlx-{found['bits']}bit"
            yield Variant(match["base"], name, int(found.get("g") or _GROUP_SIZE))
    match = _GGUF.fullmatch(lower)
    if match is not None:
        kind = match["inside"] or match["after"] or match["type"] or match["named"] or ""
        made = "-imatrix" if match["i1"] and kind.startswith(("q", "iq")) and kind != "q8_0" else ""
        yield Variant(match["base"] or match["plain"], f"gguf:{kind}{made}")


def _spellings(name: str) -> Iterator[str]:
    """The name as it stands, then under any organisation, then as those write it who convert models."""
    yield name
    short = name.rpartition("/")[2]
    own = short.partition("_")[2]  # bartowski writes Qwen_Qwen3-8B-GGUF
    for each in filter(None, (short, own)):
        yield each
        yield f"{each}-hf"
        yield f"meta-{each}"
        yield each.removeprefix("meta-")
        yield each.removesuffix("-mlx").removesuffix("-hf")


def _as_variant(text: str, variant: Variant, base: ModelProfile) -> ModelProfile:
    if variant.format.startswith("mlx-") or text.lower().startswith("mlx-community/"):
        raise _mlx_refused(text, variant, base)
    precision, remark = _precision(text, variant, base)
    notes = (*base.architecture.notes, remark)
    return replace(
        base,
        name=text,
        resolved_from=text,
        alias_of=f"{text}: {base.name} in {precision.name}",
        architecture=replace(base.architecture, precision=precision, notes=notes),
        note="; ".join(filter(None, (base.note, remark))),
    )


def _base_dtype(architecture: Architecture) -> Plain:
    """What a quantised copy keeps unquantised: the dtype of the original, in 16 bits where that has 32."""
    base = getattr(architecture.precision, "base", storage.BFLOAT16)
    return base if base in (storage.BFLOAT16, storage.FLOAT16) else storage.BFLOAT16


def _precision(text: str, variant: Variant, model: ModelProfile) -> tuple[Precision, str]:
    architecture = model.architecture
    name, base = variant.format, _base_dtype(architecture)
    read = "its format is read from its name: the config.json may leave more matrices in 16 bits"
    if name in DTYPES:
        return plain(name), "its dtype is read from its name"
    if name.startswith("gguf:"):
        return _gguf(name.removeprefix("gguf:"), base, text, model)
    if name == "unsloth":
        pair = (storage.NF4_DOUBLE, storage.NF4_DOUBLE)
        return quantised("nf4", base, *pair), (
            "Unsloth leaves some matrices in 16 bits, which only its config.json tells: the weights are a lower bound"
        )
    if name == "fp8" and text.lower().partition("/")[0] in _TILED:
        name = "fp8-block"
    precision = quantised(name, base, *_stored(name, variant.group, architecture))
    if name == "nvfp4" and any(isinstance(layer.mixer, Latent) for layer, _ in architecture.groups):
        return Except(inner=precision, names=_LATENT_KEPT), read
    return precision, read


def _stored(name: str, group: int, architecture: Architecture) -> tuple[Storage | None, Storage | None]:
    """For the matrices of the layers and for the experts."""
    by_group: dict[str, Groups] = {
        "awq": Groups("awq", 4, group),
        "gptq": Groups("gptq", 4, group, index_bytes=4),
        "gptq-int8": Groups("gptq-int8", 8, group, index_bytes=4),
        "w4a16": Groups("w4a16", 4, group, zero_point=False),
    }
    alone: dict[str, Storage] = {
        **by_group,
        "nf4": storage.NF4_DOUBLE,
        "w8a16": storage.INT8_CHANNEL,
    }
    has_experts = any(
        weight.role is Role.EXPERT for layer, _ in architecture.groups for weight in layer.weights
    )
    if name == "mxfp4" and not has_experts:
        return storage.MXFP4, None
    # Qwen3.5-122B-A10B-GPTQ-Int4 has the size that its experts alone in four bits give.
    if name in by_group and has_experts and architecture.states:
        return None, by_group[name]
    return (alone[name], alone[name]) if name in alone else FORMATS[name]


def _gguf(kind: str, base: Plain, text: str, model: ModelProfile) -> tuple[Precision, str]:
    from vram_planner.architecture.gguf import by_whom  # noqa: PLC0415  rarely asked for

    if not kind:
        return plain(base.name), (
            f"a GGUF repository holds files of many types: counted in {base.name} until --quant q4_k_m, or a name "
            "such as …-GGUF:Q4_K_M, says which"
        )
    remark = "its GGUF file type is read from its name: files of one type differ by their maker"
    return by_whom(kind, text if "/" in text else model.name, model.architecture), remark


def _mlx_refused(text: str, variant: Variant, base: ModelProfile) -> PrecisionError:
    ours = text.lower().startswith("mlx-community/") or "-mlx" in text.lower()
    bits = variant.format.removeprefix("mlx-").removesuffix("bit")
    size = ""
    if ours and variant.format in MLX_FORMATS:
        stored = mlx(variant.format, _base_dtype(base.architecture))
        size = f" (about {base.architecture.weights_bytes(stored) / 10**9:.1f} GB of weights)"
    what = (
        f"is in MLX's own format{size}, which only MLX on Apple silicon loads"
        if ours
        else f"may be {bits} bits of MLX, bitsandbytes or GPTQ: the name does not say"
    )
    instead = {"8": " --quant fp8", variant.format: ""}.get(bits, " --quant awq")
    return PrecisionError(
        f"{text[:100]} {what}", hint=f"plan the original for another engine: --model {base.name}{instead}"
    )
