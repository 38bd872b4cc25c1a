"""
What it costs to read models, in CPU time and without torch: `python benchmarks/walk.py`.

Resolving an alias in a new process against reading and building the row alone; every row of the catalogue once,
and every family once on the configs of tests/model_profiles/meta_device. Prints medians and the worst.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.resolve import model_names, resolve

META_DEVICE = Path(__file__).parents[1] / "tests" / "model_profiles" / "meta_device"
_ALONE = """
import json, sys, time
from vram_planner.model_profiles import resolve as module
began = time.process_time()
if sys.argv[1] == "alias":
    module.resolve("7b")
else:
    row = module._row_named("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")
    module._profile(row, "7b", None)
print(time.process_time() - began)
assert not {"torch", "transformers", "numpy"} & set(sys.modules)
"""


def cold(what: str, *, runs: int = 11) -> float:
    """Seconds in a process of its own, imports of the package not counted; the least of several."""
    command = [sys.executable, "-c", _ALONE, what]
    return min(
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(runs)
    )


def families() -> dict[str, float]:
    """Seconds to build one architecture a family, each the least of three; the first use loads the family's module."""
    found: dict[str, float] = {}
    for path in sorted(META_DEVICE.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            config = {"model_type": row["model_type"], **row["config"]}
            took = min(_timed(lambda config=config: architecture_from_config(config)) for _ in range(3))
            found[row["model_type"]] = max(took, found.get(row["model_type"], 0.0))
    return found


def rows() -> dict[str, float]:
    """Seconds to build each row of the catalogue, the least of three."""
    configs = {name: resolve(name).config for name in model_names()}
    return {
        name: min(_timed(lambda config=config: architecture_from_config(config)) for _ in range(3))
        for name, config in configs.items()
    }


def _timed(call) -> float:  # noqa: ANN001  any callable
    began = time.process_time()
    architecture = call()
    _ = architecture.parameters
    return time.process_time() - began


def _told(what: str, seconds: dict[str, float]) -> str:
    worst = sorted(seconds, key=lambda name: -seconds[name])[:3]
    each = ", ".join(f"{name} {seconds[name] * 1000:.1f}" for name in worst)
    return f"{what:<22}{len(seconds):>5}  median {statistics.median(seconds.values()) * 1000:6.2f} ms  worst {each} ms"


def main() -> None:
    alias, row = cold("alias"), cold("row")
    print(f"alias 7b, cold        {alias * 1000:6.2f} ms; its row alone {row * 1000:.2f} ms")
    print(_told("families, meta device", families()))
    print(_told("rows of the catalogue", rows()))


if __name__ == "__main__":
    main()
