"""Which rules a release of vLLM follows for an ask: its engine (V0 or V1), its model runner, its defaults by card."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.precision import DTYPES
from vram_planner.engines.versions import OLD_ENGINE, Profile, parse_version, profile_for
from vram_planner.errors import RequestError
from vram_planner.units import GIB

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask, Device

_FIRST_NEW, _LAST_BOTH = (0, 8, 0), (0, 11, 0)
_AMPERE, _HOPPER, _BLACKWELL = 8, 9, 10
_FLOAT32_BYTES = 4


class Release(NamedTuple):
    """A version's profile with its rules, and what is to be said of the choice."""

    profile: Profile
    warnings: tuple[str, ...]


def release_of(ask: Ask) -> Release:
    """The profile and rules of the version asked for, of the engine and the runner that it takes for this ask."""
    version, why = asked_version(ask)
    profile, warning = profile_for("vllm", version)
    if not profile.get("v0"):
        old = "v1" if profile["sampler"] == "v2" else profile["sampler"]
        profile = {**profile, "sampler": "v2" if takes_new_runner(ask, profile) else old}
    fallen = f"vLLM {ask.options.version} falls back to its V0 engine for {why}" if why else None
    return Release(profile, tuple(text for text in (fallen, warning) if text))


def asked_version(ask: Ask) -> tuple[str | None, str | None]:
    """
    The version with '+v0' where 0.8 to 0.10 ran the V0 engine of themselves, and for what.

    Source: engine/arg_utils.py, _is_v1_supported_oracle, of 0.8.0 to 0.10.2.
    """
    version = ask.options.version
    if version is None or version.endswith(OLD_ENGINE):
        return version, None
    wanted = parse_version(version)
    if not _FIRST_NEW <= wanted < _LAST_BOTH:
        return version, None
    why = _needs_old(ask, wanted)
    return (f"{version}{OLD_ENGINE}", why) if why else (version, None)


def _needs_old(ask: Ask, wanted: tuple[int, int, int]) -> str | None:
    device, options = ask.device, ask.options
    major = device.compute_capability[0] if device and device.compute_capability else None
    early, middle = wanted < (0, 9, 0), wanted < (0, 10, 2)
    reasons = {
        "a compute capability below 8.0": middle and major is not None and major < _AMPERE,
        "a model with recurrent states": middle and bool(ask.architecture.states),
        f"--kv-cache-dtype {options.kv_dtype}": options.kv_dtype != "auto"
        and not _new_takes_cache(major, wanted),
        "an AMD card": early and device is not None and "amd" in device.name.lower().split(),
        "float32": early and ask.precision.element_bytes == _FLOAT32_BYTES,
        "speculative decoding": early and options.speculative is not None,
        "a draft model": wanted < (0, 10, 0) and options.speculative == "draft",
    }
    return next((why for why, holds in reasons.items() if holds), None)


def _new_takes_cache(major: int | None, wanted: tuple[int, int, int]) -> bool:
    """FP8 needs FlashAttention 3, so Hopper; from 0.10 on Blackwell has it too. No card named: as on those."""
    if wanted < (0, 8, 3):
        return False
    return major is None or major == _HOPPER or (major == _BLACKWELL and wanted >= (0, 10, 0))


def takes_new_runner(ask: Ask, profile: Profile) -> bool:
    """
    Whether the V2 model runner, whose sampler makes no float32 copies, serves the model.

    Source: config/vllm.py, _is_default_v2_model_runner_model and _get_v2_model_runner_unsupported_features.
    """
    rule, drafting = profile["new_runner"], ask.options.speculative
    if drafting is not None and drafting not in profile["new_runner_drafts"]:
        return False
    if rule.get("all"):
        return True
    named = ask.architecture.model_type in rule["named"]
    if rule.get("dense"):
        return named or not (_routed(ask) or ask.architecture.states)
    return named and not (rule.get("plain") and (_routed(ask) or ask.precision.name not in DTYPES))


def _routed(ask: Ask) -> bool:
    return any(isinstance(layer.feed_forward, MixtureOfExperts) for layer, _ in ask.architecture.groups)


def card_defaults(profile: Profile, device: Device | None) -> tuple[int, int]:
    """max_num_batched_tokens and max_num_seqs of the API server by card; without a card those of the smallest."""
    row = next(row for row in profile["cards"] if _of_card(row, device))
    return row["tokens"], row["requests"]


def _of_card(row: Profile, device: Device | None) -> bool:
    if "gib" not in row and "named" not in row:
        return True
    if device is None:
        return False
    name = device.name.lower()
    if any(word in name for word in row.get("but", ())):
        return False
    if "gib" in row:
        return bool(device.total_bytes >= row["gib"] * GIB)
    return any(word in name for word in row["named"])


def caches_prefixes(ask: Ask, profile: Profile) -> bool:
    """
    Whether beginnings of prompts are kept: as asked, else by version and kind of model.

    V1 does so of itself, of models with recurrent states beside attention from 0.26 on, of those of states alone never;
    V0 where asked. Source: engine/arg_utils.py, enable_prefix_caching; config/model.py, is_prefix_caching_supported.
    Raises RequestError where a version's way of keeping states is not modelled.
    """
    asked, states = ask.options.prefix_caching, bool(ask.architecture.states)
    if asked is None:
        if profile.get("v0"):
            return False
        return not states or bool(ask.architecture.caches and profile["states_cached"])
    if asked and states and not profile.get("states_cacheable"):
        raise RequestError(
            f"prefix caching beside recurrent states is not modelled for vLLM {profile['title']}",
            hint="leave --prefix-caching out, or --engine-version 0.16 and newer",
        )
    return asked


def states_left_out(ask: Ask, profile: Profile) -> tuple[str, ...]:
    """What a version does with recurrent states that is not in a plan, in words."""
    if not ask.architecture.states:
        return ()
    if profile.get("v0"):
        return ("the states that the V0 engine keeps beside its pool",)
    if ask.architecture.model_type in profile["states_at_every_block"] and caches_prefixes(ask, profile):
        return ("a state at every block, which this version keeps of this model's prompts: two are counted",)
    return ()


def batches_in_flight(ask: Ask, profile: Profile) -> int:
    """
    Batches whose tokens are scheduled but not settled: from 0.26 on as many as run at once, before it one.

    Asynchronous scheduling adds one; the V1 runner has it without pipeline stages alone, drafting by n-grams never.
    Source: config/vllm.py, max_in_flight_tokens and max_concurrent_batches.
    """
    if not profile.get("in_flight"):
        return 1
    pp = ask.layout.pp
    if ask.options.speculative == "ngram":
        return pp
    if profile["sampler"] == "v2":
        return pp + 1
    return 2 if pp == 1 else pp
