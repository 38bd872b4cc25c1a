"""The projector that `--mmproj` asks for: a file, one beside the model, or one worked out from its config.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vram_planner.errors import RequestError, UnknownModelError

if TYPE_CHECKING:
    from vram_planner.architecture.projector import Projector
    from vram_planner.model_profiles.resolve import ModelProfile
    from vram_planner.planning.request import PlanRequest

_AUTO = "auto"
_OLLAMA = "ollama:"
_USUAL = "f16"


def find_projector(request: PlanRequest, profile: ModelProfile) -> Projector | None:
    """
    The projector of a request, None without `--mmproj`.

    auto: Ollama's own; the one mmproj file beside a GGUF file; else F16 as llama.cpp's converter writes it.
    Raises RequestError for what is neither a type nor a file, and what `read_projector` or
    `projector_from_config` refuse.
    """
    if request.mmproj is None:
        if request.mmproj_offload is not None:
            raise RequestError(
                "--mmproj-offload and --no-mmproj-offload need a projector", hint="add --mmproj auto"
            )
        return None
    from vram_planner.model_profiles.projectors import PROJECTOR_TYPES  # noqa: PLC0415  with --mmproj alone

    wanted = request.mmproj.strip()
    type_name = wanted.lower()
    if type_name == _AUTO:
        file = _own_file(request.model.strip())
        return _worked_out(profile, _USUAL) if file is None else _read(file)
    if type_name in PROJECTOR_TYPES:
        return _worked_out(profile, type_name)
    if type_name.endswith(".gguf"):
        return _read(Path(wanted).expanduser())
    raise RequestError(
        f"--mmproj {wanted[:60]!r} is no projector",
        hint=f"auto, {', '.join(PROJECTOR_TYPES)}, or a file: mmproj.gguf",
    )


def _read(file: Path) -> Projector:
    from vram_planner.model_profiles.projector_file import read_projector  # noqa: PLC0415  with a file alone

    return read_projector(file)


def _worked_out(profile: ModelProfile, type_name: str) -> Projector:
    from vram_planner.model_profiles.projectors import projector_from_config  # noqa: PLC0415  as above

    name = profile.name.rsplit("/", 1)[-1]
    hidden = profile.architecture.hidden
    return projector_from_config(profile.config, hidden=hidden, type_name=type_name, name=name)


def _own_file(model: str) -> Path | None:
    """The file that comes with the model; None where its config.json is all there is."""
    if model.lower().startswith(_OLLAMA):
        from vram_planner.model_profiles.ollama import ollama_model  # noqa: PLC0415  for Ollama alone

        kept = ollama_model(model[len(_OLLAMA) :])
        if kept.projector is None:
            raise UnknownModelError(
                f"{model[:80]} has no projector in a file of its own",
                hint="--mmproj FILE.gguf names one; what lies inside the model's own file is counted with it",
            )
        return kept.projector
    path = Path(model).expanduser()
    if path.suffix.lower() != ".gguf" or not path.is_file():
        return None
    beside = sorted(file for file in path.parent.glob("*mmproj*.gguf") if file != path)
    if len(beside) != 1:
        raise RequestError(
            f"--mmproj auto: {len(beside)} mmproj files beside {path.name[:80]}",
            hint="name one: --mmproj FILE.gguf",
        )
    return beside[0]
