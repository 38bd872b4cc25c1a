"""
How ggml lays out the tensors of a graph in one buffer: a model of its graph allocator.

Tensors are placed in the order of the graph, each into the smallest free gap that holds it, and given back
after their last use; some operations write over their input. What counts is the highest address.
Source: llama.cpp b11434, ggml/src/ggml-alloc.c (ggml_gallocr_allocate_node, ggml_dyn_tallocr_alloc).
"""

from __future__ import annotations

_ALIGNMENT = 128
_ENDLESS = 1 << 62


class Graph:
    """
    The tensors of a graph, in the order in which they are computed.

    A tensor is a number. Views are no tensors of their own here: what reads a view reads the tensor behind it.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._sources: list[tuple[int, ...]] = []
        self._over: list[tuple[int, ...]] = []
        self._kept: set[int] = set()

    def tensor(self, n_bytes: int, *sources: int, over: tuple[int, ...] = ()) -> int:
        """A tensor computed from others; `over` names those that it may be written over, in order."""
        self._sizes.append(-(-n_bytes // _ALIGNMENT) * _ALIGNMENT)
        self._sources.append(sources)
        self._over.append(over)
        return len(self._sizes) - 1

    def size(self, tensor: int) -> int:
        """Bytes of a tensor, aligned."""
        return self._sizes[tensor]

    def use(self, *sources: int) -> None:
        """Something that reads tensors and writes elsewhere (the cache), or that only keeps them until here."""
        self.tensor(0, *sources)

    def keep(self, tensor: int) -> None:
        """Never give this one back: a graph input or output."""
        self._kept.add(tensor)

    def in_place(self, tensor: int, *others: int) -> int:
        """An operation that may write over its first operand."""
        return self.tensor(self._sizes[tensor], tensor, *others, over=(tensor,))

    def peak(self) -> int:
        """Bytes of the buffer."""
        readers = [0] * len(self._sizes)
        for sources in self._sources:
            for source in sources:
                readers[source] += 1
        gaps = _Gaps()
        offsets = [0] * len(self._sizes)
        owned = [False] * len(self._sizes)
        for node, size in enumerate(self._sizes):
            if size:
                offsets[node] = self._place(node, readers, offsets, owned, gaps)
                owned[node] = True
            for source in self._sources[node]:
                readers[source] -= 1
                if readers[source] == 0 and owned[source] and source not in self._kept:
                    gaps.give_back(offsets[source], self._sizes[source])
                    owned[source] = False
        return gaps.highest

    def _place(
        self, node: int, readers: list[int], offsets: list[int], owned: list[bool], gaps: _Gaps
    ) -> int:
        size = self._sizes[node]
        for other in self._over[node]:
            if (
                owned[other]
                and readers[other] == 1
                and other not in self._kept
                and self._sizes[other] >= size
            ):
                owned[other] = False
                if self._sizes[other] > size:
                    gaps.give_back(offsets[other] + size, self._sizes[other] - size)
                return offsets[other]
        return gaps.take(size)


class _Gaps:
    """The free parts of the buffer, by address; the last one has no end."""

    def __init__(self) -> None:
        self._offsets = [0]
        self._sizes = [_ENDLESS]
        self.highest = 0

    def take(self, size: int) -> int:
        """The address of that many bytes: the best fitting gap, the later one of equals, else the end."""
        best, best_size = len(self._sizes) - 1, _ENDLESS + 1
        for index in range(len(self._sizes) - 1):
            if size <= self._sizes[index] <= best_size:
                best, best_size = index, self._sizes[index]
        offset = self._offsets[best]
        self._offsets[best] += size
        self._sizes[best] -= size
        if self._sizes[best] == 0:
            del self._offsets[best], self._sizes[best]
        self.highest = max(self.highest, offset + size)
        return offset

    def give_back(self, offset: int, size: int) -> None:
        """Free a range, joined with the gaps on both sides."""
        at = 0
        while self._offsets[at] < offset:
            at += 1
        joins_next = self._offsets[at] == offset + size
        if at and self._offsets[at - 1] + self._sizes[at - 1] == offset:
            self._sizes[at - 1] += size
            if joins_next:
                self._sizes[at - 1] += self._sizes[at]
                del self._offsets[at], self._sizes[at]
        elif joins_next:
            self._offsets[at] = offset
            self._sizes[at] += size
        else:
            self._offsets.insert(at, offset)
            self._sizes.insert(at, size)
