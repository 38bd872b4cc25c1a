"""What vLLM's kernels make of MXFP4 experts: which runs on a card, what it pads, and what it holds twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from vram_planner.architecture.feed_forward import MixtureOfExperts
from vram_planner.architecture.parallel import stage_layers
from vram_planner.architecture.precision import Place
from vram_planner.architecture.storage import MXFP4
from vram_planner.architecture.weight import Role
from vram_planner.engines.versions import parse_version
from vram_planner.units import ceil_div, round_up

if TYPE_CHECKING:
    from vram_planner.architecture.model import Layer
    from vram_planner.engines.base import Ask
    from vram_planner.engines.versions import Profile

Kernel = Literal["marlin", "triton", "trtllm"]

_HOPPER, _BLACKWELL = 9, 10
# triton_kernels came with the images of 0.11; 0.10 ran Marlin on Hopper, for want of torch 2.8.
_FIRST_TRITON: Final = (0, 11, 0)
_GROUP: Final = 32  # numbers that share a scale of a byte
_FLOAT32 = 4
# matmul_ogs' layout of scales on Hopper: 2 · 8 warps · 2 · 8 rows of the matrix (hopper_scale.py).
_SCALE_ROWS: Final = 256


def kernel_of(ask: Ask) -> Kernel:
    """
    The kernel of MXFP4 experts: by compute capability, family and version.

    8.x and 12.x Marlin; 9.0 Triton's matmul_ogs for gpt-oss from 0.11 on, else Marlin; 10.x FlashInfer's TRT-LLM kernels,
    which its images carry. A card that is not named counts as Hopper. Source: vLLM 0.10.1 to 0.14.1
    layers/quantization/mxfp4.py, get_mxfp4_backend; 0.25.1 and 0.32.0 fused_moe/oracle/mxfp4.py,
    _get_priority_backends(_for_gpt_oss), and the experts' _supports_current_device.
    """
    capability = ask.device.compute_capability if ask.device else (_HOPPER, 0)
    major = capability[0] if capability else _HOPPER
    if major == _BLACKWELL:
        return "trtllm"
    version = ask.options.version
    early = version is not None and parse_version(version.removesuffix("+v0")) < _FIRST_TRITON
    return (
        "triton" if major == _HOPPER and ask.architecture.model_type == "gpt_oss" and not early else "marlin"
    )


def experts_run_as(ask: Ask) -> str:
    """For the profile run: "marlin" pads, "swizzled" needs no workspace, "" for experts of other formats."""
    if not any(_is_mxfp4(layer, ask) for layer, _ in ask.architecture.groups):
        return ""
    return "marlin" if kernel_of(ask) == "marlin" else "swizzled"


def padding_bytes(ask: Ask) -> int:
    """
    What Marlin's kernel adds on one rank: width padded to 128 a rank, hidden size to 256, biases too.

    Source: vLLM 0.32 fused_moe/oracle/mxfp4.py, mxfp4_round_up_hidden_size_and_intermediate_size; its own allocation
    of gpt-oss agrees to the byte.
    """
    return _on_rank(ask, "marlin", {})


def held_beyond_bytes(ask: Ask, profile: Profile) -> int:
    """What the chosen kernel holds on one rank beyond the checkpoint's experts."""
    return _on_rank(ask, kernel_of(ask), profile)


def _on_rank(ask: Ask, kernel: Kernel, profile: Profile) -> int:
    total = 0
    for layer, count in ask.architecture.groups:
        if _is_mxfp4(layer, ask) and isinstance(block := layer.feed_forward, MixtureOfExperts):
            experts = ceil_div(block.n_experts, ask.layout.expert_ranks)
            held = _expert_bytes(block, kernel, ask, profile) - _expert_bytes(block, None, ask, profile)
            total += max(stage_layers(count, ask.layout.pp)) * experts * held
    return total


def has_byte_experts(ask: Ask) -> bool:
    """Whether experts are stored in a byte a number (FP8), and multiplied so."""
    place = Place(ask.architecture, 0)
    return any(
        weight.elements <= ask.precision.weight_bytes(weight, place) < weight.elements * 5 // 4
        for layer, _ in ask.architecture.groups
        for weight in layer.weights
        if weight.role is Role.EXPERT
    )


def _is_mxfp4(layer: Layer, ask: Ask) -> bool:
    place, precision = Place(ask.architecture, 0), ask.precision
    experts = [weight for weight in layer.weights if weight.role is Role.EXPERT]
    stored = sum(precision.weight_bytes(weight, place) for weight in experts)
    return bool(experts) and stored == sum(map(MXFP4.nbytes, experts))


def _expert_bytes(block: MixtureOfExperts, kernel: Kernel | None, ask: Ask, profile: Profile) -> int:
    """Bytes of one expert on a rank under a kernel; None: as the checkpoint has it."""
    tp = 1 if ask.layout.expert_parallel else ask.layout.expert_tp
    width, hidden = block.expert_intermediate // tp, block.latent or block.hidden
    bias = _FLOAT32 if kernel in ("triton", "trtllm") else ask.precision.element_bytes
    if kernel == "triton":
        width = round_up(width, 64)
    elif kernel is not None:
        width = round_up(width, 128 if kernel == "marlin" else profile.get("mxfp4_trtllm_width", 256))
        hidden = round_up(hidden, 256)
    biases = (2 * width + hidden) * bias if block.bias else 0
    if kernel != "triton":
        return 3 * width * hidden * MXFP4.block_bytes // _GROUP + biases
    return _swizzled(2 * width, hidden, profile) + _swizzled(hidden, width, profile) + biases


def _swizzled(rows: int, columns: int, profile: Profile) -> int:
    """
    A matrix of `rows` × `columns` in matmul_ogs' layout on Hopper.

    Values: columns / 2 bytes a row, padded to 32, rows to 16 (0.17 to 0.20: both to 64). Scales: rows padded to 256, columns
    / 32 to 2 (0.32: 4). Up to 0.20 the checkpoint's scales stay beside the new ones.
    Source: triton_kernels/tensor_details/layout_details/hopper_value.py and hopper_scale.py as vLLM 0.14.1, 0.19.1,
    0.25.1 and 0.32.0 carry them; the deletion of the old scales in 0.25.1 fused_moe/oracle/mxfp4.py.
    """
    tall, wide = profile.get("mxfp4_value_tile", (16, 32))
    values = round_up(rows, tall) * round_up(columns // 2, wide)
    groups = ceil_div(columns, _GROUP)
    scales = round_up(rows, _SCALE_ROWS) * round_up(groups, profile.get("mxfp4_scale_groups", 2))
    return values + scales + (rows * groups if profile.get("mxfp4_scales_twice") else 0)
