"""What the tensor-parallel engines check and share out alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.architecture.parallel import valid_tp, why_not_tp
from vram_planner.errors import ParallelError, RequestError
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask, Device


def check_layout(ask: Ask) -> None:
    """Refuse ranks that divide neither heads nor vocabulary, with the valid sizes, and empty stages."""
    tp = ask.layout.tp
    reason = why_not_tp(ask.architecture, tp)
    if reason is not None:
        valid = ", ".join(map(str, valid_tp(ask.architecture)))
        raise ParallelError(f"tensor parallel {tp} does not divide {reason}", hint=f"valid sizes: {valid}")
    n_layers = len(ask.architecture.layers)
    if ask.layout.pp > n_layers:
        raise ParallelError(
            f"{ask.layout.pp} pipeline stages for {n_layers} layers", hint=f"at most --pp {n_layers}"
        )


def per_replica(ask: Ask) -> int:
    """Requests that the busiest of the data-parallel replicas serves."""
    return ceil_div(ask.workload.concurrency, ask.layout.dp)


def named_device(ask: Ask) -> Device:
    """The card of the ask; RequestError where none was named."""
    if ask.device is None:
        raise RequestError("a capacity needs a card", hint="name one with --gpu")
    return ask.device


def replica_warning(ask: Ask) -> tuple[str, ...]:
    """That capacity is one replica's, where there are several."""
    if ask.layout.dp == 1:
        return ()
    text = (
        f"capacity is that of one of {ask.layout.dp} data-parallel replicas, as each logs it;"
        f" a replica gets {per_replica(ask)} of {ask.workload.concurrency} requests"
    )
    return (text,)
