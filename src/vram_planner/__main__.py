"""`python -m vram_planner` is `vram-plan`, for a place where scripts are not on the path."""

from __future__ import annotations

from vram_planner.cli.main import main

if __name__ == "__main__":
    main()
