"""What one GGUF file says of itself: its metadata under the architecture's own prefix, and its tensors by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from vram_planner.errors import HeaderError
from vram_planner.model_profiles.gguf import MOST_TENSORS, Skipped
from vram_planner.model_profiles.headers import short_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from vram_planner.model_profiles.headers import Header

    Family = Callable[["GgufFacts"], dict[str, Any]]

UNUSUAL: Final = (
    "the file's metadata are damaged or unusual: give the model's config.json and --quant instead"
)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.\-]{0,63}")
_MOST_LAYERS: Final = 10_000


class GgufFacts:
    """The figures of one file. What the file does not say, and its reader assumes, goes to `notes`."""

    def __init__(self, header: Header) -> None:
        """Of a header. Raises HeaderError where it names no architecture."""
        self.source = short_name(header.source)
        name = header.metadata.get("general.architecture")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            self.refuse("it names no architecture (general.architecture)")
        self.name = name
        self.notes: list[str] = []
        self._metadata = header.metadata
        self.shapes = {tensor.name: tensor.shape for tensor in header.tensors}

    def refuse(self, what: str) -> NoReturn:
        """Raise HeaderError about the file."""
        raise HeaderError(f"{self.source}: {what}", hint=UNUSUAL)

    def raw(self, key: str) -> Any:
        """The value of one of the architecture's own keys, None where there is none."""
        return self._metadata.get(f"{self.name}.{key}")

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number; a list of equal ones counts as one."""
        value = self.raw(key)
        if isinstance(value, tuple) and value:
            if len(set(value)) > 1:
                self.refuse(f"{self.name}.{key} differs between layers, which is not supported")
            value = value[0]
        if value is None and default is not None:
            return default
        return self._whole(key, value)

    def _whole(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(f"{self.name}.{key} is {'missing' if value is None else 'no whole number'}")
        return value

    def optional(self, key: str) -> int | None:
        """As `number`, None where the key is absent or 0."""
        return None if self.raw(key) is None else self.number(key) or None

    @property
    def layers(self) -> int:
        """How many layers every request runs through: those for multi-token prediction stand behind them."""
        return self.number("block_count") - self.number("nextn_predict_layers", 0)

    @property
    def bounded_layers(self) -> int:
        """As `layers`, refused where no model has so many."""
        if not 0 < self.layers <= _MOST_LAYERS:
            self.refuse(f"{self.name}.block_count is {self.number('block_count'):,}")
        return self.layers

    def per_layer(self, key: str) -> tuple[int, ...]:
        """A whole number for each layer: as listed, or the same for all."""
        value, count = self.raw(key), self.bounded_layers
        if not isinstance(value, tuple):
            return (self._whole(key, value),) * count
        self._cover(key, value)
        return tuple(self._whole(key, each) for each in value[:count])

    def _cover(self, key: str, values: tuple[Any, ...]) -> None:
        """A list has an entry for each layer; those for multi-token prediction may be left out."""
        if len(values) not in (self.layers, self.number("block_count")):
            self.refuse(f"{self.name}.{key} names {len(values):,} layers of {self.layers:,}")

    def where_any(self, key: str) -> int:
        """The one number of all layers that have one: 0 stands for a layer without."""
        found = sorted(set(self.per_layer(key)) - {0})
        if len(found) > 1:
            self.refuse(f"{self.name}.{key} differs between layers: {', '.join(map(str, found[:3]))}")
        return found[0] if found else 0

    def flags(self, key: str) -> tuple[bool, ...] | None:
        """A flag for each layer, None where the file lists none."""
        value = self.raw(key)
        if not isinstance(value, tuple):
            return None
        self._cover(key, value)
        return tuple(bool(each) for each in value[: self.layers])

    def has(self, module: str) -> bool:
        """Whether any layer has a tensor of that name, as in 'attn_q.bias'."""
        layers = min(self.number("block_count"), MOST_TENSORS)
        return any(f"blk.{index}.{module}" in self.shapes for index in range(layers))

    def layers_with(self, module: str) -> tuple[int, ...]:
        """The layers that have a tensor of that name."""
        layers = min(self.layers, MOST_TENSORS)
        return tuple(index for index in range(layers) if f"blk.{index}.{module}" in self.shapes)

    def shape_of(self, module: str) -> tuple[int, ...]:
        """The shape of a layer's tensor of that name, in the first layer that has it; HeaderError where none does."""
        found = self.layers_with(module)
        if not found:
            self.refuse(f"no layer has the tensor {module}")
        return self.shapes[f"blk.{found[0]}.{module}"]

    def rows(self, tensor: str) -> int | None:
        """The outer dimension of a tensor, None where the file does not have it."""
        shape = self.shapes.get(tensor)
        return shape[0] if shape else None

    def tokens(self) -> int | None:
        """How many tokens the vocabulary lists."""
        tokens = self._metadata.get("tokenizer.ggml.tokens")
        return tokens.count if isinstance(tokens, Skipped) else None


def biases(facts: GgufFacts) -> dict[str, Any]:
    """Biases of attention and of the feed-forward block, as tensors show them."""
    return {
        "attention_bias": facts.has("attn_q.bias") or facts.has("attn_qkv.bias"),
        "mlp_bias": facts.has("ffn_up.bias"),
    }


def plain(model_type: str) -> Family:
    """A family that needs no more than sizes and biases."""
    return lambda facts: {"model_type": model_type, **biases(facts)}


def experts(facts: GgufFacts) -> dict[str, Any]:
    """Number, use and width of experts under each of the names that configs have for them."""
    count, width = facts.number("expert_count"), facts.optional("expert_feed_forward_length")
    return {
        **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), count),
        **dict.fromkeys(("num_experts_per_tok", "moe_k"), facts.number("expert_used_count")),
        "moe_intermediate_size": width or facts.optional("feed_forward_length"),
    }


def shared_experts(facts: GgufFacts) -> dict[str, Any]:
    """Shared experts, and the dense layers in front. Layers for multi-token prediction are told by their tensors."""
    n_shared = facts.number("expert_shared_count", 0)
    first = facts.number("leading_dense_block_count", 0)
    return {
        **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), n_shared),
        **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), first),
        "num_nextn_predict_layers": facts.number("nextn_predict_layers", 0),
    }


def window(facts: GgufFacts) -> dict[str, Any]:
    """The window, and which layers have it where the file lists them."""
    pattern = facts.raw("attention.sliding_window_pattern")
    found: dict[str, Any] = {"sliding_window": facts.optional("attention.sliding_window")}
    slides = facts.flags("attention.sliding_window_pattern")
    if slides is not None and found["sliding_window"]:
        found["layer_types"] = ["sliding_attention" if slide else "full_attention" for slide in slides]
    elif isinstance(pattern, int) and pattern > 0:
        found["sliding_window_pattern"] = pattern
    return found


def blocks(facts: GgufFacts) -> list[str]:
    """Whether each layer is "sparse", as those with a router are, or "dense"."""
    routed = set(facts.layers_with("ffn_gate_inp.weight"))
    return ["sparse" if index in routed else "dense" for index in range(facts.bounded_layers)]
