"""How the servers of a published benchmark were started, where its records say only the engine and the card."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_BUSY = 16  # requests from which on the recipes look for new ones more seldom
_FEW, _MANY = (10 - 1) / 2, (30 - 1) / 2
_BALANCED = 10.0


class Recipe(NamedTuple):
    """
    What InferenceX (InferenceMAX before) gave its servers beside model and tp.

    `kv_dtype`, `chunk` (tokens of a prefill step) and `share` (of the card's memory) are None where the engine's
    default held. `held` is how many steps a new request waits in the mean until the engine looks at it: half of
    SGLang's --scheduler-recv-interval, and the attention_dp_batching_wait_iters of TensorRT-LLM's enable_balance,
    whose default is 10. `ep` says that experts are dealt out, `dp_attention` that each rank serves requests of its
    own: both stand in the records.

    Source: https://github.com/SemiAnalysisAI/InferenceX, benchmarks/single_node/fixed_seq_len: dsr1_fp8_b200.sh,
    dsr1_fp4_b200.sh, dsr1_fp8_h200.sh, dsr1_fp8_mi300x.sh, dsr1_fp*_mi355x.sh, deprecated/gptoss_fp4_b200.sh and
    deprecated/gptoss_fp4_b200_trt.sh.
    """

    kv_dtype: str | None = None
    chunk: int | None = None
    share: float | None = None
    held: float = 0.0
    ep: bool = False
    dp_attention: bool = False


def recipe_of(row: dict[str, Any], engine: str) -> Recipe | None:
    """The recipe of a record with InferenceX's own fields ('ep=4 dp_attn=false'); None for others."""
    note = str(row.get("metric_notes") or row.get("note") or "")
    fields = re.search(r"\bep=(\d+) dp_attn=(true|false)", note)
    if fields is None:
        return None
    card, fp4 = str(row.get("gpu_norm") or row.get("gpu")), str(row.get("quant")).upper() == "FP4"
    found = Recipe(ep=int(fields[1]) > 1, dp_attention=fields[2] == "true")
    if engine == "sglang" and "B200" in card:
        held = _MANY if (row.get("concurrency") or 1) >= _BUSY else _FEW
        return found._replace(kv_dtype="fp8", chunk=16_384 if fp4 else 32_768, share=0.82, held=held)
    if engine == "sglang":
        chunk = 32_768 if "H200" in card else 196_608 if "MI355" in card else 131_072
        return found._replace(chunk=chunk, share=0.82 if "H200" in card else 0.8)
    if engine == "vllm" and "B200" in card:
        return found._replace(kv_dtype="fp8")
    if engine == "tensorrt-llm":
        return found._replace(chunk=20_000, held=_BALANCED if found.dp_attention else 0.0)
    return found
