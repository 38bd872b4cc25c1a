"""A layout in words: how many servers, what joins them, what is shared out and what is copied, and which sizes are valid."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vram_planner.architecture.parallel import Layout, valid_tp
from vram_planner.hardware_profiles.links import link_inside
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.base import Ask, Engine
    from vram_planner.hardware_profiles import GpuChoice

_GB = 10**9


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LayoutFacts:
    """
    How the ranks lie. `nodes` and `per_node` are servers, or NVLink domains; None while no card is named.

    `inside` and `between` name the links, None where nothing crosses them. `shards` and `replicates` say what each rank has
    a part of and what it holds again; `valid_tp` are the sizes that the model can be cut into, `most_pp` its layers.
    """

    tp: int
    pp: int
    dp: int
    ep: int
    attention_dp: int
    nodes: int | None
    per_node: int | None
    inside: str | None
    between: str | None
    shards: tuple[str, ...]
    replicates: tuple[str, ...]
    valid_tp: tuple[int, ...]
    most_pp: int

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON of a plan."""
        return asdict(self)


def layout_facts(chosen: Engine, ask: Ask, choice: GpuChoice | None, replicated_ranks: int) -> LayoutFacts:
    """The layout of an ask on a card; `replicated_ranks` is on how many ranks each byte of the cache lies."""
    layout, architecture = ask.layout, ask.architecture
    ep = _expert_ranks(layout, shared=chosen.name == "vllm")
    size = choice.servers.size_of(choice.gpu) if choice else 1
    nodes = nodes_of(layout, size) if choice else None
    inside = choice is not None and layout.gpus > 1 and min(layout.gpus, size) > 1
    return LayoutFacts(
        tp=layout.tp,
        pp=layout.pp,
        dp=layout.dp,
        ep=ep,
        attention_dp=layout.attention_dp,
        nodes=nodes,
        per_node=min(size, layout.gpus) if choice else None,
        inside=link_inside(choice.gpu, _joined(layout, size)).name if inside and choice else None,
        between=choice.servers.network_of(choice.gpu).name if choice and nodes and nodes > 1 else None,
        shards=tuple(_shards(architecture, layout, ep)),
        replicates=tuple(_replicates(layout, ep, replicated_ranks)),
        valid_tp=valid_tp(architecture) if chosen.splits_tensors else (1,),
        most_pp=len(architecture.layers),
    )


def nodes_of(layout: Layout, size: int) -> int:
    """
    Servers of `size` cards that the ranks need: whole tensor parallel groups in each, as launchers place them.

    A group larger than a server takes ⌈tp / size⌉ of them.
    """
    groups = layout.pp * layout.dp
    if layout.gpus <= size:
        return 1
    return groups * ceil_div(layout.tp, size) if layout.tp > size else ceil_div(groups, size // layout.tp)


def _joined(layout: Layout, size: int) -> int:
    return min(size, layout.tp if layout.tp > 1 else layout.gpus)


def _expert_ranks(layout: Layout, *, shared: bool) -> int:
    if not layout.expert_parallel:
        return 1
    return layout.expert_ranks if shared else layout.tp


def _shards(architecture: Architecture, layout: Layout, ep: int) -> list[str]:
    found = []
    if layout.attention_tp > 1:
        found.append(f"attention heads and embedding over {layout.attention_tp} ranks")
    if layout.tp > 1:
        found.append(f"MLP and output head over {layout.tp} ranks")
    routed = any(layer.feed_forward.active_share != (1, 1) for layer, _ in architecture.groups)
    if routed and ep > 1:
        found.append(f"whole experts over {ep} ranks")
    elif routed and layout.tp > 1:
        found.append(f"each expert over {layout.tp} ranks")
    if layout.pp > 1:
        found.append(f"layers over {layout.pp} stages")
    groups = layout.dp * layout.attention_dp
    if groups > 1:
        found.append(f"requests and their cache over {groups} groups")
    return found


def _replicates(layout: Layout, ep: int, replicated_ranks: int) -> list[str]:
    found = []
    if layout.tp > 1:
        found.append(f"norms and routers on all {layout.tp} ranks")
    if replicated_ranks > 1:
        found.append(f"each byte of the cache on {replicated_ranks} ranks")
    if layout.attention_dp > 1:
        found.append(f"attention in {layout.attention_dp} groups")
    if layout.dp > 1:
        kept = "all but the experts" if ep > layout.tp else "the whole model"
        found.append(f"{kept} in {layout.dp} replicas")
    return found


def crossing(chosen: Engine, ask: Ask, choice: GpuChoice) -> tuple[str, ...]:
    """That tensor parallelism leaves a server, and the layout that stays inside; nothing where it does not."""
    layout, size = ask.layout, choice.servers.size_of(choice.gpu)
    if layout.tp <= size or not chosen.splits_tensors:
        return ()
    inside, network = link_inside(choice.gpu, size), choice.servers.network_of(choice.gpu)
    speed = f", not {inside.bytes_per_s / _GB:.0f} GB/s {inside.name}" if size > 1 else ""
    text = (
        f"tensor parallel {layout.tp} crosses {ceil_div(layout.tp, size)} servers of {size}: every layer waits for {network.name} "
        f"at {network.bytes_per_s / _GB:g} GB/s{speed}"
    )
    return (text + _instead(chosen, ask, size),)


def _instead(chosen: Engine, ask: Ask, size: int) -> str:
    layout, architecture = ask.layout, ask.architecture
    fitting = [tp for tp in valid_tp(architecture) if tp <= size and layout.tp % tp == 0]
    tp = max(fitting, default=1)
    pp = layout.pp * (layout.tp // tp)
    if pp > len(architecture.layers):
        return ""
    text = f"; --tp {tp} --pp {pp} stays inside"
    if chosen.name == "vllm" and any(
        layer.feed_forward.active_share != (1, 1) for layer, _ in architecture.groups
    ):
        text += f", and so does attention with --tp {tp} --dp {layout.dp * layout.tp // tp} --ep"
    return text
