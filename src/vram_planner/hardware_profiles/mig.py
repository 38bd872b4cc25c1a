"""Slices of a card in MIG mode, by the profile tables that NVIDIA publishes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from vram_planner.errors import UnknownGpuError
from vram_planner.hardware_profiles.rows import read_rows

if TYPE_CHECKING:
    from vram_planner.hardware_profiles.gpu import Gpu

# A slice's memory over its share of the whole card's, where no listing of the driver is known: the least that
# was listed for any card (1g.12gb and 1g.24gb of the H100 NVL, 3g.48gb and 7g.96gb of the GH200). So it is up to
# 9 % too low for 1/8 and 1/4 slices, up to 2 % for larger ones, and never too high on those seen.
_LEAST_SEEN = {(1, 8): 0.913, (1, 4): 0.924, (1, 2): 0.978, (1, 1): 0.978}


def slice_of(gpu: Gpu, profile: str, suffix: str = "") -> Gpu:
    """The slice `profile` (1g.10gb) of a card, as a device; refused where the card has no such profile."""
    table = _table().get(gpu.name)
    if table is None:
        raise UnknownGpuError(
            f"{gpu.name} has no MIG profiles in the catalogue",
            hint=f"cards with profiles: {', '.join(_table())}",
        )
    found = table["profiles"].get(profile)
    if found is None or (suffix and suffix not in table["suffixes"]):
        others = [name for name, other in _table().items() if profile in other["profiles"]]
        also = f"; {profile} is a profile of {', '.join(others)}" if others and found is None else ""
        raise UnknownGpuError(
            f"{gpu.name} has no MIG profile {profile}{suffix}",
            hint=f"it has {', '.join(table['profiles'])}, also with {' '.join(table['suffixes'])}{also}",
        )
    return _cut(gpu, profile + suffix, found, tuple(table["source"]))


def _cut(gpu: Gpu, profile: str, found: dict[str, Any], source: tuple[str, ...]) -> Gpu:
    part, whole = found["memory_share"]
    least = _LEAST_SEEN[part, whole]
    listed_bytes: int | None = found["listed_bytes"]
    total_bytes = listed_bytes or int(gpu.total_bytes * part / whole * least)
    detail = (
        "as the driver lists the profile (nvidia-smi mig -lgip)"
        if listed_bytes
        else f"{least} of {part}/{whole} of the card's total, the least seen: up to 9 % too low"
    )
    compute = _compute_share(gpu, found)
    return replace(
        gpu,
        name=f"{gpu.name} {profile}",
        aliases=(),
        device_names=tuple(f"{name} MIG {profile}" for name in gpu.device_names),
        nameplate_bytes=None,
        reported_bytes=None,
        torch_total_bytes=listed_bytes,
        given_total_bytes=total_bytes,
        given_total_detail=detail,
        multiprocessors=found["multiprocessors"],
        bandwidth_bytes_per_s=gpu.bandwidth_bytes_per_s and gpu.bandwidth_bytes_per_s * part // whole,
        dense_tflops=tuple((dtype, rate * compute) for dtype, rate in gpu.dense_tflops),
        measured_gemm_tflops=(),
        link_bytes_per_s=0,  # a card in MIG mode does no peer-to-peer, so slices meet over the host
        tdp_w=None,
        msrp_usd=None,
        purchases=(),
        prices=(),
        source=source,
        verified_fields=(),
        conflicts=(),
        notes=f"a MIG slice: {part}/{whole} of the memory and its bandwidth, {compute:.3f} of the compute",
        slice_of=gpu.name,
    )


def _compute_share(gpu: Gpu, found: dict[str, Any]) -> float:
    """SMs of the slice over the card's where both are known (98 of 108 in an A100's 7g), else the sevenths."""
    slice_sms: int | None = found["multiprocessors"]
    if slice_sms and gpu.multiprocessors:
        return slice_sms / gpu.multiprocessors
    part, whole = found["sm_share"]
    return float(part / whole)


@cache
def _table() -> dict[str, dict[str, Any]]:
    return {name: row for row in read_rows("mig.jsonl") for name in row["gpus"]}
