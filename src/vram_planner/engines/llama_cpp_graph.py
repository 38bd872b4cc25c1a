"""
llama.cpp's graph of one micro-batch on one GPU, as far as its allocator sees it: sizes, order, last uses.

Everything computed is float32. Sizes are written as (numbers a token) × tokens × 4 bytes.
Sources (b11434): src/llama-graph.cpp (build_attn_mha, build_moe_ffn, build_ffn), src/models/*.cpp,
ggml/src/ggml-cuda/ggml-cuda.cu (ggml_backend_cuda_graph_optimize), ggml/src/ggml-backend.cpp (inputs of a split).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.attention import FullAttention, Latent, SlidingWindow
from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts
from vram_planner.architecture.gguf import GGML_TYPES, stored_rows
from vram_planner.architecture.storage import Blocks
from vram_planner.engines.llama_cpp_alloc import Graph
from vram_planner.engines.llama_cpp_layout import honours_window, window_cells
from vram_planner.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.engines.llama_cpp_layout import Setting

_MOST_REDUCED_EXPERTS = 15  # MOE_WEIGHTED_REDUCTION_MAX_EXPERTS, ggml-cuda.cu
_MOST_FUSED_EXPERTS = 512  # ggml_cuda_should_use_topk_moe, topk-moe.cu
_ROTATION = 64  # smallest Hadamard matrix that quantised caches are rotated by, llama-kv-cache.cpp
_COPIES = 4  # GGML_SCHED_MAX_COPIES: of each input where several GPUs work as a pipeline
# Families whose graph picks the output tokens after the last layer instead of inside it.
_LATE_OUTPUT = ("gpt_oss", "gpt-oss")
# Families that do not scale the weights of the chosen experts to a sum of one.
_PLAIN_WEIGHTS = ("deepseek_v2", "qwen2_moe")
# Families whose graph adds "residual + feed-forward" and not the other way round: the first is written over.
_RESIDUAL_FIRST = ("phi3",)


class Inputs(NamedTuple):
    """Tensors that attention of one kind of layer reads beside the activations."""

    mask: int
    key_rows: int
    value_rows: int | None
    cells: int
    rotate_keys: int | None
    rotate_values: int | None


@dataclass(frozen=True, slots=True)
class Stage:
    """The part of a model that one GPU runs: its layers, and whether it ends with the head."""

    layers: tuple[Layer, ...]
    first: bool
    last: bool


def _unknown(kind: object) -> UnsupportedArchitectureError:
    return UnsupportedArchitectureError(
        f"llama.cpp's graph for layers of the kind {type(kind).__name__} is not modelled",
        hint="choose another --engine",
    )


class GraphBuilder:
    """Writes the graph of one stage for one setting."""

    def __init__(self, architecture: Architecture, setting: Setting) -> None:
        self._graph = Graph()
        self._architecture = architecture
        self._setting = setting
        self._hidden = architecture.hidden
        self._windowed = honours_window(architecture)
        self._tokens = setting.tokens
        self._inputs: dict[int | None, Inputs] = {}
        self._copied = setting.gpus > 1
        self._positions = self._output_ids = 0

    def peak(self, stage: Stage) -> int:
        """Bytes of the compute buffer of that stage."""
        stream = self._input(self._row(self._hidden))
        if not stage.first:
            # Seen in runs with two to four GPUs: all but the first hold the activations' copies twice.
            self._input(self._row(self._hidden))
        self._write_inputs(stage)
        for index, layer in enumerate(stage.layers):
            ends = stage.last and index == len(stage.layers) - 1
            stream = self._layer(layer, stream, ends=ends)
        if stage.last:
            self._head(stream)
        else:
            self._graph.keep(stream)
        return self._graph.peak()

    def _row(self, numbers: int) -> int:
        """Bytes of float32 activations of that many numbers a token."""
        return numbers * self._tokens * 4

    def _input(self, n_bytes: int) -> int:
        """A copy of a tensor from the host or another GPU; a pipeline has four of each, for good."""
        tensor = self._graph.tensor(n_bytes)
        if self._copied:
            self._graph.keep(tensor)
            for _ in range(_COPIES - 1):
                self._graph.keep(self._graph.tensor(n_bytes))
        return tensor

    def _write_inputs(self, stage: Stage) -> None:
        self._positions = self._input(self._tokens * 4)
        for layer in stage.layers:
            window = self._window(layer)
            if layer.mixer.cache is not None and window not in self._inputs:
                self._inputs[window] = self._attention_inputs(layer, window)
        if stage.last:
            self._output_ids = self._input(self._setting.outputs * 4)

    def _window(self, layer: Layer) -> int | None:
        cache = layer.mixer.cache
        return cache.window if cache is not None and self._windowed else None

    def _attention_inputs(self, layer: Layer, window: int | None) -> Inputs:
        setting, cache = self._setting, layer.mixer.cache
        if cache is None:
            raise _unknown(layer.mixer)
        cells = setting.stream_cells if window is None else window_cells(setting, window)
        rotate_keys = rotate_values = None
        if not cache.latent:
            rotate_keys = self._rotation(setting.type_k, cache.key_dim, widest=True)
            rotate_values = self._rotation(setting.type_v, cache.value_dim, widest=False)
        key_rows = self._input(self._tokens * 8)
        value_rows = None
        if not cache.latent:
            # Without flash attention values are stored transposed: one index for each number.
            each = 1 if setting.flash else cache.n_heads * cache.value_dim
            value_rows = self._input(self._tokens * 8 * each)
        mask = self._input(cells * self._tokens * (2 if setting.flash else 4))
        return Inputs(mask, key_rows, value_rows, cells, rotate_keys, rotate_values)

    def _rotation(self, type_name: str, width: int, *, widest: bool) -> int | None:
        if not isinstance(GGML_TYPES[type_name], Blocks) or width % _ROTATION:
            return None
        size = _ROTATION
        while widest and width % (2 * size) == 0:
            size *= 2
        return self._input(size * size * 4)

    def _layer(self, layer: Layer, stream: int, *, ends: bool) -> int:
        graph, names = self._graph, [weight.name for weight in layer.norms]
        late = self._architecture.model_type.startswith(_LATE_OUTPUT)
        sandwich = "pre_feedforward_layernorm" in names
        before = "input_layernorm" in names
        parallel = before and "post_attention_layernorm" not in names
        normed = self._norm(stream) if before else stream
        found = self._attention(layer, normed)
        residual, tokens = stream, self._tokens
        if ends and not late:
            found, tokens = self._pick(found), self._setting.outputs
        if sandwich or not before:
            found = self._norm(found, tokens)
        if ends and not late:
            residual = self._pick(stream)
            if parallel:
                normed = self._pick(normed)
        if parallel:
            fed = self._feed(layer, normed, tokens)
            return graph.in_place(graph.in_place(fed, found), residual)
        middle = graph.in_place(found, residual)
        fed = self._feed(layer, self._norm(middle, tokens) if before else middle, tokens)
        if sandwich or not before:
            fed = self._norm(fed, tokens)
        first, second = (
            (middle, fed) if self._architecture.model_type.startswith(_RESIDUAL_FIRST) else (fed, middle)
        )
        result = graph.tensor(graph.size(fed), first, second, over=(first, second))
        return self._pick(result) if ends and late else result

    def _pick(self, tensor: int) -> int:
        """Keep the tokens whose logits are asked for."""
        return self._graph.tensor(self._hidden * self._setting.outputs * 4, tensor, self._output_ids)

    def _norm(self, tensor: int, tokens: int | None = None) -> int:
        size = self._hidden * (self._tokens if tokens is None else tokens) * 4
        return self._graph.in_place(self._graph.tensor(size, tensor, over=(tensor,)))

    def _head(self, stream: int) -> None:
        outputs = self._setting.outputs
        logits = self._graph.tensor(
            stored_rows(self._architecture) * outputs * 4, self._norm(stream, outputs)
        )
        self._graph.keep(logits)

    def _attention(self, layer: Layer, normed: int) -> int:
        inputs = self._inputs[self._window(layer)]
        mixer = layer.mixer.inner if isinstance(layer.mixer, SlidingWindow) else layer.mixer
        if isinstance(mixer, Latent):
            mixed = self._latent(mixer, normed, inputs)
        elif isinstance(mixer, FullAttention):
            mixed = self._grouped(mixer, normed, inputs)
        else:
            raise _unknown(mixer)
        return self._graph.tensor(self._row(self._hidden), mixed)

    def _grouped(self, mixer: FullAttention, normed: int, inputs: Inputs) -> int:
        graph = self._graph
        q_size, kv_size = (
            self._row(mixer.n_heads * mixer.head_dim),
            self._row(mixer.n_kv_heads * mixer.head_dim),
        )
        if mixer.fused_qkv:
            query, key, value = self._fused(normed, q_size, kv_size)
        else:
            query = self._projected(normed, q_size, rotate=inputs.rotate_keys)
            # One cache for all layers: values come before keys in the graph; with two caches after them.
            if self._windowed:
                key = self._projected(normed, kv_size, rotate=inputs.rotate_keys)
                value = self._projected(normed, kv_size, rotate=inputs.rotate_values, positions=False)
            else:
                value = self._projected(normed, kv_size, rotate=inputs.rotate_values, positions=False)
                key = self._projected(normed, kv_size, rotate=inputs.rotate_keys)
        graph.use(key, inputs.key_rows)
        if inputs.value_rows is not None:
            graph.use(value, inputs.value_rows)
        if self._setting.flash:
            extra = self._half_precision_copies(mixer, inputs)
            mixed = graph.tensor(q_size + extra, query, inputs.mask)
            if inputs.rotate_values is not None:
                mixed = graph.tensor(q_size, inputs.rotate_values, mixed)
            return mixed
        scores = graph.in_place(
            graph.tensor(inputs.cells * self._tokens * mixer.n_heads * 4, query), inputs.mask
        )
        mixed = graph.tensor(q_size, graph.tensor(q_size, scores))
        return mixed if inputs.rotate_values is None else graph.tensor(q_size, inputs.rotate_values, mixed)

    def _projected(self, normed: int, size: int, *, rotate: int | None, positions: bool = True) -> int:
        """
        A projection; its bias is written over it, its norm and rotary embedding over a second tensor.

        What follows the reshape into heads reads a view, and the allocator never reuses what is behind a view.
        """
        graph = self._graph
        tensor = graph.tensor(size, normed)
        if positions:
            tensor = graph.tensor(size, tensor, self._positions)
        return tensor if rotate is None else graph.tensor(size, rotate, tensor)

    def _fused(self, normed: int, q_size: int, kv_size: int) -> tuple[int, int, int]:
        """One product for all three; its parts are views, so positions make copies."""
        graph = self._graph
        fused = graph.tensor(q_size + 2 * kv_size, normed)
        query = graph.tensor(q_size, fused, self._positions)
        key = graph.tensor(kv_size, fused, self._positions)
        value = fused if self._setting.flash else graph.tensor(kv_size, fused)
        return query, key, value

    def _half_precision_copies(self, mixer: FullAttention | Latent, inputs: Inputs) -> int:
        """Flash attention's copies of a cache that is not f16: the kernel for many tokens reads halves."""
        cache, setting = mixer.cache, self._setting
        cells = inputs.cells * setting.streams * cache.n_heads
        widths = [cache.key_dim] if setting.type_k != "f16" else []
        if setting.type_v != "f16" and not cache.latent:
            widths.append(cache.value_dim)
        return sum(cells * width * 2 for width in widths)

    def _latent(self, mixer: Latent, normed: int, inputs: Inputs) -> int:
        graph, heads = self._graph, mixer.n_heads
        if mixer.q_rank is None:
            query = graph.tensor(self._row(heads * (mixer.nope_dim + mixer.rope_dim)), normed)
        else:
            low = graph.in_place(graph.in_place(graph.tensor(self._row(mixer.q_rank), normed)))
            query = graph.tensor(self._row(heads * (mixer.nope_dim + mixer.rope_dim)), low)
        absorbed = graph.tensor(self._row(heads * mixer.kv_rank), query)
        rotary = graph.tensor(self._row(heads * mixer.rope_dim), query, self._positions)
        query = graph.tensor(self._row(heads * (mixer.kv_rank + mixer.rope_dim)), absorbed, rotary)
        both = graph.tensor(self._row(mixer.kv_rank + mixer.rope_dim), normed)
        latent = graph.in_place(graph.tensor(self._row(mixer.kv_rank), both))
        rotary = graph.tensor(self._row(mixer.rope_dim), both, self._positions)
        graph.use(graph.tensor(self._row(mixer.kv_rank + mixer.rope_dim), latent, rotary), inputs.key_rows)
        wide, narrow = self._row(heads * mixer.kv_rank), self._row(heads * mixer.value_dim)
        if self._setting.flash:
            extra = self._half_precision_copies(mixer, inputs)
            mixed = graph.tensor(wide + extra, query, inputs.mask)
        else:
            turned = graph.tensor(inputs.cells * self._setting.streams * mixer.kv_rank * 2)
            scores = graph.in_place(graph.tensor(inputs.cells * self._tokens * heads * 4, query), inputs.mask)
            mixed = graph.tensor(wide, turned, scores)
        return graph.tensor(narrow, graph.tensor(narrow, mixed))

    def _feed(self, layer: Layer, normed: int, tokens: int) -> int:
        block = layer.feed_forward
        if isinstance(block, MixtureOfExperts):
            return self._experts(block, normed, tokens)
        if isinstance(block, DenseMLP):
            return self._mlp(block, normed, tokens)
        raise _unknown(block)

    def _mlp(self, block: DenseMLP, normed: int, tokens: int) -> int:
        return self._graph.tensor(self._hidden * tokens * 4, self._inner(block, normed, tokens))

    def _inner(self, block: DenseMLP, normed: int, tokens: int) -> int:
        """Gate and up, and their product in a third tensor."""
        graph, size = self._graph, block.intermediate * tokens * 4
        if block.fused and block.gated:
            return graph.tensor(size, graph.tensor(2 * size, normed))
        if not block.gated:
            return graph.in_place(graph.tensor(size, normed))
        gate = graph.tensor(size, normed)
        return graph.tensor(size, gate, graph.tensor(size, normed))

    def _experts(self, block: MixtureOfExperts, normed: int, tokens: int) -> int:
        graph, top = self._graph, block.top_k
        chosen, weights = self._routing(block, normed, tokens)
        size = top * block.expert_intermediate * tokens * 4
        gate = graph.tensor(size, normed, chosen)
        if block.bias:
            gate = graph.in_place(gate, chosen)
        up = graph.tensor(size, normed, chosen)
        if block.bias:
            up = graph.in_place(up, chosen)
        inner = graph.tensor(size, gate, up)
        down = graph.tensor(top * self._hidden * tokens * 4, inner, chosen)
        if block.bias:
            down = graph.in_place(down, chosen)
        result = self._weighted(down, weights, top, tokens)
        if block.shared is None:
            return result
        return graph.in_place(result, self._mlp(block.shared, normed, tokens))

    def _weighted(self, down: int, weights: int, top: int, tokens: int) -> int:
        """Weigh the experts' results and add them up; CUDA does it in one go and needs what went in until the end."""
        graph = self._graph
        fused = 1 < top <= _MOST_REDUCED_EXPERTS
        weighted = graph.tensor(graph.size(down), down, weights, over=() if fused else (down,))
        if fused:
            result = graph.tensor(self._hidden * tokens * 4, weighted)
            for _ in range(top - 2):
                result = graph.in_place(result, weighted)
            graph.use(down, weights)
            return result
        return weighted

    def _routing(self, block: MixtureOfExperts, normed: int, tokens: int) -> tuple[int, int]:
        """The sorted experts and the weights of the chosen ones; where CUDA fuses these steps, all stay to the end."""
        graph, size, few = self._graph, block.n_experts * tokens * 4, block.top_k * tokens * 4
        logits = graph.tensor(size, normed)
        if block.router_bias:  # weights from the chosen logits (gpt-oss)
            logits = graph.in_place(logits)
            chosen = graph.tensor(size, logits)
            return chosen, graph.tensor(few, graph.tensor(few, logits, chosen))
        power = block.n_experts & (block.n_experts - 1) == 0 and block.n_experts <= _MOST_FUSED_EXPERTS
        fused = power and not block.correction_bias
        probabilities = graph.tensor(size, logits, over=() if fused else (logits,))
        biased = graph.tensor(size, probabilities) if block.correction_bias else probabilities
        chosen = graph.tensor(size, biased)
        weights = raw = graph.tensor(few, probabilities, chosen)
        steps = [logits, probabilities, chosen, raw]
        if not self._architecture.model_type.startswith(_PLAIN_WEIGHTS):
            total = graph.tensor(tokens * 4, raw)
            clamped = graph.tensor(tokens * 4, total, over=() if fused else (total,))
            weights = graph.tensor(few, raw, clamped)
            steps += [total, clamped, weights]
        if fused:
            graph.use(*steps)
        return chosen, weights
