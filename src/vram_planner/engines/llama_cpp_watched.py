"""
Peaks of llama.cpp's graphs, remembered by what each graph read of its setting.

A graph is a function of the model, its stage and the setting, and reads few of a setting's fields: most never ask how many
slots there are. What it read and found is noted as it is written. Another setting that agrees on all of that would be
read in the same order with the same answers, so its graph is the same graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from vram_planner.engines.llama_cpp_graph import GraphBuilder

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.engines.llama_cpp_layout import Setting
    from vram_planner.engines.llama_cpp_stage import Stage

_MOST_KEPT = 512


class Watched:
    """A setting that notes which of its fields and properties are read, and what they said."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.read: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._setting, name)
        if callable(value):  # a question with arguments: what it reads is noted, not its answer
            return getattr(type(self._setting), name).__get__(self)
        self.read[name] = value
        return value


class _Peaks:
    """The peaks of one stage, by the names that were read and what they said."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage  # kept alive, so that no other object gets its place in memory
        self.by_names: dict[tuple[str, ...], dict[tuple[Any, ...], int]] = {}
        self.count = 0

    def find(self, setting: Setting) -> int | None:
        """The peak of a setting that reads as one before."""
        for names, peaks in self.by_names.items():
            found = peaks.get(tuple([getattr(setting, name) for name in names]))
            if found is not None:
                return found
        return None

    def keep(self, read: dict[str, Any], peak: int) -> None:
        """One more; all are forgotten where there are too many."""
        if self.count >= _MOST_KEPT:
            self.by_names.clear()
            self.count = 0
        self.by_names.setdefault(tuple(read), {})[tuple(read.values())] = peak
        self.count += 1


def graph_peak(architecture: Architecture, setting: Setting, stage: Stage) -> int:
    """Bytes of the compute buffer of a stage."""
    kept: dict[int, _Peaks] = vars(architecture).setdefault("_llama_cpp_peaks", {})
    peaks = kept.setdefault(id(stage), _Peaks(stage))
    found = peaks.find(setting)
    if found is None:
        watched = Watched(setting)
        found = GraphBuilder(architecture, cast("Setting", watched), {}).peak(stage)
        peaks.keep(watched.read, found)
    return found
