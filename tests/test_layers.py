"""The house of docs/explanation/design.md: imports go down only, and heavy packages stay in their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import vram_planner

ROOT = Path(vram_planner.__file__).parent
FLOORS = {
    "_version": 0,
    "units": 0,
    "errors": 0,
    "basis": 0,
    "architecture": 1,
    "model_profiles": 2,
    "hardware_profiles": 2,
    "engines": 2,
    "planning": 3,
    "report": 4,
    "validate": 4,
    "api": 4,
    "cli": 5,
    "__init__": 6,
    "__main__": 6,
}
HEAVY = {"torch", "transformers", "accelerate", "numpy", "pynvml", "huggingface_hub", "pydantic", "ray"}


def imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.append(node.module)
            if node.module == "vram_planner":
                found += [f"vram_planner.{alias.name}" for alias in node.names]
    return found


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0].removesuffix(".py")


def test_imports_go_down_only() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        mine = room(path)
        for name in imports(path):
            if not name.startswith("vram_planner."):
                continue
            theirs = name.split(".")[1]
            below = FLOORS[theirs] < FLOORS[mine] or theirs == mine or {mine, theirs} == {"units", "errors"}
            if not below:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")

    assert wrong == []


def test_every_room_has_a_floor() -> None:
    rooms = {room(path) for path in ROOT.rglob("*.py")}

    assert rooms <= set(FLOORS)


def test_architecture_imports_the_standard_library_alone() -> None:
    for path in (ROOT / "architecture").rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] in sys.stdlib_module_names | {"vram_planner"}, f"{path}: {name}"


def test_only_nvml_touches_pynvml() -> None:
    users = {
        path.name
        for path in ROOT.rglob("*.py")
        if '"pynvml"' in path.read_text() or "pynvml" in imports(path)
    }

    assert users == {"nvml.py"}


def test_a_plan_loads_no_heavy_package() -> None:
    code = (
        "import sys\n"
        "from vram_planner.cli.main import main\n"
        "try:\n    main(['--model', '7b', '--ctx', '8192', '--concurrency', '16'])\n"
        "except SystemExit as end:\n    print(end.code)\n"
        "print(' '.join(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, modules = run.stdout.splitlines()[-2:]

    assert status == "0"
    assert set(modules.split()).isdisjoint(HEAVY)


def test_only_the_cli_prints() -> None:
    for path in ROOT.rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]

        assert not prints, path
