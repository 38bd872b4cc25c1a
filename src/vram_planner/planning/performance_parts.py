"""What a step is made of: weights read, on the card and on the host, products of experts, launches, links; in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vram_planner.planning.performance_model import Card, Constants
    from vram_planner.planning.performance_work import Work

_OVERLAP = 4  # how sharply the larger of memory and compute hides the other in a prefill
_FETCHED_FROM = 32  # tokens of a step


def sticks_out(memory_s: float, compute_s: float) -> float:
    """What of reading is not hidden by arithmetic: (memory⁴ + compute⁴)^¼ − compute."""
    return float((memory_s**_OVERLAP + compute_s**_OVERLAP) ** (1 / _OVERLAP) - compute_s)


def flops_of(work: Work, fitted: Constants) -> float:
    """Operations of one token, those of experts weighed by what they reach beside dense matrices."""
    return work.matrix_flops + work.expert_flops * (1 / fitted.expert_compute - 1)


def weights_s(work: Work, card: Card, fitted: Constants, tokens: float) -> float:
    """Weights that a step of so many tokens reads, on the card and on the host."""
    spread = card.bandwidth * fitted.bandwidth_share
    experts = work.expert_bytes(tokens**fitted.expert_spread)
    here = experts * (1 - work.host_experts)
    return (work.dense_bytes + here / fitted.expert_share) / spread + _host_s(work, card, experts, tokens)


def _host_s(work: Work, card: Card, experts: float, tokens: float) -> float:
    """
    Weights on the host: its cores work on them where they lie, or, from 32 tokens a step on, the GPU fetches them.

    vLLM's card reads them over the bus at every step (zero copy).

    Source: ggml-cuda.cu, ggml_backend_cuda_device_offload_op (min_batch_size 32); vLLM 0.32 model_executor/offloader/uva.py.
    """
    there = work.host_bytes + experts * work.host_experts
    if not there:
        return 0.0
    fetched = tokens >= _FETCHED_FROM or not card.host_read_bytes_per_s
    return there / (card.host_bytes_per_s if fetched else card.host_read_bytes_per_s)


def fixed_s(work: Work, fitted: Constants) -> float:
    """What a step takes whatever it works on: c_step + c · layers, and more for a layer of experts."""
    return fitted.step_s + work.layers * fitted.layer_s + work.expert_layers * fitted.expert_layer_s


def launches_s(work: Work, fitted: Constants) -> float:
    """What the host takes to launch a step without graphs."""
    return fitted.step_s + work.layers * fitted.eager_layer_s


def link_s(work: Work, card: Card, fitted: Constants, tokens: float) -> float:
    """All-reduces over the ranks of a group; between groups a gather and a scatter of the tokens of all: as much, in two hops."""
    stages = _stages_s(work, card, tokens)
    if not card.link_bytes_per_s:
        return stages
    rate, bytes_ = card.link_bytes_per_s * fitted.link_share, 2 * tokens * work.activation_bytes
    reduced = work.all_reduces * (fitted.hop_s + (work.tp - 1) / work.tp * bytes_ / rate)
    share = work.groups * (work.exchange - 1) / work.exchange
    return reduced + work.exchanges * (2 * fitted.hop_s + share * bytes_ / rate) + stages


def _stages_s(work: Work, card: Card, tokens: float) -> float:
    """
    What a step sends from server to server: crossings · (hop + 2 · n · h · b / (tp · link)).

    Hidden states and residual go over, each tensor parallel rank sends its slice and the receivers gather them:
    vLLM 0.32, distributed/parallel_state.py, send_tensor_dict, and IntermediateTensors of model_executor/models/llama.py.
    Stages within a server are not counted: the constants were fitted without them.
    """
    if not card.crossings:
        return 0.0
    each = 2 * tokens * work.activation_bytes / (work.tp * card.crossing_bytes_per_s)
    return card.crossings * (card.crossing_hop_s + each)


def expert_products(work: Work, card: Card, fitted: Constants, tokens: float) -> tuple[float, float, float]:
    """
    Seconds in which experts are read, in which their products run, and in which their tiles' padding does.

    Of n tokens an expert that is touched has n · k / (E · p) on average, p = 1 − (1 − k/E)^n; in tiles of t tokens they take
    t, or half a tile more than they are. The kernels of experts run after those of dense matrices: they hide their own reading alone.

    Source: ggml-cuda/mmq.cuh, mul_mat_q_case: the width of a tile follows from the tokens of the micro-batch, not from those
    of an expert; at most 128, by the card's instructions. 64 was chosen of 32, 64 and 128 by the errors of left-out rows.
    """
    experts = work.expert_bytes(tokens**fitted.expert_spread) * (1 - work.host_experts)
    memory_s = experts / (card.bandwidth * fitted.bandwidth_share * fitted.expert_share)
    compute_s = tokens * work.expert_flops / (card.flops * fitted.compute_share * fitted.expert_compute)
    full = sum(each.n_bytes for each in work.experts)
    if not full:
        return 0.0, 0.0, 0.0
    used = sum(each.n_bytes * each.used / each.of for each in work.experts) / full
    each = tokens * used * full / work.expert_bytes(tokens)
    tile = min(work.expert_tile, tokens)
    padded = max(tile, each + tile / 2)
    return memory_s, compute_s, compute_s * (padded / each - 1)
