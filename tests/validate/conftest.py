"""Configurations of about 100 M parameters, one a family: `dense`, `experts`, `sliding`; and a server on loopback."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_COMMON = {
    "hidden_size": 640,
    "intermediate_size": 1792,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    "dense": {"model_type": "qwen2", **_COMMON},
    "experts": {
        "model_type": "mixtral", **_COMMON, "intermediate_size": 512, "num_hidden_layers": 7,
        "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None,
    },
    "sliding": {"model_type": "mistral", **_COMMON, "sliding_window": 64},
}  # fmt: skip


@pytest.fixture(scope="session")
def families() -> dict[str, dict[str, Any]]:
    """Each family's fields of a config.json."""
    return _FAMILIES


class Web:
    """
    A web server on loopback that answers as a test says: by path, with a status, headers and a body, or a function.

    Bodies that are no bytes are sent as JSON, texts as they are. Every request is kept.
    """

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(web) -> type[BaseHTTPRequestHandler]:  # noqa: N805  the handler has its own self
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                self.body = self.rfile.read(length)
                web.asked.append((self.path, dict(self.headers), self.body))
                page = web.pages.get(self.path, (404, {"error": "not found"}))
                if callable(page):
                    page = page(self)
                if page is not None:
                    self.answer(page)

            do_POST = do_GET  # noqa: N815  http.server's own name

            def answer(self, page: Any) -> None:
                status, body, *headers = page if isinstance(page, tuple) else (200, page)
                data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else b""
                if not isinstance(body, bytes | str):
                    data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers[0].items() if headers else ():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(data)

        return Handler


@pytest.fixture
def web() -> Iterator[Web]:
    """A server that knows no page yet."""
    found = Web()
    yield found
    found.close()


@pytest.fixture
def recorded(web: Web) -> Callable[[str], str]:
    """Serve a recorded server's pages; its address."""

    def serve(name: str) -> str:
        path = Path(__file__).parent.parent / "oracles" / "servers" / f"{name}.json"
        web.pages.update(json.loads(path.read_text(encoding="utf-8"))["pages"])
        return web.url

    return serve
