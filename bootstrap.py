#!/usr/bin/env python3
"""Make .venv and install vram-planner into it, with nothing but Python 3.11+: `python3 bootstrap.py [EXTRA ...]`."""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")


def fetch_pip(folder: Path) -> Path:
    """Download pip's newest wheel: Debian's bare python3 has `venv` but neither pip nor ensurepip."""
    with urllib.request.urlopen(f"{INDEX}/pip/", timeout=60) as page:  # noqa: S310  the index that pip would use
        links = re.findall(r'href="([^"]+/(pip-([0-9.]+)-py3-none-any\.whl)[^"]*)"', page.read().decode())
    link, name, _ = max(links, key=lambda found: [int(part) for part in found[2].split(".")])
    wheel = folder / name
    with urllib.request.urlopen(urllib.parse.urljoin(f"{INDEX}/pip/", link), timeout=60) as data:  # noqa: S310
        wheel.write_bytes(data.read())
    return wheel


def main() -> None:
    """Create the environment where there is none, then install this project, with the extras named."""
    if sys.version_info < (3, 11):  # noqa: UP036  this file is what an old Python runs
        sys.exit(f"vram-planner needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    has_pip = importlib.util.find_spec("ensurepip") is not None
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(VENV, with_pip=has_pip)
    extras = f"[{','.join(sys.argv[1:])}]" if sys.argv[1:] else ""
    install = ["install", "--quiet", "--disable-pip-version-check", f"{HERE}{extras}"]
    if subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode == 0:  # noqa: S603
        sys.exit(subprocess.run([python, "-m", "pip", *install], check=False).returncode)  # noqa: S603
    with tempfile.TemporaryDirectory() as folder:
        wheel = fetch_pip(Path(folder))
        subprocess.run([python, f"{wheel}/pip", "install", "--quiet", str(wheel)], check=True)  # noqa: S603
    sys.exit(subprocess.run([python, "-m", "pip", *install], check=False).returncode)  # noqa: S603


if __name__ == "__main__":
    main()
