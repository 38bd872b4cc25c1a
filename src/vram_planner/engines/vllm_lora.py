"""vLLM's slots for LoRA adapters: buffers as large as the largest adapter, allocated when the model is loaded."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.parallel import padded_vocabulary
from vram_planner.architecture.weight import Role
from vram_planner.basis import Basis, Part
from vram_planner.engines.vllm_stages import stage_asks
from vram_planner.errors import ParallelError, RequestError, UnsupportedArchitectureError
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.weight import Weight
    from vram_planner.engines.base import Ask
    from vram_planner.engines.vllm_setting import Setting

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
DEFAULT_RANK = 16
_FAMILIES = Path(__file__).parent / "families" / "vllm_lora.json"
_MOST_VOCABULARY = 258_048
_LONG, _INT = 8, 4
_INPUTS_CUT = frozenset({"o_proj", "out_proj", "down_proj", "output", "experts.down"})
_MATRICES = (Role.LINEAR, Role.EXPERT, Role.ROUTER)


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
    if family not in _families()["known"]:
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
    experts = any(weight.role is Role.EXPERT for layer, _ in ask.architecture.groups for weight in layer.weights)
    if not ask.options.fully_sharded_loras:
        return
    if rank % ask.layout.tp:
        raise ParallelError(f"rank {rank} cannot be cut into {ask.layout.tp}", hint="a larger --max-lora-rank")
    if experts and ask.layout.expert_parallel:
        raise ParallelError("vLLM has no fully sharded LoRA beside --ep", hint="leave one of the two out")


def lora_bytes(ask: Ask) -> int:
    """
    A and B of every matrix of the layers, for all slots, on one rank.

        L slots · r rank · b bytes · (in + out) of a matrix that every rank holds whole
        cut along outputs   A r·in (r/tp when fully sharded)    B out/tp·r
        cut along inputs    A r·in/tp                           B out·r (out/tp when fully sharded)
        experts             the same for each of those on the rank; 4 B for each slot and one more

    Norms and what joins two streams have none. Source: vLLM 0.32 lora/layers/base_linear.py,
    column_parallel_linear.py, row_parallel_linear.py, fused_moe.py: its own buffers on the meta device are equal.
    """
    slots = _slots(ask)
    fused = ask.architecture.model_type in _families()["fused"]
    total = 0
    for layer, count in ask.architecture.groups:
        numbers = sum(_matrix(weight, slots, ask) for weight in layer.weights if weight.role in _MATRICES)
        experts = [weight for weight in layer.weights if weight.role is Role.EXPERT]
        if experts and fused:
            numbers -= _one_a_for_both(experts, slots, ask)
        flags = (slots.loras + 1) * _INT if experts else 0
        total += count * (numbers * slots.loras * ask.precision.element_bytes + flags)
    return total


def _slots(ask: Ask) -> _Slots:
    options = ask.options
    return _Slots(
        loras=options.max_loras or 0,
        rank=options.max_lora_rank or DEFAULT_RANK,
        tp=ask.layout.tp,
        sharded=options.fully_sharded_loras,
    )


def _matrix(weight: Weight, slots: _Slots, ask: Ask) -> int:
    """Numbers of A and B of one matrix, of each expert on the rank."""
    if weight.role is Role.EXPERT:
        return _expert(weight, slots, ask)
    rows, columns = weight.shape[-2:]
    if weight.units == 1:
        return slots.rank * (rows + columns)
    pieces, of = weight.share(slots.tp)
    if weight.name.rpartition(".")[2] in _INPUTS_CUT:
        out = rows // slots.tp if slots.sharded else rows
        return slots.rank * (columns * pieces // of + out)
    return slots.cut_rank * columns + rows * pieces // of * slots.rank


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
    total = one if family in _families()["embedding"] else 0
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

