"""
ggml's scheduler: which GPU works out which node of a graph, what is copied between them, and the buffer that each needs.

A node runs where its weights lie, and on the first GPU if that is the host; what has none goes with its neighbours; where
the device changes, or a matrix comes from elsewhere, a new split begins, and what it reads of others is copied first.
Source (b11434): ggml/src/ggml-backend.cpp, ggml_backend_sched_backend_id_from_cur and ggml_backend_sched_split_graph.
"""

from __future__ import annotations

from typing import NamedTuple

from vram_planner.engines.llama_cpp_alloc import Gaps, Graph

_HOST = -1
_FIRST_GPU = 0


class _Entry(NamedTuple):
    """A step of the order: a node or a copy that takes room on a device, or (`made` False) the last use of its source."""

    tensor: int
    device: int
    sources: tuple[int, ...]
    over: tuple[int, ...]
    made: bool


class Schedule(Graph):
    """The graph of a whole model over several GPUs. `home` is the GPU of the layer that is being written."""

    def __init__(self) -> None:
        super().__init__()
        self.home = _FIRST_GPU
        self._devices: dict[int, int] = {}
        self._weights: dict[int, int] = {}
        self._on_host: set[int] = set()
        self._marks: set[int] = set()

    def on_host(self, n_bytes: int) -> int:
        """An input, which the host has."""
        tensor = self.tensor(n_bytes)
        self._placed[tensor] = True
        self._on_host.add(tensor)
        if n_bytes == 0:
            self._empty.add(tensor)
        return tensor

    def weight(self, n_bytes: int, device: int) -> int:
        """A tensor of the model on that device."""
        tensor = self.tensor(n_bytes)
        self._placed[tensor] = True
        self._weights[tensor] = device
        return tensor

    def tell(self, tensor: int) -> None:
        """Have this node run on the GPU of its layer."""
        self._devices[tensor] = self.home

    def leaf(self, n_bytes: int) -> int:
        """See `Graph.leaf`."""
        leaf = super().leaf(n_bytes)
        self._devices[leaf] = self.home
        return leaf

    def store(self, *sources: int) -> None:
        """See `Graph.store`: the cache is on the GPU of its layer."""
        stored = self.tensor(0, *sources)
        self.tell(stored)
        self.expand(stored)

    def use(self, *sources: int) -> None:
        """See `Graph.use`; no node of its own."""
        mark = self.tensor(0, *sources)
        self._marks.add(mark)
        self.expand(mark)

    def peaks(self, gpus: int) -> tuple[int, ...]:
        """Bytes of each GPU's buffer."""
        self._assign()
        order = self._order()
        readers: dict[int, int] = {}
        for entry in order:
            for source in entry.sources:
                readers[source] = readers.get(source, 0) + 1
        gaps = [Gaps() for _ in range(gpus)]
        offsets: dict[int, tuple[int, int]] = {}  # tensor -> device, address
        for entry in order:
            if entry.made and (self._sizes[entry.tensor] or entry.tensor in self._empty):
                offsets[entry.tensor] = (entry.device, self._put(entry, readers, offsets, gaps))
            for source in entry.sources:
                readers[source] -= 1
                if readers[source] == 0 and source in offsets and source not in self._kept:
                    device, offset = offsets.pop(source)
                    gaps[device].give_back(offset, self._sizes[source])
        return tuple(one.highest for one in gaps)

    def _put(
        self, entry: _Entry, readers: dict[int, int], offsets: dict[int, tuple[int, int]], gaps: list[Gaps]
    ) -> int:
        size = self._sizes[entry.tensor]
        for other in entry.over:
            if other not in offsets or readers.get(other) != 1 or other in self._kept:
                continue
            device, offset = offsets[other]
            if device != entry.device or self._sizes[other] < size:
                continue
            del offsets[other]
            if self._sizes[other] > size:
                gaps[device].give_back(offset + size, self._sizes[other] - size)
            return offset
        return gaps[entry.device].take(size)

    def _assign(self) -> None:
        """Passes 1 and 2: by weights, then GPUs expand down, and up where nothing stands before."""
        devices = self._devices
        nodes = [node for node in self._nodes if node not in self._marks]
        for node in nodes:
            held = next((self._weights[one] for one in self._sources[node] if one in self._weights), None)
            if node not in devices and held is not None:
                devices[node] = _FIRST_GPU if held == _HOST else held
        for ordered in (nodes, reversed(nodes)):
            current = None
            for node in ordered:
                current = devices.get(node, current)
                if current is not None:
                    devices[node] = current
        for mark in self._marks:
            devices[mark] = next((devices[one] for one in self._sources[mark] if one in devices), _FIRST_GPU)

    def _at(self, tensor: int) -> int:
        if tensor in self._on_host:
            return _HOST
        return self._weights.get(tensor, self._devices.get(tensor, _FIRST_GPU))

    def _order(self) -> list[_Entry]:
        """Pass 5: splits, each with its copies before its nodes."""
        order = [_Entry(leaf, self._devices[leaf], (), (), made=True) for leaf in self._leaves]
        copies: dict[tuple[int, int], int] = {}
        arrivals: list[_Entry] = []
        nodes: list[_Entry] = []
        current = None
        for node in tuple(self._nodes):
            device, sources = self._devices[node], self._sources[node]
            if node in self._marks:
                nodes.append(_Entry(node, device, tuple(self._held(sources)), (), made=False))
                continue
            far = any(one in self._weights and self._weights[one] != device for one in sources)
            if device != current or (far and arrivals):
                order += (*arrivals, *nodes)
                arrivals, nodes, current = [], [], device
            read = {}
            for source in sources:
                place = self._at(source)
                if place == device:
                    continue
                if (source, device) not in copies:
                    copy = copies[source, device] = self._copy(source)
                    if source not in self._on_host and source not in self._weights:
                        arrivals.append(_Entry(source, place, (source,), (), made=False))
                    arrivals.append(_Entry(copy, device, (), (), made=True))
                read[source] = copies[source, device]
            own = tuple(read.get(one, one) for one in sources)
            over = tuple(read.get(one, one) for one in self._over[node])
            nodes.append(_Entry(node, device, tuple(self._held(own)), over, made=True))
        return [*order, *arrivals, *nodes]

    def _copy(self, source: int) -> int:
        copy = self.tensor(self._sizes[source])
        if source in self._empty:
            self._empty.add(copy)
        return copy

    def _held(self, sources: tuple[int, ...]) -> list[int]:
        """Those that take room in a GPU's compute buffer."""
        return [one for one in sources if one not in self._on_host and one not in self._weights]
