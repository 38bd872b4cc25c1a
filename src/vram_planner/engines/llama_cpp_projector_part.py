"""llama.cpp's multimodal projector (mmproj) in a plan: where it lies, its part, its options, what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_planner.basis import Basis, Part

if TYPE_CHECKING:
    from vram_planner.engines.base import Ask
    from vram_planner.engines.llama_cpp_projector import ProjectorBytes

_CODE = "https://github.com/ggml-org/llama.cpp/blob/b11434/tools/mtmd"
_ANY = "vision or audio projector (mmproj)"
_LEFT_OUT = "vision projector (mmproj): not loaded in this plan, as with --no-mmproj; --mmproj auto adds it"
_LONGER = "sound of more than 30 seconds at once"
_SEVERAL = "pictures or tiles that the projector encodes several at once"


def projector_of(ask: Ask) -> ProjectorBytes | None:
    """What the projector takes where it lies; None without one."""
    if ask.projector is None:
        return None
    from vram_planner.engines.llama_cpp_projector import UBATCH, projector_bytes  # noqa: PLC0415  with --mmproj alone

    return projector_bytes(
        ask.projector,
        flash=ask.options.flash_attn is not False,
        on_host=_on_host(ask),
        ubatch=ask.options.ubatch or UBATCH,
    )


def _on_host(ask: Ask) -> bool:
    return ask.options.mmproj_offload is False


def on_first_gpu(ask: Ask) -> int:
    """Bytes of the projector on the first GPU: clip.cpp takes the first device, whatever `-sm` and `-ts` say."""
    found = projector_of(ask)
    return found.total if found is not None and not _on_host(ask) else 0


def projector_parts(ask: Ask) -> tuple[Part, ...]:
    """The projector on the first GPU: tensors, and the buffer of one picture; nothing where it is not there."""
    found, projector = projector_of(ask), ask.projector
    if found is None or projector is None or _on_host(ask):
        return ()
    larger, sound = "", projector.sound
    heard = "" if sound is None else f" and {sound.kind}, {len(sound.tensors):,} tensors beside the"
    if found.largest > found.compute:
        side = found.largest_side
        larger = f"; it grows to {found.largest:,} B when one of {side:,} × {side:,} comes, the largest"
    part = Part(
        name="vision_projector",
        n_bytes=found.total,
        basis=Basis.FORMULA,
        source=f"{projector.source}; graph: {_CODE}/clip.cpp, clip_model_loader::warmup",
        detail=(
            f"{projector.kind}{heard}: {len(projector.tensors):,} tensors of {found.weights:,} B, and {found.compute:,} B for "
            f"a picture of {found.side:,} × {found.side:,}{larger}"
        ),
        low_bytes=found.total if larger else None,
        high_bytes=found.weights + found.largest if larger else None,
    )
    return (part,)


def projector_settings(ask: Ask) -> dict[str, object]:
    """What the server is given, and what it then takes."""
    found, projector = projector_of(ask), ask.projector
    if found is None or projector is None:
        return {}
    return {
        "mmproj": projector.name,
        "mmproj_offload": not _on_host(ask),
        "mmproj_weights_bytes": found.weights,
        "mmproj_compute_bytes": found.compute,
        "mmproj_picture": found.side,
        "mmproj_largest_compute_bytes": found.largest,
        "mmproj_largest_picture": found.largest_side,
    }


def with_projector(command: str, ask: Ask) -> str:
    """The command with the projector's options; flash attention is left to the server where its heads do not fit."""
    found, projector = projector_of(ask), ask.projector
    if found is None or projector is None:
        return command
    if ask.options.flash_attn is not False and not found.flash:
        command = command.replace("-fa on", "-fa auto")
    return f"{command} --mmproj {projector.name}" + " --no-mmproj-offload" * _on_host(ask)


def projector_left_out(ask: Ask) -> tuple[str, ...]:
    """What a plan does not say of it."""
    if ask.projector is not None:
        return (_SEVERAL,) if ask.projector.sound is None else (_SEVERAL, _LONGER)
    return (_LEFT_OUT if ask.architecture.towers else _ANY,)


def projector_warnings(ask: Ask) -> tuple[str, ...]:
    """What the user may not expect of it."""
    found, projector = projector_of(ask), ask.projector
    if found is None or projector is None:
        return ()
    told = []
    if _on_host(ask):
        told.append(
            f"the vision projector lies in host memory: {found.weights:,} B of tensors and {found.compute:,} B for a "
            "picture, which the CPU then computes"
        )
    elif ask.options.flash_attn is not False and not found.flash:
        told.append(
            "the vision projector runs without flash attention: CUDA has no kernel for its heads, so start with -fa auto"
        )
    if projector.out not in (None, ask.architecture.hidden):
        told.append(
            f"{projector.name} was made for a model of width {projector.out:,}, this one has "
            f"{ask.architecture.hidden:,}: llama.cpp refuses a pair that does not fit"
        )
    return tuple(told)
