from __future__ import annotations

import subprocess
import sys


def test_the_package_runs_as_a_module() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "vram_planner", "--version"], capture_output=True, text=True, check=True
    )

    assert ran.stdout.startswith("vram-plan")
