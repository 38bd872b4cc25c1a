"""Whether a vLLM record agrees with itself, and what of it may be compared with a plan."""

from __future__ import annotations

from typing import Any

from vram_planner.engines.versions import profile_for
from vram_planner.units import GIB
from vram_planner.validate.replay_pool import logs_pool

# Logged figures have two decimals: four of them over a card of 8 GiB leave 0.25 %.
_SHARE_ERROR = 0.005
_IDENTITY = ("model_loading_gib", "activation_peak_gib", "non_torch_gib", "available_kv_cache_gib")
_ANY_CARD_GIB, _ANY_CONTEXT = 1024.0, 2048
_LEAST_OF_FILE, _MOST_OF_FILE = 0.9, 1.02
_OF_THE_FIRST = "activation, KV pool: the log's are the first stage's, the plan's the fullest stage's"


def implied_share(row: dict[str, Any]) -> float | None:
    """
    The share of the card that the log's own figures add up to: (weights + activation + non-torch + pool) / total.

    None where the log does not say all five. vLLM's identity: v1/worker/gpu_worker.py, determine_available_memory.
    """
    total, log = row.get("gpu_total_gib"), row["measured"]
    if not total or any(log.get(key) is None for key in _IDENTITY):
        return None
    return float(sum(log[key] for key in _IDENTITY) / total)


def share_of(row: dict[str, Any]) -> tuple[float | None, tuple[str, ...]]:
    """The share that a start ran with, and a remark where that is not what the record states."""
    stated, implied = row.get("gpu_memory_utilization"), implied_share(row)
    if implied is None or row["engine"] != "vllm" or stated is None or abs(implied - stated) <= _SHARE_ERROR:
        return stated, ()
    share = round(implied, 2)
    return share, (
        f"its figures add up to a share of {implied:.3f}, not the stated {stated:g}: {share:g} is used",
    )


def overfull(
    row: dict[str, Any], *, total_gib: float, pool_gib: float | None, version: str | None
) -> str | None:
    """
    A remark where weights and pool alone exceed the default share of a record that states none: it ran with another.

    The pool and what follows from it then say nothing about a plan.
    """
    if row.get("gpu_memory_utilization") is not None or pool_gib is None or row["engine"] != "vllm":
        return None
    share = float(profile_for("vllm", version)[0]["utilization"])
    used = (row["measured"].get("model_loading_gib") or 0) + pool_gib
    if used <= share * total_gib:
        return None
    return (
        f"KV pool and what follows: {used:.2f} GiB of weights and pool are more than the default share of"
        f" {share:g}: it ran with another, which it does not state"
    )


def first_stage(row: dict[str, Any]) -> str | None:
    """A remark where the log's lines are the first pipeline stage's, which runs no sampler."""
    return _OF_THE_FIRST if (row.get("pp") or 1) > 1 and row["engine"] == "vllm" else None


def checkpoint_differs(row: dict[str, Any], planned_bytes: int) -> str | None:
    """
    A remark where the checkpoint on disk, of which vLLM logs the size, is not what the planned format makes.

    Files hold drafts that are not loaded, and online formats are made from larger ones, so that only a planned model
    larger or much smaller than its file differs. Source: vLLM 0.19 model_loader/weight_utils.py.
    """
    size = row.get("checkpoint_gib")
    if not size or "online" in str(row.get("quantization")) or row.get("quantization") == "fp8":
        return None
    share = planned_bytes / GIB / size
    if _LEAST_OF_FILE <= share <= _MOST_OF_FILE:
        return None
    return f"its checkpoint has {size:g} GiB, and the planned format makes {planned_bytes / GIB:.2f}"


def weights_alone(row: dict[str, Any], version: str | None) -> tuple[dict[str, Any], str | None]:
    """
    A vLLM record without card, version or context, filled up so that its weights can be planned; and what it lacks.

    The weights of a rank depend on none of the three; everything else that the log says does.
    A record that logs no weights is given back as it is, to be refused for what it lacks.
    """
    log = row["measured"]
    whole = row.get("partly") is False  # a log that was just read: what it lacks can be asked for
    if row["engine"] != "vllm" or whole or (log.get("model_loading_gib") is None and not logs_pool(row)):
        return row, None
    lacks, filled = [], dict(row)
    if not row.get("gpu") and not row.get("gpu_total_gib"):
        lacks.append("card")
        filled |= {"gpu": None, "gpu_total_gib": _ANY_CARD_GIB}
    if version is None:
        lacks.append("version")
    if row.get("max_model_len") is None and log.get("max_concurrency_len") is None:
        lacks.append("context")
        filled["max_model_len"] = _ANY_CONTEXT
    if not lacks:
        return row, None
    return filled, f"only weights: the record has no {' and no '.join(lacks)}"
