"""llama.cpp's graph of one micro-batch on one GPU: embedding, layers, head. Source (b11434): src/models/*.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.attention import NoMixer
from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts
from vram_planner.architecture.gguf_written import stored_rows
from vram_planner.architecture.recurrent import GatedDeltaNet, LightningAttention, Mamba, Mamba2, ShortConv
from vram_planner.architecture.side_by_side import SideBySide
from vram_planner.engines.llama_cpp_attention import attention
from vram_planner.engines.llama_cpp_feed import beside, feed, routed, weighed_before
from vram_planner.engines.llama_cpp_layer_inputs import check_inputs, joined, prepared, streams_of
from vram_planner.engines.llama_cpp_linear import lightning
from vram_planner.engines.llama_cpp_recurrent import recurrent, taken_over
from vram_planner.engines.llama_cpp_side_by_side import side_by_side
from vram_planner.engines.llama_cpp_states import states_chosen
from vram_planner.engines.llama_cpp_streams import folded, spread, streamed
from vram_planner.engines.llama_cpp_writer import Writer, unknown

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.engines.llama_cpp_layout import Setting
    from vram_planner.engines.llama_cpp_stage import Stage, Step

# Families whose graph picks the output tokens after the last layer, or after the last norm, instead of inside the layer.
_LATE_OUTPUT = ("gpt_oss", "gpt-oss")
_LAST_OUTPUT = ("qwen3_next", "qwen3_5", "nemotron_h", "gemma4")
# Families that scale the embedded tokens.
_SCALED_EMBEDDING = ("granite", "gemma")
# Families whose graph adds "residual + feed-forward" and not the other way round: the first is written over.
_RESIDUAL_FIRST = ("phi3", "jamba", "lfm2")
# Families whose graph adds "stream + attention".
_STREAM_FIRST = ("jamba", "lfm2")
# Families whose attention and feed-forward run beside each other, each behind a norm of its own.
_PARALLEL = ("gpt_neox",)
# Families that add the stream to the feed-forward first, and attention after it.
_STREAM_BEFORE_ATTENTION = ("cohere", "gpt_neox")
# Families that add the feed-forward to attention, not the other way round.
_ATTENTION_FIRST = ("phi",)
# Families whose norms have no weights.
_BARE_NORMS = ("olmo",)
# Families whose residual is the norm's result, not what goes into it.
NORMED_RESIDUALS = ("minimax", "minimax_m1", "minimax_text_01")


LEARNED_POSITIONS = "positions"
_EMBEDDING_NORMS = ("word_embeddings_layernorm",)
# Names that families give to the norm before attention, and to the one before the feed-forward block.
_FIRST_NORMS = ("input_layernorm", "norm_1", "operator_norm", "ln_attn", "ln_1")
_SECOND_NORMS = ("post_attention_layernorm", "pre_ff_layernorm", "norm_2", "ffn_norm", "ln_mlp", "ln_2")


def _first_norm(names: list[str]) -> str | None:
    return next((name for name in _FIRST_NORMS if name in names), None)


def _second_norm(names: list[str]) -> str | None:
    return next((name for name in _SECOND_NORMS if name in names), None)


def _normed_first(stage: Stage, model_type: str) -> bool:
    """Whether its first layer begins with a norm (all but those of OLMo 2 and EXAONE 4); OLMo's has no weights."""
    if model_type in _BARE_NORMS:
        return True
    if not stage.steps:
        return True
    layer = stage.steps[0].layer
    names = [weight.name for weight in layer.norms]
    return isinstance(layer.mixer, NoMixer) or _first_norm(names) is not None or "norm" in names


class GraphBuilder:
    """Writes the graph of one stage for one setting."""

    def __init__(self, architecture: Architecture, setting: Setting, host_inputs: dict[str, int]) -> None:
        check_inputs(architecture, setting.gpus)
        self.writer = Writer(architecture, setting, host_inputs)
        self._inputs: int | None = None
        self._architecture = architecture
        self._hidden = architecture.hidden
        self._outputs = setting.outputs
        self._streams = streams_of(architecture)
        self._late = architecture.model_type.startswith(_LATE_OUTPUT)
        self._last = architecture.model_type.startswith(_LAST_OUTPUT)
        # Where all layers are on GPUs each norm is told to run with its layer, if it has weights.
        self._scaled_apart = (
            not setting.all_on_gpus(len(architecture.layers)) or architecture.model_type in _BARE_NORMS
        )

    def peak(self, stage: Stage) -> int:
        """Bytes of the compute buffer of that stage."""
        writer, stream = self.writer, self._begun(stage)
        for index, step in enumerate(stage.steps):
            writer.hands_over, writer.begins = step is stage.hands_over, stage.first and index == 0
            ends = stage.ends and index == len(stage.steps) - 1
            writer.copies, writer.cache_on_host = step.copies, step.cache_on_host
            writer.attends_on_host, writer.layer_turns = step.attends_on_host, step.turns
            writer.experts_away, writer.stream_away = step.experts_away, step.stream_away
            if self._streams > 1:
                stream = self._streamed(step, stream)
            else:
                stream = self._layer(step.layer, stream, ends=ends)
        if stage.last:
            writer.copies = stage.output_copies
            if self._streams > 1:
                stream = self._pick(folded(writer, stream))
            self._head(stream)
        elif not writer.stream_away:
            self._handed_on(stream, self._kept_tokens(ends=stage.ends), kept=not stage.guests)
        for guest in stage.guests:
            self._hosted(guest)
        return writer.graph.peak()

    def _begun(self, stage: Stage) -> int:
        """The stream that its first layer reads, and what else is there before."""
        writer = self.writer
        writer.first = stage.first
        stateful = any(step.layer.mixer.state is not None for step in stage.steps[:1])
        if not stage.first and stateful:
            states_chosen(writer)  # read before the layer's norm, so that it arrives before the stream
            gathers = isinstance(stage.steps[0].layer.mixer, Mamba | Mamba2 | ShortConv)
            writer.stream_to_come = gathers and not writer.pipelined
        stream = self._arrived(stage)
        # Next to a state that the host gathers, the host scales too.
        on_host = stateful and stage.steps[0].cache_on_host
        if stage.first and not on_host and self._architecture.model_type.startswith(_SCALED_EMBEDDING):
            stream = writer.graph.in_place(stream)
            writer.graph.expand(stream)
        if not stage.first and stateful and self._architecture.model_type in NORMED_RESIDUALS:
            # The sum that ends the layer before is this GPU's work: its state is read before that.
            stream = self._sum(stream, writer.graph.in_place(writer.arrival(writer.row(self._hidden))))
        elif self._scaled_apart and not stage.first and _normed_first(stage, self._architecture.model_type):
            # The first norm's scaling is done on the GPU before: both it and the stream arrive.
            tokens = self._kept_tokens(ends=not stage.steps)
            writer.scaled_before = writer.arrival(writer.row(self._hidden, tokens))
        if stage.first and stage.steps:
            writer.copies = stage.steps[0].copies
            self._inputs = prepared(writer, stream)
            if self._streams > 1:
                writer.copies = stage.output_copies
                stream = spread(writer, stream)
        if stage.takes_over is not None and writer.stream_to_come:
            writer.gate_to_come = stage.takes_over
        elif stage.takes_over is not None:
            taken_over(writer, stage.takes_over)
        return stream

    def _kept_tokens(self, *, ends: bool) -> int:
        """Tokens of the stream after a stage: those asked for after the last layer, but where the head picks them."""
        return self._outputs if ends and not self._last else self.writer.tokens

    def _handed_on(self, stream: int, tokens: int, *, kept: bool) -> None:
        """The stream goes to the next GPU; the first step of that one's norm is done here if it is not told otherwise."""
        graph = self.writer.graph
        graph.expand(stream)
        scaled = (self.writer.made(self._hidden, stream, tokens=tokens),) if self._scaled_apart else ()
        if kept:
            graph.keep(stream)
            graph.use(*scaled)
        else:
            graph.expand(*scaled)
            graph.elsewhere(*scaled, stream)

    def _hosted(self, guest: Step) -> None:
        """
        Experts of another GPU's layer, whose matrices lie on the host: the first GPU copies and multiplies them.

        Source (b11434): ggml/src/ggml-backend.cpp, ggml_backend_sched_backend_id_from_cur (op_offload: the first that can).
        """
        writer, block = self.writer, guest.layer.feed_forward
        if not isinstance(block, MixtureOfExperts):
            raise unknown(block)
        writer.copies, writer.experts_away = guest.copies, False
        tokens = writer.tokens
        before = weighed_before(self._architecture.model_type)
        normed = writer.arrival(writer.row(self._hidden * (block.top_k if before else 1)))
        chosen = writer.arrival(4 * ((tokens - 1) * block.n_experts + block.top_k))
        weights = writer.arrival(writer.row(block.top_k))
        found = routed(writer, block, normed, tokens, chosen=chosen, weights=weights, weighed=before)
        writer.graph.expand(found)
        if guest.stream_away:
            self._handed_on(self._sum(found, writer.arrival(writer.row(self._hidden))), tokens, kept=False)
        else:
            writer.graph.elsewhere(found)

    def _arrived(self, stage: Stage) -> int:
        """The stream from the host or the GPU before: at the model's start with learned positions added, or scaled to unit size."""
        writer = self.writer
        tokens = self._kept_tokens(ends=not stage.steps and not stage.first)
        stream = writer.arrival(writer.row(self._hidden, tokens))
        names = [weight.name for weight in self._architecture.embedding_extras] if stage.first else []
        if LEARNED_POSITIONS in names:
            places = writer.arrival(writer.row(self._hidden))
            stream = self._sum(stream, places)
        norm = next((name for name in names if name in _EMBEDDING_NORMS), None)
        if norm is not None and stage.steps:
            writer.copies = stage.steps[0].copies
            stream = self._norm(stream, norm)
            writer.graph.expand(stream)
        return stream

    def _streamed(self, step: Step, streams: int) -> int:
        block = step.layer.feed_forward
        if self._inputs is None or not isinstance(block, DenseMLP):
            raise unknown(block)
        return streamed(self.writer, step.layer, streams, self._inputs, block, cuts_off=step.cuts_off)

    def _layer(self, layer: Layer, stream: int, *, ends: bool) -> int:
        names = [weight.name for weight in layer.norms]
        if _first_norm(names) is None and "norm" in names:
            return self._single(layer, stream, ends=ends)
        if isinstance(layer.mixer, NoMixer):
            return self._fed_alone(layer, stream, ends=ends)
        if self._architecture.model_type in NORMED_RESIDUALS:
            return self._from_norms(layer, stream, ends=ends)
        if isinstance(layer.mixer, SideBySide):
            return self._side_by_side(layer, layer.mixer, stream, ends=ends)
        return self._usual(layer, stream, names, ends=ends)

    def _usual(self, layer: Layer, stream: int, names: list[str], *, ends: bool) -> int:
        """A mixer, then a feed-forward block, each added to the stream."""
        before = self._normed_before(names)
        normed, found = self._mixed(layer, stream, (_first_norm(names) or "") if before else None)
        picks = ends and not self._late and not self._last
        if self._parallel(names):
            return self._beside_each_other(layer, (stream, normed, found), picks=picks)
        residual, tokens = stream, self.writer.tokens
        if picks:
            found, tokens = self._pick(found), self._outputs
        if "pre_feedforward_layernorm" in names or not before:
            found = self._norm(found, "post_attention_layernorm", tokens)
        if picks:
            residual = self._pick(stream)
        if self._architecture.model_type.startswith(_STREAM_FIRST):
            middle = self._sum(residual, found, second_is_view=self._reshaped(layer) and not picks)
        else:
            middle = self._sum(found, residual, first_is_view=self._reshaped(layer))
        result = self._fed(layer, names, middle, tokens)
        if ends and self._late:
            self.writer.graph.keep(result)
            return self._pick(result)
        return result

    def _normed_before(self, names: list[str]) -> bool:
        """Whether a norm stands before the block: always but in OLMo 2 and its like."""
        return _first_norm(names) is not None or self._architecture.model_type in _BARE_NORMS

    def _parallel(self, names: list[str]) -> bool:
        """Whether attention and feed-forward read the same stream."""
        one_norm = _first_norm(names) is not None and _second_norm(names) is None
        return one_norm or self._apart(names)

    def _apart(self, names: list[str]) -> bool:
        """Whether both have norms of their own."""
        return self._architecture.model_type.startswith(_PARALLEL) or "ln_mlp" in names

    def _beside_each_other(self, layer: Layer, made: tuple[int, int, int], *, picks: bool) -> int:
        """Feed-forward beside attention; `made` are the stream, its norm and attention's result."""
        kind, tokens = self._architecture.model_type, self.writer.tokens
        residual, normed, found = made
        names = [weight.name for weight in layer.norms]
        apart = self._apart(names)
        if picks:
            tokens = self._outputs
            found, residual = self._pick(found), self._pick(residual)
            normed = normed if apart else self._pick(normed)
        if apart:
            normed = self._norm(residual, _second_norm(names) or "", tokens)
        fed = feed(self.writer, layer.feed_forward, normed, tokens)
        if kind.startswith(_STREAM_BEFORE_ATTENTION):
            return self._sum(self._sum(fed, residual), found)
        first, second = (found, fed) if kind in _ATTENTION_FIRST else (fed, found)
        return self._sum(self._sum(first, second), residual)

    def _fed(self, layer: Layer, names: list[str], middle: int, tokens: int) -> int:
        """The feed-forward half of a layer, with what is added to it and multiplied into it."""
        sandwich = "pre_feedforward_layernorm" in names
        before = self._normed_before(names)
        second = "pre_feedforward_layernorm" if sandwich else _second_norm(names) or ""
        if "pre_feedforward_layernorm_2" in names:
            fed = beside(self.writer, layer.feed_forward, middle, tokens, self._norm)
        else:
            normed = self._norm(middle, second, tokens) if before else middle
            fed = feed(self.writer, layer.feed_forward, normed, tokens)
        if self.writer.stream_away:
            self.writer.graph.elsewhere(middle)
            if self._scaled_apart:
                self.writer.scaled_before = self.writer.arrival(self.writer.row(self._hidden, tokens))
            return self.writer.arrival(self.writer.row(self._hidden, tokens))
        if sandwich or not before:
            fed = self._norm(fed, "post_feedforward_layernorm", tokens)
        first = self._architecture.model_type.startswith(_RESIDUAL_FIRST)
        result = self._sum(middle, fed) if first else self._sum(fed, middle)
        own = next((w.rows for w in layer.norms if w.name == "per_layer_input_gate"), 0)
        if self._inputs is not None and own:
            result = joined(self.writer, result, self._inputs, own)
        if "layer_scalar" in names:
            result = self.writer.graph.in_place(result, *self.writer.weight("layer_scalar"))
        return result

    def _single(self, layer: Layer, stream: int, *, ends: bool) -> int:
        """A layer of one block behind one norm: Mamba, Nemotron-H."""
        tokens = self.writer.tokens
        if isinstance(layer.mixer, NoMixer):
            found = feed(self.writer, layer.feed_forward, self._norm(stream, "norm"), tokens)
        else:
            _, found = self._mixed(layer, stream, "norm")
        if ends and not self._late and not self._last:
            found, stream = self._pick(found), self._pick(stream)
            return self._sum(found, stream)
        return self._sum(found, stream, first_is_view=self._reshaped(layer))

    def _from_norms(self, layer: Layer, stream: int, *, ends: bool) -> int:
        """Residuals are taken behind the norms, and scaled (MiniMax-01). Source: src/models/minimax-01.cpp."""
        graph, tokens, mixer = self.writer.graph, self.writer.tokens, layer.mixer
        if isinstance(mixer, LightningAttention):
            found, normed = lightning(self.writer, mixer, lambda: self._norm(stream, "input_layernorm"))
        else:
            normed = self._norm(stream, "input_layernorm")
            found = attention(self.writer, mixer, normed)
        if ends:
            found, normed, tokens = self._pick(found), self._pick(normed), self._outputs
        view = isinstance(mixer, LightningAttention) and not ends
        middle = self._sum(found, graph.in_place(normed), first_is_view=view)
        normed = self._norm(middle, "post_attention_layernorm", tokens)
        fed = feed(self.writer, layer.feed_forward, normed, tokens)
        return self._sum(fed, graph.in_place(normed))

    def _side_by_side(self, layer: Layer, mixer: SideBySide, stream: int, *, ends: bool) -> int:
        """Attention and a recurrent mixer, both added to the stream (Falcon-H1)."""
        names, tokens = [weight.name for weight in layer.norms], self.writer.tokens
        first = _first_norm(names) or ""
        both = side_by_side(self.writer, mixer, lambda: self._norm(stream, first))
        middle = self._sum(both, stream)
        if ends:
            middle, tokens = self._pick(middle), self._outputs
        return self._fed(layer, names, middle, tokens)

    def _fed_alone(self, layer: Layer, stream: int, *, ends: bool) -> int:
        """A layer without attention, whose MLP has the second norm (Llama-Nemotron). Source: src/models/deci.cpp."""
        tokens = self.writer.tokens
        if ends:
            stream, tokens = self._pick(stream), self._outputs
        fed = feed(
            self.writer, layer.feed_forward, self._norm(stream, "post_attention_layernorm", tokens), tokens
        )
        return self._sum(fed, stream)

    def _mixed(self, layer: Layer, stream: int, norm: str | None) -> tuple[int, int]:
        """The norm and the mixer's result; layers with a state read that before the norm."""
        if layer.mixer.state is not None:
            return -1, recurrent(self.writer, layer.mixer, lambda: self._norm(stream, norm or ""))
        normed = self._norm(stream, norm) if norm is not None else stream
        return normed, attention(self.writer, layer.mixer, normed)

    def _sum(
        self, first: int, second: int, *, first_is_view: bool = False, second_is_view: bool = False
    ) -> int:
        over = (*(() if first_is_view else (first,)), *(() if second_is_view else (second,)))
        return self.writer.graph.tensor(self.writer.graph.size(second), first, second, over=over)

    def _reshaped(self, layer: Layer) -> bool:
        """Whether the mixer's result is read through a view."""
        return isinstance(layer.mixer, Mamba | GatedDeltaNet | ShortConv)

    def _pick(self, tensor: int) -> int:
        return self.writer.pick(tensor, self._hidden)

    def _norm(self, tensor: int, name: str, tokens: int | None = None) -> int:
        return self.writer.norm(tensor, name, self._hidden, tokens=tokens)

    def _head(self, stream: int) -> None:
        graph, outputs = self.writer.graph, self._outputs
        if self._last:
            full = self._norm(stream, "norm")
            graph.keep(full)
            normed = self._pick(full)
        else:
            normed = self._norm(stream, "norm", outputs)
        head = self.writer.weight("embed_tokens" if self._architecture.tied_head else "lm_head")
        logits = graph.tensor(stored_rows(self._architecture) * outputs * 4, *head, normed)
        graph.expand(logits)
        graph.keep(logits)
