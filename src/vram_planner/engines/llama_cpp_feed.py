"""llama.cpp's graph of feed-forward blocks. Source (b11434): src/llama-graph.cpp, build_ffn and build_moe_ffn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.feed_forward import DenseMLP, MixtureOfExperts
from vram_planner.engines.llama_cpp_writer import unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from vram_planner.architecture.feed_forward import FeedForward
    from vram_planner.engines.llama_cpp_writer import Writer

    Norm = Callable[[int, str, int], int]

_MOST_REDUCED_EXPERTS = 15  # MOE_WEIGHTED_REDUCTION_MAX_EXPERTS, ggml-cuda.cu
_MOST_FUSED_EXPERTS = 512  # ggml_cuda_should_use_topk_moe, topk-moe.cu
_ALSO_FUSED = (288, 576)
# Families that do not scale the weights of the chosen experts to a sum of one.
_PLAIN_WEIGHTS = ("deepseek_v2", "qwen2_moe", "llama4", "jamba")
# Families whose experts' inputs, not outputs, are weighed.
_WEIGHED_BEFORE = ("llama4",)
# Families that scale the weights by a constant in a tensor of its own.
_SCALED_WEIGHTS = (
    "deepseek_v3",
    "kimi_k2",
    "nemotron_h",
    "glm_moe_dsa",
    "glm4_moe",
    "kimi_linear",
    "minimax_m3",
)
# DeepSeek-V3: of 8 groups of experts the best 4 are looked at.
_GROUPED = ("deepseek_v3", "deepseek_v32")
_GROUPED_EXPERTS = 256
_GROUPS = 8
_GROUPS_USED = 4
_APART = ("minimax_m3",)  # families whose fused matrices are two in the file
_STORED_APART = "shared_mlp."  # Granite's shared expert: one matrix in the checkpoint, two in the file


def weighed_before(model_type: str) -> bool:
    """Whether the family weighs what goes into its experts, not what comes out."""
    return model_type.startswith(_WEIGHED_BEFORE)


def feed(writer: Writer, block: FeedForward, normed: int, tokens: int) -> int:
    """The block's result. Raises UnsupportedArchitectureError for a kind that we do not know."""
    if isinstance(block, MixtureOfExperts):
        return experts(writer, block, normed, tokens)
    if isinstance(block, DenseMLP):
        return mlp(writer, block, normed, tokens)
    raise unknown(block)


def mlp(writer: Writer, block: DenseMLP, normed: int, tokens: int) -> int:
    """Gate and up, their product in a third tensor, down."""
    graph, name, width = writer.graph, block.prefix, block.intermediate
    apart = name == _STORED_APART or writer.architecture.model_type.startswith(_APART)
    if block.fused and block.gated and not apart:
        both = writer.product(f"{name}gate_up_proj", 2 * width, normed, tokens=tokens)
        inner = writer.made(width, both, tokens=tokens)
    elif not block.gated:
        inner = graph.in_place(writer.product(f"{name}up_proj", width, normed, tokens=tokens))
    else:
        gate = writer.product(f"{name}gate_proj", width, normed, tokens=tokens)
        up = writer.product(f"{name}up_proj", width, normed, tokens=tokens)
        inner = writer.made(width, gate, up, tokens=tokens)
    return writer.product(f"{name}down_proj", block.hidden, inner, tokens=tokens)


def experts(writer: Writer, block: MixtureOfExperts, normed: int, tokens: int) -> int:
    """Routed experts, then the shared one beside them."""
    graph = writer.graph
    chosen, weights, steps = routing(writer, block, normed, tokens)
    graph.expand(weights)
    graph.use(*steps)
    if writer.experts_away:
        if weighed_before(writer.architecture.model_type):
            normed = _weighed_inputs(writer, block, normed, weights, tokens)
        graph.elsewhere(normed, chosen, weights)
        result = writer.arrival(writer.row(block.hidden, tokens))
    else:
        result = routed(writer, block, normed, tokens, chosen=chosen, weights=weights)
        graph.expand(result)
    if block.shared is None:
        return result
    shared = mlp(writer, block.shared, normed, tokens)
    if block.shared_gate:
        gate = graph.in_place(writer.product("shared_gate", 1, normed, tokens=tokens))
        shared = graph.in_place(shared, gate)
    return graph.tensor(graph.size(result), result, shared, over=(result, shared))


def routed(
    writer: Writer,
    block: MixtureOfExperts,
    normed: int,
    tokens: int,
    *,
    chosen: int,
    weights: int,
    stacked: bool = False,
    weighed: bool = False,
) -> int:
    """
    The chosen experts' work, weighed and summed.

    `stacked`: gate and up are one tensor, and each expert's output has a factor of its own (Gemma 4);
    `weighed`: the inputs are weighed already.
    """
    graph, width = writer.graph, block.top_k * block.expert_intermediate
    before = weighed_before(writer.architecture.model_type)
    if before and not weighed:
        normed = _weighed_inputs(writer, block, normed, weights, tokens)

    def picked(name: str, numbers: int, source: int) -> int:
        made = graph.tensor(writer.row(numbers, tokens), *writer.weight(f"experts.{name}"), source, chosen)
        if not block.bias:
            return made
        return graph.in_place(made, *writer.weight(f"experts.{name}.bias"), chosen)

    if stacked:
        both = graph.tensor(writer.row(2 * width, tokens), *writer.weight("experts.gate_up"), normed, chosen)
        inner = writer.made(width, both, tokens=tokens)
    elif block.gated:
        gate = picked("gate", width, normed)
        inner = writer.made(width, gate, picked("up", width, normed), tokens=tokens)
    else:
        inner = graph.in_place(graph.in_place(picked("up", width, normed)))
    down = picked("down", block.top_k * block.hidden, inner)
    if before:
        return writer.made(block.hidden, down, tokens=tokens)
    return _weighted(writer, block, down, weights, tokens, chosen=chosen if stacked else None)


def _weighed_inputs(writer: Writer, block: MixtureOfExperts, normed: int, weights: int, tokens: int) -> int:
    """REPEAT, then MUL by the weights in place."""
    repeated = writer.made(block.top_k * block.hidden, normed, tokens=tokens)
    return writer.graph.in_place(repeated, weights)


def _weighted(
    writer: Writer, block: MixtureOfExperts, down: int, weights: int, tokens: int, *, chosen: int | None
) -> int:
    """Weigh the experts' results and add them up; CUDA does it in one go and needs what went in until the end."""
    graph, top = writer.graph, block.top_k
    fused = 1 < top <= _MOST_REDUCED_EXPERTS
    needed, over = [down, weights], () if fused else (down,)
    factor = down
    if chosen is not None:
        factors = writer.weight("router.per_expert_scale", view=True)
        repeated = writer.made(block.n_experts, *factors, tokens=tokens)
        scale = graph.tensor(writer.row(top, tokens), repeated, chosen)
        needed.append(scale)
        factor = graph.tensor(graph.size(down), down, scale, over=over)
        over = (factor,)
    weighted = graph.tensor(graph.size(down), factor, weights, over=over)
    if top == 1:
        return writer.made(block.hidden, weighted, tokens=tokens)
    result = writer.made(block.hidden, weighted, tokens=tokens)
    for _ in range(top - 2):
        result = graph.in_place(result, weighted)
    if fused:
        graph.expand(result)
        graph.use(*needed)
    return result


def beside(writer: Writer, block: FeedForward, middle: int, tokens: int, norm: Norm) -> int:
    """
    Experts and a dense block beside each other, each between norms of its own (Gemma 4).

    Source: src/models/gemma4.cpp.
    """
    if not isinstance(block, MixtureOfExperts) or block.shared is None:
        raise unknown(block)
    graph = writer.graph
    scored = writer.norm(middle, "router.scale", block.hidden, tokens=tokens)
    chosen, weights, steps = routing(writer, block, scored, tokens)
    graph.expand(weights)
    normed = norm(middle, "pre_feedforward_layernorm_2", tokens)
    graph.expand(normed)
    graph.use(*steps)
    found = routed(
        writer,
        block,
        normed,
        tokens,
        chosen=chosen,
        weights=weights,
        stacked=True,
    )
    graph.expand(found)
    dense = mlp(writer, block.shared, norm(middle, "pre_feedforward_layernorm", tokens), tokens)
    dense = norm(dense, "post_feedforward_layernorm_1", tokens)
    found = norm(found, "post_feedforward_layernorm_2", tokens)
    return graph.tensor(graph.size(dense), dense, found, over=(dense, found))


def routing(
    writer: Writer, block: MixtureOfExperts, normed: int, tokens: int
) -> tuple[int, int, tuple[int, ...]]:
    """
    The sorted experts, the weights of the chosen ones, and what stays until the next operation.

    CUDA fuses these steps into one where it can, and then keeps all their tensors.
    """
    graph, size, few = writer.graph, writer.row(block.n_experts, tokens), writer.row(block.top_k, tokens)
    logits = graph.tensor(size, *writer.weight("router"), normed)
    if block.router_bias:  # weights from the chosen logits (gpt-oss)
        logits = graph.in_place(logits, *writer.weight("router.bias"))
        chosen = graph.tensor(size, logits)
        return chosen, graph.tensor(few, graph.tensor(few, logits, chosen)), ()
    count = block.n_experts
    power = (count & (count - 1) == 0 and count <= _MOST_FUSED_EXPERTS) or count in _ALSO_FUSED
    grouped = count == _GROUPED_EXPERTS and writer.architecture.model_type in _GROUPED
    # A correction that lies on the host starts another split, and nothing is fused across two.
    apart = block.correction_bias and "router.correction" in writer.copies
    before = weighed_before(writer.architecture.model_type)
    fused = power and not (grouped or before or apart)
    probabilities = graph.tensor(size, logits, over=() if fused else (logits,))
    if before:
        chosen = graph.tensor(size, logits)
        return chosen, graph.tensor(few, probabilities, chosen), ()
    biased = probabilities
    if block.correction_bias:
        biased = graph.tensor(size, probabilities, *writer.weight("router.correction"))
    selected = biased
    if grouped:
        selected = _in_best_groups(writer, biased, block.n_experts, tokens)
    chosen = graph.tensor(size, selected)
    weights = raw = graph.tensor(few, probabilities, chosen)
    steps = [logits, probabilities, biased, chosen, raw]
    if not writer.architecture.model_type.startswith(_PLAIN_WEIGHTS):
        total = graph.tensor(tokens * 4, raw)
        clamped = graph.tensor(tokens * 4, total, over=() if fused else (total,))
        weights = graph.tensor(few, raw, clamped)
        steps += [total, clamped, weights]
    if writer.architecture.model_type.startswith(_SCALED_WEIGHTS):
        weights = graph.tensor(few, weights)
        steps.append(weights)
    return chosen, weights, tuple(steps) if fused else ()


def _in_best_groups(writer: Writer, biased: int, count: int, tokens: int) -> int:
    """Scores with all but the best groups of experts masked out: each group counts by its two best."""
    graph, groups, used = writer.graph, _GROUPS, _GROUPS_USED
    best_two = writer.made(count, biased, tokens=tokens)
    scores = writer.made(groups, writer.made(2 * groups, biased, best_two, tokens=tokens), tokens=tokens)
    ranked = writer.made(groups, scores, tokens=tokens)
    kept = writer.made(used * count // groups, biased, ranked, tokens=tokens)
    masked = writer.made(count, biased, tokens=tokens)
    graph.expand(kept, masked)
    graph.use(masked, kept, ranked)
    return masked
