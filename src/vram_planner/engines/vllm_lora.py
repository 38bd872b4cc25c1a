"""vLLM's slots for LoRA adapters: buffers as large as the largest adapter, allocated when the model is loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.parallel import padded_vocabulary
from vram_planner.architecture.precision import Place
from vram_planner.architecture.recurrent import Mamba2
from vram_planner.architecture.storage import MXFP4
from vram_planner.architecture.weight import MixedWeight, Role
from vram_planner.basis import Basis, Part
from vram_planner.engines.served import how_served
from vram_planner.engines.vllm_stages import stage_asks
from vram_planner.engines.vllm_weights import as_held, plain_name
from vram_planner.errors import ParallelError, RequestError, UnsupportedArchitectureError
from vram_planner.units import ceil_div, round_up

if TYPE_CHECKING:
    from vram_planner.architecture.model import Layer
    from vram_planner.architecture.weight import Weight
    from vram_planner.engines.base import Ask
    from vram_planner.engines.vllm_setting import Setting

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
DEFAULT_RANK = 16
_FAMILIES = Path(__file__).parent / "families" / "vllm_lora.json"
_MOST_VOCABULARY = 258_048
_LONG, _INT = 8, 4
_INPUTS_CUT = frozenset({"o_proj", "out_proj", "down_proj", "output", "experts.down"})
_MATRICES = (Role.LINEAR, Role.ROUTER)
# MambaMixer2: gate, inputs, B, C, dt; and inputs, B, C of the convolution, each with an A of its own.
_MAMBA2_PARTS = {"in_proj": 5, "conv1d": 3}


class _Slots(NamedTuple):
    """How many adapters, of which rank, and over how many ranks they are cut."""

    loras: int
    rank: int
    tp: int
    sharded: bool

    @property
    def cut_rank(self) -> int:
        """The part of the adapter's rank that one GPU holds of a matrix cut along its outputs."""
        return self.rank // self.tp if self.sharded else self.rank


@lru_cache(maxsize=1)
def _families() -> dict[str, list[str]]:
    known: dict[str, list[str]] = json.loads(_FAMILIES.read_text(encoding="utf-8"))
    return known


def lora_parts(ask: Ask, setting: Setting) -> tuple[Part, ...]:
    """The part `lora`, none where no slot was asked for. Raises what `check_lora` does."""
    if not ask.options.max_loras:
        return ()
    check_lora(ask)
    buffers, metadata = max(map(lora_bytes, stage_asks(ask))) + _tables(ask), metadata_bytes(ask, setting)
    slots, rank = ask.options.max_loras, ask.options.max_lora_rank or DEFAULT_RANK
    return (
        Part(
            name="lora",
            n_bytes=buffers + metadata,
            basis=Basis.FORMULA,
            source="https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/lora/layers",
            detail=f"{slots} slots of rank {rank}: A and B of every matrix {buffers:,} B + which token has which"
            f" adapter {metadata:,} B",
        ),
    )


def check_lora(ask: Ask) -> None:
    """
    Refuse what vLLM refuses: ranks it has not, families without LoRA, a vocabulary too large for the head's adapter.

    Source: vLLM 0.32 config/lora.py, MaxLoRARanks; lora/layers/logits_processor.py; fused_moe.py, _verify_ep_fs.
    """
    rank, family = ask.options.max_lora_rank or DEFAULT_RANK, ask.architecture.model_type
    if rank not in RANKS:
        raise RequestError(f"vLLM has no LoRA rank {rank}", hint=f"one of {', '.join(map(str, RANKS))}")
    tables = any(weight.role is Role.EMBEDDING for weight in ask.architecture.embedding_extras)
    if tables or (family not in _families()["known"] and not _by_fallback(ask)):
        raise UnsupportedArchitectureError(
            f"LoRA slots of {family} are not known: vLLM has none, or ours were not checked against its own",
            hint="leave --max-loras out; docs/explanation/vllm.md lists the families",
        )
    if family in _families()["head"] and ask.architecture.vocabulary > _MOST_VOCABULARY:
        raise RequestError(
            f"vLLM adapts the head of {family} up to {_MOST_VOCABULARY:,} tokens, not"
            f" {ask.architecture.vocabulary:,}",
            hint="leave --max-loras out",
        )
    experts = any(
        weight.role is Role.EXPERT for layer, _ in ask.architecture.groups for weight in layer.weights
    )
    if not ask.options.fully_sharded_loras:
        return
    if rank % ask.layout.tp:
        raise ParallelError(
            f"rank {rank} cannot be cut into {ask.layout.tp}", hint="a larger --max-lora-rank"
        )
    if experts and ask.layout.expert_parallel:
        raise ParallelError("vLLM has no fully sharded LoRA beside --ep", hint="leave one of the two out")


def _by_fallback(ask: Ask) -> bool:
    """Whether vLLM runs the family through transformers' code, where every linear layer takes adapters."""
    served = how_served("vllm", "vLLM", ask.architecture.model_type, ask.options.version)
    return served.warning is not None and not ask.architecture.states


def lora_bytes(ask: Ask) -> int:
    """
    A and B of every matrix of the layers, for all slots, on one rank.

        L slots · r rank · b bytes · (in + out) of a matrix that every rank holds whole
        cut along outputs   A r·in (r/tp when fully sharded)    B out/tp·r
        cut along inputs    A r·in/tp                           B out·r (out/tp when fully sharded)
        experts             the same for each of those on the rank; 4 B for each slot and one more

    Each part of a matrix that vLLM fuses (q, k, v; gate and up) has an A of its own, unless checkpoints of the
    family have it fused already. Norms, and what joins two streams, have none.
    Source: vLLM 0.32 lora/layers/base_linear.py, column_parallel_linear.py, row_parallel_linear.py, fused_moe.py:
    the buffers that it makes on the meta device are equal.
    """
    slots, families = _slots(ask), _families()
    model, precision = as_held(ask.architecture, ask.precision, ask.layout)
    fused = model.model_type in families["fused_experts"]
    total = 0
    for layer, count in model.groups:
        experts = [weight for weight in layer.weights if weight.role is Role.EXPERT]
        padded = [_padded(weight, ask) for weight in experts]
        numbers = sum(_expert(weight, slots, ask) for weight in padded)
        numbers -= _one_a_for_both(padded, slots, ask) if experts and fused else 0
        numbers += sum(_matrix(weight, slots) for weight in layer.weights if _is_adapted(weight, layer))
        numbers += slots.cut_rank * _more_inputs(layer, model.model_type, by_fallback=_by_fallback(ask))
        flags = (slots.loras + 1) * _INT if experts else 0
        total += count * (numbers * slots.loras * precision.element_bytes + flags)
    return total


def _is_adapted(weight: Weight, layer: Layer) -> bool:
    """Linear layers, convolutions, and routers, but not those of experts without gates (model_manager.py)."""
    if weight.role is Role.ROUTER and getattr(layer.feed_forward, "gated", True) is False:
        return False
    return weight.role in _MATRICES or plain_name(weight) == "conv1d"


def _slots(ask: Ask) -> _Slots:
    options = ask.options
    return _Slots(
        loras=options.max_loras or 0,
        rank=options.max_lora_rank or DEFAULT_RANK,
        tp=ask.layout.tp,
        sharded=options.fully_sharded_loras,
    )


def _matrix(weight: Weight, slots: _Slots) -> int:
    """Numbers of A and B of one matrix; a convolution is one of its channels by its kernel."""
    name = plain_name(weight)
    rows, columns = (weight.shape[0], weight.shape[-1]) if name == "conv1d" else weight.shape[-2:]
    if weight.units == 1 and not isinstance(weight, MixedWeight):
        return slots.rank * (rows + columns)
    pieces, of = weight.share(slots.tp)
    if name.rpartition(".")[2] in _INPUTS_CUT:
        out = rows // slots.tp if slots.sharded else rows
        return slots.rank * (columns * pieces // of + out)
    return slots.cut_rank * columns + rows * pieces // of * slots.rank


def _more_inputs(layer: Layer, family: str, *, by_fallback: bool) -> int:
    """Inputs of the A's that there are beyond one a tensor of ours (fewer: below none)."""
    families, total = _families(), 0
    by_name = {plain_name(weight): weight for weight in layer.weights}
    for name, weight in by_name.items():
        last, columns = name.rpartition(".")[2], weight.shape[-1]
        if last in ("qkv_proj", "query_key_value") and not by_fallback:
            total += 0 if family in families["one_qkv"] else 2 * columns
        if last == "gate_up_proj" and not by_fallback:
            total += 0 if family in families["one_gate_up"] else columns
        if last in ("k_proj", "v_proj"):
            total -= columns if family in families["one_qkv"] else 0
        if last == "up_proj" and name.replace("up_proj", "gate_proj") in by_name:
            total -= columns if family in families["one_gate_up"] else 0
        if isinstance(_recurrent(layer), Mamba2) and last in _MAMBA2_PARTS:
            total += (_MAMBA2_PARTS[last] - 1) * columns
    return total


def _recurrent(layer: Layer) -> object:
    return getattr(layer.mixer, "recurrent", layer.mixer)


def _padded(expert: Weight, ask: Ask) -> Weight:
    """MXFP4 experts are padded by their kernel, and so are their adapters: width to 128 on a rank, stream to 256."""
    if ask.precision.weight_bytes(expert, Place(ask.architecture, None)) != MXFP4.nbytes(expert):
        return expert
    stack, rows, columns = expert.shape
    tp = 1 if ask.layout.expert_parallel else ask.layout.expert_tp
    width, stream = (columns, rows) if expert.name in _INPUTS_CUT else (rows, columns)
    wide, tall = round_up(width // tp, 128) * tp, round_up(stream, 256)
    shape = (stack, tall, wide) if expert.name in _INPUTS_CUT else (stack, wide, tall)
    return replace(expert, shape=shape)


def _expert(weight: Weight, slots: _Slots, ask: Ask) -> int:
    stack, rows, columns = weight.shape
    tp = 1 if ask.layout.expert_parallel else ask.layout.expert_tp
    count = ceil_div(stack, ask.layout.expert_ranks)
    if weight.name in _INPUTS_CUT:
        out = rows // tp if slots.sharded else rows
        return count * slots.rank * (columns // tp + out)
    rank = slots.rank // tp if slots.sharded else slots.rank
    return count * (rank * columns + rows // tp * slots.rank)


def _one_a_for_both(experts: list[Weight], slots: _Slots, ask: Ask) -> int:
    """Families whose adapters come with gate and up as one matrix have one A for the two."""
    up = next(weight for weight in experts if weight.name == "experts.up")
    tp = 1 if ask.layout.expert_parallel else ask.layout.expert_tp
    rank = slots.rank // tp if slots.sharded else slots.rank
    return ceil_div(up.shape[0], ask.layout.expert_ranks) * rank * up.columns


def _tables(ask: Ask) -> int:
    """
    Of families whose embedding and head are adapted: A V·r + B H·r, A r·H + B V·r, whole on every rank.

    Under tensor parallelism also an index of the padded vocabulary, of 8 bytes each.
    Source: vLLM 0.32 lora/layers/vocab_parallel_embedding.py, logits_processor.py.
    """
    model, slots, family = ask.architecture, _slots(ask), ask.architecture.model_type
    one = slots.loras * slots.rank * (model.vocabulary + model.hidden) * ask.precision.element_bytes
    total = one if family in _families()["embedding"] or _by_fallback(ask) else 0
    if family in _families()["head"]:
        total += one
        if slots.tp > 1:
            total += _LONG * padded_vocabulary(model.vocabulary, 64)
    return total


def metadata_bytes(ask: Ask, setting: Setting) -> int:
    """
    T tokens, S requests, L slots: 4·T·8 + 3·S·8 + 2·(2·T·4 + (2·(L + 1) + L + 2)·4).

    Source: vLLM 0.32 lora/punica_wrapper/punica_base.py, lora/ops/triton_ops/lora_kernel_metadata.py.
    """
    loras, tokens = ask.options.max_loras or 0, setting.tokens
    kernel = 2 * tokens * _INT + (2 * (loras + 1) + loras + 2) * _INT
    return 4 * tokens * _LONG + 3 * setting.requests * _LONG + 2 * kernel
