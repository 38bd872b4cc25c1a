"""
torchao's part of a quantization_config: `quant_type`, as a name of old or as the configuration written out.

Layouts were read off torchao's own `quantize_` (0.14.1 for version 1, 0.18.0 for version 2): tests/oracles/packings.jsonl.
Source: transformers TorchAoConfig; torchao core/config.py, config_to_dict; quantization/quant_api.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from vram_planner.architecture.storage import TORCHAO_FLOAT8, Padded, Storage, Tiles
from vram_planner.errors import PrecisionError
from vram_planner.model_profiles.by_module import Rule, by_rules, covered_by, same
from vram_planner.model_profiles.config import Config, show

if TYPE_CHECKING:
    from vram_planner.architecture.model import Layer
    from vram_planner.architecture.precision import Except, Uniform
    from vram_planner.architecture.storage import Plain

_NAMES_OF_OLD: Final = {
    "int4_weight_only": "Int4WeightOnlyConfig",
    "int8_weight_only": "Int8WeightOnlyConfig",
    "int8_dynamic_activation_int8_weight": "Int8DynamicActivationInt8WeightConfig",
    "float8_weight_only": "Float8WeightOnlyConfig",
    "float8_dynamic_activation_float8_weight": "Float8DynamicActivationFloat8WeightConfig",
}
_BY_MODULE: Final = ("FqnToConfig", "ModuleFqnToConfig", "AOPerModuleConfig")
_NO_PADDING: Final = ("plain", "preshuffled")
_GROUP: Final = 128
_TINYGEMM_INPUTS, _TINYGEMM_ROWS = 1024, 8


class _Wanted(NamedTuple):
    """One configuration: its class without `Config`, the version of its layout, its fields."""

    kind: str
    version: int
    data: Config


def torchao(base: Plain, quantisation: Config, layers: tuple[Layer, ...]) -> Uniform | Except:
    """
    Matrices as `quant_type` says, embedding and head only where `include_input_output_embeddings` is set.

    Raises PrecisionError for a configuration whose layout we do not know.
    """
    wanted = _read(quantisation)
    both = quantisation.flag("include_input_output_embeddings", default=False)
    tables = ("embed_tokens", "lm_head") if both else ()
    if wanted.kind not in _BY_MODULE:
        stored = _stored(wanted)
        inner = same(stored.name, base, stored)
        return by_rules(inner, [Rule(stored, test=lambda _: True)], (), tables=tables) if tables else inner
    listed = wanted.data.sub("fqn_to_config", "module_fqn_to_config")
    default = _stored(_of(listed, "_default")) if listed.raw("_default") is not None else None
    rules = [_rule(listed, name) for name in listed.names() if name != "_default"]
    names = {rule.stored.name for rule in rules if rule.stored} | ({default.name} if default else set())
    title = default.name if default else min(names, default="torchao")
    exact_first = sorted(rules, key=lambda rule: rule.test is not None)
    ends = [Rule(default, test=lambda _: True)] if default and tables else []
    return by_rules(same(title, base, default), [*exact_first, *ends], layers, tables=tables)


def _rule(listed: Config, name: str) -> Rule:
    stored = _stored(_of(listed, name)) if listed.raw(name) is not None else None
    if name.startswith("re:"):
        return Rule(stored, test=covered_by(name.removeprefix("re:").removesuffix(r"\.weight")))
    return Rule(stored, name.removesuffix(".weight"))


def _read(quantisation: Config) -> _Wanted:
    kind = quantisation.raw("quant_type")
    if isinstance(kind, str):
        if kind not in _NAMES_OF_OLD:
            raise PrecisionError(
                f"unknown quant_type {kind[:40]!r} of torchao", hint=f"we read {', '.join(_NAMES_OF_OLD)}"
            )
        return _Wanted(_NAMES_OF_OLD[kind], 1, quantisation.sub("quant_type_kwargs"))
    return _of(quantisation.sub("quant_type"), "default")


def _of(outer: Config, name: str) -> _Wanted:
    inner = outer.sub(name)
    return _Wanted(inner.text("_type"), inner.integer("_version", default=1), inner.sub("_data"))


def _stored(wanted: _Wanted) -> Storage:
    readers = {
        "Int4WeightOnlyConfig": _int4,
        "Int8WeightOnlyConfig": _int8,
        "Int8DynamicActivationInt8WeightConfig": _int8,
        "Float8WeightOnlyConfig": _float8,
        "Float8DynamicActivationFloat8WeightConfig": _float8,
        "IntxWeightOnlyConfig": _intx,
        "Int8DynamicActivationIntxWeightConfig": _intx,
    }
    if wanted.kind not in readers:
        raise PrecisionError(
            f"the layout of torchao's {wanted.kind[:60]!r} is not known", hint=f"we read {', '.join(readers)}"
        )
    return readers[wanted.kind](wanted)


def _int4(wanted: _Wanted) -> Storage:
    """Bfloat16 scale and zero for a group; the tensor cores' layout is padded, `plain` is not."""
    group = wanted.data.integer("group_size", default=_GROUP)
    name = f"int4wo-{group}"
    if wanted.version == 1:
        layout = wanted.data.sub("layout")
        tiled = not layout.names() or layout.text("_type") == "TensorCoreTiledLayout"
        known = tiled or layout.text("_type") == "Int4CPULayout"
        form = layout.text("_type") if layout.names() else ""
    else:
        form = _named(wanted.data, "int4_packing_format", "plain")
        tiled = form == "tile_packed_to_4d"
        known = tiled or form in _NO_PADDING or form == "plain_int32"
    if not known:
        raise PrecisionError(
            f"the layout {form[:40]!r} of torchao's int4 is not known",
            hint="we read plain, preshuffled, plain_int32 and tile_packed_to_4d",
        )
    if not tiled:
        # plain_int32 (XPU, NPU) keeps its zeros in one byte.
        return Padded(name, 4, group, 3 if form == "plain_int32" else 4)
    rows = wanted.data.integer("int4_tile_packed_ntile", default=_TINYGEMM_ROWS)
    return Padded(name, 4, group, 4, row_multiple=rows, column_multiple=_TINYGEMM_INPUTS)


def _named(data: Config, key: str, default: str) -> str:
    """A member of an enumeration: written out as an object, or its bare value."""
    value = data.raw(key)
    return (
        data.text(key) if isinstance(value, str) else data.sub(key).text("_data", default=default)
    ).lower()


def _int8(wanted: _Wanted) -> Storage:
    """A scale a row or for a group of inputs; version 2 keeps it in float32, and an int8 zero beside it."""
    dynamic = wanted.kind.startswith("Int8Dynamic")
    group = wanted.data.optional_integer("group_size") or _granular_group(wanted.data.raw("granularity"))
    scale = 5 if wanted.version > 1 else (2 if dynamic else 2 + 8)
    return Tiles("int8dq" if dynamic else "int8wo", 1, group, scale_bytes=scale)


def _float8(wanted: _Wanted) -> Storage:
    """One float32 scale a row, or one for the matrix where the activations are quantised so."""
    if wanted.kind == "Float8WeightOnlyConfig":
        return TORCHAO_FLOAT8
    granularity = wanted.data.raw("granularity")
    weights = granularity[-1] if isinstance(granularity, list) and granularity else granularity
    kind = weights.get("_type") if isinstance(weights, dict) else None
    if kind not in (None, "PerTensor", "PerRow"):
        raise PrecisionError(
            f"torchao's float8 by {show(kind)} is not known", hint="we read PerTensor and PerRow"
        )
    return Tiles("float8dq", 1 if kind == "PerRow" else 0, 0)


def _intx(wanted: _Wanted) -> Storage:
    """Up to eight bits, each number in a byte of its own; a 16-bit scale and an int8 zero for each group or row."""
    packing = _named(wanted.data, "intx_packing_format", "unpacked_to_int8")
    if wanted.version == 1 or packing != "unpacked_to_int8":
        raise PrecisionError(
            f"the layout of torchao's {wanted.kind} {packing[:30]!r}, version {wanted.version}, is not known",
            hint="we read UNPACKED_TO_INT8 of version 2",
        )
    group = _granular_group(wanted.data.raw("weight_granularity", "granularity"))
    width = wanted.data.sub("weight_dtype").text("_data", default="int8")
    return Tiles(f"{width[:8]}-unpacked", 1, group, scale_bytes=3)


def _granular_group(granularity: object) -> int:
    """Inputs that share a scale; 0: the row."""
    if not isinstance(granularity, dict):
        return 0
    kind = granularity.get("_type")
    if kind in ("PerRow", "PerAxis"):
        return 0
    if kind == "PerGroup":
        return Config(granularity, where="granularity.").sub("_data").integer("group_size")
    raise PrecisionError(
        f"torchao's integers by {show(kind)} are not known", hint="we read PerRow, PerAxis(0) and PerGroup"
    )
