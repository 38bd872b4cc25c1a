"""A checkpoint on this machine: one file or many, a directory, an index; its headers together are one header."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from vram_planner.errors import HeaderError
from vram_planner.model_profiles.checkpoint_index import MOST_BYTES, CheckpointIndex, read_index
from vram_planner.model_profiles.gguf import read_gguf
from vram_planner.model_profiles.headers import DAMAGED, Header, LocalFile, StoredTensor, refuse, short_name
from vram_planner.model_profiles.safetensors import read_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SAFETENSORS_INDEX: Final = "model.safetensors.index.json"
PYTORCH_INDEX: Final = "pytorch_model.bin.index.json"
INDEX_ENDINGS: Final = (".safetensors.index.json", ".bin.index.json")
WEIGHT_ENDINGS: Final = (".safetensors", ".gguf", *INDEX_ENDINGS)
_SHARD: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf|\.safetensors)")
_MOST_SHARDS: Final = 512
_MOST_ENTRIES: Final = 100_000
# No weights of the model itself: adapters, optimiser states, Mistral's own second copy.
_OTHER: Final = re.compile(r"(?:adapter|optimizer|consolidated|mmproj|training_args)[\w.\-]*", re.IGNORECASE)


def read_checkpoint(path: Path) -> Header:
    """
    The header of a weight file with all its siblings, of an index, or of the weights in a directory.

    Raises HeaderError for what is damaged, hostile or missing.
    """
    if path.is_dir():
        found = find_weights(path)
        if found is None:
            raise HeaderError(
                f"there are no weights that we read in {short_name(str(path))}",
                hint="safetensors, GGUF, or the index of a PyTorch checkpoint",
            )
        path = found
    name = path.name
    if name.endswith(INDEX_ENDINGS):
        return read_indexed(path)
    if name.endswith(".gguf"):
        return _read_gguf_files(path)
    index = path.parent / SAFETENSORS_INDEX
    if _SHARD.fullmatch(name) and index.is_file():
        return read_indexed(index)
    if _SHARD.fullmatch(name):
        return _joined([_read_one(file) for file in _siblings(path)], path)
    return _read_one(path)


def find_weights(folder: Path) -> Path | None:
    """
    The file that stands for the weights in a directory, None where there are none that we read.

    An index goes before single files, safetensors before PyTorch and GGUF. Raises HeaderError where several
    models lie there.
    """
    for name in (SAFETENSORS_INDEX, "model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    names = sorted(_names_in(folder))
    for ending in (".safetensors", ".gguf"):
        models = {_shard_base(name): name for name in reversed(names) if name.endswith(ending)}
        if len(models) > 1:
            few = ", ".join(sorted(models.values())[:3])
            raise HeaderError(
                f"several models lie in {short_name(str(folder))}: {few}", hint="name the file that is meant"
            )
        if models:
            return folder / next(iter(models.values()))
    if (folder / PYTORCH_INDEX).is_file():
        return folder / PYTORCH_INDEX
    return None


def _names_in(folder: Path) -> Iterator[str]:
    try:
        for number, entry in enumerate(folder.iterdir()):
            if number > _MOST_ENTRIES:
                raise HeaderError(
                    f"more than {_MOST_ENTRIES:,} files in {short_name(str(folder))}",
                    hint="name the weight file",
                )
            if entry.name.endswith(WEIGHT_ENDINGS) and not _OTHER.match(entry.name):
                yield entry.name
    except OSError as error:
        raise HeaderError(
            f"cannot list {short_name(str(folder))}: {error.strerror or 'it failed'}",
            hint="check its permissions",
        ) from error


def _shard_base(name: str) -> str:
    shard = _SHARD.fullmatch(name)
    return f"{shard[1]}{shard[4]}" if shard else name


def _read_one(path: Path) -> Header:
    with LocalFile(path) as source:
        return read_gguf(source) if path.name.endswith(".gguf") else read_safetensors(source)


def _siblings(path: Path) -> list[Path]:
    """All files of a split model, the first one first. HeaderError for numbers that make no sense."""
    shard = _SHARD.fullmatch(path.name)
    if shard is None:
        return [path]
    number, count = int(shard[2]), int(shard[3])
    if not 0 < number <= count <= _MOST_SHARDS:
        raise HeaderError(
            f"{short_name(path.name)}: file {number} of {count}", hint="give the first file of the set"
        )
    files = [
        path.with_name(f"{shard[1]}-{index:05}-of-{count:05}{shard[4]}") for index in range(1, count + 1)
    ]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise HeaderError(
            f"{len(missing)} of {count} files are missing beside {short_name(path.name)}: {short_name(missing[0])}",
            hint="all files of a split model are needed: complete the download",
        )
    return files


def _read_gguf_files(path: Path) -> Header:
    headers = [_read_one(file) for file in _siblings(path)]
    header = headers[0]
    count = header.metadata.get("split.count", 1) or 1
    if len(headers) == 1 and count != 1:
        raise HeaderError(
            f"{short_name(header.source)} is one of {count} files of a split model",
            hint="keep the names that llama-gguf-split gave: NAME-00001-of-00002.gguf",
        )
    for number, each in enumerate(headers):
        if len(headers) > 1 and (each.metadata.get("split.no"), each.metadata.get("split.count")) != (
            number,
            len(headers),
        ):
            raise HeaderError(
                f"{short_name(each.source)} does not say that it is file {number + 1} of {len(headers)}",
                hint="the files of several models may be mixed up: get them again",
            )
    joined = _joined(headers, path) if len(headers) > 1 else header
    stated = header.metadata.get("split.tensors.count", len(joined.tensors))
    if stated != len(joined.tensors):
        raise HeaderError(
            f"{short_name(header.source)}: {len(joined.tensors)} tensors instead of {stated}", hint=DAMAGED
        )
    return joined


def _joined(headers: list[Header], path: Path) -> Header:
    """Several files as one header; a tensor that two of them hold is refused."""
    tensors: dict[str, StoredTensor] = {}
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in tensors:
                raise HeaderError(
                    f"{short_name(header.source)}: the tensor {tensor.name[:80]!r} is in another file too",
                    hint=DAMAGED,
                )
            tensors[tensor.name] = tensor
    return Header(
        tensors=tuple(tensors.values()),
        metadata=headers[0].metadata,
        source=str(path),
        format=headers[0].format,
        file_bytes=sum(header.file_bytes for header in headers),
    )


def read_indexed(path: Path) -> Header:
    """
    The header of a checkpoint by its index: of safetensors with each file's header, of PyTorch the index alone.

    Where none of the files is there, the index alone as well; where some are, HeaderError.
    """
    with LocalFile(path) as source:
        if source.size > MOST_BYTES:
            refuse(source, f"an index of {source.size:,} bytes is above the bound of {MOST_BYTES:,}", 0)
        index = read_index(source.read_at(0, source.size), name=source.name)
    folder = path.parent
    there = [file for file in index.files if file.endswith(".safetensors") and (folder / file).is_file()]
    if not there:
        return index_header(index, str(path))
    if len(there) < len(index.files):
        missing = next(file for file in index.files if file not in there)
        raise HeaderError(
            f"{len(index.files) - len(there)} of {len(index.files)} files are missing in "
            f"{short_name(str(folder))}: {missing}",
            hint="complete the download, or give the config.json alone",
        )
    return join_indexed(index, (_read_one(_inside(folder, file)) for file in index.files), str(path))


def index_header(index: CheckpointIndex, source: str) -> Header:
    """What an index says without its files."""
    return Header(
        tensors=(),
        names=tuple(index.weight_map),
        metadata={},
        source=source,
        format="pytorch" if source.endswith(".bin.index.json") else "safetensors",
        file_bytes=0,
        stated_bytes=index.total_bytes,
    )


def _inside(folder: Path, file: str) -> Path:
    """A file of a directory. A link may lead within it, or to the blobs beside it, as the hub's cache has them."""
    path, home = folder / file, folder.resolve()
    target = path.resolve()
    if path.is_symlink() and target.parent not in (home, home.parent.parent / "blobs"):
        raise HeaderError(
            f"{short_name(str(path))} is a link that leads out of its directory",
            hint="give the directory that holds the files themselves",
        )
    return path


def join_indexed(index: CheckpointIndex, headers: Iterable[Header], source: str) -> Header:
    """The headers of an index' files, in its order, as one; each tensor is taken from the file that the index names."""
    tensors: list[StoredTensor] = []
    file_bytes = extra = 0
    wanted = index.weight_map
    for file, header in zip(index.files, headers, strict=True):
        own: Iterable[StoredTensor] = header.tensors
        where = list(map(wanted.get, [tensor[0] for tensor in header.tensors]))
        if where.count(file) < len(where):
            own = [tensor for tensor, held in zip(header.tensors, where, strict=True) if held == file]
            extra += len(where) - len(own)
        tensors += own
        file_bytes += header.file_bytes
    if len(tensors) < len(wanted):
        held = {tensor.name for tensor in tensors}
        name = next(name for name in wanted if name not in held)
        raise HeaderError(
            f"{short_name(source)}: {len(wanted) - len(tensors):,} tensors are not where it says, first {name[:80]!r} "
            f"in {wanted[name]}",
            hint=DAMAGED,
        )
    notes = []
    total = sum(tensor.n_bytes for tensor in tensors)
    if extra:
        notes.append(f"{extra:,} tensors in the files are not in their index; they are not counted")
    if index.total_bytes is not None and index.total_bytes != total:
        notes.append(
            f"the tensors take {total:,} B, the index says {index.total_bytes:,} (metadata.total_size)"
        )
    return Header(
        tensors=tuple(tensors),
        metadata={},
        source=source,
        format="safetensors",
        file_bytes=file_bytes,
        stated_bytes=index.total_bytes,
        notes=tuple(notes),
    )
