"""Speaks the measuring process's protocol with made-up figures; its faults are named by the environment."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time

from vram_planner.validate.live_child import _end_with

MIB = 1 << 20
CACHE = int(os.environ.get("STAND_IN_CACHE", "0"))
WEIGHTS = int(os.environ.get("STAND_IN_WEIGHTS", "0"))


def reading(peak: int, reserved: int | None = None) -> dict[str, int | None]:
    found: dict[str, int | None] = {
        "process_bytes": peak,
        "process_peak_bytes": peak,
        "allocated_peak_bytes": WEIGHTS + CACHE,
    }
    if "STAND_IN_GPU" in os.environ:  # there NVML knows the process, and torch its reserve
        return {**found, "process_bytes": None, "reserved_bytes": 0, "reserved_peak_bytes": reserved or peak}
    return found


def step(batch: int) -> dict[str, object]:
    fault, _, at = os.environ.get("STAND_IN_FAULT", "").partition(":")
    if fault and batch >= int(at):
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang":
            if "STAND_IN_PID" in os.environ:
                with open(os.environ["STAND_IN_PID"] + ".new", "w", encoding="utf-8") as note:  # noqa: PTH123  a script
                    note.write(str(os.getpid()))
                os.replace(os.environ["STAND_IN_PID"] + ".new", os.environ["STAND_IN_PID"])  # noqa: PTH105  as above
            time.sleep(600)
        if fault == "memory":
            resource.setrlimit(resource.RLIMIT_AS, (512 * MIB, 512 * MIB))
            try:
                bytearray(1024 * MIB)
            except MemoryError:
                return {"error": "no room", "message": "MemoryError"}
    return {"ok": True, **reading(100 * MIB + batch * MIB), "ttft_s": 0.01, "tpot_s": 0.01}


def answer(request: dict[str, object]) -> dict[str, object]:
    if request["do"] == "open":
        return {"ok": True, **reading(50 * MIB), "torch": "0", "limit_bytes": 1000 * MIB}
    if request["do"] == "load":
        if os.environ.get("STAND_IN_FAULT") == "weights":
            return {"error": "refused", "message": "the weights cannot be loaded", "hint": "get them again"}
        return {"ok": True, **reading(100 * MIB), "module_bytes": WEIGHTS}
    if request["do"] in {"prefill", "decode", "kv"}:
        return {"ok": True}
    if request["do"] == "told":
        now = reading(110 * MIB, WEIGHTS + 2 * CACHE)
        return {"ok": True, "prefill": now, "decode": now, "kv": {**now, "cache_bytes": CACHE}}
    return step(int(str(request["batch"])))


threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
for line in sys.stdin:
    sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
    sys.stdout.flush()
