"""What the hub's own cache on this machine holds. Read without huggingface_hub, and without a network."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

# Source: huggingface_hub, utils/_validators.py (validate_repo_id).
_REPO: Final = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9_][\w.\-]{0,95}", re.ASCII)
_REVISION: Final = re.compile(r"[\w.\-]{1,100}", re.ASCII)
_FILE: Final = re.compile(r"[A-Za-z0-9_][\w.\-]{0,254}", re.ASCII)
_WEIGHTS: Final = (".gguf", ".safetensors", ".json", ".bin")
TRUE: Final = ("1", "ON", "YES", "TRUE")
_MOST_SNAPSHOTS: Final = 1_000


def repo_and_file(text: str) -> tuple[str, str | None] | None:
    """
    'org/name' or 'org/name/file.gguf' as a repository and a file in it; None where it is neither.

    A name that leads out of its place ('..', '.git') is neither.
    """
    parts = text.split("/")
    if len(parts) not in (2, 3) or ".." in text:
        return None
    repo, file = "/".join(parts[:2]), parts[2] if len(parts) > 2 else None  # noqa: PLR2004  org/name/file
    if not _REPO.fullmatch(repo) or "--" in repo or repo.endswith(_WEIGHTS):
        return None
    if file is not None and not (_FILE.fullmatch(file) and file.endswith(".gguf")):
        return None
    return repo, file


def hub_offline() -> bool:
    """Whether the environment forbids the hub, as huggingface_hub reads it."""
    return any(
        os.environ.get(name, "").upper() in TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def cache_folder() -> Path:
    """Where the hub's cache lies. Source: huggingface_hub, constants.py."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(home).expanduser() / "hub"


def cached_snapshot(repo: str, *, file: str = "config.json") -> Path | None:
    """
    The directory of a repository's newest snapshot that holds a file, None where there is none.

    The revision that `refs/main` names goes before others.
    """
    folder = cache_folder() / f"models--{repo.replace('/', '--')}"
    candidates = []
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8")[:100].strip()
        if _REVISION.fullmatch(revision) and revision not in (".", ".."):
            candidates.append(folder / "snapshots" / revision)
    except (OSError, UnicodeDecodeError):
        pass
    try:
        others = [
            entry for entry, _ in zip((folder / "snapshots").iterdir(), range(_MOST_SNAPSHOTS), strict=False)
        ]
        candidates += sorted(others, key=lambda entry: entry.stat().st_mtime, reverse=True)
    except OSError:
        pass
    return next((entry for entry in candidates if (entry / file).is_file()), None)
