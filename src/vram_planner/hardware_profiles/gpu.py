"""One card as the planner sees it: frozen, sizes in bytes, None for what is not known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vram_planner.basis import Basis
from vram_planner.errors import RequestError
from vram_planner.hardware_profiles.totals import total_from_nameplate, total_from_reported
from vram_planner.units import format_gib

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}
_KNOWN_DTYPES = ("fp32", "fp16", "bf16", "fp8", "int8", "fp4")
# Bytes per second and lane in one direction, after line coding; twice that in both.
_PCIE_LANE_BYTES_PER_S = {
    "3.0": 984_600_000,
    "4.0": 1_969_200_000,
    "5.0": 3_938_500_000,
    "6.0": 7_563_000_000,
}
# Which price stands for a card when one is wanted: data centres where anybody can rent by the hour, the newest lists
# first, then hyperscalers, then hosts of marketplaces, whose cheapest offer is shown ("from").
_PRICE_ORDER = (
    "RunPod Secure Cloud", "Hyperstack on demand", "Nebius on demand", "Lambda on demand", "Verda on demand", "Vultr",
    "TensorWave", "CoreWeave on demand", "AWS on demand", "specialised clouds", "hyperscalers", "small clouds",
    "RunPod Community Cloud", "Vast.ai on demand", "Akash (from)",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """
    What one seller asked for an hour of one card, or for the card, in US dollars, at a date: a placeholder for yours.

    `source` shows it.
    """

    seller: str
    date: str
    low: float
    high: float
    source: str = ""

    @property
    def middle(self) -> float:
        """The middle of the range."""
        return (self.low + self.high) / 2

    @property
    def label(self) -> str:
        """Who asked it and when; a price is never shown without."""
        return f"{self.seller}, {self.date}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """
    One device as an engine sees it; a board with two of them is two.

    `nameplate_bytes` is what it is sold as, `reported_bytes` what NVML says, `torch_total_bytes` what
    cudaMemGetInfo and torch's total_memory say: three figures, for they differ. `total_bytes` is the one to
    plan with.
    `dense_tflops` are without sparsity; on GeForce cards with float32 accumulation, but for the fp8 of the
    RTX 40 series, where the datasheet's figure is with float16 accumulation (see `notes`).
    `link_bytes_per_s` is NVLink, Infinity Fabric and the like, both directions together, 0 where there is
    PCIe alone. `node_gpus` is how many the fast link joins, or one server holds, where that is not the usual 8.
    """

    name: str
    aliases: tuple[str, ...] = ()
    device_names: tuple[str, ...] = ()
    vendor: str = "unknown"
    architecture: str | None = None
    compute_capability: str | None = None
    memory_kind: str | None = None
    nameplate_bytes: int | None = None
    reported_bytes: int | None = None
    torch_total_bytes: int | None = None
    given_total_bytes: int | None = None
    given_total_detail: str = ""
    multiprocessors: int | None = None
    bandwidth_bytes_per_s: int | None = None
    dense_tflops: tuple[tuple[str, float], ...] = ()
    measured_gemm_tflops: tuple[tuple[str, float], ...] = ()
    unsupported: tuple[str, ...] = ()
    link_bytes_per_s: int | None = None
    node_gpus: int | None = None
    pcie: str | None = None
    tdp_w: int | None = None
    msrp_usd: int | None = None
    prices: tuple[Price, ...] = ()
    purchases: tuple[Price, ...] = ()
    release: str | None = None
    source: tuple[str, ...] = ()
    date: str | None = None
    verified_fields: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    confidence: str = "unverified"
    notes: str = ""
    slice_of: str | None = None

    @property
    def total_bytes(self) -> int:
        """The whole memory as an engine sees it: cudaMemGetInfo's and torch's total."""
        if self.torch_total_bytes is not None:
            return self.torch_total_bytes
        if self.given_total_bytes is not None:
            return self.given_total_bytes
        if self.reported_bytes is not None:
            return total_from_reported(self.reported_bytes)
        if self.nameplate_bytes is not None:
            return total_from_nameplate(
                self.nameplate_bytes, vendor=self.vendor, memory_kind=self.memory_kind
            )
        raise RequestError(
            f"nothing says how much memory {self.name} has",
            hint="give it: --gpu custom:24GiB, the total as the engine sees it",
        )

    @property
    def total_basis(self) -> Basis:
        """Measured where somebody noted torch's total, assumed where a rule or the user gives it."""
        return Basis.ASSUMED if self.torch_total_bytes is None else Basis.MEASURED

    @property
    def total_detail(self) -> str:
        """Where `total_bytes` comes from, in words."""
        if self.torch_total_bytes is not None:
            return self.given_total_detail or "torch's total_memory, as noted in the catalogue"
        if self.given_total_bytes is not None:
            return self.given_total_detail
        if self.reported_bytes is not None:
            return f"{format_gib(self.reported_bytes)} GiB as reported - 330 MiB - 1/400 of it, ±1 %"
        nameplate_bytes = self.nameplate_bytes or 1
        ratio = f"{self.total_bytes / nameplate_bytes:.3f}"
        kind = self.memory_kind or "memory of unknown kind"
        nameplate = format_gib(nameplate_bytes, 0)
        return f"{ratio} of the nameplate's {nameplate} GiB, the rule for {self.vendor} {kind}"

    @property
    def unified_memory(self) -> bool:
        """Whether the memory is the machine's own, so that every other program eats from it."""
        return self.memory_kind == "unified"

    @property
    def pcie_bytes_per_s(self) -> int | None:
        """PCIe in both directions together, as `link_bytes_per_s` counts."""
        if self.pcie is None:
            return None
        generation, lanes = self.pcie.split(" x")
        return 2 * int(lanes) * _PCIE_LANE_BYTES_PER_S[generation]

    @property
    def hourly_price(self) -> Price | None:
        """The one price that stands for this card: rented on demand if known, else the next best seller."""
        by_seller = {price.seller: price for price in self.prices}
        for seller in _PRICE_ORDER:
            if seller in by_seller:
                return by_seller[seller]
        return self.prices[0] if self.prices else None

    @property
    def purchase_price(self) -> Price | None:
        """The maker's list price at release, else what a shop or the press asked for the card."""
        if self.msrp_usd is not None:
            price = float(self.msrp_usd)
            return Price(
                seller="list price at release", date=self.release or "date unknown", low=price, high=price
            )
        return self.purchases[0] if self.purchases else None

    def tflops(self, dtype: str) -> float | None:
        """Dense TFLOPS in fp32, fp16, bf16, fp8, int8 or fp4 (or torch's names); None if not known."""
        return dict(self.dense_tflops).get(_short_dtype(dtype))

    def supports(self, dtype: str) -> bool | None:
        """Whether the hardware computes in this dtype; None if the catalogue does not say."""
        dtype = _short_dtype(dtype)
        if dtype in self.unsupported:
            return False
        return True if self.tflops(dtype) is not None else None

    def to_row(self) -> dict[str, Any]:
        """One line of the list of cards, as plain data: bytes and the units named in the keys."""
        price, bought = self.hourly_price, self.purchase_price
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "vendor": self.vendor,
            "architecture": self.architecture,
            "compute_capability": self.compute_capability,
            "nameplate_bytes": self.nameplate_bytes,
            "reported_bytes": self.reported_bytes,
            "total_bytes": self.total_bytes,
            "total_basis": self.total_basis.value,
            "total_detail": self.total_detail,
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
            "dense_tflops": dict(self.dense_tflops),
            "unsupported": list(self.unsupported),
            "link_bytes_per_s": self.link_bytes_per_s,
            "pcie_bytes_per_s": self.pcie_bytes_per_s,
            "tdp_w": self.tdp_w,
            "msrp_usd": self.msrp_usd,
            "purchase_usd": None if bought is None else bought.middle,
            "purchase_usd_label": None if bought is None else bought.label,
            "usd_per_hour": None if price is None else price.middle,
            "usd_per_hour_label": None if price is None else price.label,
            "release": self.release,
            "confidence": self.confidence,
            "source": list(self.source),
            "date": self.date,
            "verified_fields": list(self.verified_fields),
            "conflicts": list(self.conflicts),
        }

    def explain(self) -> list[tuple[str, Any, str]]:
        """Every known figure as (field, value, how it is known): seen in a source, or as collected."""
        known: list[tuple[str, Any, str]] = [("total_bytes", self.total_bytes, self.total_detail)]
        for field in _EXPLAINED:
            value = getattr(self, field)
            if value is not None:
                known.append((field, value, self._how(field)))
        for dtype, value in self.dense_tflops:
            known.append((f"dense_tflops.{dtype}", value, self._how(f"dense_tflops.{dtype}")))
        for price in self.prices:
            value = (price.low, price.high)
            known.append(("usd_per_hour", value, price.label))
        known += [("purchase_usd", (price.low, price.high), price.label) for price in self.purchases]
        return known

    def _how(self, field: str) -> str:
        if field in self.verified_fields:
            return "seen in a source"
        return f"as collected {self.date}, not checked" if self.date else "as given"


_EXPLAINED = (
    "nameplate_bytes",
    "reported_bytes",
    "torch_total_bytes",
    "bandwidth_bytes_per_s",
    "link_bytes_per_s",
    "pcie_bytes_per_s",
    "multiprocessors",
    "tdp_w",
    "msrp_usd",
)


def _short_dtype(dtype: str) -> str:
    short = _DTYPES.get(dtype, dtype)
    if short not in _KNOWN_DTYPES:
        raise RequestError(f"unknown dtype {dtype!r} of a GPU", hint=f"known: {', '.join(_KNOWN_DTYPES)}")
    return short
