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
# Of each of several cards: weights, cache and activations of one request, limit, layers.
CARDS: list[dict[str, int]] = json.loads(os.environ.get("STAND_IN_CARDS", "[]"))
STAGED = {"batch": 1}


def on_cards(weights: int, batch: int) -> dict[str, object]:
    """Each card by itself, and their sums."""
    if not CARDS:
        return {}
    cards = []
    for card in CARDS:
        held = weights * card["weights"] + batch * card["cache"]
        peak = held + batch * card["activations"]
        cards.append(
            {
                "allocated_bytes": held,
                "allocated_peak_bytes": peak,
                "reserved_bytes": peak,
                "reserved_peak_bytes": peak,
                "cache_bytes": batch * card["cache"],
            }
        )
    sums = {name: sum(card[name] for card in cards) for name in cards[0]}
    return {**sums, "process_bytes": None, "cards": cards}


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
    now = {**reading(100 * MIB + batch * MIB), **on_cards(1, batch)}
    return {"ok": True, **now, "ttft_s": 0.01, "tpot_s": 0.01}


def opened(cards: int) -> dict[str, object]:
    if cards != (len(CARDS) or 1):
        return {"error": "refused", "message": "torch sees other GPUs", "hint": "choose others"}
    told = {"card_limit_bytes": [card["limit"] for card in CARDS]} if CARDS else {}
    now = {**reading(50 * MIB), **on_cards(0, 0)}
    return {"ok": True, **now, **told, "torch": "0", "limit_bytes": 1000 * MIB}


def answer(request: dict[str, object]) -> dict[str, object]:
    if request["do"] == "open":
        return opened(int(str(request.get("cards", 1))))
    if request["do"] == "load":
        if os.environ.get("STAND_IN_FAULT") == "weights":
            return {"error": "refused", "message": "the weights cannot be loaded", "hint": "get them again"}
        layers = [f"cuda:{number}" for number, card in enumerate(CARDS) for _ in range(card["layers"])]
        loaded = {**reading(100 * MIB), "allocated_bytes": WEIGHTS, **on_cards(1, 0), "layers": layers}
        return {"ok": True, **loaded, "module_bytes": WEIGHTS, "max_memory": request.get("max_memory")}
    if request["do"] in {"prefill", "decode", "kv"}:
        STAGED["batch"] = int(str(request["batch"]))
        return {"ok": True}
    if request["do"] == "told":
        now: dict[str, object] = {**reading(110 * MIB, WEIGHTS + 2 * CACHE), **on_cards(1, STAGED["batch"])}
        return {"ok": True, "prefill": now, "decode": now, "kv": {**now, "cache_bytes": CACHE}}
    return step(int(str(request["batch"])))


threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
for line in sys.stdin:
    sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
    sys.stdout.flush()
