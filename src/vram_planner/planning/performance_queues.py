"""Requests that wait for each other: arrivals against a server's pace, prefills in line, and tokens a step yields."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vram_planner.planning.performance_model import Load, Times


def tokens_per_step(draft: int, acceptance: float) -> float:
    """
    Tokens that one step of speculative decoding yields: (1 − a^(k+1)) / (1 − a).

    k  tokens guessed    a  chance that a guess is accepted, each like the other
    Source: Leviathan et al., https://arxiv.org/abs/2211.17192, equation 1.
    """
    if acceptance >= 1:
        return draft + 1.0
    return float((1 - acceptance ** (draft + 1)) / (1 - acceptance))


def in_flight(load: Load, stay_s: float) -> float:
    """
    How many requests one meets that stays so long: by Little's law the rate times the stay, λ S.

    Where n of them arrive in all, over T = n/λ, the first meet few and the last are left alone: seen by a request in
    the mean λ m (1 − m/3M), m and M the lesser and the greater of S and T.
    """
    rate = load.rate or 0.0
    if load.requests is None:
        return rate * stay_s
    least, most = sorted((stay_s, load.requests / rate))
    return rate * least * (1 - least / (3 * most))


def outrun(found: Times, load: Load) -> Times:
    """
    Arrivals faster than they are served: of n requests the middle one waits n/2 · (1/μ − 1/λ).

    λ  requests that arrive a second    μ  those that the full server finishes a second
    """
    served = found.output_tokens_per_s / load.groups / load.output
    if load.rate is None or load.rate <= served:
        return found
    behind = (load.requests or 0.0) / 2 * (1 / served - 1 / load.rate)
    stay = found.ttft_s + behind + (load.output - 1) * found.tpot_s
    return replace(found, ttft_s=found.ttft_s + behind, per_user_tokens_per_s=load.output / stay, waits=True)


def waiting_s(service_s: float, away_s: float, requests: float, weight: float) -> float:
    """
    How long a request waits for its prefill behind those of the others.

    A closed queue: each of N requests asks for S seconds of prefill, then is away for Z seconds. By Schweitzer's
    approximation of mean value analysis the stay is R = S (1 + f Q (N − 1)/N) with Q = N R / (R + Z), hence
    R² + R (Z − S − f S (N − 1)) − S Z = 0; the wait is R − S. `weight` f is 1 for exponential service, less
    for service of even length.
    """
    half = (away_s - service_s - weight * service_s * (requests - 1)) / 2
    return max(0.0, sqrt(half * half + service_s * away_s) - half - service_s)
