"""What the user typed becomes a model: an alias, a catalogue name, a directory, a file, a name in a store or on a hub."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vram_planner.basis import Basis
from vram_planner.errors import CatalogueError, ConfigError, OfflineError, PlannerError, UnknownModelError
from vram_planner.model_profiles.from_config import architecture_from_config, read_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.weights import Found

_CATALOGUE: Final = os.path.join(os.path.dirname(__file__), "catalogue")  # noqa: PTH118, PTH120  pathlib costs 40 µs
_LONGEST_NAME: Final = 4096
_WEIGHTS: Final = (".safetensors", ".gguf", ".safetensors.index.json", ".bin.index.json")
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


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


def resolve(text: str, *, offline: bool = False) -> ModelProfile:
    """
    The model that a name or a path stands for.

    In this order: alias, catalogue name, the one catalogue model of that name in any organisation, a
    directory, a config.json or a weight file, 'ollama:name:tag', and 'org/name' in the hub's local cache,
    a catalogue name with the ending of a number format or with other separators, or, unless `offline`, 'org/name' on the hub. Rows of
    the user's own catalogue come before the package's. Case does not matter in the catalogue. Raises
    UnknownModelError with the nearest names, or the PlannerError of whatever is wrong with the file.
    """
    name = _checked(text)
    return _known(name) or _from_path(name, offline=offline)


def model_names() -> tuple[str, ...]:
    """Every model of the catalogue, sorted without regard to case."""
    names = {**_all_files(), **{key: row["model"] for key, row in _own().items()}}
    return tuple(sorted(names.values(), key=str.lower))


def nearest(text: str) -> tuple[str, ...]:
    """Up to three names of the catalogue that look like the text."""
    from vram_planner.model_profiles.short_names import alike  # noqa: PLC0415  only for mistakes

    return alike(text, model_names(), aliases())


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


def _own() -> Mapping[str, dict[str, Any]]:
    """Rows of the user's own catalogue by their names in lower case."""
    path = os.environ.get("VRAM_PLANNER_CATALOGUE", "")
    if not path:
        return {}
    from vram_planner.model_profiles.own_catalogue import own_rows  # noqa: PLC0415  most users have none

    return own_rows(path)


def _known(text: str, *, short: bool = True) -> ModelProfile | None:
    """The model of a name, None where no catalogue has it; aliases count where `short` names do."""
    key = text.lower()
    own = _own()
    if own:
        full = aliases().get(key, key).lower()
        named = own.get(full) or _only([row for name, row in own.items() if name.partition("/")[2] == key])
        if named is not None:
            own_name = named["model"]
            return _profile(named, text, None if own_name.lower() == key else f"{text} stands for {own_name}")
    if not short and aliases().get(key, key).lower().rpartition("/")[2] != key.rpartition("/")[2]:
        return None
    try:
        return _from_catalogue(text)
    except _NotInCatalogueError:
        return None


def _only(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    return rows[0] if len(rows) == 1 else None


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
    return _profile(row, text, alias_of)


def _profile(row: Mapping[str, Any], text: str, alias_of: str | None) -> ModelProfile:
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


def _from_path(text: str, *, offline: bool) -> ModelProfile:
    path = Path(text)
    try:
        path = path.expanduser()
        there = path.exists()
    except (OSError, RuntimeError):  # a name that is too long for a file; the home of nobody
        there = False
    if not there:
        return _from_store(text, offline=offline)
    if path.is_dir() or path.name.endswith(_WEIGHTS):
        from vram_planner.model_profiles.weights import model_in  # noqa: PLC0415  only where there may be weights

        found = model_in(path)
        if found is not None:
            return _found(text, _own_name(path), found, "local file")
    if path.suffix in _PICKLES and path.is_file():
        raise ConfigError(
            f"{path.name} may be a pickle, which is never opened",
            hint="give its directory, or the index beside it (pytorch_model.bin.index.json)",
        )
    config = read_model(path)
    named = config.get("_name_or_path")
    own = _own_name(path)
    return ModelProfile(
        name=own or str(named or path),
        resolved_from=text,
        alias_of=None,
        architecture=architecture_from_config(config),
        basis=Basis.FORMULA,
        source=str(path / "config.json" if path.is_dir() else path),
        provenance="local file",
        config=config,
    )


def _own_name(path: Path) -> str:
    """The name of the file, or of the directory where the file's is always the same."""
    if path.is_dir():
        return path.resolve().name
    stem = path.name.removesuffix(".index.json").removesuffix(".bin")
    stem = stem.removesuffix(".safetensors").removesuffix(".gguf").removesuffix(".json")
    return path.parent.resolve().name if stem in ("config", "model", "pytorch_model") else stem


def _found(text: str, name: str, found: Found, provenance: str) -> ModelProfile:
    return ModelProfile(
        name=name,
        resolved_from=text,
        alias_of=None,
        architecture=found.architecture,
        basis=found.basis,
        source=found.source,
        provenance=provenance,
        config=found.config,
    )


def _from_store(text: str, *, offline: bool) -> ModelProfile:
    """A name in Ollama's store, in the hub's cache or on the hub."""
    if text.lower().startswith("ollama:"):
        from vram_planner.model_profiles.weights import model_of_ollama  # noqa: PLC0415  as above

        return _found(text, text[len("ollama:") :], model_of_ollama(text[len("ollama:") :]), "Ollama's store")
    from vram_planner.model_profiles.hub_cache import cached_snapshot, repo_and_file  # noqa: PLC0415  as above

    named = repo_and_file(text)
    if named is None or cached_snapshot(named[0]) is None:
        from vram_planner.model_profiles.variants import variant_of  # noqa: PLC0415  as above

        variant = variant_of(text, _finder(text)) or _typed_otherwise(text)
        if variant is not None:
            return variant
    if named is None:
        raise _refused(text) or _unknown(text)
    from vram_planner.model_profiles.hub_models import hub_model  # noqa: PLC0415  as above

    try:
        model = hub_model(*named, offline=offline)
    except (OfflineError, UnknownModelError) as error:
        refused = _refused(text)
        if refused is not None:
            raise refused from error
        near = nearest(text)
        if not near:
            raise
        hint = f"misspelt? The nearest are: {', '.join(near)}; else: {error.hint}"
        raise UnknownModelError(str(error), hint=hint) from error
    return _found(text, named[0], model.found, model.provenance)


def _finder(text: str) -> Callable[[str], ModelProfile | None]:
    # Under an organisation `7b` is no alias of ours.
    return lambda name: _known(name, short="/" not in text)


def _typed_otherwise(text: str) -> ModelProfile | None:
    """`llama3.1-8b`, `qwen3:8b`: a short name with its separators let be; None where it is none."""
    from vram_planner.model_profiles.short_names import meant  # noqa: PLC0415  as above

    name = meant(text, model_names(), aliases())
    found = None if name is None else _known(name)
    if found is None:
        return None
    return replace(found, resolved_from=text, alias_of=f"{text} stands for {name}")


def _refused(text: str) -> PlannerError | None:
    from vram_planner.model_profiles.variants import refusal_of  # noqa: PLC0415  as above

    return refusal_of(text, _finder(text))


def _unknown(text: str) -> PlannerError:
    short = text if len(text) <= 80 else f"{text[:80]}…"  # noqa: PLR2004
    if text.lower().endswith(_WEIGHTS):
        return UnknownModelError(
            f"there is no file {short!r}", hint="check the path; a file on a hub is org/name/file.gguf"
        )
    near = nearest(text)
    if near:
        return UnknownModelError(
            f"unknown model {short!r}", hint=f"misspelt? The nearest are: {', '.join(near)}"
        )
    return UnknownModelError(
        f"unknown model {short!r}",
        hint="`vram-plan models` lists those we know; any other: give its directory or config.json",
    )
