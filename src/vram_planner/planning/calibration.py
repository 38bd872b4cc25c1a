"""
What was measured on this machine, kept for later plans: one JSON file, one entry a device, engine and version.

`$XDG_CONFIG_HOME/vram-planner/calibration.json`, else `~/.config/…`. Written whole beside the old one and
moved over it, so that a full disk or a kill leaves the old one as it was.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.engines.measured import Measured
from vram_planner.errors import CalibrationError
from vram_planner.hardware_profiles.find import gpu_by_nvml_name
from vram_planner.planning.calibration_path import calibration_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SCHEMA_VERSION = 1
_LARGEST_FILE = 1 << 22
_MAX_FACTOR = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """
    What one live run, one start-up log or one running server taught about one device with one version of an engine.

    `runtime_bytes` is what the process holds on the device before any tensor, work space of libraries included;
    `reserved_over_live` what the allocator reserved at the peak over what was alive (1.0: nothing was wasted).
    Both are the device's. `factors`, measured over planned bytes of a part, are the model's: only later plans of
    this `model` use them. `profile` is the version as plans title it; `gpus` how many cards one replica had.
    """

    device: str
    engine: str
    engine_version: str
    profile: str
    model: str
    gpus: int = 1
    runtime_bytes: int | None = None
    reserved_over_live: float = 1.0
    factors: dict[str, float] = field(default_factory=dict)
    learned_from: str = "live"
    measured_at: str
    driver: str | None = None

    @property
    def key(self) -> tuple[str | int, ...]:
        """What a newer entry replaces."""
        return self.device.lower(), self.engine, self.engine_version, self.model, self.gpus

    @property
    def where(self) -> str:
        """Said beside each figure that it gave."""
        driver = f", driver {self.driver}" if self.driver else ""
        how = {"log": "a start-up log", "server": "a running server"}.get(self.learned_from, "a live run")
        return (
            f"measured on {self.device} by {how} of {self.model}, {self.engine} {self.engine_version}, "
            f"{self.measured_at}{driver}"
        )

    def measured(self, model: str) -> Measured:
        """For a plan of `model`: the device's figures, and this model's own if it is the same."""
        return Measured(
            where=self.where,
            runtime_bytes=self.runtime_bytes,
            reserved_over_live=self.reserved_over_live,
            factors=self.factors if model == self.model else {},
        )


def load_calibrations(path: Path | None = None) -> tuple[Calibration, ...]:
    """
    Every entry of the file, none where there is no file.

    Raises CalibrationError for a file that cannot be read: it is not overwritten either.
    """
    file = path or calibration_path()
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise CalibrationError(f"{file} is too large for a calibration", hint="move it away")
        document = json.loads(file.read_text(encoding="utf-8"))
        return tuple(_entry(row) for row in document["entries"])
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(
            f"cannot read the calibration {file}: {error}", hint="move it away and validate again"
        ) from error


def save_calibration(entry: Calibration, path: Path | None = None) -> Path:
    """
    Put an entry into the file, in place of an older one of the same device, engine and version.

    Raises CalibrationError where it cannot be written, or holds what no plan would read again; the old file is
    then as it was.
    """
    file = path or calibration_path()
    try:
        _entry(asdict(entry))
    except ValueError as error:
        raise CalibrationError(
            f"the calibration was not saved: {error}",
            hint="validate a larger model or a longer context, whose figures stand out from the allocator's blocks",
        ) from error
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file.parent):
            kept = [old for old in load_calibrations(file) if old.key != entry.key]
            document = {"schema_version": SCHEMA_VERSION, "entries": [asdict(row) for row in (*kept, entry)]}
            _replace(file, json.dumps(document, indent=2).encode() + b"\n")
    except OSError as error:
        raise CalibrationError(
            f"the calibration was not saved to {file}: {error}",
            hint="make room, or set XDG_CONFIG_HOME; an older calibration is as it was",
        ) from error
    return file


def find_calibration(
    entries: Iterable[Calibration], *, device: str, engine: str, profile: str, gpus: int, model: str
) -> Calibration | None:
    """The newest entry of this device, engine, profile and number of cards; one of this model goes first."""
    found = [
        entry
        for entry in entries
        if _same_device(entry.device, device)
        and (entry.engine, entry.profile, entry.gpus) == (engine, profile, gpus)
    ]
    return max(found, key=lambda entry: (entry.model == model, entry.measured_at), default=None)


def _same_device(one: str, other: str) -> bool:
    """NVML says 'NVIDIA L4' where the catalogue says 'L4', and 'NVIDIA H100 80GB HBM3' of an H100 SXM5 80GB."""
    same = one.lower().removeprefix("nvidia ") == other.lower().removeprefix("nvidia ")
    return same or gpu_by_nvml_name(one, None).name.lower() == other.lower()


def _entry(row: Any) -> Calibration:
    known = {known.name for known in fields(Calibration)}
    entry = Calibration(**{key: value for key, value in row.items() if key in known})
    sound = (
        (entry.runtime_bytes is None or (isinstance(entry.runtime_bytes, int) and entry.runtime_bytes >= 0))
        and 1.0 <= entry.reserved_over_live <= _MAX_FACTOR
        and all(0.0 <= factor <= _MAX_FACTOR for factor in entry.factors.values())
        and all(isinstance(text, str) for text in (entry.device, entry.engine, entry.profile, entry.model))
    )
    if not sound:
        raise ValueError(f"an entry of {entry.device} is out of range")
    return entry


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer at a time: two validations on two cards may end together, and each keeps the other's entry."""
    try:
        fcntl: Any = import_module("fcntl")
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which lets go of the lock


def _replace(file: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(file)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
