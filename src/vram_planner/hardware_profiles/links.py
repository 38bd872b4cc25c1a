"""What joins cards: how many stand in one server, the link inside it, and the network between servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.units import parse_bits_per_s

if TYPE_CHECKING:
    from vram_planner.hardware_profiles.gpu import Gpu

_USUAL_NODE = 8  # HGX and OAM baseboards, and the PCIe slots of a 4U server
_BRIDGE_BYTES_PER_S = 200_000_000_000
_BRIDGED = 2
_FABRICS = {"nvidia": "NVLink", "amd": "Infinity Fabric", "intel": "Xe Link"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What joins ranks: `kind` is nvlink (and the like), pcie, host or network; bytes a second and rank in one direction, 0 unknown."""

    kind: str
    name: str
    bytes_per_s: float


# An assumption: one 400 Gb/s adapter for each GPU, as HGX and DGX servers have them.
NETWORK = Link(
    kind="network", name="InfiniBand or RoCE (assumed, 400 Gb/s a GPU)", bytes_per_s=50_000_000_000
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """
    How cards stand and what joins their servers; None: as they are built, and one 400 Gb/s adapter for each GPU.

    `gpus` are the slots of one server, of which a card that is built in smaller ones fills no more than those.
    `bits_per_s` is what each GPU can send to other servers in one direction; with `shared` what all of a server can.
    """

    gpus: int | None = None
    bits_per_s: float | None = None
    shared: bool = False

    @classmethod
    def of(cls, gpus: int | None = None, network: str | None = None) -> Servers:
        """As options say it: 8, '400Gb/s' or '100Gb/s/node'. SizeError for what cannot be read."""
        if network is None:
            return cls(gpus=gpus)
        bits_per_s, shared = parse_bits_per_s(network)
        return cls(gpus=gpus, bits_per_s=bits_per_s, shared=shared)

    def size_of(self, gpu: Gpu) -> int:
        """Cards of one server."""
        if self.gpus is None:
            return node_size(gpu)
        built = gpu.node_gpus if gpu.node_gpus is not None else 1 if gpu.unified_memory else self.gpus
        return min(self.gpus, built)

    def network_of(self, gpu: Gpu) -> Link:
        """What joins servers of this card, as one GPU sees it."""
        if self.bits_per_s is None:
            return NETWORK
        size = self.size_of(gpu) if self.shared else 1
        spread = f" a server, shared by {size} GPUs" if self.shared else " a GPU"
        return Link(
            kind="network",
            name=f"{self.bits_per_s / 1e9:g} Gb/s{spread}",
            bytes_per_s=self.bits_per_s / 8 / size,
        )


AS_BUILT = Servers()


def node_size(gpu: Gpu) -> int:
    """Cards of one server, or of one NVLink domain: the row's own (GB200 NVL72: 72), 1 with unified memory, else 8."""
    if gpu.node_gpus is not None:
        return gpu.node_gpus
    return 1 if gpu.unified_memory else _USUAL_NODE


def link_inside(gpu: Gpu, ranks: int) -> Link:
    """
    What joins that many cards of one server: NVLink and the like, but PCIe where bridges join two cards alone.

    Cards whose fast link is below 200 GB/s, or that are PCIe boards, are joined in pairs. GeForce cards are refused
    peer access by their driver, so that what they send goes through the host's memory; a bridge, where one was
    sold, is an extra that few machines have.

    Source: https://github.com/NVIDIA/nccl-tests/issues/117 (cudaDeviceCanAccessPeer of RTX 2080 Ti) and /issues/307
    (all_reduce_perf of eight RTX 4090); the RTX 3090, 4090 and 4090 D under tensor parallelism in
    https://github.com/FreedomIntelligence/AccelMark.
    """
    fast = gpu.link_bytes_per_s or 0
    if "GeForce" in gpu.name:
        name = f"PCIe {gpu.pcie}, through the host" if gpu.pcie else "PCIe, through the host"
        return Link(kind="host", name=name, bytes_per_s=(gpu.pcie_bytes_per_s or 0) / 2)
    bridged = fast < _BRIDGE_BYTES_PER_S or " PCIe" in gpu.name
    if fast and not (bridged and ranks > _BRIDGED):
        name = _FABRICS.get(gpu.vendor, "fast link") + (" bridge" if bridged else "")
        return Link(kind="nvlink", name=name, bytes_per_s=fast / 2)
    name = f"PCIe {gpu.pcie}" if gpu.pcie else "PCIe"
    return Link(kind="pcie", name=name, bytes_per_s=(gpu.pcie_bytes_per_s or 0) / 2)


def link_of(gpu: Gpu, tp: int, gpus: int, servers: Servers = AS_BUILT) -> Link:
    """What a collective over `tp` of the `gpus` waits for: the network where they do not stand in one server."""
    size = servers.size_of(gpu)
    return servers.network_of(gpu) if tp > size or (gpus > 1 and size == 1) else link_inside(gpu, tp)
