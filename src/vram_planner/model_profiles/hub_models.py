"""A model by its name on a hub: from the local cache first, from the network where that is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from vram_planner.errors import HubError, UnknownModelError
from vram_planner.model_profiles.checkpoint import (
    PYTORCH_INDEX,
    SAFETENSORS_INDEX,
    index_header,
    join_indexed,
)
from vram_planner.model_profiles.checkpoint_index import MOST_BYTES, CheckpointIndex, read_index
from vram_planner.model_profiles.from_config import architecture_from_config, parse_config, read_model
from vram_planner.model_profiles.gguf import read_gguf
from vram_planner.model_profiles.hub import Hub
from vram_planner.model_profiles.hub_cache import cached_snapshot
from vram_planner.model_profiles.safetensors import read_safetensors
from vram_planner.model_profiles.weights import Found, model_in, model_of_gguf, model_of_header

if TYPE_CHECKING:
    from typing import Any

    from vram_planner.model_profiles.headers import Header

_MOST_CONFIG_BYTES: Final = 16 << 20  # as read_config takes at most
# Headers of so few files are read where the index and the formula do not agree; each is one request.
_FEW_FILES: Final = 16


class HubModel(NamedTuple):
    """A model that was found by its name, and where."""

    found: Found
    provenance: str


def hub_model(repo: str, file: str | None, *, offline: bool) -> HubModel:
    """
    The model of a repository, or of one GGUF file in it.

    Raises UnknownModelError, HubError (OfflineError among them) or whatever is wrong with its files.
    """
    snapshot = cached_snapshot(repo, file=file or "config.json")
    if snapshot is not None:
        found = model_in(snapshot / file if file else snapshot)
        if found is None:
            config = read_model(snapshot)
            found = Found.of_config(architecture_from_config(config), config, str(snapshot / "config.json"))
        return HubModel(found, "local cache of the hub")
    hub = Hub(repo, offline=offline)
    return HubModel(_gguf(hub, file) if file else _checkpoint(hub), f"hub ({hub.endpoint})")


def _gguf(hub: Hub, file: str) -> Found:
    if not file.endswith(".gguf"):
        raise HubError(f"{file} is no GGUF file", hint=f"give {hub.repo} alone, or a .gguf file in it")
    remote = hub.open(file)
    if remote is None:
        raise UnknownModelError(f"{hub.repo} has no file {file}", hint="look at its list of files on the hub")
    header = read_gguf(remote)
    if header.metadata.get("split.count", 1) not in (0, 1):
        raise HubError(f"{file} is one of several files", hint="download the set and give its first file")
    return model_of_gguf(header)


def _checkpoint(hub: Hub) -> Found:
    raw = hub.fetch("config.json", _MOST_CONFIG_BYTES)
    if raw is None:
        raise UnknownModelError(
            f"{hub.repo} has no config.json on {hub.endpoint}",
            hint=f"of a GGUF repository name the file: {hub.repo}/NAME.gguf",
        )
    config = _with_modelopt(hub, parse_config(raw, f"{hub.repo}/config.json"))
    for name in (SAFETENSORS_INDEX, PYTORCH_INDEX):
        raw = hub.fetch(name, MOST_BYTES)
        if raw is not None:
            return _indexed(hub, config, read_index(raw, name=f"{hub.repo}/{name}"), name)
    header = _single(hub)
    if header is None:
        return Found.of_config(architecture_from_config(config), config, hub.url("config.json"))
    return model_of_header(config, header)


def _with_modelopt(hub: Hub, config: dict[str, Any]) -> dict[str, Any]:
    """Older checkpoints of ModelOpt keep their quantisation apart, and nothing in the config or the name need tell."""
    if "quantization_config" not in config:
        raw = hub.fetch("hf_quant_config.json", _MOST_CONFIG_BYTES)
        apart = parse_config(raw, f"{hub.repo}/hf_quant_config.json").get("quantization") if raw else None
        if isinstance(apart, dict):
            return {**config, "quantization_config": {"quant_method": "modelopt", **apart}}
    return config


def _single(hub: Hub) -> Header | None:
    remote = hub.open("model.safetensors")
    return None if remote is None else read_safetensors(remote)


def _indexed(hub: Hub, config: dict[str, Any], index: CheckpointIndex, name: str) -> Found:
    """
    By the index alone where it agrees with the formula to the byte, or where there are very many files.

    Else by the header of each file.
    """
    source = f"{hub.repo}/{name}"
    found = model_of_header(config, index_header(index, source))
    same = index.total_bytes == found.architecture.weights_bytes()
    if (
        same
        or len(index.files) > _FEW_FILES
        or not all(file.endswith(".safetensors") for file in index.files)
    ):
        return found
    return model_of_header(config, read_remote_files(hub, index, source))


def read_remote_files(hub: Hub, index: CheckpointIndex, source: str) -> Header:
    """The headers of all files of an index, one request each and more for the long ones."""
    headers = []
    for file in index.files:
        remote = hub.open(file)
        if remote is None:
            raise HubError(f"{hub.repo} lacks {file}, which its index names", hint="is the upload complete?")
        headers.append(read_safetensors(remote))
    return join_indexed(index, headers, source)
