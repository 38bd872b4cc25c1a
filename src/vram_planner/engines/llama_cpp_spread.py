"""llama.cpp's compute buffers where the tensors of a layer lie on other devices than the layer, and several GPUs work."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.cross import BlockSparse
from vram_planner.engines.llama_cpp_graph import GraphBuilder
from vram_planner.engines.llama_cpp_layout import HOST, copied_weights, device_of
from vram_planner.engines.llama_cpp_overrides import moved
from vram_planner.engines.llama_cpp_schedule import Schedule
from vram_planner.engines.llama_cpp_stage import Stage, Step, turns
from vram_planner.engines.llama_cpp_writer import Writer
from vram_planner.errors import RequestError
from vram_planner.units import round_up

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.gguf import GgufMix
    from vram_planner.architecture.model import Architecture, Layer
    from vram_planner.engines.llama_cpp_layout import Setting

_HOST_ALIGNMENT = 32


class Lies(NamedTuple):
    """A layer, or the output (None), the GPU it belongs to, its tensors' bytes, and those that lie elsewhere."""

    layer: Layer | None
    home: int
    sizes: Mapping[str, int]
    places: Mapping[str, int]
    turns: bool = True


class SpreadWriter(Writer):
    """Writes one graph for all GPUs: inputs and weights are named with their place, the scheduler copies them."""

    def __init__(self, architecture: Architecture, setting: Setting, host_inputs: dict[str, int]) -> None:
        super().__init__(architecture, setting, host_inputs)
        self.graph: Schedule = Schedule()
        self._lies: Lies | None = None

    def enter(self, lies: Lies) -> None:
        """Go on with the next layer, or the output."""
        self._lies = lies
        self.graph.home, self.layer_turns = lies.home, lies.turns

    def input(self, name: str, n_bytes: int) -> int:
        """An input on the host."""
        if name not in self._inputs:
            self.host_inputs[name] = round_up(n_bytes, _HOST_ALIGNMENT)
            self._inputs[name] = self.graph.on_host(n_bytes)
        return self._inputs[name]

    def arrival(self, n_bytes: int) -> int:
        """What the host worked out: the embedded tokens."""
        return self.graph.on_host(n_bytes)

    def weight(self, *names: str, view: bool = False) -> tuple[int, ...]:
        """A tensor of the model, wherever it lies. A `view` of one is read like an input, and not at all at home."""
        if self._lies is None:
            return ()
        sizes = self._lies.sizes
        found = [name for name in names if name in sizes]
        if not found:
            return ()
        place = self._lies.places.get(found[0], self._lies.home)
        n_bytes = sum(sizes[name] for name in found)
        if not view:
            return (self.graph.weight(n_bytes, place),)
        return (self.graph.on_host(n_bytes),) if place == HOST else ()

    def told(self, node: int) -> None:
        """See `Writer.told`."""
        self.graph.tell(node)


def spread_bytes(architecture: Architecture, mix: GgufMix, setting: Setting) -> tuple[int, ...]:
    """
    Bytes of each GPU's compute buffer.

    Raises RequestError where layers or caches stay on the host beside that, or tensors of a recurrent layer lie elsewhere.
    """
    kept: dict[tuple[Setting, str], tuple[int, ...]] = vars(architecture).setdefault("_llama_cpp_spread", {})
    key = (setting, mix.name)
    if key not in kept:
        kept.clear()
        kept[key] = _Spread(architecture, setting).peaks(mix)
    return kept[key]


def is_spread(architecture: Architecture, mix: GgufMix, setting: Setting) -> bool:
    """
    Whether several GPUs work one after the other on layers whose tensors may lie elsewhere.

    With layers or caches on the host beside that: whether a tensor lies on another GPU than its layer, or on the host
    while its layer is not on the first GPU, which works with all that the host has.
    """
    if setting.gpus == 1 or not (setting.overrides or setting.moe_on_host):
        return False
    count = len(architecture.layers)
    if not setting.overrides and _chooses_blocks(architecture):
        return False
    if setting.all_on_gpus(count) and not setting.kv_on_host:
        return True
    if not setting.overrides:
        return False  # experts on the host beside layers or caches there: guests of the first GPU's stage
    for index in (*range(count), None):
        home = device_of(count if index is None else index, count, setting)
        places = moved(architecture, mix, setting, index).values()
        if any(place != HOST or home > 0 for place in places):
            return True
    return False


def _chooses_blocks(architecture: Architecture) -> bool:
    """Whether each GPU gets parts of the mask from the first (MiniMax-M3), which are views: no tensors of the schedule."""
    return any(isinstance(layer.mixer, BlockSparse) for layer, _ in architecture.groups)


class _Spread(GraphBuilder):
    def __init__(self, architecture: Architecture, setting: Setting) -> None:
        super().__init__(architecture, setting, {})
        self.writer: SpreadWriter = SpreadWriter(architecture, setting, {})
        self._setting = setting

    def peaks(self, mix: GgufMix) -> tuple[int, ...]:
        """Bytes of each GPU's buffer."""
        layers = self._lies(mix)
        self._check(layers)
        writer = self.writer
        writer.enter(layers[0])
        begun = () if layers[0].layer is None else (Step(layers[0].layer, {}, cache_on_host=False),)
        stream = self._begun(Stage(begun, first=True, last=False, output_copies={}))
        for index, lies in enumerate(layers):
            writer.enter(lies)
            if lies.layer is None:
                self._head(stream)
            else:
                stream = self._layer(lies.layer, stream, ends=index == len(layers) - 2)
        return writer.graph.peaks(self._setting.gpus)

    def _lies(self, mix: GgufMix) -> list[Lies]:
        architecture, setting, count = self._architecture, self._setting, len(self._architecture.layers)
        return [
            Lies(
                layer=None if index is None else architecture.layers[index],
                home=device_of(count if index is None else index, count, setting),
                sizes=copied_weights(architecture, mix, index),
                places=moved(architecture, mix, setting, index),
                turns=index is None or turns(architecture, index),
            )
            for index in (*range(count), None)
        ]

    def _check(self, layers: list[Lies]) -> None:
        if _chooses_blocks(self._architecture):
            raise RequestError(
                "tensors moved between several GPUs are not modelled for attention over chosen blocks",
                hint="leave out --override-tensor, or plan one GPU",
            )
        if self._setting.kv_on_host or any(lies.home == HOST for lies in layers):
            raise RequestError(
                "tensors moved between several GPUs are not modelled beside layers or caches on the host",
                hint="leave out --ngl and --no-kv-offload, or plan one GPU",
            )
        for lies in layers:
            mixer = None if lies.layer is None else lies.layer.mixer
            if mixer is not None and mixer.state is not None:
                names = {weight.name for weight in mixer.weights}
                if not names.isdisjoint(lies.places):
                    raise RequestError(
                        "tensors of recurrent layers moved between several GPUs are not modelled",
                        hint="write patterns for 'ffn' or 'exps' alone",
                    )
