"""HQQ, EXL2, EXL3, AutoRound, Quark and GPTQ with rules for single modules, as a quantization_config says them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.architecture import storage
from vram_planner.architecture.precision import Except, Uniform, exllama
from vram_planner.architecture.storage import Groups, Hqq, Storage, Tiles
from vram_planner.errors import PrecisionError
from vram_planner.model_profiles.by_module import (
    Rule,
    by_rules,
    found_in,
    like_file_names,
    same,
    starts_with,
)
from vram_planner.model_profiles.config import Config, show
from vram_planner.model_profiles.torchao import torchao

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.model import Layer
    from vram_planner.architecture.storage import Plain

    Reader = Callable[[Plain, Config, tuple[Layer, ...]], Uniform | Except]

_UNQUANTISED: Final = 16
_ROW: Final = 1 << 40
_SPECIAL: Final = frozenset("*+?^$()[]{}|\\")
_HQQ_BITS: Final = (8, 6, 5, 4, 3, 2, 1)


def gptq(base: Plain, quantisation: Config, layers: tuple[Layer, ...]) -> Uniform | Except:
    """
    GPTQ; `dynamic` has other bits or groups for modules that a pattern matches from their beginning, or none (`-:`).

    The order of inputs (g_idx) is stored with and without desc_act. `lm_head` true: the head too.
    Source: GPTQModel quantization/config.py, _resolve_dynamic_override; vLLM gptq_utils.py, get_dynamic_override.
    """
    bits, group = quantisation.integer("bits", least=2, most=8), _group(quantisation)
    usual = _gptq(bits, group)
    dynamic = quantisation.sub("dynamic")
    rules = []
    for key in dynamic.names():
        own = dynamic.sub(key) if isinstance(dynamic.raw(key), dict) else Config({})
        stored = None
        if not key.startswith("-:"):
            stored = _gptq(own.integer("bits", default=bits, least=2, most=8), _group(own, group))
        rules.append(Rule(stored, test=starts_with(key.removeprefix("-:").removeprefix("+:"))))
    head = ("lm_head",) if quantisation.raw("lm_head") is True else ()
    rules += _only_blocks(quantisation)
    if head:
        rules.append(Rule(usual, "lm_head"))
    return by_rules(same("gptq", base, usual), rules, layers, tables=head)


def _only_blocks(quantisation: Config) -> list[Rule]:
    """`modules_in_block_to_quantize` (optimum): what it does not name stays in 16 bits."""
    listed = quantisation.raw("modules_in_block_to_quantize")
    if not isinstance(listed, list):
        return []
    flat = [name for part in listed for name in (part if isinstance(part, list) else [part])]
    named = tuple(f".{name}" for name in flat if isinstance(name, str))
    return [Rule(None, test=lambda name: ".layers." in name and not name.endswith(named))]


def _gptq(bits: int, group: int) -> Groups:
    return Groups("gptq", bits, group, index_bytes=4)


def _group(quantisation: Config, default: int = 128) -> int:
    """Inputs that share a scale; -1 stands for the whole row."""
    size = quantisation.integer("group_size", default=default, least=-1, most=_ROW)
    if size == 0:
        raise PrecisionError("group_size is 0", hint="give the group's size, or -1 for one scale a row")
    return size if size > 0 else _ROW


def _hqq(base: Plain, quantisation: Config, layers: tuple[Layer, ...]) -> Uniform | Except:
    """
    One setting, or one for each kind of matrix by its name in a layer ('self_attn.q_proj'); others stay in 16 bits.

    Source: transformers integrations/hqq.py, prepare_for_hqq_linear and name_to_linear_tag.
    """
    config = quantisation.sub("quant_config")
    skipped = [name for name in quantisation.texts("skip_modules", default=("lm_head",)) if name != "lm_head"]
    rules = [Rule(None, test=_is_tag(name)) for name in skipped]
    if config.raw("weight_quant_params") is not None:
        stored = _hqq_stored(config)
        return by_rules(same(stored.name, base, stored), rules, layers)
    kinds = {name: _hqq_stored(config.sub(name)) for name in config.names() if config.raw(name) is not None}
    if not kinds:
        raise PrecisionError(
            "HQQ without weight_quant_params", hint="quant_config holds nbits, group_size and axis"
        )
    rules += [Rule(stored, test=_is_tag(name)) for name, stored in kinds.items()]
    title = min({stored.name for stored in kinds.values()})
    return by_rules(same(title, base, None), rules, layers)


def _is_tag(tag: str) -> Callable[[str], bool]:
    """Whether a module has this name within its layer."""
    return lambda name: name.partition("layers.")[2].partition(".")[2] == tag


def _hqq_stored(config: Config) -> Hqq:
    weights = config.sub("weight_quant_params")
    for key in ("scale_quant_params", "zero_quant_params"):
        if config.raw(key) is not None:
            raise PrecisionError(
                "HQQ with quantised scales or zeros", hint="its package left them; null in the config is read"
            )
    bits, axis = weights.number("nbits"), weights.integer("axis", default=1, least=0, most=1)
    width = 2 if bits == 1.58 else int(bits)  # noqa: PLR2004  kept in two bits: Quantizer.bit_to_packing
    if width not in _HQQ_BITS or width not in (bits, 2):
        raise PrecisionError(f"HQQ with {bits} bits", hint=f"we read {_HQQ_BITS}, and 1.58")
    group = weights.optional_integer("group_size") or 0
    return Hqq(f"hqq-{width}bit", width, group, axis)


def _exl(base: Plain, quantisation: Config, layers: tuple[Layer, ...]) -> Uniform | Except:
    """
    Average bits for the matrices, the head's own; where `tensor_storage` lists the modules, the bits of each.

    Source: exllamav2 conversion/compile.py; exllamav3 conversion/compile.py and quant_config.py.
    """
    method = quantisation.text("quant_method")
    bits, head = quantisation.number("bits"), quantisation.raw("head_bits")
    whole = 6 if head is None else quantisation.integer("head_bits", least=1, most=16)
    usual = exllama(f"{method}-{bits:g}", base, method, round(bits * 1000), whole)
    listed = quantisation.sub("tensor_storage")
    rules = []
    for name in listed.names():
        own = listed.sub(name).raw("bits_per_weight")
        if own is not None:
            width = listed.sub(name).integer("bits_per_weight", least=1, most=8)
            rules.append(Rule(exllama(method, base, method, width * 1000, width).linear, name))
        elif listed.sub(name).has("quant_format") or name.startswith(("model.layers.", "lm_head")):
            rules.append(Rule(None, name))
    return by_rules(usual, rules, layers, tables=("lm_head",) if rules else ())


def _auto_round(base: Plain, quantisation: Config, layers: tuple[Layer, ...]) -> Uniform | Except:
    """
    Packed as GPTQ without its order of inputs, or as AWQ; `extra_config` changes single modules, by name or pattern.

    Source: auto_round export_to_autoround; vLLM inc/config_parser.py, INCConfigParser._resolve_raw.
    """
    usual = _auto_round_stored(quantisation, quantisation)
    extra = quantisation.sub("extra_config")
    rules: list[Rule] = []
    for name in extra.names():
        own = extra.sub(name) if isinstance(extra.raw(name), dict) else Config({})
        stored = _auto_round_stored(quantisation, own)
        if any(char in _SPECIAL for char in name):
            rules.append(Rule(stored, test=found_in(name)))
        else:
            rules.append(Rule(stored, name))
    rules.sort(key=lambda rule: rule.test is not None)  # exact names come before patterns
    blocks = quantisation.raw("block_name_to_quantize", "to_quant_block_names")
    if isinstance(blocks, str | list):
        listed = blocks.split(",") if isinstance(blocks, str) else blocks
        begin = tuple(str(each).strip() for each in listed if isinstance(each, str))
        if begin and not any("layers" in each for each in begin):
            rules.append(Rule(None, test=lambda name: not name.startswith(begin)))
    named = any(rule.name.endswith("lm_head") and rule.stored for rule in rules)
    title = usual.name if usual else "auto-round"
    return by_rules(same(title, base, usual), rules, layers, tables=("lm_head",) if named else ())


def _auto_round_stored(outer: Config, own: Config) -> Storage | None:
    bits = own.integer("bits", default=outer.integer("bits", default=4), least=2, most=32)
    kind = own.text("data_type", default=outer.text("data_type", default="int"))
    if bits >= _UNQUANTISED or kind == "float":
        return None
    if kind.startswith(("mx_fp", "mxfp")) and bits in (4, 8):
        return storage.MXFP4 if bits == 4 else storage.MXFP8  # noqa: PLR2004
    if kind.startswith(("nv_fp", "nvfp")) and bits == 4:  # noqa: PLR2004
        return storage.NVFP4
    packing = outer.text("packing_format", default="auto_round:auto_gptq")
    if kind != "int" or bits > 8 or not packing.startswith("auto_round"):  # noqa: PLR2004
        raise PrecisionError(
            f"AutoRound with {bits} bits of {kind[:20]!r} in {packing[:40]!r}",
            hint="we read integers packed as auto_round:auto_gptq or auto_awq, mx_fp and nv_fp",
        )
    group = _group(own, outer.integer("group_size", default=128, least=-1))
    return Groups("auto-round", bits, group, index_bytes=4 if "gptqmodel" in packing else 0)


def _quark(base: Plain, quantisation: Config, layers: tuple[Layer, ...]) -> Uniform | Except:
    """
    AMD's Quark: one format for all matrices, others by name in `layer_quant_config`, 16 bits for `exclude`.

    Source: vLLM quark/quark.py, QuarkConfig._find_matched_config and should_ignore_layer.
    """
    usual = _quark_stored(quantisation.sub("global_quant_config"))
    special = quantisation.sub("layer_quant_config")
    excluded = [
        Rule(None, test=starts_with(name.removeprefix("re:")))
        if name.startswith("re:")
        else _named(name, None)
        for name in quantisation.texts("exclude", default=())
    ]
    named = [_named(name, _quark_stored(special.sub(name))) for name in special.names()]
    return by_rules(same(usual.name, base, usual), [*excluded, *named], layers)


def _named(name: str, stored: Storage | None) -> Rule:
    return Rule(stored, test=like_file_names(name)) if "*" in name else Rule(stored, name)


def _quark_stored(config: Config) -> Storage:
    weights = config.raw("weight")
    if isinstance(weights, list):  # several steps one after the other
        weights = weights[0] if len(weights) == 1 else None
    spec = Config(weights if isinstance(weights, dict) else {}, where="weight.")
    kind, scheme = spec.text("dtype", default="none"), spec.text("qscheme", default="")
    if kind in ("fp8_e4m3", "int8") and scheme in ("per_tensor", "per_channel"):
        rows = 1 if scheme == "per_channel" else 0
        return Tiles({"fp8_e4m3": "fp8", "int8": "w8a8"}[kind], rows, 0)
    if kind == "fp4" and scheme == "per_group" and spec.integer("group_size", default=32) == 32:  # noqa: PLR2004
        return storage.MXFP4
    raise PrecisionError(
        f"Quark with weights of {kind[:20]!r} by {show(scheme)}",
        hint="we read fp8_e4m3 and int8 by tensor or channel, and fp4 in groups of 32",
    )


MORE: Final[dict[str, Reader]] = {
    "torchao": torchao,
    "hqq": _hqq,
    "exl2": _exl,
    "exl3": _exl,
    "auto-round": _auto_round,
    "quark": _quark,
    "gptq": gptq,
}
