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
    from collections.abc import Callable

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


class _Known:
    """Answers to one question, by the names that were read and what they said."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage  # kept alive, so that no other object gets its place in memory
        self.by_names: dict[tuple[str, ...], dict[tuple[Any, ...], int]] = {}
        self.count = 0

    def find(self, setting: Setting) -> int | None:
        """The answer for a setting that reads as one before."""
        for names, answers in self.by_names.items():
            found = answers.get(tuple([getattr(setting, name) for name in names]))
            if found is not None:
                return found
        return None

    def keep(self, read: dict[str, Any], answer: int) -> None:
        """One more; all are forgotten where there are too many."""
        if self.count >= _MOST_KEPT:
            self.by_names.clear()
            self.count = 0
        self.by_names.setdefault(tuple(read), {})[tuple(read.values())] = answer
        self.count += 1


def watched_answer(
    architecture: Architecture, stage: Stage, what: str, setting: Setting, answer: Callable[[Setting], int]
) -> int:
    """
    The answer for a setting, remembered beside the architecture by what it read; `what` of which stage is asked.

    `answer` may read fields, properties and methods of the setting, and must depend on nothing else that changes.
    """
    kept: dict[tuple[int, str], _Known] = vars(architecture).setdefault("_llama_cpp_watched", {})
    known = kept.setdefault((id(stage), what), _Known(stage))
    found = known.find(setting)
    if found is None:
        watched = Watched(setting)
        found = answer(cast("Setting", watched))
        known.keep(watched.read, found)
    return found


def graph_peak(architecture: Architecture, setting: Setting, stage: Stage) -> int:
    """Bytes of the compute buffer of a stage."""
    return watched_answer(
        architecture, stage, "peak", setting, lambda read: GraphBuilder(architecture, read, {}).peak(stage)
    )
