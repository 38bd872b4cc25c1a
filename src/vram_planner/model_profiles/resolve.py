"""What the user typed becomes a model: an alias, a catalogue name, a short name, a directory, a config.json."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vram_planner.basis import Basis
from vram_planner.errors import CatalogueError, ConfigError, PlannerError, UnknownModelError
from vram_planner.model_profiles.from_config import architecture_from_config, read_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.architecture.model import Architecture

_CATALOGUE: Final = os.path.join(os.path.dirname(__file__), "catalogue")  # noqa: PTH118, PTH120  pathlib costs 40 µs
_LONGEST_NAME: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """
    A model with all that is known of it, and how that is known.

    `resolved_from` is what the user typed; `alias_of` says what a short name stood for, None where the
    name was typed in full. `provenance` is the catalogue's label ("verbatim", "copy of a sibling", ...) or
    "local file". `basis` holds for what is derived from the config. `note` says what a row leaves in doubt.
    """

    name: str
    resolved_from: str
    alias_of: str | None
    architecture: Architecture
    basis: Basis
    source: str
    provenance: str
    config: Mapping[str, Any]
    note: str = ""


def resolve(text: str) -> ModelProfile:
    """
    The model that a name or a path stands for.

    In this order: alias, catalogue name, the one catalogue model of that name in any organisation, a
    directory with a config.json or such a file. Case does not matter. Raises UnknownModelError with the
    nearest names, or the PlannerError of whatever is wrong with the file.
    """
    name = _checked(text)
    try:
        return _from_catalogue(name)
    except _NotInCatalogueError:
        return _from_path(name)


def model_names() -> tuple[str, ...]:
    """Every model of the catalogue, sorted without regard to case."""
    return tuple(sorted(_all_files().values(), key=str.lower))


def nearest(text: str) -> tuple[str, ...]:
    """Up to three names of the catalogue that look like the text."""
    import difflib  # noqa: PLC0415  only for mistakes

    short = text[:100].lower()
    by_key = {name.lower(): name for name in model_names()}
    by_key |= {name.lower().rpartition("/")[2]: name for name in reversed(model_names())}
    by_key |= {alias: alias for alias in aliases()}
    found = difflib.get_close_matches(short, by_key, n=6, cutoff=0.55)
    return tuple(dict.fromkeys(by_key[key] for key in found))[:3]


@cache
def aliases() -> Mapping[str, str]:
    """Short names and the catalogue names that they stand for."""
    found: dict[str, str] = _read_json("aliases.json")
    return found


class _NotInCatalogueError(Exception):
    """Says to `resolve` that a path may be meant; never leaves this module."""


def _checked(text: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UnknownModelError(
            "no model was named", hint="give --model 7b, an org/name, or a path to a config.json"
        )
    if len(text) > _LONGEST_NAME or any(ord(letter) < ord(" ") for letter in text):
        raise UnknownModelError(
            f"that is no model name: {text[:40]!r}{'…' if len(text) > 40 else ''}",  # noqa: PLR2004
            hint="give --model 7b, an org/name, or a path to a config.json",
        )
    return text.strip()


@lru_cache(maxsize=1024)
def _from_catalogue(text: str) -> ModelProfile:
    key = text.lower()
    full = aliases().get(key)
    alias_of = None if full is None else f"{text} stands for {full}"
    row = _row_named(full or text)
    if row is None:
        unique = _find(key)
        row = _row_named(unique)
        if row is not None and "/" not in text:
            alias_of = f"{text} stands for {unique}"
    if row is None:
        raise CatalogueError(f"the catalogue has no row for {full}", hint="mend catalogue/aliases.json")
    return ModelProfile(
        name=row["model"],
        resolved_from=text,
        alias_of=alias_of,
        architecture=architecture_from_config(row["config"]),
        basis=Basis.FORMULA,
        source=row["source"],
        provenance=row["provenance"],
        config=row["config"],
        note="; ".join(row[key] for key in ("basis", "note") if key in row),
    )


def _row_named(name: str) -> dict[str, Any] | None:
    """The row of a name as the catalogue spells it: one small file is read, no directory."""
    organisation, slash, model = name.partition("/")
    if not slash or "/" in model or "\\" in name or name.startswith("."):
        return None
    try:
        row: dict[str, Any] = _read_json(f"models/{organisation}__{model}.json")
    except (FileNotFoundError, OSError):
        return None
    # A file system that does not mind case must not change what is resolved.
    return row if row.get("model") == name else None


def _find(key: str) -> str:
    """The catalogue name that is meant by a text in lower case; _NotInCatalogueError where there is none."""
    names = _all_files()
    if key in names:
        return names[key]
    ends = [name for lower, name in names.items() if lower.partition("/")[2] == key] if "/" not in key else []
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UnknownModelError(
            f"{key!r} may be {' or '.join(sorted(ends)[:4])}", hint="give the name with its organisation"
        )
    raise _NotInCatalogueError


@cache
def _all_files() -> Mapping[str, str]:
    """Names in lower case to names as written, from the names of the files."""
    files = sorted(os.listdir(os.path.join(_CATALOGUE, "models")))  # noqa: PTH118, PTH208  as above
    names = (file.removesuffix(".json").replace("__", "/", 1) for file in files if file.endswith(".json"))
    return {name.lower(): name for name in names}


def _read_json(file: str) -> Any:
    with open(f"{_CATALOGUE}/{file}", "rb") as stream:  # noqa: PTH123  as above
        return json.loads(stream.read())


def _from_path(text: str) -> ModelProfile:
    _refuse_other_kinds(text)
    path = Path(text).expanduser()
    try:
        there = path.exists()
    except OSError:  # a name that is too long for a file
        there = False
    if not there:
        raise _unknown(text)
    config = read_model(path)
    folder = path if path.is_dir() else path.parent
    named = config.get("_name_or_path")
    own = path.resolve().name if path.is_dir() else path.stem
    name = own if own != "config" else folder.resolve().name
    return ModelProfile(
        name=name or str(named or path),
        resolved_from=text,
        alias_of=None,
        architecture=architecture_from_config(config),
        basis=Basis.FORMULA,
        source=str(path / "config.json" if path.is_dir() else path),
        provenance="local file",
        config=config,
    )


def _refuse_other_kinds(text: str) -> None:
    """Kinds of MODEL that this version does not read; a wrong guess from a name would be worse."""
    lower = text.lower()
    if lower.startswith("ollama:"):
        kind = "Ollama's model store"
    elif lower.endswith((".gguf", ".safetensors", ".safetensors.index.json")):
        kind = "the header of a weight file"
    else:
        return
    raise ConfigError(
        f"this version does not yet read {kind} ({text[:80]})",
        hint="give the model's config.json or its directory instead, and --quant for its number format",
    )


def _unknown(text: str) -> PlannerError:
    short = text if len(text) <= 80 else f"{text[:80]}…"  # noqa: PLR2004
    near = nearest(text)
    if near:
        return UnknownModelError(
            f"unknown model {short!r}", hint=f"misspelt? The nearest are: {', '.join(near)}"
        )
    return UnknownModelError(
        f"unknown model {short!r}",
        hint="`vram-plan models` lists those we know; any other: give its directory or config.json",
    )
