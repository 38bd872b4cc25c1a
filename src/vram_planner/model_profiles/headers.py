"""What the header of a weight file says, and the files it is read from. Data bytes are never read."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NoReturn, Protocol, Self

from vram_planner.errors import HeaderError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

DAMAGED = "is the download complete? Get the file again"
# Strings of a header longer than this are passed over: no figure is that long, a chat template is.
LONGEST_TEXT = 4096


class StoredTensor(NamedTuple):
    """
    One tensor as a file stores it.

    `dtype` is the file's own word ("BF16", "q4_k"), `shape` is in torch's order (out, in), `n_bytes` what it
    takes in the file. The shape counts elements, but for packed integers, whose words it counts.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """
    The header of a checkpoint, of all its files together.

    `format` is "safetensors", "gguf" or "pytorch". `file_bytes` is the size of the files, 0 where only an
    index was read. `stated_bytes` is what an index says in `metadata.total_size`. `tensors` is empty where
    only an index was read: then `names` still has the tensors' names. `notes` say what the user may not expect.
    """

    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, Any]
    source: str
    format: str
    file_bytes: int
    stated_bytes: int | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def tensor_bytes(self) -> int | None:
        """Bytes of all tensors; what an index states where no header was read; None where nothing is known."""
        if self.tensors:
            return sum(tensor.n_bytes for tensor in self.tensors)
        return self.stated_bytes

    @property
    def bytes_by_dtype(self) -> dict[str, int]:
        """Bytes of the tensors of each dtype, the largest first."""
        totals: dict[str, int] = {}
        for tensor in self.tensors:
            totals[tensor.dtype] = totals.get(tensor.dtype, 0) + tensor.n_bytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))


class ByteSource(Protocol):
    """A file that can be read in pieces, here or far away."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""

    @property
    def block(self) -> int:
        """How many bytes are worth reading at once."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; HeaderError where the file ends before."""


def refuse(source: ByteSource, what: str, offset: int | None = None, *, hint: str = DAMAGED) -> NoReturn:
    """Raise HeaderError about a file."""
    raise HeaderError(f"{short_name(source.name)}: {what}", hint=hint, offset=offset)


def short_name(name: str) -> str:
    """The end of a path, if it is long."""
    return name if len(name) <= 120 else f"…{name[-119:]}"  # noqa: PLR2004


class BytesSource:
    """A header that is in memory already."""

    def __init__(self, data: bytes, *, name: str = "header", size: int | None = None) -> None:
        """Of bytes; `size` says that the whole file is larger than what was read of it."""
        self._data = data
        self.name = name
        self.size = len(data) if size is None else size
        self.block = max(1, len(data))

    def read_at(self, offset: int, length: int) -> bytes:
        """See `ByteSource.read_at`."""
        if offset + length > len(self._data):
            refuse(self, f"ends after {len(self._data):,} bytes", len(self._data))
        return self._data[offset : offset + length]


class LocalFile:
    """A regular file, open for reading. Pipes, devices and directories are refused before a byte is read."""

    block = 1 << 18

    def __init__(self, path: Path) -> None:
        """Open a file. Raises HeaderError."""
        self.path = path
        self.name = str(path)
        self._stream = _open(path)
        self.size = os.fstat(self._stream.fileno()).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """See `ByteSource.read_at`."""
        try:
            self._stream.seek(offset)
            found = self._stream.read(length)
        except OSError as error:
            raise HeaderError(
                f"{short_name(self.name)}: cannot be read: {error.strerror or 'it failed'}",
                hint="check the disk and the file's permissions",
                offset=offset,
            ) from error
        if len(found) < length:
            refuse(self, f"ends after {offset + len(found):,} bytes", offset + len(found))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def _open(path: Path) -> BinaryIO:
    # Without O_NONBLOCK the opening of a pipe waits for a writer for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it failed"
        raise HeaderError(
            f"cannot open {short_name(str(path))}: {reason}", hint="check the path and its permissions"
        ) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise HeaderError(f"{short_name(str(path))} is no regular file", hint="give the weight file itself")
    return os.fdopen(handle, "rb", buffering=0)
