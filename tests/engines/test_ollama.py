from __future__ import annotations

from typing import Any

import pytest

import vram_planner as vp
from vram_planner.errors import RequestError
from vram_planner.planning.ways_out import ways_out


def plan(**more: Any) -> vp.MemoryPlan:
    asked = {"ctx": 4096, "concurrency": 1, "engine": "ollama", "quant": "q4_k_m", "gpu": "RTX 4090", **more}
    return vp.plan(asked.pop("model", "7b"), **asked)


# server/sched.go generationBatchForContext @ fb3076099: by the tokens of all slots together.
@pytest.mark.parametrize(
    ("ctx", "slots", "batch"), [(4096, 1, 512), (4096, 2, 1024), (32768, 1, 1024), (32768, 2, 2048)]
)
def test_the_batch_goes_by_the_tokens_of_all_slots(ctx: int, slots: int, batch: int) -> None:
    found = plan(ctx=ctx, concurrency=slots)

    assert found.request["ubatch"] == batch
    same = plan(ctx=ctx, concurrency=slots, engine="llama.cpp", ubatch=batch)
    assert [(part.name, part.n_bytes) for part in found.parts] == [
        (part.name, part.n_bytes) for part in same.parts
    ]


def test_a_full_card_keeps_the_small_batch() -> None:
    """70 B in 4 bits is 40 GiB: of 47.4 GiB that is above the 75 % that 1,024 tokens ask to stay below."""
    assert plan(model="70b", ctx=8192, gpu="RTX A6000").request["ubatch"] == 512
    assert plan(model="70b", ctx=8192, gpu="H100 SXM5 80GB").request["ubatch"] == 1024


def test_a_batch_that_the_user_sets_stays() -> None:
    assert plan(ctx=32768, ubatch=512).request["ubatch"] == 512


def test_the_command_sets_the_environment() -> None:
    launch = plan(ctx=8192, concurrency=4, kv_dtype="q8_0", flash_attn=True).launch

    assert launch == (
        "OLLAMA_CONTEXT_LENGTH=8192 OLLAMA_NUM_PARALLEL=4 OLLAMA_KV_CACHE_TYPE=q8_0 OLLAMA_FLASH_ATTENTION=1 ollama serve"
    )


def test_what_ollama_does_not_pass_on_is_refused() -> None:
    with pytest.raises(RequestError, match="passes no"):
        plan(swa_full=True)


def test_it_has_llama_cpps_speed_and_ways_out() -> None:
    assert plan().performance is not None
    short = plan(model="70b", quant=None, gpu="RTX 4090")
    request = vp.PlanRequest.of(model="70b", ctx=4096, concurrency=1, engine="ollama", gpu="RTX 4090")
    assert all("awq" not in way.flags for way in ways_out(request, short))
