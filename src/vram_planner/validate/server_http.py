"""
One address over HTTP, with everything bounded: time, size, lines. Standard library alone: no proxy of the
environment is used, no redirect followed, so that the address that was given is the only one ever contacted.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vram_planner.errors import RequestError, ServerError, ServerKeyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_BYTES = 1 << 24
_LONGEST_LINE = 1 << 20
_MOST_STREAMED = 1 << 26
_EXCERPT = 160
_OK, _REDIRECTS, _KEY = 200, range(300, 400), (401, 403)
_BUSY = (429, 503)
_ADDRESS_HINT = "the address that the server listens on, as in http://127.0.0.1:8000"
KEY_VARIABLE = "VRAM_PLANNER_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: its status and its whole body."""

    status: int
    body: bytes
    location: str = ""

    @property
    def excerpt(self) -> str:
        """The start of the body, on one line."""
        text = self.body[:_EXCERPT].decode("utf-8", "replace")
        return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


class Client:
    """
    What may be asked of one server.

    `limit_s` bounds each whole exchange, from connecting to the last byte. Threads may share a client. Raises
    RequestError for what is no address.
    """

    def __init__(self, url: str, *, api_key: str | None = None, limit_s: float = 10.0) -> None:
        self.tls, self.host, self.port, self.base = _parse(url)
        self.limit_s = limit_s
        self._key = _checked_key(api_key)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopped = False

    @property
    def url(self) -> str:
        """The address, without a path to the API."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.base}"

    @property
    def is_local(self) -> bool:
        """Whether the server runs on this machine, as far as its address says so."""
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")

    def get(self, path: str) -> Answer:
        """One page, whatever its status. Raises ServerError where none comes."""
        with self._exchange("GET", path, None, self.limit_s) as response:
            body = response.read(MOST_BYTES + 1)
            if len(body) > MOST_BYTES:
                raise ServerError(f"{self.url}{path} answers more than {MOST_BYTES:,} bytes", hint=_NO_SERVER)
            return Answer(
                status=response.status,
                body=body,
                location=str(response.getheader("location") or "")[:_EXCERPT],
            )

    def json(self, path: str) -> dict[str, Any]:
        """A page that must be there and be a JSON object. Raises ServerError, ServerKeyError."""
        answer = self.get(path)
        _refuse(answer, f"{self.url}{path}")
        found = _object(answer)
        if found is None:
            raise ServerError(
                f"{self.url}{path} answers no JSON object: {answer.excerpt[:80]!r}", hint=_NO_SERVER
            )
        return found

    def json_if_there(self, path: str) -> dict[str, Any] | None:
        """A page that not every release has: None where it is missing or is no JSON object."""
        answer = self.get(path)
        if answer.status in _KEY:
            _refuse(answer, f"{self.url}{path}")
        return _object(answer) if answer.status == _OK else None

    def text_if_there(self, path: str) -> str | None:
        """A page of text, or None."""
        answer = self.get(path)
        return answer.body.decode("utf-8", "replace") if answer.status == _OK else None

    def stream(
        self, path: str, body: Mapping[str, Any], limit_s: float
    ) -> Iterator[tuple[float, dict[str, Any]]]:
        """
        Each event of a streamed answer, with the moment that it came (time.perf_counter).

        Raises ServerError where the stream ends before `[DONE]`, is no stream of JSON objects, or tells an error.
        """
        data = json.dumps(body).encode()
        with self._exchange("POST", path, data, limit_s) as response:
            if response.status != _OK:
                _refuse(Answer(status=response.status, body=response.read(MOST_BYTES)), f"{self.url}{path}")
            total = 0
            while line := response.readline(_LONGEST_LINE + 1):
                moment = time.perf_counter()
                total += len(line)
                if len(line) > _LONGEST_LINE or total > _MOST_STREAMED:
                    raise ServerError(
                        "the stream is longer than any answer that was asked for", hint=_NO_SERVER
                    )
                if not line.startswith(b"data:"):
                    continue
                text = line[5:].strip()
                if text == b"[DONE]":
                    return
                yield moment, _event(text)
        raise ServerError(
            "the server closed the connection in the middle of an answer",
            hint="see the server's own log: it may have run out of memory, or been stopped",
        )

    def stop(self) -> None:
        """Cut whatever is open, and refuse what comes: the threads that wait for an answer end."""
        self._stopped = True
        with self._lock:
            for each in tuple(self._open):
                _cut(each)

    @contextmanager
    def _exchange(self, method: str, path: str, body: bytes | None, limit_s: float) -> Iterator[HTTPResponse]:
        """One request; a watchdog cuts the connection at the limit, however slowly the bytes drip in."""
        if self._stopped or limit_s <= 0:
            raise ServerError("stopped", hint="start again")
        late = threading.Event()
        sock: socket.socket | None = None
        watchdog: threading.Timer | None = None
        connection = self._connection(limit_s)
        try:
            connection.connect()
            sock = connection.sock
            watchdog = threading.Timer(limit_s, _too_late, (late, sock))
            watchdog.daemon = True
            watchdog.start()
            with self._lock:
                self._open.add(sock)
            connection.request(method, self.base + path, body, self._headers(body))
            with connection.getresponse() as response:
                yield response
        except (OSError, HTTPException, ValueError) as error:
            raise self._failure(path, error, late=late.is_set(), limit_s=limit_s) from error
        finally:
            if watchdog is not None:
                watchdog.cancel()
            if sock is not None:
                with self._lock:
                    self._open.discard(sock)
            connection.close()
        # A connection that was cut may look like one that ended.
        if late.is_set() or self._stopped:
            raise self._failure(path, TimeoutError(), late=True, limit_s=limit_s)

    def _connection(self, limit_s: float) -> HTTPConnection:
        if self.tls:
            return HTTPSConnection(
                self.host, self.port, timeout=limit_s, context=ssl.create_default_context()
            )
        return HTTPConnection(self.host, self.port, timeout=limit_s)

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {"Accept": "*/*", "Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    def _failure(self, path: str, error: Exception, *, late: bool, limit_s: float) -> ServerError:
        where = f"{self.url}{path}"
        if self._stopped:
            return ServerError("stopped", hint="start again")
        if late or isinstance(error, TimeoutError):
            return ServerError(
                f"{where} did not answer within {limit_s:g} s",
                hint="is the server busy or still loading? --timeout gives it longer",
            )
        if isinstance(error, ssl.SSLError):
            return ServerError(
                f"{where} is not trusted: {error.reason or error}",
                hint="http:// if it speaks no TLS; SSL_CERT_FILE names your own authority",
            )
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            return ServerError(f"no server listens at {self.url}", hint=_ADDRESS_HINT)
        words = str(error)[:_EXCERPT] or type(error).__name__
        return ServerError(f"{where} does not answer as a web server does: {words}", hint=_NO_SERVER)


_NO_SERVER = "give the address of vLLM, SGLang, llama-server or Ollama itself, not of a proxy before it"


def _parse(url: str) -> tuple[bool, str, int, str]:
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise RequestError(f"{url[:80]!r} is no address", hint=_ADDRESS_HINT) from error
    if parts.username is not None or parts.password is not None:
        raise RequestError(
            "a key in the address would be shown in lists of processes", hint=f"--api-key or ${KEY_VARIABLE}"
        )
    sound = parts.scheme in ("http", "https") and parts.hostname and port != 0
    if not sound or not url.isprintable() or not url.isascii() or " " in url or parts.query or parts.fragment:
        raise RequestError(f"{url[:80]!r} is no address of a server", hint=_ADDRESS_HINT)
    tls = parts.scheme == "https"
    base = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return tls, str(parts.hostname), port or (443 if tls else 80), base


def _checked_key(key: str | None) -> str | None:
    if key and not (key.isascii() and key.isprintable()):
        raise RequestError(
            "the key has letters that no HTTP header may hold", hint=f"--api-key or ${KEY_VARIABLE}"
        )
    return key


def _object(answer: Answer) -> dict[str, Any] | None:
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _event(text: bytes) -> dict[str, Any]:
    found = _object(Answer(status=_OK, body=text))
    if found is None:
        raise ServerError(f"the stream holds something else than JSON: {text[:40]!r}", hint=_NO_SERVER)
    if found.get("error"):
        raise ServerError(
            f"the server broke off: {Answer(status=_OK, body=text).excerpt}", hint="see its own log"
        )
    return found


def _refuse(answer: Answer, where: str) -> None:
    """Raise what an answer that is no 200 means."""
    if answer.status == _OK:
        return
    if answer.status in _KEY:
        raise ServerKeyError(
            f"{where} wants a key (HTTP {answer.status})", hint=f"--api-key KEY, or ${KEY_VARIABLE}"
        )
    if answer.status in _REDIRECTS:
        raise ServerError(
            f"{where} redirects to {answer.location!r}, which was not asked for",
            hint="give that address instead, if you trust it",
        )
    if answer.status in _BUSY:
        raise ServerError(
            f"{where} is not ready (HTTP {answer.status}): {answer.excerpt}", hint="wait until it has started"
        )
    raise ServerError(f"{where} answers HTTP {answer.status}: {answer.excerpt}", hint=_NO_SERVER)


def _too_late(late: threading.Event, sock: socket.socket) -> None:
    late.set()
    _cut(sock)


def _cut(sock: socket.socket) -> None:
    # Not SSLSocket.shutdown: it takes the TLS object away from under the thread that reads.
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
