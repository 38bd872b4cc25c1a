"""How much memory an engine sees on a card of which nobody has noted it: rules with their errors."""

from __future__ import annotations

from vram_planner.units import GIB, MIB

# torch's total_memory is what NVML reports, less what the driver and the CUDA context keep for themselves.
# Fitted to the 21 rows of the catalogue that know both (Linux): the rule is at most 0.9 % off on each,
# and the V100 is its low end, the RTX 5060 Ti its high end. A test holds it to 1 %.
_RESERVED_BYTES = 330 * MIB
_RESERVED_SHARE = 400

# torch's total over the nameplate, where NVML's own total is unknown too. The rows that know both spread:
#   hbm       0.984 (A100 40GB) to 0.994 (P100)
#   gddr      0.967 (RTX 5060 Ti) to 0.990 (RTX A6000)
#   gddr-ecc  0.919 (A10G) to 0.928 (L40S): GDDR keeps its ECC bits in the memory itself, 1/16 of it
_NVIDIA = {"hbm": 0.985, "gddr": 0.977, "gddr-ecc": 0.92}
_AMD_DISCRETE = 0.999  # MI210, MI250X and MI300X: all but 16 MiB
# Unified memory: the operating system takes its part first.
_UNIFIED_NVIDIA = 0.95  # GB10 shows 121.63 of 128 GiB
_UNIFIED_AMD = 0.75  # a firmware setting: 96 of 128 GiB is its largest fixed share
_UNIFIED_SMALL_APPLE = 2 / 3  # macOS's default limit for the GPU, up to 36 GiB of memory
_UNIFIED_LARGE_APPLE = 3 / 4
_SMALL_APPLE_BYTES = 36 * GIB
_OTHERS = 0.95  # no machine of these vendors seen: a plain guess


def total_from_reported(reported_bytes: int) -> int:
    """
    What an engine sees of the memory that NVML reports: R - 330 MiB - R / 400.

    R  NVML's total
    Leaves out: Windows, where the driver keeps nothing back and torch shows all of R.
    """
    return max(reported_bytes - _RESERVED_BYTES - reported_bytes // _RESERVED_SHARE, 0)


def total_from_nameplate(nameplate_bytes: int, *, vendor: str, memory_kind: str | None) -> int:
    """What an engine sees of the memory that a card is sold with: N times a ratio by kind of memory."""
    return int(nameplate_bytes * _ratio(nameplate_bytes, vendor, memory_kind))


def _ratio(nameplate_bytes: int, vendor: str, memory_kind: str | None) -> float:
    if memory_kind == "unified" and vendor == "apple":
        return _UNIFIED_SMALL_APPLE if nameplate_bytes <= _SMALL_APPLE_BYTES else _UNIFIED_LARGE_APPLE
    if memory_kind == "unified":
        return _UNIFIED_AMD if vendor == "amd" else _UNIFIED_NVIDIA
    if vendor == "nvidia" and memory_kind is not None:
        return _NVIDIA[memory_kind]
    return _AMD_DISCRETE if vendor == "amd" else _OTHERS
