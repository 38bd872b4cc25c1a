"""
How ggml orders a graph and lays out its tensors in one buffer: a model of its graph allocator.

Tensors are ordered as `ggml_build_forward_expand` does, what goes in before what comes out. In that order each
is placed into the smallest free gap that holds it, and given back after its last use; some operations write
over their input. What counts is the highest address.
Source: llama.cpp b11434, ggml/src/ggml.c (ggml_visit_parents), ggml/src/ggml-alloc.c (ggml_gallocr_allocate_node,
ggml_dyn_tallocr_alloc), ggml/src/ggml-backend.cpp (ggml_backend_sched_split_graph, pass 5).
"""

from __future__ import annotations

_ALIGNMENT = 128
_ENDLESS = 1 << 62


class Graph:
    """
    The part of a graph that one device computes.

    A tensor is a number. It takes its place in the order with the first `expand` that reaches it. Views are no
    tensors of their own here: what reads a view reads the tensor behind it. What is needed from other devices is
    copied at the start of a split; a matrix from another device starts a new split, so that its memory is free again
    soon.
    """

    def __init__(self, *, inputs_first: bool = False, alignment: int = _ALIGNMENT) -> None:
        self._inputs_first = inputs_first
        self._alignment = alignment
        self._sizes: list[int] = []
        self._sources: list[tuple[int, ...]] = []
        self._over: list[tuple[int, ...]] = []
        self._placed: list[bool] = []
        self._copies: set[int] = set()
        self._matrices: set[int] = set()
        self._kept: set[int] = set()
        self._empty: set[int] = set()
        self._leaves: list[int] = []
        self._before: list[int] = []
        self._inputs: list[int] = []
        self._nodes: list[int] = []

    def tensor(self, n_bytes: int, *sources: int, over: tuple[int, ...] = ()) -> int:
        """A tensor computed from others; `over` names those that it may be written over, in order."""
        self._sizes.append(-(-n_bytes // self._alignment) * self._alignment)
        self._sources.append(sources)
        self._over.append(over)
        self._placed.append(False)
        return len(self._sizes) - 1

    def copied(self, n_bytes: int, *, matrix: bool = False) -> int:
        """A copy of a tensor of another device, made at the start of the split that first reads it."""
        copy = self.tensor(n_bytes)
        self._copies.add(copy)
        if n_bytes == 0:
            self._empty.add(copy)
        if matrix:
            self._matrices.add(copy)
        return copy

    def leaf(self, n_bytes: int) -> int:
        """A tensor that nothing computes: it has its place from the start."""
        leaf = self.tensor(n_bytes)
        self._placed[leaf] = True
        self._leaves.append(leaf)
        return leaf

    def size(self, tensor: int) -> int:
        """Bytes of a tensor, aligned."""
        return self._sizes[tensor]

    def in_place(self, tensor: int, *others: int) -> int:
        """An operation that may write over its first operand."""
        return self.tensor(self._sizes[tensor], tensor, *others, over=(tensor,))

    def keep(self, tensor: int) -> None:
        """Never give this one back: a graph input or output."""
        self._kept.add(tensor)

    def use(self, *sources: int) -> None:
        """Something that reads tensors and writes elsewhere (the cache), or that only keeps them until here."""
        self.expand(self.tensor(0, *sources))

    def store(self, *sources: int) -> None:
        """Something that goes to the cache or to a state there."""
        self.use(*sources)

    def nothing(self, *sources: int) -> None:
        """A tensor of no size that takes an address for a moment, which can keep gaps apart."""
        empty = self.tensor(0, *sources)
        self._empty.add(empty)
        self.use(empty)

    def elsewhere(self, *sources: int) -> None:
        """Something that another device does with these tensors: what follows is another split."""
        self.use(*sources)
        self._cut()

    def expand(self, *tensors: int) -> None:
        """Put these in order, and before them what they are computed from."""
        for tensor in tensors:
            if self._placed[tensor]:
                continue
            self._placed[tensor] = True
            if tensor in self._copies:
                self._inputs.append(tensor)
                continue
            sources = self._sources[tensor]
            for source in sources:  # those that have their place are not asked again: most of them
                if not self._placed[source] and source not in self._copies:
                    self.expand(source)
            if self._inputs and not self._matrices.isdisjoint(sources):
                self._cut()
            for source in sources:
                if not self._placed[source]:
                    self.expand(source)
            self._nodes.append(tensor)

    def _cut(self) -> None:
        self._before += (*self._inputs, *self._nodes)
        self._inputs, self._nodes = [], []

    def peak(self) -> int:
        """Bytes of the buffer."""
        if self._inputs_first:  # a pipeline's copies are leaves too, and the first ones
            order = (*self._inputs, *self._leaves, *self._before, *self._nodes)
        else:
            order = (*self._leaves, *self._before, *self._inputs, *self._nodes)
        readers = [0] * len(self._sizes)
        for node in order:
            for source in self._sources[node]:
                readers[source] += 1
        gaps = Gaps()
        offsets = [0] * len(self._sizes)
        owned = [False] * len(self._sizes)
        for node in order:
            size = self._sizes[node]
            if size or node in self._empty:
                offsets[node] = self._place(node, readers, offsets, owned, gaps)
                owned[node] = True
            for source in self._sources[node]:
                readers[source] -= 1
                if readers[source] == 0 and owned[source] and source not in self._kept:
                    gaps.give_back(offsets[source], self._sizes[source])
                    owned[source] = False
        return gaps.highest

    def _place(self, node: int, readers: list[int], offsets: list[int], owned: list[bool], gaps: Gaps) -> int:
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


class Gaps:
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
        """Free a range, joined with the gaps on both sides; as ggml does it, for ranges of no size too."""
        offsets, sizes = self._offsets, self._sizes
        for at, start in enumerate(offsets):
            if start + sizes[at] == offset:
                sizes[at] += size
                if at < len(sizes) - 1 and start + sizes[at] == offsets[at + 1]:
                    self._join(at)
                return
            if offset + size == start:
                offsets[at] = offset
                sizes[at] += size
                if at and offsets[at - 1] + sizes[at - 1] == offset:
                    self._join(at - 1)
                return
        # A range of no size inside a gap puts the list out of order, so this is not the number of smaller ones.
        first = next((at for at, start in enumerate(offsets) if start >= offset), None)
        if first is not None:  # else of no size, within the last gap
            offsets.insert(first, offset)
            sizes.insert(first, size)

    def _join(self, at: int) -> None:
        """Make one of a gap and the next."""
        self._sizes[at] += self._sizes[at + 1]
        del self._offsets[at + 1], self._sizes[at + 1]
