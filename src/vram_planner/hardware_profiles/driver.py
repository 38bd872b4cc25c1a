"""Whether there is an NVIDIA driver at all: looked up in files, so that a machine without one loads nothing."""

from __future__ import annotations

import os
from pathlib import Path

_LIBRARY = "libnvidia-ml.so.1"
# Where an NVIDIA driver shows itself: Linux, WSL, Jetson, Windows.
_SIGNS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-gpu")


def driver_present() -> bool:
    """Whether it is worth asking NVML: a few file look-ups, no import. WSL says yes with any maker's card."""
    if any(Path(sign).exists() for sign in _SIGNS):
        return True
    if os.name == "nt":
        return Path(os.environ.get("WINDIR", "C:/Windows"), "System32", "nvml.dll").exists()
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    return any(Path(folder, _LIBRARY).exists() for folder in folders if folder)
