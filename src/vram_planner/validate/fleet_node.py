"""
What runs on a node of the fleet, inside a Ray task: what it has, and the live check of each of its devices.

Ray finds these functions by their names, in the vram-planner that is installed there: no code travels. Everything
that is said is plain data, one dict after the other, so that what was said before a node is lost is kept.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner._version import __version__
from vram_planner.errors import NoGpuError, PlannerError, RequestError
from vram_planner.hardware_profiles import detect, driver_present
from vram_planner.validate.live_run import live
from vram_planner.validate.packages import versions_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vram_planner.hardware_profiles import Machine

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "vllm",
    "sglang",
    "tensorrt_llm",
    "llama-cpp-python",
    "xllamacpp",
)


def inventory(version: str) -> Iterator[dict[str, Any]]:
    """
    One dict: the version of vram-planner here and, where it is the asked one, packages and GPUs.

    Its name, its one argument and the key `version` never change: that is how unlike versions find each other out.
    """
    if version != __version__:
        yield {"version": __version__}
        return
    found: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "packages": versions_of(*PACKAGES),
        "driver": driver_present(),
        "ram": _ram(),
        "machine": None,
        "problem": None,
    }
    try:
        found["machine"] = asdict(detect())
    except NoGpuError as error:
        found["problem"] = str(error)
    yield _plain(found)


def measure(model: str, asked: dict[str, Any], lent: int) -> Iterator[dict[str, Any]]:
    """
    The live check of each device here, one after the other, each told as it ends.

    `asked` are the words of `validate.live`; `lent` is how many GPUs Ray holds for this task. The first dict says
    that it has begun, the others are `{"index", "live"}`, or `{"index", "problem", "hint", "status"}`.
    """
    yield {"begun": True}
    for index in (None,) if asked["device"] == "cpu" else _indices(lent):
        if isinstance(index, PlannerError):
            yield _refused(None, index)
            continue
        words: dict[str, Any] = {} if index is None else {"gpu": index}
        try:
            found = live(model, **asked, **words)
        except PlannerError as error:
            yield _refused(index, error)
        else:
            yield {"index": index, "live": _plain(found.to_dict())}


def lent_gpus(machine: Machine, ids: Sequence[str], *, by_bus: bool) -> tuple[int, ...]:
    """
    NVML's numbers of the GPUs that Ray lent by CUDA's numbers or by UUID.

    CUDA puts the fastest card first and NVML goes by PCI bus. So the numbers agree where all cards are alike, or
    where CUDA_DEVICE_ORDER is PCI_BUS_ID (`by_bus`); else RequestError, unless all of them are lent anyway.
    """
    if not ids or len(ids) >= len(machine.gpus):
        return tuple(gpu.index for gpu in machine.gpus)
    if not all(text.isdecimal() for text in ids):
        known = {
            text: [gpu.index for gpu in machine.gpus if (gpu.uuid or "").startswith(text)] for text in ids
        }
        missing = [text for text, found in known.items() if len(found) != 1]
        if missing:
            raise RequestError(
                f"NVML has no GPU {missing[0][:60]}, which Ray lends", hint="start Ray with whole GPUs"
            )
        return tuple(sorted(found[0] for found in known.values()))
    if not by_bus and len({gpu.name for gpu in machine.gpus}) > 1:
        raise RequestError(
            f"Ray lends {len(ids)} of {len(machine.gpus)} unlike GPUs by CUDA's numbers, which need not be NVML's",
            hint="start Ray there with CUDA_DEVICE_ORDER=PCI_BUS_ID, or with GPUs by their UUIDs",
        )
    numbers = {gpu.index for gpu in machine.gpus}
    if not {int(text) for text in ids} <= numbers:
        raise RequestError(
            f"Ray lends the GPUs {', '.join(ids)}, and NVML counts {len(numbers)}",
            hint="start Ray there with GPUs that there are",
        )
    return tuple(sorted(int(text) for text in ids))


def _indices(lent: int) -> tuple[int, ...] | tuple[PlannerError]:
    ids: Sequence[str] = ()
    if lent:
        ray: Any = import_module("ray")
        ids = [str(one) for one in ray.get_runtime_context().get_accelerator_ids().get("GPU", ())]
    try:
        return lent_gpus(detect(), ids, by_bus=os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID")
    except PlannerError as error:
        return (error,)


def _ram() -> dict[str, int]:
    """Total and available bytes of this machine's memory; empty where /proc tells nothing."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    told = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    names = {"MemTotal": "total_bytes", "MemAvailable": "free_bytes"}
    return {ours: told[theirs] for theirs, ours in names.items() if theirs in told}


def _refused(index: int | None, error: PlannerError) -> dict[str, Any]:
    return {"index": index, "problem": str(error), "hint": error.hint, "status": error.exit_status}


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Without any type of ours, and None for what JSON has no number for."""
    found: dict[str, Any] = json.loads(json.dumps(document, default=str), parse_constant=lambda _: None)
    return found
