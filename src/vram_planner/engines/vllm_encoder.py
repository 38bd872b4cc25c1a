"""
vLLM's start with a vision tower: the largest pictures go through it first, and what they became is kept.

In units of U = patches · width · b, with r = 1/tp, g = inner / width / tp, what one layer of the tower keeps alive.
The towers run eagerly, and a caller's argument lives as long as the call, so the counts follow from the code:

gather  qkv is gathered and cut again under tp         max(2 + 3r + 6, 2 + 14r, 2 + 3g)
        (its 8r: rotary angles in float32, four copies of q or k at once)
heads   qkv stays on its rank, q and k rotated as one  2 + 8r + 1 + (tp > 1) (+ 1: learned positions, Qwen 3), 2 + 2g
siglip                                                 3 + 4r + 1 + (tp > 1), 3 + 2g, 4 + g + (tp > 1)

Source: vLLM 0.8.3, 0.10.1 and 0.24.0, model_executor/models/qwen2_vl.py, qwen2_5_vl.py, qwen3_vl.py, siglip.py;
budgets: v1/worker/gpu_model_runner.py profile_run, multimodal/encoder_budget.py, worker/model_runner.py (V0).
Left out: CLIP, Pixtral and other towers, audio; FlashInfer's cuDNN workspace; a graph of the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.vision import Eye
    from vram_planner.engines.vllm_profile_run import Run

_FLOAT32_BYTES = 4
# SigLIP's picture has a token before and one behind it.
_AROUND = 2
# Before 0.7 vLLM let pictures of Qwen 2 VL through up to this many tokens, in a square: 35 · 35.
_OLD_MOST = 1280
TOWER = "vision tower"
WITHOUT_PICTURES = '--limit-mm-per-prompt \'{"image": 0, "video": 0}\''


@dataclass(frozen=True, eq=False, repr=False)
class Seen:
    """What the profile run's pictures take: while the tower runs, and afterwards; and how many there were."""

    tower_bytes: int
    kept_bytes: int
    pictures: int


def image_tokens(eye: Eye, era: str) -> int:
    """What the largest picture becomes in this era of vLLM."""
    return isqrt(_OLD_MOST) ** 2 if era == "capped" and eye.kind.startswith("qwen") else eye.image_tokens


def profiled_requests(eye: Eye, *, tokens: int, requests: int, era: str) -> int:
    """
    V0 profiles as many requests as have room for all their pictures: T // tokens of the largest ones.

    Qwen's requests count a picture and a film. Source: worker/model_runner.py, profile_run.
    """
    one = image_tokens(eye, era)
    of = 2 * one if eye.kind.startswith("qwen") else one + _AROUND
    return max(1, min(requests, tokens // of))


def see(eye: Eye, run: Run) -> Seen:
    """
    The pictures of the profile run, in bytes of one rank.

    V1: budget // tokens of the largest picture, budget = max(T, those tokens); 0.8 rounds up, later down.
    V0: one for each profiled request, for Qwen before 0.7; a picture and a film of its size for Qwen after.
    Up to 0.8 pixels are float32 and get a copy in the model's type; later they arrive in that type.
    """
    one = image_tokens(eye, run.eyes)
    if run.v0:
        pictures = run.requests
    else:
        budget = max(run.tokens, one)
        pictures = max(
            1, min(ceil_div(budget, one) if run.eyes == "float32" else budget // one, run.requests)
        )
    patches = pictures * one * eye.patches_per_token
    early = run.eyes in ("capped", "float32")
    pixels = patches * eye.pixels * (_FLOAT32_BYTES if early else run.element_bytes)
    copy = patches * eye.pixels * run.element_bytes if early else 0
    unit = patches * eye.width * run.element_bytes
    outputs = pictures * one * eye.out * run.element_bytes
    twice = run.v0 and run.eyes == "float32" and eye.kind.startswith("qwen")
    held = 0 if run.sampler == "v2" else pixels * (1 + twice)
    if run.v0 and eye.kind == "siglip":
        # Gemma 3 under V0 makes two masks a request, each as long as wide (gemma3_mm.py, prepare_attn_masks).
        held += 2 * run.tokens**2 // run.requests * run.element_bytes
    return Seen(
        tower_bytes=int(unit * _units(eye, run)) + pixels * (1 + twice) + copy,
        kept_bytes=held + outputs * (1 + twice),
        pictures=pictures,
    )


def _units(eye: Eye, run: Run) -> float:
    rank, inner, several = 1 / run.tp, eye.inner / eye.width / run.tp, run.tp > 1
    if eye.kind == "siglip":
        return 3 + max(4 * rank + 1 + several, 2 * inner, inner + 1 + several)
    if run.eyes == "heads" and eye.kind != "qwen2":
        positions = eye.kind == "qwen3"
        return positions + max(2 + 8 * rank + 1 + several, 2 + (3 if eye.gated else 2) * inner)
    gathered = 2 + 3 * rank + 6 if several else 0
    return max(gathered, 2 + 14 * rank, 2 + (3 if eye.gated else 2) * inner)
