"""The hub's cache on this machine, what --offline forbids, and which names are a repository's."""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from vram_planner.basis import Basis
from vram_planner.errors import OfflineError
from vram_planner.model_profiles.hub_cache import repo_and_file
from vram_planner.model_profiles.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPO = "acme/tiny"
BYTES = 2 * (2 * 100 * 64 + 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64))


def snapshot(home: Path, revision: str = "abc", repo: str = "models--acme--tiny") -> Path:
    folder = home / "hub" / repo / "snapshots" / revision
    folder.mkdir(parents=True)
    return folder


def test_the_cache_is_read_first_and_needs_no_network(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_config: dict[str, Any],
    tiny_tensors: Callable[..., Any],
    write_safetensors: Callable[..., Path],
) -> None:
    """As the hub lays it out: links into blobs, and refs that name the revision."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    forbid_sockets(monkeypatch)
    blobs = tmp_path / "hub" / "models--acme--tiny" / "blobs"
    blobs.mkdir(parents=True)
    for revision, layers in (("abc", 2), ("old", 1)):
        folder = snapshot(tmp_path, revision)
        (blobs / revision).write_text(json.dumps(tiny_config | {"num_hidden_layers": layers}))
        (folder / "config.json").symlink_to(f"../../blobs/{revision}")
    write_safetensors(blobs / "weights", tiny_tensors())
    (blobs.parent / "snapshots" / "abc" / "model.safetensors").symlink_to("../../blobs/weights")
    (blobs.parent / "refs").mkdir()
    (blobs.parent / "refs" / "main").write_text("abc\n")
    profile = resolve(REPO)

    assert profile.basis is Basis.EXACT
    assert profile.provenance == "local cache of the hub"
    assert profile.architecture.weights_bytes() == BYTES
    (blobs.parent / "refs" / "main").write_text("../../../../etc")
    assert resolve(REPO, offline=True).provenance == "local cache of the hub"


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_where_the_cache_lies(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: dict[str, Any]
) -> None:
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    inside = {"XDG_CACHE_HOME": "huggingface/hub", "HOME": ".cache/huggingface/hub"}.get(variable, "")
    monkeypatch.setenv(variable, str(tmp_path))
    folder = tmp_path / inside / "models--acme--tiny" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(tiny_config))

    assert resolve(REPO).provenance == "local cache of the hub"


def forbid_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", [REPO, f"{REPO}/a.gguf"])
def test_offline_never_opens_a_socket(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    forbid_sockets(monkeypatch)

    with pytest.raises(OfflineError, match="--offline forbids"):
        resolve(name, offline=True)


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_the_environment_may_forbid_the_hub(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    forbid_sockets(monkeypatch)

    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE forbids"):
        resolve(REPO)


def test_without_huggingface_hub_the_hint_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "huggingface_hub.utils", raising=False)

    with pytest.raises(OfflineError) as error:
        resolve(REPO)
    assert "pip install 'vram-planner[hub]'" in error.value.hint


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("acme/tiny", ("acme/tiny", None)),
        ("acme/tiny/a.gguf", ("acme/tiny", "a.gguf")),
        ("acme/tiny/a.bin", None),
        ("acme/tiny/b/a.gguf", None),
        ("acme/..", None),
        ("../tiny", None),
        ("acme/ti ny", None),
        ("acme/tiny--x", None),
        ("tiny", None),
        ("acme/tiny.gguf", None),
        ("a/" + "b" * 200, None),
        ("/etc/passwd", None),
        ("acme/tiny?x=1", None),
        ("acme/tiny#x", None),
        ("a@evil.org/x", None),
    ],
)
def test_names_of_repositories(text: str, meant: object) -> None:
    assert repo_and_file(text) == meant
