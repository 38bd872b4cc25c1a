"""What the tensor-parallel engines check and share out alike."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import valid_tp, why_not_layout
from vram_planner.errors import ParallelError, RequestError
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.parallel import Layout
    from vram_planner.engines.base import Ask, Device


def check_layout(ask: Ask) -> None:
    """Refuse ranks that divide neither heads nor vocabulary, with the valid sizes, and empty stages."""
    tp, groups = ask.layout.tp, ask.layout.attention_dp
    if tp % groups:
        raise ParallelError(
            f"{groups} groups of attention do not divide the {tp} tensor parallel ranks",
            hint="with --dp-attention, --dp divides --tp: the GPUs are --tp × --pp",
        )
    reason = why_not_layout(ask.architecture, ask.layout)
    if reason is not None:
        valid = ", ".join(map(str, valid_tp(ask.architecture)))
        cut = f"tensor parallel {tp}" if groups == 1 else f"attention over {ask.layout.attention_tp} ranks"
        raise ParallelError(f"{cut} does not divide {reason}", hint=f"valid sizes: {valid}")
    n_layers = len(ask.architecture.layers)
    if ask.layout.pp > n_layers:
        raise ParallelError(
            f"{ask.layout.pp} pipeline stages for {n_layers} layers", hint=f"at most --pp {n_layers}"
        )


def per_replica(ask: Ask) -> int:
    """Requests that the busiest of the data-parallel replicas, or groups of attention, serves."""
    return ceil_div(ask.workload.concurrency, ask.layout.dp * ask.layout.attention_dp)


def replica(ask: Ask) -> Layout:
    """The ranks of one replica: with SGLang and TensorRT-LLM replicas share no experts, as vLLM's do."""
    return replace(ask.layout, dp=1)


def named_device(ask: Ask) -> Device:
    """The card of the ask; RequestError where none was named."""
    if ask.device is None:
        raise RequestError("a capacity needs a card", hint="name one with --gpu")
    return ask.device


def replica_warning(ask: Ask) -> tuple[str, ...]:
    """That capacity is one replica's, where there are several."""
    parts = ask.layout.dp * ask.layout.attention_dp
    if parts == 1:
        return ()
    text = (
        f"capacity is that of one of {parts} data-parallel replicas, as each logs it;"
        f" a replica gets {per_replica(ask)} of {ask.workload.concurrency} requests"
    )
    return (text,)
