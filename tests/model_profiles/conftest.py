from __future__ import annotations

import contextlib
import json
import re
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.model_profiles.safetensors import DTYPE_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_network(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks a hub, or reads what the one who runs it has in a cache; those that need one set their own."""
    empty: Path = tmp_path_factory.getbasetemp() / "no-cache"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(empty))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _safetensors(shapes: Mapping[str, tuple[str, tuple[int, ...]]], **metadata: str) -> bytes:
    """Header of a safetensors file with tensors of (dtype, shape), one after the other."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (dtype, shape) in shapes.items():
        n_bytes = _elements(shape) * DTYPE_BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    head = json.dumps(entries, separators=(",", ":")).encode()
    return struct.pack("<Q", len(head)) + head


@pytest.fixture
def safetensors_header() -> Callable[..., bytes]:
    return _safetensors


@pytest.fixture
def write_safetensors() -> Callable[..., Path]:
    """Write a file of that header with as many bytes of data as it needs, which take no room on the disk."""

    def write(path: Path, shapes: Mapping[str, tuple[str, tuple[int, ...]]], **metadata: str) -> Path:
        head = _safetensors(shapes, **metadata)
        size = sum(_elements(shape) * DTYPE_BITS[dtype] // 8 for dtype, shape in shapes.values())
        path.write_bytes(head)
        with path.open("r+b") as stream:
            stream.truncate(len(head) + size)
        return path

    return write


def _text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    """A value with its type: whole numbers as uint32, lists of strings or numbers, the rest as it is."""
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if value and isinstance(value[0], int):
        kind, letter = (7, "B") if isinstance(value[0], bool) else (4, "I")
        return struct.pack(f"<IIQ{len(value)}{letter}", 9, kind, len(value), *value)
    return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))


def _gguf(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], *, version: int = 3, f16: bool = False
) -> bytes:
    """A GGUF header; shapes in torch's order, all tensors F32 or F16."""
    keys = b"".join(_text(key) + _value(value) for key, value in metadata.items())
    infos, offset = b"", 0
    for name, shape in shapes.items():
        infos += _text(name) + struct.pack(
            f"<I{len(shape)}QIQ", len(shape), *reversed(shape), int(f16), offset
        )
        offset += -(-_elements(shape) * (2 if f16 else 4) // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", version, len(shapes), len(metadata)) + keys + infos
    return head + bytes(-len(head) % 32)


@pytest.fixture
def gguf_header() -> Callable[..., bytes]:
    return _gguf


@pytest.fixture
def write_gguf() -> Callable[..., Path]:
    """Write a GGUF file of that header, sparse."""

    def write(
        path: Path, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], **options: Any
    ) -> Path:
        head = _gguf(metadata, shapes, **options)
        width = 2 if options.get("f16") else 4
        data = sum(-(-_elements(shape) * width // 32) * 32 for shape in shapes.values())
        path.write_bytes(head)
        with path.open("r+b") as stream:
            stream.truncate(len(head) + data)
        return path

    return write


TINY_GGUF = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 128,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 4096,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}
TINY_GGUF_SHAPES = {
    "token_embd.weight": (3, 64), "output_norm.weight": (64,), "output.weight": (3, 64),
    "blk.0.attn_norm.weight": (64,), "blk.0.attn_q.weight": (64, 64), "blk.0.attn_k.weight": (32, 64),
    "blk.0.attn_v.weight": (32, 64), "blk.0.attn_output.weight": (64, 64), "blk.0.ffn_norm.weight": (64,),
    "blk.0.ffn_gate.weight": (128, 64), "blk.0.ffn_up.weight": (128, 64), "blk.0.ffn_down.weight": (64, 128),
}  # fmt: skip


@pytest.fixture
def tiny_gguf() -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Metadata and shapes of a Llama of one layer."""
    return dict(TINY_GGUF), dict(TINY_GGUF_SHAPES)


TINY_CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "torch_dtype": "bfloat16",
}


def _tiny_tensors(dtype: str = "BF16") -> dict[str, tuple[str, tuple[int, ...]]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (100, 64)}
    for index in range(2):
        layer = f"model.layers.{index}."
        for name in ("q", "k", "v", "o"):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (64, 64)
        shapes |= {
            f"{layer}mlp.gate_proj.weight": (128, 64),
            f"{layer}mlp.up_proj.weight": (128, 64),
            f"{layer}mlp.down_proj.weight": (64, 128),
            f"{layer}input_layernorm.weight": (64,),
            f"{layer}post_attention_layernorm.weight": (64,),
        }
    shapes |= {"model.norm.weight": (64,), "lm_head.weight": (100, 64)}
    return {name: (dtype, shape) for name, shape in shapes.items()}


@pytest.fixture
def tiny_config() -> dict[str, Any]:
    """The config.json of a Llama of two layers."""
    return dict(TINY_CONFIG)


@pytest.fixture
def tiny_tensors() -> Callable[..., dict[str, tuple[str, tuple[int, ...]]]]:
    """The tensors of that model in a dtype."""
    return _tiny_tensors


class Stand(ThreadingHTTPServer):
    """Files by their path, and how to misbehave: `trick` is the name of one of Handler's tricks."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.trick = ""
        self.seen: list[tuple[str, str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, file: str, data: bytes, size: int | None = None, repo: str = "acme/tiny") -> None:
        """A file, which may be longer than what there is of it."""
        self.files[f"/{repo}/resolve/main/{file}"] = data
        self.sizes[f"/{repo}/resolve/main/{file}"] = len(data) if size is None else size


class Handler(BaseHTTPRequestHandler):
    server: Stand
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers = {"Content_Length": str(len(data)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)

    def do_GET(self) -> None:
        path, stand = self.path, self.server
        stand.seen.append((path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
        trick = getattr(self, f"trick_{stand.trick}", None)
        if trick is not None:
            trick(path)
        else:
            self.file(path.removeprefix("/cdn"))

    def file(self, path: str) -> None:
        if path not in self.server.files:
            return self.answer(404, X_Error_Code="EntryNotFound")
        data, size = self.server.files[path], self.server.sizes[path]
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        assert found is not None
        first, last = int(found[1]), min(int(found[2]), size - 1)
        if first >= size:
            return self.answer(416)
        part = data[first : last + 1].ljust(last + 1 - first, b"\0")
        return self.answer(206, part, Content_Range=f"bytes {first}-{last}/{size}")

    def trick_gated(self, _: str) -> None:
        self.answer(403, X_Error_Code="GatedRepo")

    def trick_unauthorised(self, _: str) -> None:
        self.answer(401)

    def trick_no_repo(self, _: str) -> None:
        self.answer(401, X_Error_Code="RepoNotFound")

    def trick_busy(self, _: str) -> None:
        self.answer(429)

    def trick_broken(self, _: str) -> None:
        self.answer(500)

    def trick_whole(self, path: str) -> None:
        """A mirror that knows no ranges."""
        data = self.server.files.get(path)
        self.answer(404 if data is None else 200, data or b"")

    def trick_short(self, path: str) -> None:
        """The connection breaks in the middle."""
        data = self.server.files[path]
        self.answer(
            206,
            data[:10],
            Content_Length=str(len(data)),
            Content_Range=f"bytes 0-{len(data) - 1}/{len(data)}",
        )
        self.close_connection = True

    def trick_wrong_range(self, path: str) -> None:
        data = self.server.files[path]
        self.answer(206, data, Content_Range=f"bytes 5-{len(data) + 4}/{len(data) + 5}")

    def trick_strange_range(self, path: str) -> None:
        self.answer(206, self.server.files[path], Content_Range="bytes */*")

    def trick_packed(self, path: str) -> None:
        self.answer(200, self.server.files[path], Content_Encoding="gzip")

    def trick_endless(self, _: str) -> None:
        """A body that never ends."""
        self.answer(200, b"{", Content_Length=str(1 << 50))
        with contextlib.suppress(ConnectionError):
            while True:
                self.wfile.write(b" " * 65536)

    def trick_dripping(self, _: str) -> None:
        """A byte now and then."""
        self.answer(200, b"{", Content_Length="100000")
        with contextlib.suppress(ConnectionError):
            for _number in range(100):
                time.sleep(0.05)
                self.wfile.write(b" ")
                self.wfile.flush()

    def trick_silent(self, _: str) -> None:
        time.sleep(2)
        self.close_connection = True

    def trick_redirect(self, path: str) -> None:
        """To another address of this machine, as the hub does to its store of large files."""
        if path.startswith("/cdn"):
            return self.file(path.removeprefix("/cdn"))
        port = self.server.server_address[1]
        return self.answer(302, Location=f"http://localhost:{port}/cdn{path}")

    def trick_relative_redirect(self, path: str) -> None:
        if path.startswith("/cdn"):
            return self.file(path.removeprefix("/cdn"))
        return self.answer(307, Location=f"/cdn{path}")

    def trick_loop(self, path: str) -> None:
        self.answer(302, Location=path)

    def trick_to_a_file(self, _: str) -> None:
        self.answer(302, Location="file:///etc/passwd")


@pytest.fixture
def stand() -> Iterator[Stand]:
    server = Stand()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def hub(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """The environment leads to the stand, and to nothing else."""
    monkeypatch.setenv("HF_ENDPOINT", stand.address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    # The library reads its environment once, when it is first imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    library = import_module("huggingface_hub.utils")
    for reset in ("reset_sessions", "close_session"):
        if hasattr(library, reset):
            getattr(library, reset)()
    monkeypatch.setattr("vram_planner.model_profiles.hub.CONNECT_S", 0.5)
    monkeypatch.setattr("vram_planner.model_profiles.hub.REQUEST_S", 0.5)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return stand
