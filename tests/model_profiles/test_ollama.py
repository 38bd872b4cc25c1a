"""Ollama's store: names, manifests, blobs. Layout: https://github.com/ollama/ollama, types/model/name.go."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.basis import Basis
from vram_planner.errors import ConfigError, HeaderError, PlannerError, UnknownModelError
from vram_planner.model_profiles.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DIGEST = "sha256:" + "ab" * 32
LAYER = {"mediaType": "application/vnd.ollama.image.model", "digest": DIGEST, "size": 1}
PROJECTOR = {"mediaType": "application/vnd.ollama.image.projector", "digest": DIGEST, "size": 4096}


def put(store: Path, place: str, manifest: object) -> None:
    path = store / "manifests" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))


@pytest.fixture
def store(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_gguf: Callable[..., Path],
    tiny_gguf: tuple[dict[str, Any], dict[str, tuple[int, ...]]],
) -> Path:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    (tmp_path / "blobs").mkdir()
    write_gguf(tmp_path / "blobs" / DIGEST.replace(":", "-"), *tiny_gguf)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("tiny", "registry.ollama.ai/library/tiny/latest"),
        ("tiny:8b", "registry.ollama.ai/library/tiny/8b"),
        ("me/tiny:8b", "registry.ollama.ai/me/tiny/8b"),
        ("hf.co/me/tiny:Q4_K_M", "hf.co/me/tiny/Q4_K_M"),
    ],
)
def test_a_name_leads_to_its_blob(name: str, place: str, store: Path) -> None:
    put(store, place, {"layers": [{"mediaType": "application/vnd.ollama.image.license"}, LAYER]})
    profile = resolve(f"ollama:{name}")

    assert profile.basis is Basis.EXACT
    assert profile.name == name
    assert profile.provenance == "Ollama's store"
    assert profile.architecture.notes == ()


def test_a_projector_is_told(store: Path) -> None:
    put(store, "registry.ollama.ai/library/tiny/latest", {"layers": [LAYER, PROJECTOR]})

    assert "4,096 B" in resolve("OLLAMA:tiny").architecture.notes[-1]


def test_the_store_in_the_home_directory_is_the_usual_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "registry.ollama.ai/library/tiny/latest", {"layers": [LAYER]})
    home = tmp_path / "home"
    (home / ".ollama").mkdir(parents=True)
    (home / ".ollama" / "models").symlink_to(store)
    monkeypatch.delenv("OLLAMA_MODELS")
    monkeypatch.setenv("HOME", str(home))

    assert resolve("ollama:tiny").basis is Basis.EXACT


@pytest.mark.parametrize("name", ["nothing", "nothing:8b", "a/b/c:d", "localhost:5000/a/b:c"])
def test_what_is_not_there_is_said_so(name: str, store: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"Ollama has no model|no name of") as error:
        resolve(f"ollama:{name}")

    assert str(store) in str(error.value) or "no name" in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["", "..", "../../etc/passwd", "a:../../x", "/etc/passwd", "a/b/c/d:e", "a:", ":a", "a b", "a:b:c", "~"],
)
def test_odd_names_are_refused(name: str, store: Path) -> None:
    with pytest.raises(PlannerError) as error:
        resolve(f"ollama:{name}")

    assert error.value.hint
    assert store.is_dir()


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {},
        {"layers": 3},
        {"layers": []},
        {"layers": [3]},
        {"layers": [LAYER, LAYER]},
        {"layers": [LAYER | {"digest": "sha256:../../../../etc/passwd"}]},
        {"layers": [LAYER | {"digest": "sha256:" + "AB" * 32}]},
        {"layers": [LAYER | {"digest": 3}]},
        {"layers": [LAYER | {"digest": "sha256:" + "00" * 32}]},
        {"layers": [LAYER | {"mediaType": "application/vnd.ollama.image.tensor"}]},
    ],
)
def test_damaged_manifests_are_refused(manifest: object, store: Path) -> None:
    put(store, "registry.ollama.ai/library/tiny/latest", manifest)

    with pytest.raises((HeaderError, ConfigError)) as error:
        resolve("ollama:tiny")
    assert error.value.hint


def test_a_manifest_of_megabytes_is_refused(store: Path) -> None:
    put(store, "registry.ollama.ai/library/tiny/latest", "x" * (1 << 21))

    with pytest.raises(HeaderError, match="a manifest of"):
        resolve("ollama:tiny")
