"""The documents are true: what they show was run, and every command is named in a how-to."""

from __future__ import annotations

import doctest
import importlib.util
import re
from pathlib import Path

import click
import pytest

from vram_planner.cli.main import cli

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_shown_output_is_what_the_commands_print() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)

    assert [str(path.relative_to(ROOT)) for path in generate.stale()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_examples_do_what_they_say(path: Path) -> None:
    failures, _ = doctest.testfile(str(path), module_relative=False, optionflags=doctest.ELLIPSIS)

    assert failures == 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_command_is_named_in_a_how_to() -> None:
    told = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "how-to").glob("*.md"))

    assert [
        name
        for name in cli.list_commands(click.Context(cli))
        if name != "plan" and f"vram-plan {name}" not in told
    ] == []
