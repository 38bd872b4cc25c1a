"""How a checkpoint stores its tensors: `dtype` and `quantization_config` of a config.json as a Precision."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from vram_planner.architecture import storage
from vram_planner.architecture.precision import DTYPE_ALIASES, DTYPES, Uniform, quantised
from vram_planner.architecture.storage import Groups, Padded, Plain, Storage, Tiles
from vram_planner.errors import PrecisionError
from vram_planner.model_profiles.config import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vram_planner.architecture.model import Layer
    from vram_planner.architecture.precision import Precision
    from vram_planner.model_profiles.config import Config

_NO_DTYPE: Final = (
    "the config names no dtype: bfloat16 is taken, as published checkpoints have been since 2023"
)
_FOUR, _EIGHT, _NVFP4_GROUP, _MXFP4_GROUP = 4, 8, 16, 32
# A group that no row is longer than: one scale a row.
_ROW: Final = 1 << 40


class Scheme(NamedTuple):
    """Name of a format, how it stores the matrices of the layers, and the experts."""

    name: str
    linear: Storage | None
    expert: Storage | None


def stored_precision(config: Config, layers: tuple[Layer, ...]) -> tuple[Precision, tuple[str, ...]]:
    """
    The precision of the checkpoint, and remarks for the user.

    A text model inside a larger config takes what the outer one says. Raises PrecisionError for a dtype
    or a quantisation method that we do not know.
    """
    base, remarks = _base_dtype(config)
    quantisation = nearest_object(config, "quantization_config", "compression_config")
    if quantisation is None:
        return Uniform(name=base.name, base=base), remarks
    remarks += _remarks(quantisation)
    method = _method(quantisation)
    if method == "modelopt" and quantisation.raw("quant_algo") == "MIXED_PRECISION":
        from vram_planner.model_profiles.mixed import mixed_precision  # noqa: PLC0415  as below

        return mixed_precision(base, quantisation, layers), remarks
    reader = _READERS.get(method)
    if reader is None or (method == "gptq" and any(map(quantisation.raw, _GPTQ_RULES))):
        # Read only where needed, as are patterns: most checkpoints leave out nothing but the head.
        from vram_planner.model_profiles.stored_more import MORE  # noqa: PLC0415

        if method not in MORE:
            raise PrecisionError(
                f"unknown quant_method {method[:40]!r} in quantization_config",
                hint=f"we read {', '.join(sorted({*_READERS, *MORE}))}; without that entry the config counts as "
                "unquantised",
            )
        precision = MORE[method](base, quantisation, layers)
    elif method == "compressed-tensors" and _targeted(schemes := _schemes(quantisation)):
        from vram_planner.model_profiles.by_module import by_targets  # noqa: PLC0415

        precision = by_targets(base, tuple(schemes.items()), layers)
    else:
        precision = quantised((scheme := reader(quantisation)).name, base, scheme.linear, scheme.expert)
    patterns = _left_out(quantisation)
    if patterns:
        from vram_planner.model_profiles.left_out import without  # noqa: PLC0415

        return without(precision, patterns, layers), remarks
    return precision, remarks


_GPTQ_RULES: Final = ("dynamic", "lm_head", "modules_in_block_to_quantize")
_METHODS: Final = {"autoround": "auto-round", "auto_round": "auto-round", "intel/auto-round": "auto-round"}


def _method(quantisation: Config) -> str:
    if (
        quantisation.raw("quant_method") is None
        and quantisation.raw("load_in_4bit", "load_in_8bit") is not None
    ):
        return "bitsandbytes"  # as transformers reads its first configs
    name = quantisation.text(
        "quant_method", default="modelopt" if quantisation.has("quant_algo") else None
    ).lower()
    return _METHODS.get(name, name)


def _base_dtype(config: Config) -> tuple[Plain, tuple[str, ...]]:
    for level in _outwards(config):
        named = level.raw("dtype", "torch_dtype")
        if named is not None:
            break
    else:
        return storage.BFLOAT16, (_NO_DTYPE,)
    dtype = named.removeprefix("torch.") if isinstance(named, str) else ""
    base = DTYPES.get(DTYPE_ALIASES.get(dtype, dtype))
    if base is None:
        raise PrecisionError(
            f"unknown dtype {show(named)} in the config",
            hint=f"we know {', '.join(DTYPES)}: correct 'torch_dtype'",
        )
    if base is storage.FLOAT32:
        return base, ("the checkpoint is stored in float32; most engines load it in 16 bits",)
    return base, ()


def _outwards(config: Config) -> Iterator[Config]:
    level: Config | None = config
    while level is not None:
        yield level
        level = level.outer


def nearest_object(config: Config, *keys: str) -> Config | None:
    """The first of these objects, from this level outwards."""
    return next(
        (level.sub(key) for level in _outwards(config) for key in keys if level.raw(key) is not None), None
    )


def _left_out(quantisation: Config) -> tuple[str, ...]:
    keys = (
        "modules_to_not_convert",
        "ignored_layers",
        "ignore",
        "exclude_modules",
        "llm_int8_skip_modules",
    )
    return tuple(dict.fromkeys(name for key in keys for name in quantisation.texts(key, default=())))


def _remarks(quantisation: Config) -> tuple[str, ...]:
    """
    FP8 weights never mean an FP8 cache; a checkpoint that names a scheme for its cache does.

    Source: vLLM 0.32 utils/torch_utils.py, resolve_kv_cache_dtype_string, get_kv_cache_quant_algo_string.
    """
    if quantisation.raw("kv_cache_scheme", "kv_cache_quant_algo", "kv_cache_quant_config") is None:
        return ()
    return (
        (
            "the checkpoint carries scales for a quantised KV cache: vLLM takes it under --kv-dtype auto,"
            " other engines when --kv-dtype asks for it"
        ),
    )


def _both(name: str, stored: Storage) -> Scheme:
    return Scheme(name, stored, stored)


def _fp8(quantisation: Config) -> Scheme:
    """As transformers' FineGrainedFP8Config: tiles with a scale each, or one scale a matrix."""
    if quantisation.raw("weight_block_size") is None:
        return _both("fp8", storage.FP8_TENSOR)
    sizes = quantisation.integers("weight_block_size")
    if len(sizes) != 2 or 0 in sizes:  # noqa: PLR2004  rows and columns
        raise PrecisionError(
            f"weight_block_size is {show(sizes)}", hint="give the rows and columns of a tile: [128, 128]"
        )
    # An exponent-only scale (ue8m0) is still stored in four bytes by DeepSeek-V3.1.
    tiles = Tiles("fp8-block", *sizes)
    return Scheme("fp8-block", tiles, _narrow_experts(quantisation) or tiles)


def _narrow_experts(quantisation: Config) -> Storage | None:
    """
    Experts in four bits beside FP8 for the rest: `expert_dtype` (DeepSeek-V4), or ModelOpt's experts on top of it.

    Source: transformers DeepseekV4Config, whose `expert_dtype` moves into the quantisation.
    """
    if quantisation.raw("moe_quant_algo") == "NVFP4":
        return storage.NVFP4
    outer = quantisation.outer.raw("expert_dtype") if quantisation.outer is not None else None
    return storage.MXFP4 if (quantisation.raw("expert_dtype") or outer) == "fp4" else None


def _fbgemm(_: Config) -> Scheme:
    """One float32 scale for each output row (Llama 3.1 405B FP8)."""
    return _both("fp8-dynamic", storage.FP8_CHANNEL)


def _mxfp4(_: Config) -> Scheme:
    """gpt-oss: the experts only. Source: transformers Mxfp4Config, its default modules_to_not_convert."""
    return Scheme("mxfp4", None, storage.MXFP4)


def _group_size(quantisation: Config) -> int:
    """Inputs that share a scale; -1 stands for the whole row."""
    size = quantisation.integer("group_size", default=128, least=-1)
    if size == 0:
        raise PrecisionError("group_size is 0", hint="give the group's size, or -1 for one scale a row")
    return size


def _bits(quantisation: Config, *keys: str, default: int | None = None) -> int:
    return quantisation.integer(*keys, default=default, least=2, most=8)


def _groups(
    name: str, quantisation: Config, bits: int, *, zero_point: bool = True, index_bytes: int = 0
) -> Groups:
    size = _group_size(quantisation)
    return Groups(name, bits, size if size > 0 else _ROW, zero_point=zero_point, index_bytes=index_bytes)


def _awq(quantisation: Config) -> Scheme:
    """AutoAWQ: packed integers, 16-bit scales, packed zero points."""
    bits = _bits(quantisation, "bits", "w_bit", default=_FOUR)
    return _both("awq", _groups("awq", quantisation, bits))


def _gptq(quantisation: Config) -> Scheme:
    """AutoGPTQ and GPTQModel: the order of inputs (g_idx) is stored with or without desc_act."""
    return _both("gptq", _groups("gptq", quantisation, _bits(quantisation, "bits"), index_bytes=4))


def _bitsandbytes(quantisation: Config) -> Scheme:
    """Four bits in blocks of 64, or eight with one scale a row (LLM.int8)."""
    if quantisation.flag("load_in_4bit", "_load_in_4bit", default=False):
        double = quantisation.flag("bnb_4bit_use_double_quant", default=False)
        return _both("nf4", storage.NF4_DOUBLE if double else storage.NF4)
    if quantisation.flag("load_in_8bit", "_load_in_8bit", default=False):
        return _both("bnb-int8", storage.BNB_INT8)
    raise PrecisionError(
        "bitsandbytes with neither 4 nor 8 bits",
        hint="set 'load_in_4bit' or 'load_in_8bit' in quantization_config",
    )


def _modelopt(quantisation: Config) -> Scheme:
    """NVIDIA ModelOpt, where one algorithm holds for all matrices."""
    algorithm = quantisation.text("quant_algo")
    known = MODELOPT
    if algorithm not in known:
        raise PrecisionError(
            f"unknown quant_algo {algorithm[:40]!r} of modelopt",
            hint=f"we read {', '.join(known)}; mixed checkpoints need their weight files' headers",
        )
    return _both(known[algorithm].name, known[algorithm])


# Source: vLLM quantization/modelopt.py, LINEAR_ALGOS.
MODELOPT: Final[dict[str, Storage]] = {
    "FP8": storage.FP8_TENSOR,
    "FP8_PER_CHANNEL_PER_TOKEN": storage.FP8_CHANNEL,
    "FP8_PB_WO": storage.FP8_BLOCK,
    "FP8_BLOCK_SCALES": storage.FP8_BLOCK,
    "NVFP4": storage.NVFP4,
    "W4A16_NVFP4": storage.NVFP4,
    "MXFP8": storage.MXFP8,
}


def _compressed_tensors(quantisation: Config) -> Scheme:
    """The one scheme for all Linear layers; several, or some for single modules, are read by `by_targets`."""
    return next(iter(_schemes(quantisation)))


def _schemes(quantisation: Config) -> dict[Scheme, tuple[str, ...]]:
    """Every scheme with the classes, names and patterns of modules that it is for."""
    groups, sparse = quantisation.sub("config_groups"), _sparsity(quantisation)
    overall = quantisation.text("format", default="")
    found: dict[Scheme, tuple[str, ...]] = {}
    for key in groups.names():
        group = groups.sub(key)
        if group.raw("weights") is None:
            continue  # a cache or activations alone
        scheme = _compressed_group(group.sub("weights"), group.text("format", default=overall), sparse=sparse)
        if scheme.linear is storage.NVFP4 and group.raw("input_activations") is None:
            scheme = _both(
                "nvfp4", replace(storage.NVFP4, tensor_bytes=4)
            )  # no global scale of the activations
        found[scheme] = (*found.get(scheme, ()), *group.texts("targets", default=("Linear",)))
    if not found and sparse:
        found[_both("sparse-24", Padded("sparse-24", 9, _ROW, 0))] = ("Linear",)
    if not found:
        raise PrecisionError(
            "compressed-tensors without a scheme for its weights",
            hint="config_groups holds a group with 'weights' for its targets",
        )
    return found


def _targeted(schemes: dict[Scheme, tuple[str, ...]]) -> bool:
    return len(schemes) > 1 or any("." in name or ":" in name for names in schemes.values() for name in names)


def _sparsity(quantisation: Config) -> bool:
    """Whether two of four numbers are stored, with a bit for each: compressed-tensors Sparse24BitMaskCompressor."""
    form = quantisation.sub("sparsity_config").text("format", default="dense")
    if form not in ("dense", "sparse-24-bitmask"):
        raise PrecisionError(
            f"compressed-tensors with sparsity {form[:30]!r}", hint="we read dense and sparse-24-bitmask"
        )
    return form != "dense"


def _compressed_group(weights: Config, form: str, *, sparse: bool = False) -> Scheme:
    """Scales have the model's dtype. Source: compressed-tensors 0.20, compressors/ (tests/oracles/packings.jsonl)."""
    bits, kind = _bits(weights, "num_bits"), weights.text("type", default="int")
    strategy = weights.text("strategy", default="group" if weights.raw("group_size") else "tensor")
    if kind == "float":
        found = _narrow_float(weights, bits, strategy)
        if found is not None:
            return found
    if form == "marlin-24":
        if bits == _FOUR and strategy == "group" and _group_size(weights) == 128:  # noqa: PLR2004
            return _both("w4a16-24", storage.W4A16_24)
    elif (
        bits == _EIGHT
        and strategy in _EIGHT_BIT_TILES
        and kind in ("int", "float")
        and form != "pack-quantized"
    ):
        name = {"int": "w8a8", "float": "fp8"}[kind]
        rows, columns = _EIGHT_BIT_TILES[strategy]
        if sparse:
            return _both(f"{name}-24", Padded(f"{name}-24", 5, _ROW, 2))
        return _both(name, Tiles(name, rows, columns, scale_bytes=2))
    elif kind == "int" and strategy in ("group", "channel") and not sparse:
        name = f"w{bits}a16"
        symmetric = weights.flag("symmetric", default=True)
        size = _group_size(weights) if strategy == "group" else -1
        return _both(
            name, Groups(name, bits, size if size > 0 else _ROW, zero_point=not symmetric, tensor_bytes=16)
        )
    raise PrecisionError(
        f"compressed-tensors with {bits}-bit {kind[:20]!r} weights by {strategy[:20]!r} {form[:30]!r}",
        hint="we read fp8, w8a8, w8a16, w4a16, 2:4, nvfp4, mxfp4 and mxfp8 checkpoints",
    )


def _narrow_float(weights: Config, bits: int, strategy: str) -> Scheme | None:
    """Floats that share a scale in small groups (NVFP4, MXFP4, MXFP8), or FP8 in tiles."""
    group = weights.integer("group_size", default=_NVFP4_GROUP, least=-1)
    grouped: dict[tuple[int, int], Storage] = {
        (_FOUR, _NVFP4_GROUP): storage.NVFP4,
        (_FOUR, _MXFP4_GROUP): storage.MXFP4,
    }
    if strategy == "group":
        grouped[_EIGHT, _MXFP4_GROUP] = storage.MXFP8
    narrow = grouped.get((bits, group))
    if narrow is not None:
        return _both(narrow.name, narrow)
    if bits == _EIGHT and strategy == "block":
        sizes = weights.integers("block_structure", default=(128, 128))
        if len(sizes) != 2 or 0 in sizes:  # noqa: PLR2004  rows and columns
            raise PrecisionError(
                f"block_structure is {show(sizes)}", hint="give the rows and columns of a tile: [128, 128]"
            )
        return _both("fp8-block", Tiles("fp8-block", sizes[0], sizes[1], scale_bytes=2))
    return None


_EIGHT_BIT_TILES: Final = {"channel": (1, 0), "tensor": (0, 0)}
_READERS: Final[dict[str, Callable[[Config], Scheme]]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "mxfp4": _mxfp4,
    "awq": _awq,
    "gptq": _gptq,
    "bitsandbytes": _bitsandbytes,
    "modelopt": _modelopt,
    "compressed-tensors": _compressed_tensors,
}
