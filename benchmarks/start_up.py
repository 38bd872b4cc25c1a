"""
Whole starts of vLLM on the records that say everything a plan needs: `python benchmarks/start_up.py`.

Version, logged weights, the card's total, utilization, and blocks or tokens must be known. Every such record that
can be replayed is counted, of models that constants were read from or not; the others are printed with the reason.
"""

from __future__ import annotations

from typing import Any

from vram_planner.report.evidence import scores_text
from vram_planner.validate.evidence import Replayed, read_records, replay_all, scores

COMPONENTS = ("KV tokens", "KV blocks", "concurrency")


def complete(row: dict[str, Any]) -> bool:
    log = row.get("measured", {})
    return (
        row["engine"] == "vllm"
        and all(row.get(key) for key in ("engine_version", "gpu_total_gib", "gpu_memory_utilization"))
        and bool(log.get("model_loading_gib"))
        and bool(log.get("num_gpu_blocks") or log.get("kv_cache_tokens"))
    )


def main() -> None:
    found = list(replay_all(row for row in read_records() if complete(row)))
    rows = [
        row for row in found if isinstance(row, Replayed) and any(name in row.pairs for name in COMPONENTS)
    ]
    for row in found:
        if not isinstance(row, Replayed):
            print(f"{row.id}: {row.reason}")
    print(scores_text(found, [s for s in scores(rows, "engine") if s.component in COMPONENTS]))
    print(scores_text(found, [s for s in scores(rows, "fitted") if s.component in COMPONENTS]))
    for row in sorted(rows, key=worst, reverse=True)[:8]:
        print(f"{worst(row):7.2%}  {row.version:8} {row.gpu[:28]:28} {row.model}")
    errors = sorted(worst(row) for row in rows)
    middle, late = errors[len(errors) // 2], errors[min(len(errors) - 1, int(0.9 * len(errors)))]
    print(f"{len(errors)} records, by their worst of the three: median {middle:.2%}, P90 {late:.2%}")


def worst(row: Replayed) -> float:
    return max(abs(row.pairs[name][0] / row.pairs[name][1] - 1) for name in COMPONENTS if name in row.pairs)


if __name__ == "__main__":
    main()
