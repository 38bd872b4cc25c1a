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


class HeaderError(PlannerError):
    """
    A weight file whose header is damaged, cut off or absurd.

    `offset` is the byte of the file where it went wrong, None where no single byte is to blame.
    """

    def __init__(self, message: str, *, hint: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at byte {offset:,})", hint=hint)
        self.offset = offset


class HubError(PlannerError):
    """A model hub that did not answer, or answered something else than what was asked."""


class OfflineError(HubError):
    """Only a network could answer this, and none may or can be used."""


class CatalogueError(PlannerError):
    """A row of a catalogue that cannot be used: a misspelt key, a missing source."""


class RecordError(PlannerError):
    """A record of a measurement that cannot be read or replayed."""


class CalibrationError(PlannerError):
    """A calibration file that cannot be read or written."""


class NoGpuError(PlannerError):
    """There is no GPU that could be asked here."""

    exit_status = 4


class NotInstalledError(PlannerError):
    """A package that this check needs is not installed: it cannot be measured here."""

    exit_status = 4


class ServerError(PlannerError):
    """A running server that is not there, is too slow, or answers something that cannot be used."""

    exit_status = 4


class ServerKeyError(ServerError):
    """A server that wants a key, or another one."""

    exit_status = 2
