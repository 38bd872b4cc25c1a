"""
What was measured on this machine, kept for later plans: one JSON file, one entry a device, engine and version.

`$XDG_CONFIG_HOME/vram-planner/calibration.json`, else `~/.config/…`. Written whole beside the old one and
moved over it, so that a full disk or a kill leaves the old one as it was.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.basis import Basis, Part
from vram_planner.validate.faults import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA_VERSION = 1
_LARGEST_FILE = 1 << 22
_MAX_FACTOR = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """
    What one live run taught about one device with one version of an engine.

    `context_bytes` is what the process holds on the device before any tensor, work space of libraries included;
    `reserved_over_live` what the allocator reserved at the peak over what was alive (1.0: nothing was
    wasted); `activations_factor` measured over planned activations.
    """

    device: str
    engine: str
    engine_version: str
    context_bytes: int
    reserved_over_live: float
    activations_factor: float
    model: str
    measured_at: str
    driver: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What a later plan looks it up by."""
        return self.device.lower(), self.engine, self.engine_version


def calibration_path() -> Path:
    """Where the file lies on this machine."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return Path(base or Path.home() / ".config") / "vram-planner" / "calibration.json"


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

    Raises CalibrationError where it cannot be written; the old file is then as it was.
    """
    file = path or calibration_path()
    kept = [old for old in load_calibrations(file) if old.key != entry.key]
    document = {"schema_version": SCHEMA_VERSION, "entries": [asdict(row) for row in (*kept, entry)]}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, json.dumps(document, indent=2).encode() + b"\n")
    except OSError as error:
        raise CalibrationError(
            f"the calibration was not saved to {file}: {error}",
            hint="make room, or set XDG_CONFIG_HOME; an older calibration is as it was",
        ) from error
    return file


def find_calibration(
    entries: Iterable[Calibration], *, device: str, engine: str, version: str | None
) -> Calibration | None:
    """The newest entry of this device and engine; of this version where one is given."""
    found = [
        entry
        for entry in entries
        if entry.device.lower() == device.lower()
        and entry.engine == engine
        and version in (None, entry.engine_version)
    ]
    return max(found, key=lambda entry: entry.measured_at, default=None)


def calibrated_parts(parts: tuple[Part, ...], entry: Calibration) -> tuple[Part, ...]:
    """The same parts with what was measured in place of what was assumed; weights and cache stay."""
    where = f"measured on {entry.device}, {entry.engine} {entry.engine_version}, {entry.measured_at}"
    driver = f", driver {entry.driver}" if entry.driver else ""
    found, moving = [], 0
    for part in parts:
        if part.name == "activations":
            size = round(part.n_bytes * entry.activations_factor)
            changed = _measured(
                part, size, where + driver, f"planned × {entry.activations_factor:.3f}: {part.detail}"
            )
            found.append(changed)
            moving += size
        else:
            found.append(part)
            moving += part.n_bytes if part.name in {"kv_cache", "recurrent_state"} else 0
    waste = round(moving * (entry.reserved_over_live - 1))
    detail = (
        f"{entry.context_bytes:,} B before any tensor, {entry.reserved_over_live - 1:.1%} of cache and "
        "activations reserved and not used"
    )
    return tuple(
        _measured(part, entry.context_bytes + waste, where + driver, detail)
        if part.name == "runtime"
        else part
        for part in found
    )


def _measured(part: Part, n_bytes: int, source: str, detail: str) -> Part:
    return replace(
        part,
        n_bytes=n_bytes,
        low_bytes=n_bytes,
        high_bytes=n_bytes,
        basis=Basis.MEASURED,
        source=source,
        detail=detail,
    )


def _entry(row: Any) -> Calibration:
    known = {field.name for field in fields(Calibration)}
    entry = Calibration(**{key: value for key, value in row.items() if key in known})
    sound = (
        isinstance(entry.context_bytes, int)
        and entry.context_bytes >= 0
        and 1.0 <= entry.reserved_over_live <= _MAX_FACTOR
        and 0.0 <= entry.activations_factor <= _MAX_FACTOR
    )
    if not sound:
        raise ValueError(f"an entry of {entry.device} is out of range")
    return entry


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
