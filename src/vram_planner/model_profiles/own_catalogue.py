"""
A user's own model catalogue: rows that stand beside those of the package, or in their place.

VRAM_PLANNER_CATALOGUE, or `use_catalogue`, names a directory with .json and .jsonl files, or one such file: a
row, a list of rows, or a row a line. A row has the keys of model_profiles/schema.py.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from vram_planner.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VARIABLE: Final = "VRAM_PLANNER_CATALOGUE"
_MOST_BYTES: Final = 16 << 20
_MOST_FILES: Final = 10_000


def use_catalogue(path: str | os.PathLike[str] | None) -> None:
    """
    Take the rows of this directory or file from now on, before those of the package; None takes none.

    Raises CatalogueError at once where it cannot be read, naming the file and the key.
    """
    if path is None:
        os.environ.pop(VARIABLE, None)
        return
    if not os.fspath(path).strip():
        raise CatalogueError(
            "--catalogue names no file", hint="give a directory of .json or .jsonl files, or one such file"
        )
    own_rows(os.fspath(path))
    os.environ[VARIABLE] = os.fspath(path)


def own_rows(path: str) -> Mapping[str, dict[str, Any]]:
    """The rows by their names in lower case; none for an empty path. Files that changed are read again."""
    if not path:
        return _NONE
    files = _files(Path(path).expanduser())
    return _rows(tuple((str(file), *_stamp(file)) for file in files))


_NONE: Final[Mapping[str, dict[str, Any]]] = MappingProxyType({})


def _files(path: Path) -> list[Path]:
    try:
        directory = path.is_dir()
        if directory:
            found = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl"))
        else:
            found = [path] if path.is_file() else []
    except OSError as error:
        raise CatalogueError(
            f"cannot read the catalogue {path}: {error.strerror or 'it failed'}",
            hint="check the path and its permissions",
        ) from error
    if not found:
        raise CatalogueError(
            f"there are no .json or .jsonl files in {str(path)[:200]}"
            if directory
            else f"there is no catalogue at {str(path)[:200]}",
            hint=f"give --catalogue or {VARIABLE} a directory with .json or .jsonl files, or one such file",
        )
    if len(found) > _MOST_FILES:
        raise CatalogueError(f"{path} holds {len(found):,} files", hint="is it the right directory?")
    return found


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise _unreadable(file, error) from error
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _rows(files: tuple[tuple[str, int, int], ...]) -> Mapping[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    origin: dict[str, str] = {}
    for name, _, size in files:
        for where, data in _objects(Path(name), size):
            row = _validated(data, where)
            key = row["model"].lower()
            if key in rows:
                raise CatalogueError(
                    f"{where}: model {row['model']!r} is already in {origin[key]}",
                    hint="name each model once",
                )
            rows[key], origin[key] = row, where
    return MappingProxyType(rows)


def _objects(file: Path, size: int) -> Iterator[tuple[str, Any]]:
    if size > _MOST_BYTES:
        raise CatalogueError(f"{file} is larger than 16 MiB", hint="is it a catalogue?")
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogueError(f"{file} is no UTF-8 text", hint="save it as UTF-8") from error
    except OSError as error:
        raise _unreadable(file, error) from error
    if file.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield f"{file}:{number}", _parsed(line, f"{file}:{number}")
        return
    data = _parsed(text, str(file))
    if isinstance(data, list):
        yield from ((f"{file}[{index}]", row) for index, row in enumerate(data))
    else:
        yield str(file), data


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        told = (
            f"{error.msg} in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "too deep"
        )
        raise CatalogueError(f"{where} is no JSON: {told}", hint="correct the file") from error


def _validated(data: Any, where: str) -> dict[str, Any]:
    from pydantic import ValidationError  # noqa: PLC0415  only where a catalogue is given

    from vram_planner.model_profiles.schema import OwnRow  # noqa: PLC0415  as above

    try:
        row = OwnRow.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "the row"
        raise CatalogueError(
            f"{where}: {key}: {_what_is_wrong(first['type'], key, first['msg'])}",
            hint=f"a row has the keys {', '.join(OwnRow.model_fields)}; model, source and config are required",
        ) from error
    return row.model_dump(exclude_none=True)


def _what_is_wrong(kind: str, key: str, message: str) -> str:
    """In words of ours where pydantic's speak of its own types or patterns."""
    told = {
        "missing": "is missing",
        "extra_forbidden": "is no key of a row",
        "model_type": "must be an object with the keys of a row",
        "dict_type": "must be an object",
        "string_too_short": "is empty",
        "string_pattern_mismatch": "must be a name such as org/name, of letters, digits, dots and dashes",
    }
    if key == "provenance":
        return "is none of the known labels; leave it out"
    return told.get(kind, message[:1].lower() + message[1:])


def _unreadable(file: Path, error: OSError) -> CatalogueError:
    return CatalogueError(
        f"cannot read {file}: {error.strerror or 'it failed'}", hint="check the path and its permissions"
    )
