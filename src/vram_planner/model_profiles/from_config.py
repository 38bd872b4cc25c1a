"""A config.json, as transformers writes it, becomes an Architecture. Hostile files are refused, never obeyed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from vram_planner.errors import ConfigError
from vram_planner.model_profiles.config import Config
from vram_planner.model_profiles.families import build

if TYPE_CHECKING:
    from pathlib import Path

    from vram_planner.architecture.model import Architecture

# The largest published one is below 2 MiB (lists of unquantised modules).
_MOST_BYTES: Final = 16 << 20


def architecture_from_config(data: Mapping[str, Any]) -> Architecture:
    """
    The architecture that the object of a config.json describes.

    Raises ConfigError for a figure that is missing or absurd, UnsupportedArchitectureError for a family
    that we do not know, PrecisionError for a number format that we do not know.
    """
    if not isinstance(data, Mapping):
        raise ConfigError("the config is no object", hint="a config.json starts with '{'")
    return build(Config(data))


def read_model(path: Path) -> dict[str, Any]:
    """
    As `read_config`; also ModelOpt's hf_quant_config.json beside it, which older checkpoints keep apart.

    It is read with a directory and with its config.json, but not with a file of another name. Raises ConfigError.
    """
    config = read_config(path)
    apart = (path if path.is_dir() else path.parent) / "hf_quant_config.json"
    if (
        (path.is_dir() or path.name == "config.json")
        and apart.is_file()
        and "quantization_config" not in config
    ):
        quantisation = read_config(apart).get("quantization")
        if isinstance(quantisation, dict):
            config["quantization_config"] = {"quant_method": "modelopt", **quantisation}
    return config


def read_config(path: Path) -> dict[str, Any]:
    """The object in a config.json, or in the config.json of a directory. Raises ConfigError."""
    file = path / "config.json" if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no config.json in {_short(path)}",
            hint="give a directory that holds one, or the file itself",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot read {_short(file)}: {error.strerror or 'it failed'}",
            hint="check the path and its permissions",
        ) from error
    if len(raw) > _MOST_BYTES:
        raise ConfigError(f"{_short(file)} is larger than 16 MiB", hint="give the model's config.json")
    return parse_config(raw, str(_short(file)))


def parse_config(raw: bytes, name: str) -> dict[str, Any]:
    """The object in the bytes of a config.json; `name` is what messages call it. Raises ConfigError."""
    try:
        data = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name} is no UTF-8 text (byte {error.start:,})", hint="give the model's config.json"
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{name} is no JSON: {error.msg} in line {error.lineno}, column {error.colno}",
            hint="is the download complete? Get the file again",
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{name} is nested too deeply", hint="give the model's config.json") from error
    except ValueError as error:  # a number of more than 4,300 digits
        raise ConfigError(
            f"{name} holds a number that is too long", hint="give the model's config.json"
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name} holds no object", hint="a config.json starts with '{'")
    return data


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 120 else f"…{text[-119:]}"  # noqa: PLR2004
