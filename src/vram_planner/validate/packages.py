"""The heavy packages, each asked for where it is used, and what to do where it is missing."""

from __future__ import annotations

import logging
import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vram_planner.errors import NotInstalledError

INSTALL = "pip install 'vram-planner[validate]'"


def torch_and_transformers() -> tuple[Any, Any]:
    """Both packages, quiet; NotInstalledError where one is missing."""
    try:
        torch: Any = import_module("torch")
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise NotInstalledError(f"this needs torch and transformers ({error})", hint=INSTALL) from error
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore")
    return torch, transformers


def versions_of(*names: str) -> dict[str, str]:
    """Installed versions without importing anything; what is not installed is left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def need(*names: str) -> dict[str, str]:
    """Versions of packages that must be there; NotInstalledError names the missing."""
    found = versions_of(*names)
    missing = [name for name in names if name not in found]
    if missing:
        raise NotInstalledError(f"this needs {' and '.join(missing)}", hint=INSTALL)
    return found
