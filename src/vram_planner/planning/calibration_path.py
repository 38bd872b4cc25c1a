"""Where a calibration lies: apart from the rest, for every plan with a card looks whether there is one."""

from __future__ import annotations

import os
from pathlib import Path


def calibration_path() -> Path:
    """Where the file lies on this machine."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return Path(base or Path.home() / ".config") / "vram-planner" / "calibration.json"
