from __future__ import annotations

import io
import threading
import time

import pytest

from vram_planner.cli import progress
from vram_planner.cli.progress import Steps
from vram_planner.validate.told import share_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn_by(stream: Terminal) -> None:
    guard = time.monotonic() + 60
    while not stream.getvalue() and time.monotonic() < guard:
        time.sleep(0.01)


def test_nothing_is_drawn_where_no_one_looks() -> None:
    stream, before = io.StringIO(), threading.active_count()
    with Steps(stream) as steps:
        steps("loading")
        steps.share(0.5)
        assert threading.active_count() == before

    assert stream.getvalue() == ""


def test_a_long_stage_is_drawn_and_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_AFTER_S", -1.0)
    monkeypatch.setattr(progress, "_EVERY_S", 0.01)
    stream = Terminal()
    with Steps(stream) as steps:
        steps("loading the weights")
        drawn_by(stream)
    shown = stream.getvalue()

    assert "loading the weights" in shown
    assert shown.endswith(f"\r{'':<{progress._WIDTH}}\r")
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_a_short_stage_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.001)
    monkeypatch.setattr(progress, "_AFTER_S", 3600.0)
    stream = Terminal()
    with Steps(stream) as steps:
        steps("planning")
        time.sleep(0.05)

    assert stream.getvalue() == ""


def test_an_interrupt_wipes_it_and_ends_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_AFTER_S", -1.0)
    monkeypatch.setattr(progress, "_EVERY_S", 0.01)
    stream = Terminal()

    def interrupted() -> None:
        with Steps(stream) as steps:
            steps("2 at once")
            drawn_by(stream)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue().endswith("\r")
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_the_bar_fills_by_its_share_and_walks_without_one() -> None:
    with Steps(io.StringIO()) as steps:
        steps("4 at once")
        walk = [steps.line(second / 5) for second in range(40)]
        steps.share(0.5)
        half = steps.line(3.0)
        steps.share(7.0)
        full = steps.line(3.0)
        steps("8 at once")
        fresh = steps.line(0.0)

    assert half == "[##########          ]  50%    3 s  4 at once"
    assert full.startswith("[####################] 100%")
    assert "%" not in fresh
    assert {line.index("#") for line in walk} == set(range(1, 18))
    assert {line.count("#") for line in walk} == {4}


def test_a_share_is_told_only_to_whoever_listens() -> None:
    with Steps(io.StringIO()) as steps:
        share_of(steps)(0.25)
        assert "25%" in steps.line(0.0)
    share_of(print)(0.25)
