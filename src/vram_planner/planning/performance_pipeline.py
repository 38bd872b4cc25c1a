"""How far the stages of a pipeline work at once on one prompt: what the host can launch ahead decides."""

from __future__ import annotations

from math import floor


def in_sequence(chunks: int, stages: int, queued: float) -> float:
    """
    Time of a chain of chunks over the time that they take one after the other.

    One thread launches a chunk's kernels on stage after stage. A stage's queue takes those of `queued` = a chunks, so
    the launches of chunk u on stage s end when that stage has executed u + 1 − a chunks, and those of chunk u + 1 begin
    after that on the last stage. With g = ⌊a⌋ + 1 and f = a − ⌊a⌋, in units of a stage's time,
    start(u) = ⌊u/g⌋ · max(p − f, g) + (u mod g), and the chain takes (start(m − 1) + p) of m · p.

    m, p  chunks, stages    a = 0: each chunk waits for the one before; a ≥ p − 1: the ideal (m + p − 1)/(m · p)
    """
    group = floor(queued) + 1
    ahead = queued - floor(queued)
    groups, rest = divmod(chunks - 1, group)
    start = groups * max(stages - ahead, float(group)) + rest
    return (start + stages) / (chunks * stages)
