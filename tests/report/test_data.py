"""JSON as RFC 8259 has it."""

from __future__ import annotations

import json

from vram_planner.report.data import as_json
from vram_planner.validate.checked import Checked, checked_dict

INF = float("inf")


def test_what_is_infinite_is_null() -> None:
    document = {"a": INF, "b": [1.5, -INF, (float("nan"), 2)], "c": {"d": INF}, "e": "Infinity"}

    assert json.loads(as_json(document)) == {
        "a": None,
        "b": [1.5, None, [None, 2]],
        "c": {"d": None},
        "e": "Infinity",
    }


def test_the_error_against_nothing_measured_is_null_in_a_row() -> None:
    row = Checked(name="runtime", planned_bytes=7, measured_bytes=0, how="")

    assert row.error == INF
    assert not row.holds(0.05)
    assert checked_dict(row)["error"] is None
