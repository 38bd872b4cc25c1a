"""Every error that a user can act on. Anything else is our own bug and keeps its traceback."""

from __future__ import annotations


class PlannerError(Exception):
    """
    Something the user can act on; the command line prints it without a traceback.

    `hint` says what would cure it. Exit status 2 unless a subclass says otherwise.
    """

    exit_status = 2

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class SizeError(PlannerError):
    """A size or a token count that cannot be read."""


class RequestError(PlannerError):
    """An option, or a combination of options, that makes no sense."""


class UnknownModelError(PlannerError):
    """No catalogue row, alias, file or directory of that name."""


class ConfigError(PlannerError):
    """A config.json that cannot be read, or that lacks a number we need."""


class UnsupportedArchitectureError(PlannerError):
    """A model family that we do not know: we refuse rather than guess."""


class UnknownGpuError(PlannerError):
    """No accelerator of that name in the catalogue."""


class UnknownEngineError(PlannerError):
    """No engine of that name."""


class PrecisionError(PlannerError):
    """A dtype or quantisation format that we do not know, or that does not apply here."""


class ParallelError(PlannerError):
    """A tensor, pipeline or expert parallel size that this model cannot be split by."""


class CatalogueError(PlannerError):
    """A row of a catalogue that cannot be used: a misspelt key, a missing source."""


class NoGpuError(PlannerError):
    """There is no GPU that could be asked here."""

    exit_status = 4
