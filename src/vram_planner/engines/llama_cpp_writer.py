"""
Tools to write down llama.cpp's graph of one micro-batch on one GPU, as far as its allocator sees it.

Everything computed is float32. Sizes are given as numbers a token. The operands of each operation come in ggml's
order, for this decides the order of the graph.
Sources (b11434): src/llama-graph.cpp, ggml/src/ggml-backend.cpp (inputs of a split, copies of a pipeline).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.gguf import GGML_TYPES
from vram_planner.architecture.storage import Blocks
from vram_planner.engines.llama_cpp_alloc import Graph
from vram_planner.engines.llama_cpp_cache import as_served, cells_of, honours_window, value_width
from vram_planner.engines.llama_cpp_layout import row_bytes, row_padding
from vram_planner.errors import UnsupportedArchitectureError
from vram_planner.units import round_up

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.cache import KvCache
    from vram_planner.architecture.model import Architecture
    from vram_planner.architecture.recurrent import Mamba, Mamba2
    from vram_planner.engines.llama_cpp_layout import Setting

_HOST_ALIGNMENT = 32
ONCE = "once: "  # inputs that only views are made of: a pipeline's host has them once, not four times
COPIES = 4  # GGML_SCHED_MAX_COPIES: of each input where several GPUs work as a pipeline
# Families whose rotary embedding has sections: four positions a token.
_SECTIONED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v")
# Families whose rotary factors are those of full layers only.
_FAR_FACTORS = ("gemma4",)
# Families with states whose attention knows no positions.
_NO_POSITIONS = ("nemotron_h", "granitemoehybrid", "jamba", "kimi_linear")
# Families that add positions to the embedding, or to the scores.
_UNTURNED = ("gpt2", "gpt_bigcode", "bloom", "mpt")
# Families whose full layers know no positions; those with a window do.
_NEAR_POSITIONS = ("cohere2",)
# Families with LayerNorm, which is never written over what it reads, as RMSNorm is.
_LAYER_NORM = (
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "starcoder2",
    "bloom",
    "stablelm",
    "cohere",
    "dbrx",
    "mpt",
    "nemotron",
    "orion",
    "jais2",
)
_LAYER_NORM_ALONE = ("falcon", "phi", "olmo")  # of these names no more than the whole
_NEMOTRON_WITH_RMS = ("nemotron_h", "nemotron-nas")
_ROTATION = 64  # smallest Hadamard matrix that quantised caches are rotated by, llama-kv-cache.cpp


class Inputs(NamedTuple):
    """What attention over one cache reads beside the activations."""

    mask: int
    key_rows: int | None
    value_rows: int | None
    cells: int
    rotate_keys: int | None
    rotate_values: int | None


def unknown(kind: object) -> UnsupportedArchitectureError:
    """A kind of layer whose graph we do not know."""
    return UnsupportedArchitectureError(
        f"llama.cpp's graph for layers of the kind {type(kind).__name__} is not modelled",
        hint="choose another --engine",
    )


def _has_layer_norm(model_type: str) -> bool:
    if model_type.startswith(_NEMOTRON_WITH_RMS):
        return False
    return model_type in _LAYER_NORM_ALONE or model_type.startswith(_LAYER_NORM)


class Writer:
    """
    The graph of one GPU, the inputs that it has so far, and the layer that is being written.

    `host_inputs` collects what lies on the host beside them, by name; `pipelined` makes four copies of each.
    """

    def __init__(self, architecture: Architecture, setting: Setting, host_inputs: dict[str, int]) -> None:
        self.pipelined = setting.pipelined(len(architecture.layers))
        self.graph = Graph(inputs_first=self.pipelined)
        self.architecture = architecture
        self.setting = setting
        self.windowed = honours_window(architecture)
        self.tokens = setting.tokens
        kind = architecture.model_type
        self.rotary = not (architecture.states and kind.startswith(_NO_POSITIONS)) and kind not in _UNTURNED
        self.scaled_by_position: int | None = None
        self.layer_norm = _has_layer_norm(architecture.model_type)
        self.chosen: int | None = None  # cells that the last indexer chose
        self.wide_mask: int | None = None  # the mask in float32 (MiniMax-M3)
        self.scaled_before: int | None = None  # the first step of the first norm, done on the GPU before
        self._in_window = False
        self._copies: Mapping[str, int] = {}
        self._copied: dict[tuple[str, ...], int] = {}
        self.cache_on_host = self.attends_on_host = self.hands_over = False
        self.layer_turns = True
        self.experts_away = self.stream_away = False
        self.gate_to_come: Mamba | Mamba2 | None = (
            None  # whose gate is made between those states and the stream
        )
        self.stream_to_come = False  # whether states are gathered before the GPU before is done
        self.first = True  # whether this GPU begins the model
        self.begins = False  # whether the model's first layer is being written
        self.host_inputs = host_inputs
        self.cached_on_host = self._sent = 0
        self._inputs: dict[str, int] = {}

    @property
    def copies(self) -> Mapping[str, int]:
        """Bytes of the tensors of this layer that lie on the host; each is copied once."""
        return self._copies

    @copies.setter
    def copies(self, copies: Mapping[str, int]) -> None:
        self._copies, self._copied = copies, {}

    def row(self, numbers: int, tokens: int | None = None) -> int:
        """Bytes of float32 activations of that many numbers a token."""
        return numbers * (self.tokens if tokens is None else tokens) * 4

    def made(self, numbers: int, *sources: int, tokens: int | None = None) -> int:
        """A new tensor of that many numbers a token."""
        return self.graph.tensor(self.row(numbers, tokens), *sources)

    def input(self, name: str, n_bytes: int) -> int:
        """A copy of an input from the host; a pipeline has four of each, for good."""
        if name not in self._inputs:
            self.host_inputs[name] = round_up(n_bytes, _HOST_ALIGNMENT)
            self._inputs[name] = self.arrival(n_bytes)
        return self._inputs[name]

    def arrival(self, n_bytes: int) -> int:
        """A copy of activations of another device."""
        copy = self.graph.copied(n_bytes)
        if self.pipelined:
            self.graph.expand(copy)
            self.graph.keep(copy)
            for _ in range(COPIES - 1):
                other = self.graph.copied(n_bytes)
                self.graph.keep(other)
                self.graph.expand(other)
        return copy

    def weight(self, *names: str, view: bool = False) -> tuple[int, ...]:
        """
        A copy of a tensor that stays on the host; nothing where the GPU has it. Several names: one fused tensor.

        A `view` of one is no weight in the scheduler's eyes, and starts no split of its own.
        """
        if not self._copies:
            return ()
        n_bytes = sum(self._copies.get(name, 0) for name in names)
        if not n_bytes:
            return ()
        if names not in self._copied:
            self._copied[names] = self.graph.copied(n_bytes, matrix=not view)
        return (self._copied[names],)

    def product(self, name: str, numbers: int, source: int, *, tokens: int | None = None) -> int:
        """A matrix times activations, and its bias written over the result where it has one."""
        result = self.graph.tensor(self.row(numbers, tokens), *self.weight(name), source)
        return self.biased(result, name)

    def biased(self, tensor: int, *names: str) -> int:
        """Add a bias in place if it lies on the host: elsewhere the allocator does not see it. Several names: one tensor."""
        bias = self.weight(*(f"{name}.bias" for name in names))
        return self.graph.in_place(tensor, *bias) if bias else tensor

    def norm(
        self, tensor: int, name: str, numbers: int, *, tokens: int | None = None, view: bool = False
    ) -> int:
        """Scale to unit size, then multiply by the weights; the first step writes over its input unless that is a view."""
        size = self.row(numbers, tokens)
        if self.scaled_before is not None:
            scaled, self.scaled_before = self.scaled_before, None
        else:
            scaled = self.graph.tensor(size, tensor, over=() if view or self.layer_norm else (tensor,))
        weights = self.weight(name)
        if weights:
            self.told(scaled)
        weighed = self.graph.in_place(scaled, *weights)
        return self.biased(weighed, name)

    def told(self, node: int) -> None:
        """A node that runs with its layer: the first step of a norm with weights, where all layers are on GPUs."""

    @property
    def turns(self) -> bool:
        """Whether the layer being written turns queries and keys by their positions."""
        near = self.architecture.model_type.startswith(_NEAR_POSITIONS)
        return self.rotary and self.layer_turns and (self._in_window or not near)

    @property
    def positions(self) -> int:
        """Positions of the tokens; four numbers each where the rotary embedding has sections (Qwen3.5)."""
        sections = 4 if self.architecture.model_type.startswith(_SECTIONED) else 1
        return self.input("positions", self.tokens * 4 * sections)

    @property
    def rotary_factors(self) -> tuple[int, ...]:
        """A copy of the rotary factors for layers on the host."""
        n_bytes = self.copies.get("rope_freqs", 0)
        if not n_bytes or (self._in_window and self.architecture.model_type.startswith(_FAR_FACTORS)):
            return ()
        if "rope_freqs" not in self._inputs:
            self._inputs["rope_freqs"] = self.graph.copied(n_bytes, matrix=True)
        return (self._inputs["rope_freqs"],)

    @property
    def output_ids(self) -> int:
        """Numbers of the tokens whose logits are asked for."""
        return self.input("output_ids", self.setting.outputs * 4)

    def pick(self, tensor: int, numbers: int) -> int:
        """Keep the tokens whose logits are asked for."""
        return self.graph.tensor(numbers * self.setting.outputs * 4, tensor, self.output_ids)

    def attention_inputs(self, cache: KvCache, *, masked: bool = True) -> Inputs:
        """Mask, row numbers and rotations for a cache; layers of one kind share them. `masked`: it reads the mask itself."""
        setting = self.setting
        cells = cells_of(as_served(self.architecture, cache), setting, windowed=self.windowed)
        self._in_window = cache.window is not None and self.windowed
        kind = "window" if self._in_window else "all"
        values = not cache.latent
        rotate_keys = rotate_values = None
        if values:
            rotate_keys = self._rotation(f"{kind} keys turned", setting.type_k, cache.key_dim, widest=True)
            rotate_values = self._rotation(
                f"{kind} values turned", setting.type_v, cache.value_dim, widest=False
            )
        key_rows = self._row_numbers(f"{kind} key rows", 1)
        value_rows = None
        if values:
            # Without flash attention values are stored transposed: one index for each number.
            value_rows = self._row_numbers(
                f"{kind} value rows", 1 if setting.flash else value_width(self.architecture, cache, setting)
            )
        size = cells * self.tokens * (2 if setting.flash else 4)
        mask = self.input(f"{kind} mask", size) if masked else -1
        return Inputs(mask, key_rows, value_rows, cells, rotate_keys, rotate_values)

    def _row_numbers(self, name: str, each: int) -> int | None:
        if not self.setting.row_numbers:
            return None
        n_bytes = self.tokens * 8 * each
        if self.cache_on_host:
            self.host_inputs[name] = n_bytes
            return None
        return self.input(name, n_bytes)

    def _rotation(self, name: str, type_name: str, width: int, *, widest: bool) -> int | None:
        if not isinstance(GGML_TYPES[type_name], Blocks) or width % _ROTATION:
            return None
        size = _ROTATION
        while widest and width % (2 * size) == 0:
            size *= 2
        return self.input(name, size * size * 4)

    def stored(self, inputs: Inputs, key: int, value: int | None, *, before: int = 0) -> None:
        """
        Keys and values go to the cache: on the GPU, or on the host, which ends the split.

        `before` are the bytes of a fused projection that come before the values: the copy of a view leaves them out.
        """
        graph = self.graph
        if self.cache_on_host:
            sent = (key,) if value is None else (key, value)
            self._sent = sum(graph.size(one) for one in sent) - before
            self.cached_on_host = max(self.cached_on_host, self._sent)
            graph.elsewhere(*sent)
            return
        for made, rows in ((key, inputs.key_rows), (value, inputs.value_rows)):
            if made is not None:
                graph.store(made, *(() if rows is None else (rows,)))

    def attended_on_host(self, query: int, n_bytes: int, *, scores: int) -> int:
        """
        The result of attention that the host itself works out: beside what it was sent it holds the queries and `scores`.

        Source: src/llama-graph.cpp, build_attn_mha: with --no-kv-offload and no flash attention the node that ends
        attention is told to run on the CPU, and what stands before it follows where no weight is in between.
        """
        self.cached_on_host = max(self.cached_on_host, self._sent + self.graph.size(query) + scores)
        self.graph.elsewhere(query)
        return self.arrival(n_bytes)

    def gathered_on_host(self, mixed: int, mask: int) -> int:
        """
        The same where a weight stands before that node: the GPU attends, the host only sorts the result by heads.

        It does so where the mask was, whose room is free once the GPU has its copy.
        """
        if 2 * self.graph.size(mixed) > self.graph.size(mask):
            self.cached_on_host = max(self.cached_on_host, 2 * self.graph.size(mixed))
        self.graph.elsewhere(mixed)
        return self.arrival(self.graph.size(mixed))

    def keys_stored(self, key: int, kind: str) -> None:
        """One of several caches that have keys only."""
        rows = self._row_numbers(f"{kind} key rows", 1)
        self.stored(Inputs(-1, rows, None, 0, None, None), key, None)

    def cached(self, cache: KvCache, cells: int) -> tuple[int, ...]:
        """Copies of keys and values if the cache is on the host; of MLA's latent, whose part the values are, two."""
        if not self.cache_on_host:
            return ()
        setting, copies = self.setting, []
        widths = [
            (setting.type_k, cache.n_heads, cache.key_dim),
            (setting.type_v, cache.n_heads, cache.value_dim),
        ]
        for type_name, heads, width in widths:
            if width:
                size = setting.streams * cells * row_bytes(type_name, heads * width)
                copies.append(self.graph.copied(size + row_padding(type_name, width)))
        return tuple(copies)
