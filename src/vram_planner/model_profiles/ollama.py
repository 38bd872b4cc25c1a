"""
Ollama's store on this machine: a name leads to a manifest, a manifest to a blob, and the blob is a GGUF file.

Source: https://github.com/ollama/ollama, types/model/name.go and manifest/manifest.go.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vram_planner.errors import HeaderError, UnknownModelError
from vram_planner.model_profiles.from_config import parse_config
from vram_planner.model_profiles.headers import LocalFile, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_BYTES: Final = 1 << 20
_HOST: Final = "registry.ollama.ai"
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
_DIGEST: Final = re.compile(r"sha256[:-]([0-9a-f]{64})")
_MODEL: Final = "application/vnd.ollama.image.model"
_PROJECTOR: Final = "application/vnd.ollama.image.projector"
_SERVICE: Final = "/usr/share/ollama/.ollama/models"  # where the Linux service keeps its models
_HINT: Final = "see `ollama list`; OLLAMA_MODELS names another store"


class OllamaModel(NamedTuple):
    """The GGUF file of a model, and its vision projector's bytes and file, if it has one of its own."""

    path: Path
    projector_bytes: int
    projector: Path | None = None


def ollama_model(text: str) -> OllamaModel:
    """
    The file of 'name', 'name:tag', 'user/name:tag' or 'host/user/name:tag'.

    Raises UnknownModelError where the store has no such model, HeaderError where its manifest is damaged.
    """
    parts = _manifest_parts(text)
    for store in _stores():
        manifest = store.joinpath("manifests", *parts)
        if manifest.is_file():
            return _read_manifest(manifest, store / "blobs")
    looked = " and ".join(str(store) for store in _stores())
    raise UnknownModelError(f"Ollama has no model {text[:80]!r} in {looked}", hint=_HINT)


def _stores() -> Iterator[Path]:
    named = os.environ.get("OLLAMA_MODELS")
    if named:
        yield Path(named).expanduser()
        return
    yield Path("~/.ollama/models").expanduser()
    if Path(_SERVICE).is_dir():
        yield Path(_SERVICE)


def _manifest_parts(text: str) -> tuple[str, ...]:
    """Host, namespace, name and tag, as they lie below `manifests`."""
    name, _, tag = text.partition(":") if text.count(":") < 2 else text.rpartition(":")  # noqa: PLR2004  host:port
    words = name.split("/")
    defaults = (_HOST, "library")
    parts = (*defaults[: max(0, 3 - len(words))], *words, tag or "latest")
    if len(parts) != 4 or not all(_PART.fullmatch(part) and ".." not in part for part in parts):  # noqa: PLR2004
        raise UnknownModelError(
            f"{text[:80]!r} is no name of an Ollama model", hint="as in ollama:llama3.1:8b"
        )
    return parts


def _read_manifest(path: Path, blobs: Path) -> OllamaModel:
    with LocalFile(path) as source:
        if source.size > _MOST_BYTES:
            refuse(source, f"a manifest of {source.size:,} bytes", 0)
        manifest = parse_config(source.read_at(0, source.size), str(path))
    layers = manifest.get("layers")
    found = [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
    models = [_blob(layer, blobs, path) for layer in found if layer.get("mediaType") == _MODEL]
    if len(models) != 1:
        raise HeaderError(
            f"{path}: {len(models)} GGUF files in the manifest, one is read",
            hint="models that Ollama keeps as safetensors or in several files are not supported",
        )
    towers = [layer for layer in found if layer.get("mediaType") == _PROJECTOR]
    sizes = [layer.get("size") for layer in towers]
    total = sum(size for size in sizes if isinstance(size, int) and size > 0)
    return OllamaModel(models[0], total, _blob(towers[0], blobs, path) if towers else None)


def _blob(layer: dict[str, Any], blobs: Path, manifest: Path) -> Path:
    digest = layer.get("digest")
    found = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if found is None:
        raise HeaderError(f"{manifest}: the digest {str(digest)[:80]!r}", hint="pull the model again")
    return blobs / f"sha256-{found[1]}"
