"""What a card gives a class of kernels, and the constants of an engine there."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING

from vram_planner.hardware_profiles.links import AS_BUILT, Servers, link_of
from vram_planner.planning import performance_constants as fitted
from vram_planner.planning.performance_model import Card, Constants
from vram_planner.units import ceil_div

if TYPE_CHECKING:
    from vram_planner.architecture.parallel import Layout
    from vram_planner.hardware_profiles import Gpu

# Class of kernels -> dtype that they multiply in, and the class that serves where a card cannot.
_KERNELS = {
    "16bit": ("bf16", "16bit"),
    "fp8": ("fp8", "w8a16"),
    "int8": ("int8", "w8a16"),
    "w8a16": ("bf16", "w8a16"),
    "w4a16": ("bf16", "w4a16"),
    "awq": ("bf16", "awq"),
    "fp4": ("fp4", "w4a16"),
    "gguf": ("bf16", "gguf"),
    "unpacked": ("bf16", "unpacked"),
}
_BY_FORMAT = {
    "fp8": "fp8",
    "int8": "int8",
    "w8a8": "int8",
    "awq": "w4a16",
    "gptq": "w4a16",
    "int4": "w4a16",
    "w4a16": "w4a16",
    "nf4": "w4a16",
    "nvfp4": "fp4",
    "mxfp4": "fp4",
}
_LLAMA_CPP, _TRANSFORMERS = "llama.cpp", "transformers"
# The catalogue's measured products over nameplates, by 16-bit TFLOP/s that the nameplate asks of a watt: a card that
# is cut down keeps its clock (H20), a large one does not. RTX 3080 to 5090, H20; A100 and A800; H100; B200.
_REACHED = ((0.35, 1.0), (0.78, 0.84), (1.41, 0.79), (2.25, 0.74))
# Two channels of DDR5-5600, where the host's memory is slower than the link to it.
_HOST_BYTES_PER_S = 80_000_000_000


@lru_cache(maxsize=512)
def rates_of(
    engine: str, version: str | None, kernels: str, on: tuple[Gpu, Layout, Servers]
) -> tuple[Card, Constants] | None:
    """The card's numbers and the engine's constants there; None where bandwidth or peak is not known."""
    gpu, layout, servers = on
    made = card_of(gpu, kernels, layout, engine, servers)
    if made is None:
        return None
    card, kernels, link = made
    span = fitted.era(fitted.load(engine), version)
    of_links = partial(fitted.constants, engine, span, fitted.generation(gpu), kernels)
    return _crossing(card, of_links("network"), on), of_links(link)


def _crossing(card: Card, network: Constants, on: tuple[Gpu, Layout, Servers]) -> Card:
    """The same with what its pipeline stages wait for where they begin on another server."""
    gpu, layout, servers = on
    crossings = ceil_div(layout.pp, max(1, servers.size_of(gpu) // layout.tp)) - 1
    if not crossings:
        return card
    rate = servers.network_of(gpu).bytes_per_s * network.link_share
    return replace(card, crossings=crossings, crossing_hop_s=network.hop_s, crossing_bytes_per_s=rate)


@lru_cache(maxsize=256)
def kernel_class(precision: str, engine: str) -> str:
    """Which kernels multiply a format of weights."""
    name = precision.lower()
    if engine == _LLAMA_CPP:
        return "16bit" if name in ("f16", "bf16", "float16", "bfloat16", "f32") else "gguf"
    if engine == _TRANSFORMERS and name.startswith("awq"):
        return "awq"  # AutoAWQ's modules launch more than those of GPTQ
    for start, found in _BY_FORMAT.items():
        if name.startswith(start):
            return found
    return "16bit"


def card_of(
    gpu: Gpu, kernels: str, layout: Layout, engine: str, servers: Servers = AS_BUILT
) -> tuple[Card, str, str] | None:
    """The numbers of a card for a class of kernels, the class that really runs there, and the kind of link."""
    flops_16 = gpu.tflops("bf16") or gpu.tflops("fp16")
    dtype, instead = _KERNELS[kernels]
    flops = gpu.tflops(dtype)
    if engine == _LLAMA_CPP and flops_16:
        # It accumulates in float16 and multiplies quantised blocks in int8: half of the int8 rate is its 16-bit peak.
        flops = flops_16 = max(flops_16, gpu.tflops("fp16") or 0.0, (gpu.tflops("int8") or 0.0) / 2)
    elif flops is None or dtype == "bf16":
        flops, kernels = flops_16, instead
    elif dtype == "fp8" and gpu.architecture == "Ada" and "GeForce" in gpu.name:
        flops /= 2  # the datasheet's figure is with float16 accumulation, twice that with float32
    if not gpu.bandwidth_bytes_per_s or not flops or not flops_16:
        return None
    experts = shared(layout, engine).expert_ranks
    link = link_of(gpu, max(layout.tp, experts), layout.gpus, servers)
    reached = 1.0 if engine == _LLAMA_CPP else _reached(gpu)
    host = min((gpu.pcie_bytes_per_s or 0) / 2 or _HOST_BYTES_PER_S, _HOST_BYTES_PER_S)
    if gpu.unified_memory:
        host = gpu.bandwidth_bytes_per_s
    card = Card(
        bandwidth=float(gpu.bandwidth_bytes_per_s),
        flops=flops * reached * 1e12,
        flops_16=flops_16 * reached * 1e12,
        link_bytes_per_s=link.bytes_per_s,
        host_bytes_per_s=host,
        # llama.cpp's host works on its weights where they lie; other engines' cards read them over the bus.
        host_read_bytes_per_s=0.0
        if engine != _LLAMA_CPP
        else host
        if gpu.unified_memory
        else _HOST_BYTES_PER_S,
    )
    return card, kernels, link.kind


@lru_cache(maxsize=256)
def shared(layout: Layout, engine: str) -> Layout:
    """Replicas of vLLM share their experts; those of other engines are servers of their own."""
    return replace(layout, shared_experts=True) if engine == "vllm" else replace(layout, dp=1)


def _reached(gpu: Gpu) -> float:
    """Share of the nameplate's peak that large products reach, where somebody measured it; else 1."""
    for dtype, measured in gpu.measured_gemm_tflops:
        nameplate = gpu.tflops(dtype)
        if nameplate:
            return min(1.0, measured / nameplate)
    flops, watts = gpu.tflops("bf16") or gpu.tflops("fp16"), gpu.tdp_w
    asked = flops / watts if flops and watts else 0.0
    for (low, at_low), (high, at_high) in pairwise(_REACHED):
        if asked <= high:
            return at_low + (at_high - at_low) * max(0.0, asked - low) / (high - low)
    return _REACHED[-1][1]
