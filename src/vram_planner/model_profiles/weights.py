"""From the header of a checkpoint to a model: exact bytes where there is a header, what an index says otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vram_planner.architecture.precision import Except, Uniform
from vram_planner.architecture.stored_header import FromHeader
from vram_planner.basis import Basis
from vram_planner.errors import ConfigError, PrecisionError
from vram_planner.model_profiles.assign import assign, remarks
from vram_planner.model_profiles.checkpoint import find_weights, read_checkpoint
from vram_planner.model_profiles.from_config import architecture_from_config, read_model
from vram_planner.model_profiles.gguf import read_gguf
from vram_planner.model_profiles.headers import LocalFile, short_name
from vram_planner.model_profiles.tensor_names import hf_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.assign import Assigned
    from vram_planner.model_profiles.headers import Header

_FLOATS: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
# Norms in float32 beside 16-bit matrices are usual; more than that is a checkpoint that engines cast.
_MOST_CAST: Final = 100


class Found(NamedTuple):
    """A model that was read from files: what a profile needs beside its name."""

    architecture: Architecture
    config: Mapping[str, Any]
    basis: Basis
    source: str

    @classmethod
    def of_config(cls, architecture: Architecture, config: Mapping[str, Any], source: str) -> Found:
        """A model of which only the config.json is known."""
        return cls(architecture, config, Basis.FORMULA, source)


def model_in(path: Path) -> Found | None:
    """
    The model of a weight file, an index or a directory; None for a directory without weights that we read.

    Raises HeaderError, ConfigError, PrecisionError or UnsupportedArchitectureError.
    """
    folder = path if path.is_dir() else path.parent
    file = find_weights(path) if path.is_dir() else path
    if file is None:
        return None
    if file.name.endswith(".gguf"):
        return model_of_gguf(read_checkpoint(file))
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"there is no config.json beside {short_name(str(file))}",
            hint="a safetensors file does not say what model it holds: put its config.json into the same directory",
        )
    return model_of_header(read_model(folder), read_checkpoint(file))


def model_of_ollama(text: str) -> Found:
    """The model of a name in Ollama's store. Raises UnknownModelError or HeaderError."""
    from vram_planner.model_profiles.ollama import ollama_model  # noqa: PLC0415  only for Ollama

    kept = ollama_model(text)
    with LocalFile(kept.path) as source:
        found = model_of_gguf(read_gguf(source))
    if not kept.projector_bytes:
        return found
    told = f"its vision projector, a file of {kept.projector_bytes:,} B, is counted with --mmproj auto only"
    return found._replace(architecture=replace(found.architecture, notes=(*found.architecture.notes, told)))


def model_of_gguf(header: Header) -> Found:
    """The model of a GGUF header: its architecture is in the file's own metadata."""
    from vram_planner.model_profiles.gguf_architecture import gguf_profile  # noqa: PLC0415  only for GGUF

    architecture, config = gguf_profile(header)
    return Found(architecture, config, Basis.EXACT, header.source)


def model_of_header(config: dict[str, Any], header: Header) -> Found:
    """The model of a config.json and a safetensors header, or an index of either kind."""
    architecture, label = _architecture(_with_dtype(config, header))
    if not header.tensors:
        return Found(_by_index(architecture, header), config, Basis.FORMULA, header.source)
    found = assign(architecture, header.tensors, hf_name)
    notes = (*architecture.notes, *header.notes, *remarks(found, what="config"))
    formula = architecture.precision
    if not isinstance(formula, Uniform | Except):
        return Found(replace(architecture, notes=notes), config, Basis.FORMULA, header.source)
    cast = _cast(formula, found)
    if cast:
        return Found(replace(architecture, notes=(*notes, cast)), config, Basis.FORMULA, header.source)
    precision = FromHeader(
        formula=formula,
        bytes_of=found.bytes_of,
        shared=found.shared(architecture),
        source=f"header of {short_name(header.source)}",
        label=label,
    )
    return Found(replace(architecture, precision=precision, notes=notes), config, Basis.EXACT, header.source)


def _with_dtype(config: dict[str, Any], header: Header) -> dict[str, Any]:
    """The config, with the dtype that most bytes have where it names none."""
    levels = [
        config,
        *(value for key in ("text_config", "llm_config") if isinstance(value := config.get(key), dict)),
    ]
    if any(level.get(key) is not None for level in levels for key in ("dtype", "torch_dtype")):
        return config
    named = next((_FLOATS[dtype] for dtype in header.bytes_by_dtype if dtype in _FLOATS), None)
    return config if named is None else {**config, "torch_dtype": named}


def _architecture(config: dict[str, Any]) -> tuple[Architecture, str]:
    """The architecture; a quantisation that we do not know by name is left to the header, which knows its bytes."""
    try:
        return architecture_from_config(config), ""
    except PrecisionError:
        quantisation = config.get("quantization_config")
        if not isinstance(quantisation, dict):
            raise
        named = quantisation.get("quant_algo") or quantisation.get("quant_method")
        label = str(named)[:40].lower() if isinstance(named, str) else "quantised"
        plain = {key: value for key, value in config.items() if key != "quantization_config"}
        return architecture_from_config(plain), label


def _cast(formula: Uniform | Except, found: Assigned) -> str:
    """What to say where the file's floats are not of the dtype that an engine loads them as; else nothing."""
    other = {
        dtype: n_bytes
        for dtype, n_bytes in found.main_bytes.items()
        if dtype in _FLOATS and _FLOATS[dtype] != formula.base.name
    }
    if sum(other.values()) * _MOST_CAST <= found.loaded_bytes:
        return ""
    dtype = max(other, key=lambda name: other[name])
    return (
        f"the file stores {other[dtype]:,} B in {_FLOATS[dtype]}; engines load them as {formula.base.name}, as the "
        "config says, and so they are counted"
    )


def _by_index(architecture: Architecture, header: Header) -> Architecture:
    """The architecture, with a word on what its index says of the bytes."""
    stated, own = header.stated_bytes, architecture.weights_bytes()
    if stated is None:
        return architecture
    if stated == own:
        told = f"the index of the checkpoint says the same: {stated:,} B (metadata.total_size)"
    else:
        more = f"{abs(stated - own):,} B {'more' if stated > own else 'less'}"
        told = (
            f"the index of the checkpoint says {stated:,} B (metadata.total_size), {more} than the formula: draft "
            "layers, a tied head that is stored, or another format; read the files' headers to know"
        )
    return replace(architecture, notes=(*architecture.notes, told))
