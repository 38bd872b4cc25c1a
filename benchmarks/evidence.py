"""The scoreboard of docs/explanation/accuracy.md: the same as `vram-plan validate evidence`."""

from __future__ import annotations

from vram_planner.report.evidence import scores_text
from vram_planner.validate.evidence import Replayed, read_records, replay_all, scores


def table() -> str:
    """Every record that the package carries, scored apart by whether constants were fitted on its model."""
    found = list(replay_all(read_records()))
    scored = scores([row for row in found if isinstance(row, Replayed)], "fitted")
    return f"\n```text\n{scores_text(found, scored)}\n```\n"


if __name__ == "__main__":
    print(table())
