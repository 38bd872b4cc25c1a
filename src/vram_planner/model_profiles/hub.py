"""
The only door to a network: files of a model hub, whole if small, by ranges of bytes if not.

All goes through huggingface_hub's own session, so that proxies, certificates, HF_ENDPOINT and HF_TOKEN hold as they
do for every other tool. It is imported when a network is really needed and not before.
"""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn
from urllib.parse import quote, urljoin, urlsplit

from vram_planner.errors import HubError, OfflineError, UnknownModelError
from vram_planner.model_profiles.headers import refuse
from vram_planner.model_profiles.hub_cache import TRUE, hub_offline

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTALL: Final = "pip install 'vram-planner[hub]'"
_ENDPOINT: Final = "https://huggingface.co"
_MOST_REDIRECTS: Final = 5
_CHUNK: Final = 1 << 16
_SMALL_CHUNK: Final = 512
# Seconds: for one answer to begin or go on, and for all of one request.
CONNECT_S: Final = 10.0
REQUEST_S: Final = 60.0
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_UNAUTHORISED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY = 401, 403, 404, 429
_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_MODELSCOPE: Final = re.compile(r"(?:.*\.)?modelscope\.(?:cn|ai)")


class Answer(NamedTuple):
    """The bytes that came, and the size of the whole file."""

    data: bytes
    size: int


class Hub:
    """
    One repository on the hub that HF_ENDPOINT names, by default huggingface.co.

    Raises OfflineError where no network may be used or huggingface_hub is not installed, HubError where the hub
    does not answer as it should, UnknownModelError where it has no such repository.
    """

    def __init__(self, repo: str, *, revision: str | None = None, offline: bool = False) -> None:
        """Open nothing yet; only say whether a network may be used."""
        if offline or hub_offline():
            why = "--offline" if offline else "HF_HUB_OFFLINE"
            raise OfflineError(
                f"{repo} is not in the local cache, and {why} forbids the network",
                hint="download its config.json and give the directory, or leave out the option",
            )
        try:
            self._library: Any = import_module("huggingface_hub.utils")
        except ImportError as error:
            raise OfflineError(
                f"huggingface_hub is not installed, which reads {repo} from its hub", hint=INSTALL
            ) from error
        self.repo = repo
        self.endpoint = (os.environ.get("HF_ENDPOINT") or _ENDPOINT).rstrip("/")
        host = urlsplit(self.endpoint).hostname or ""
        if urlsplit(self.endpoint).scheme not in ("http", "https") or not host:
            raise HubError(
                f"HF_ENDPOINT is no address: {self.endpoint[:80]}", hint="as in https://huggingface.co"
            )
        # ModelScope has the same files under other addresses, and calls its main branch master.
        self._modelscope = _MODELSCOPE.fullmatch(host) is not None
        self._revision = revision or ("master" if self._modelscope else "main")

    def url(self, file: str) -> str:
        """The address of a file of the repository."""
        place = "/models" if self._modelscope and not self.endpoint.endswith("/models") else ""
        return f"{self.endpoint}{place}/{self.repo}/resolve/{quote(self._revision, safe='')}/{quote(file)}"

    def fetch(self, file: str, most: int) -> bytes | None:
        """A whole small file; None where the repository has none of that name."""
        answer = self.read(file, 0, most + 1)
        if answer is None:
            return None
        if len(answer.data) > most:
            raise HubError(
                f"{file} of {self.repo} is larger than {most:,} bytes",
                hint="download it and give its directory",
            )
        return answer.data

    def open(self, file: str) -> RemoteFile | None:
        """A file to read in pieces; None where the repository has none of that name."""
        remote = RemoteFile(self, file)
        return remote if remote.exists else None

    def read(self, file: str, offset: int, length: int) -> Answer | None:
        """At most `length` bytes from `offset`, fewer at the end of the file; None where there is no such file."""
        until = time.monotonic() + REQUEST_S
        with self._request(self.url(file), {"Range": f"bytes={offset}-{offset + length - 1}"}) as response:
            status = response.status_code
            if status == _NOT_SATISFIABLE:
                return Answer(b"", offset)
            if status not in (_OK, _PARTIAL):
                self._check_missing(response, file)
                return None
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise self._strange(file, "it sent compressed bytes, which were not asked for")
            size = self._size(response, file, offset)
            data = self._body(response, min(length, max(0, size - offset)), until)
        wanted = min(length, max(0, size - offset))
        if len(data) < wanted:
            raise self._strange(file, f"it broke off after {len(data):,} of {wanted:,} bytes")
        return Answer(data, size)

    def _size(self, response: Any, file: str, offset: int) -> int:
        """The size of the whole file, as the answer's headers state it."""
        if response.status_code == _PARTIAL:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != offset or not int(found[1]) <= int(found[2]) < int(found[3]):
                raise self._strange(file, "its Content-Range is not the one that was asked for")
            return int(found[3])
        stated = response.headers.get("Content-Length", "")
        if offset or not stated.isdigit():
            raise self._strange(file, "it does not answer requests for a range of bytes")
        return int(stated)

    def _body(self, response: Any, length: int, until: float) -> bytes:
        found = bytearray()
        for piece in _as_they_come(response):
            found += piece
            if len(found) >= length:
                break
            if time.monotonic() > until:
                raise HubError(
                    f"{self.endpoint} is too slow: {len(found):,} bytes in {REQUEST_S:.0f} s",
                    hint="try again later",
                )
        return bytes(found[:length])

    @contextmanager
    def _request(self, url: str, headers: dict[str, str]) -> Iterator[Any]:
        """One GET, redirects followed; the token stays with the host that it was meant for."""
        session = self._library.get_session()
        sent = {**headers, **self._credentials(), "User-Agent": "vram-planner", "Accept-Encoding": "identity"}
        host = urlsplit(url).netloc
        for _ in range(_MOST_REDIRECTS + 1):
            if urlsplit(url).netloc != host:
                sent = {key: value for key, value in sent.items() if key.lower() != "authorization"}
            with self._send(session, url, sent) as response:
                if response.status_code not in _REDIRECTS:
                    yield response
                    return
                target = urljoin(url, response.headers.get("Location", ""))
            safe = ("https",) if url.startswith("https:") else ("http", "https")
            if urlsplit(target).scheme not in safe:
                raise HubError(f"{self.endpoint} leads to {target[:80]!r}", hint="is HF_ENDPOINT right?")
            url = target
        raise HubError(
            f"{self.endpoint} redirects more than {_MOST_REDIRECTS} times", hint="is HF_ENDPOINT right?"
        )

    def _credentials(self) -> dict[str, str]:
        """HF_TOKEN, or what `hf auth login` kept; build_hf_headers asks a network itself in some versions."""
        if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in TRUE:
            return {}
        token = self._library.get_token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    @contextmanager
    def _send(self, session: Any, url: str, headers: dict[str, str]) -> Iterator[Any]:
        """By httpx (huggingface_hub 1 and later) or by requests (before)."""
        library = sys.modules[type(session).__module__.partition(".")[0]]
        # requests hands its trouble on as urllib3's where a body is read piece by piece.
        below = getattr(sys.modules.get("urllib3.exceptions"), "HTTPError", OSError)
        failures = (
            OSError,
            below,
            *(getattr(library, name) for name in ("HTTPError", "InvalidURL") if hasattr(library, name)),
        )
        try:
            if callable(getattr(session, "stream", None)):
                request = session.stream(
                    "GET", url, headers=headers, follow_redirects=False, timeout=CONNECT_S
                )
            else:
                request = session.get(
                    url, headers=headers, allow_redirects=False, timeout=CONNECT_S, stream=True
                )
            with request as response:
                yield response
        except failures as error:
            raise HubError(
                f"{self.endpoint} cannot be reached or broke off: {type(error).__name__}",
                hint="check the network and HF_ENDPOINT; without a network give a config.json, or --offline",
            ) from error

    def _check_missing(self, response: Any, file: str) -> None:
        """Raise what a status means that brings no file; nothing where only the file is not there."""
        status, code = response.status_code, response.headers.get("X-Error-Code", "")
        if code == "GatedRepo" or (status in (_UNAUTHORISED, _FORBIDDEN) and code != "RepoNotFound"):
            raise HubError(
                f"{self.repo} is gated or private ({status})",
                hint=f"accept its terms at {self.endpoint}/{self.repo} and set HF_TOKEN",
            )
        if code in ("RepoNotFound", "RevisionNotFound"):
            raise UnknownModelError(
                f"{self.endpoint} has no model {self.repo}", hint="misspelt? A private one needs HF_TOKEN"
            )
        if status == _NOT_FOUND:
            return
        if status == _TOO_MANY:
            raise HubError(f"{self.endpoint} asks to wait (429)", hint="try again later, or set HF_TOKEN")
        raise self._strange(file, f"it answered {status}")

    def _strange(self, file: str, what: str) -> HubError:
        return HubError(
            f"{self.endpoint}, asked for {file} of {self.repo}: {what}",
            hint="try again, or download the file",
        )


def _as_they_come(response: Any) -> Iterator[bytes]:
    """Pieces of a body as soon as they are there, so that a clock can be watched between them."""
    if not hasattr(response, "iter_content"):
        yield from response.iter_bytes()
    elif hasattr(response.raw, "read1"):
        while piece := response.raw.read1(_CHUNK):
            yield piece
    else:  # urllib3 before 2 waits until a piece is full
        yield from response.iter_content(_SMALL_CHUNK)


class RemoteFile:
    """A file on the hub as a ByteSource. What was read once is not asked for again while it lies ahead."""

    block = 1 << 18
    _most_ahead = 8 << 20

    def __init__(self, hub: Hub, file: str) -> None:
        """Ask for the first bytes. Raises HubError."""
        self.name = f"{hub.repo}/{file}"
        self._hub, self._file = hub, file
        answer = hub.read(file, 0, self.block)
        self.exists = answer is not None
        self._data, self.size = answer if answer is not None else (b"", 0)
        self._start = 0
        self._ahead = self.block

    def read_at(self, offset: int, length: int) -> bytes:
        """See `ByteSource.read_at`."""
        if offset + length > self.size:
            self._end(offset + length)
        inside = offset - self._start
        if not (inside >= 0 and inside + length <= len(self._data)):
            # A GGUF header may be long: each request asks for twice as much as the one before.
            self._ahead = min(self._most_ahead, 2 * self._ahead)
            answer = self._hub.read(self._file, offset, max(length, self._ahead))
            if answer is None or answer.size != self.size or len(answer.data) < length:
                raise HubError(f"{self.name} changed while it was read", hint="try again")
            self._data, self._start, inside = answer.data, offset, 0
        return self._data[inside : inside + length]

    def _end(self, wanted: int) -> NoReturn:
        refuse(self, f"ends after {self.size:,} bytes, {wanted:,} were needed", self.size)
