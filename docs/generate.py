"""
Keep the documents true: run every command they show, and write the reference pages.

    python docs/generate.py            rewrite what is stale
    python docs/generate.py --check    exit with 1 and name what is stale

In a ```console block, a line `$ vram-plan …` is run and what follows it is its real output. Pages under
docs/reference that are named in PAGES are made whole.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
HEADER = "<!-- made by docs/generate.py: do not edit -->\n\n"
COMMANDS = (
    "plan",
    "models",
    "gpus",
    "size",
    "simulate",
    "compare",
    "sweep",
    "validate live",
    "validate fleet",
    "validate server",
    "validate shadow",
)


@cache
def run(command: str) -> str:
    """What a `vram-plan` command prints on stdout, with its warnings and errors below it."""
    words = shlex.split(command)
    if words[0] != "vram-plan":
        raise ValueError(command)
    environment = {
        **os.environ,
        "NO_COLOR": "1",
        "VRAM_PLANNER_GPU": "none",
        "COLUMNS": "100",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-m", "vram_planner.cli.main", *words[1:]],
        capture_output=True, text=True, check=False, env=environment, encoding="utf-8",
    )  # fmt: skip
    if done.returncode == 1:
        raise RuntimeError(f"{command}\n{done.stderr}")
    return "\n".join(text.rstrip("\n") for text in (done.stdout, done.stderr) if text)


def refreshed(text: str) -> str:
    """The same document with the output of its commands as it is now."""

    def block(match: re.Match[str]) -> str:
        lines: list[str] = []
        keep = True
        for line in match[1].splitlines():
            if line.startswith("$ vram-plan"):
                lines += [line, *run(line[2:]).splitlines()]
                keep = False
            elif line.startswith("$ "):
                lines.append(line)
                keep = True
            elif keep:
                lines.append(line)
        return "```console\n" + "\n".join(lines) + "\n```"

    return BLOCK.sub(block, text)


def cli_page() -> str:
    """Every command's help."""
    parts = ["# The command line\n"]
    for name in ("", *COMMANDS):
        command = f"vram-plan {name}".strip()
        parts.append(f"## {command}\n\n```text\n{run(f'{command} --help')}\n```\n")
    return HEADER + "\n".join(parts)


def table_page(title: str, words: str, command: str) -> str:
    """A catalogue as a table."""
    return f"{HEADER}# {title}\n\n{words}\n\n{run(command + ' --format markdown')}\n"


def pages() -> dict[Path, str]:
    """Every generated page with what it should hold."""
    reference = ROOT / "docs" / "reference"
    return {
        reference / "cli.md": cli_page(),
        reference / "models.md": table_page(
            "The models",
            "`vram-plan models NAME` explains one. Configurations that are not verbatim say so.",
            "vram-plan models",
        ),
        reference / "gpus.md": table_page(
            "The accelerators",
            "`vram-plan gpus NAME` shows every field of one, its source, and what was verified.",
            "vram-plan gpus",
        ),
    }


SCRIPTS = re.compile(r"(<!-- made by (\S+\.py) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """The same document with what its scripts print between the marks."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{table_of(match[2])}\n{match[4]}"

    return SCRIPTS.sub(block, text)


@cache
def table_of(script: str) -> str:
    """What `table()` of a script of this project says."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    if spec is None or spec.loader is None:
        raise ValueError(script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.table()).rstrip("\n")


def stale() -> dict[Path, str]:
    """Documents that are not as they should be, with what they should hold."""
    os.environ["VRAM_PLANNER_GPU"] = "none"
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    made = pages()
    texts = {path: path.read_text(encoding="utf-8") for path in documents if path not in made}
    commands = {
        line[2:]
        for text in texts.values()
        for match in BLOCK.finditer(text)
        for line in match[1].splitlines()
        if line.startswith("$ vram-plan")
    }
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, sorted(commands)))
    wanted = {**{path: filled(refreshed(text)) for path, text in texts.items()}, **made}
    return {
        path: text
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def main() -> None:
    """Rewrite, or check."""
    found = stale()
    if "--check" in sys.argv:
        if found:
            sys.exit("stale: " + ", ".join(str(path.relative_to(ROOT)) for path in found))
        return
    for path, text in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"rewrote {path.relative_to(ROOT)}")  # noqa: T201  a script


if __name__ == "__main__":
    main()
