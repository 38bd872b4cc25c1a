"""The hub: a server on this machine stands in for it. No test touches another network."""

from __future__ import annotations

import json
import re
import socket
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.basis import Basis
from vram_planner.errors import HeaderError, HubError, UnknownModelError
from vram_planner.model_profiles.hub import Hub
from vram_planner.model_profiles.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model_profiles.conftest import Stand

needs_hub = pytest.mark.skipif(
    find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed (the extra `hub`)"
)

REPO = "acme/tiny"


def put_model(stand: Stand, config: dict[str, Any], head: bytes, n_bytes: int) -> None:
    stand.put("config.json", json.dumps(config).encode())
    stand.put("model.safetensors", head, len(head) + n_bytes)


BYTES = 2 * (2 * 100 * 64 + 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64))


@pytest.fixture
def model(
    hub: Stand,
    tiny_config: dict[str, Any],
    tiny_tensors: Callable[..., Any],
    safetensors_header: Callable[..., bytes],
) -> Stand:
    """The tiny model in one file on the stand."""
    put_model(hub, tiny_config, safetensors_header(tiny_tensors()), BYTES)
    return hub


@needs_hub
def test_a_name_is_asked_for_and_only_headers_are_read(model: Stand) -> None:
    profile = resolve(REPO)

    assert profile.basis is Basis.EXACT
    assert profile.architecture.weights_bytes() == BYTES
    assert profile.name == REPO
    assert model.address in profile.provenance
    assert all(span.startswith("bytes=0-") for _, span, _ in model.seen)


@needs_hub
def test_the_token_is_sent(model: Stand) -> None:
    resolve(REPO)

    assert {token for _, _, token in model.seen} == {"Bearer hf_secret"}


@needs_hub
def test_the_token_does_not_follow_to_another_host(model: Stand) -> None:
    model.trick = "redirect"
    assert resolve(REPO).basis is Basis.EXACT

    assert {token for path, _, token in model.seen if path.startswith("/cdn")} == {""}


@needs_hub
def test_a_redirect_on_the_same_host_keeps_it(model: Stand) -> None:
    model.trick = "relative_redirect"
    assert resolve(REPO).basis is Basis.EXACT

    assert {token for path, _, token in model.seen if path.startswith("/cdn")} == {"Bearer hf_secret"}


@needs_hub
def test_a_mirror_without_ranges_serves_small_files(model: Stand) -> None:
    """A whole file is taken for a range that starts at 0; the rest of it is never read."""
    name = f"/{REPO}/resolve/main/model.safetensors"
    model.files[name] += bytes(model.sizes[name] - len(model.files[name]))
    model.trick = "whole"

    assert resolve(REPO).architecture.weights_bytes() == BYTES


@needs_hub
@pytest.mark.parametrize(
    ("trick", "kind", "what"),
    [
        ("gated", HubError, "gated or private"),
        ("unauthorised", HubError, "gated or private"),
        ("no_repo", UnknownModelError, "has no model acme/tiny"),
        ("busy", HubError, "429"),
        ("broken", HubError, "answered 500"),
        ("short", HubError, "broke off"),
        ("wrong_range", HubError, "Content-Range"),
        ("strange_range", HubError, "Content-Range"),
        ("packed", HubError, "compressed"),
        ("endless", HubError, "larger than|too slow"),
        ("dripping", HubError, "too slow"),
        ("silent", HubError, "cannot be reached"),
        ("loop", HubError, "redirects more than"),
        ("to_a_file", HubError, "leads to"),
    ],
)
def test_what_a_hub_does_wrong_is_said_soon(
    trick: str, kind: type[HubError], what: str, model: Stand
) -> None:
    model.trick = trick
    start = time.perf_counter()

    with pytest.raises(kind, match=what) as error:
        resolve(REPO)
    assert error.value.hint
    assert "hf_secret" not in str(error.value) + error.value.hint
    assert time.perf_counter() - start < 30


@needs_hub
def test_nobody_there(monkeypatch: pytest.MonkeyPatch, hub: Stand) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")

    with pytest.raises(HubError, match="cannot be reached"):
        resolve(REPO)
    assert hub.seen == []


@needs_hub
@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://x", "http://", "file:///etc"])
def test_an_endpoint_that_is_no_address(endpoint: str, hub: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)

    with pytest.raises(HubError, match="HF_ENDPOINT"):
        resolve(REPO)
    assert hub.seen == []


@needs_hub
@pytest.mark.usefixtures("hub")
def test_modelscopes_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint in ("https://www.modelscope.cn", "https://modelscope.cn/models/"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        assert re.fullmatch(
            r"https://(www\.)?modelscope\.cn/models/acme/tiny/resolve/master/config\.json",
            Hub(REPO).url("config.json"),
        )
    monkeypatch.setenv("HF_ENDPOINT", "https://modelscope.cn.example.org")
    assert Hub(REPO).url("a").endswith("example.org/acme/tiny/resolve/main/a")


@pytest.fixture
def put_shards(
    hub: Stand,
    tiny_config: dict[str, Any],
    tiny_tensors: Callable[..., Any],
    safetensors_header: Callable[..., bytes],
) -> Callable[[int], None]:
    """Put the tiny model on the stand in two files, with an index that states a total."""

    def put(total: int) -> None:
        items = list(tiny_tensors().items())
        weight_map: dict[str, str] = {}
        hub.put("config.json", json.dumps(tiny_config).encode())
        for number, own in enumerate((items[:10], items[10:]), 1):
            file = f"model-0000{number}-of-00002.safetensors"
            raw = safetensors_header(dict(own))
            ends = [int(end) for end in re.findall(rb",(\d+)\]\}", raw)]
            hub.put(file, raw, len(raw) + ends[-1])
            weight_map |= dict.fromkeys(dict(own), file)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        hub.put("model.safetensors.index.json", json.dumps(index).encode())

    return put


@needs_hub
@pytest.mark.parametrize(("total", "basis"), [(BYTES, Basis.FORMULA), (BYTES + 2, Basis.EXACT)])
def test_shards_are_asked_only_where_the_index_does_not_settle_it(
    total: int, basis: Basis, hub: Stand, put_shards: Callable[[int], None]
) -> None:
    put_shards(total)
    profile = resolve(REPO)

    assert profile.basis is basis
    assert profile.architecture.weights_bytes() == BYTES
    assert any("00002-of" in path for path, *_ in hub.seen) is (basis is Basis.EXACT)
    assert "says" in profile.architecture.notes[-1]


@needs_hub
def test_a_shard_that_is_not_there(hub: Stand, put_shards: Callable[[int], None]) -> None:
    put_shards(1)
    del hub.files[f"/{REPO}/resolve/main/model-00002-of-00002.safetensors"]

    with pytest.raises(HubError, match="lacks model-00002"):
        resolve(REPO)


@needs_hub
def test_an_index_that_names_a_path_is_refused_before_it_is_asked_for(
    hub: Stand, tiny_config: dict[str, Any]
) -> None:
    hub.put("config.json", json.dumps(tiny_config).encode())
    hub.put("model.safetensors.index.json", json.dumps({"weight_map": {"a": "../../etc/passwd"}}).encode())

    with pytest.raises(HeaderError, match="no weight file beside it"):
        resolve(REPO)
    assert not any("passwd" in path for path, *_ in hub.seen)


@needs_hub
def test_a_gguf_of_gigabytes_is_read_by_its_header(
    hub: Stand,
    gguf_header: Callable[..., bytes],
    tiny_gguf: tuple[dict[str, Any], dict[str, tuple[int, ...]]],
) -> None:
    """Scores and token types are jumped over, not fetched."""
    metadata, shapes = tiny_gguf
    metadata["tokenizer.ggml.tokens"] = [f"token{n}" for n in range(100_000)]
    metadata["tokenizer.ggml.scores"] = [0] * 5_000_000
    raw = gguf_header(metadata, shapes)
    hub.put("tiny-Q8_0.gguf", raw, 10**10)
    profile = resolve(f"{REPO}/tiny-Q8_0.gguf")

    assert profile.basis is Basis.EXACT
    assert profile.name == REPO
    fetched = sum(
        int(last) - int(first) + 1
        for first, last in re.findall(r"(\d+)-(\d+)", " ".join(s for _, s, _ in hub.seen))
    )
    assert fetched < len(raw) / 2


@needs_hub
def test_a_gguf_that_is_not_there(hub: Stand) -> None:
    with pytest.raises(UnknownModelError, match="has no file"):
        resolve(f"{REPO}/nothing.gguf")
    with pytest.raises(UnknownModelError, match=r"no config\.json") as error:
        resolve(REPO)
    assert ".gguf" in error.value.hint
    assert hub.seen


@needs_hub
def test_a_model_without_weights_is_planned_from_its_config(hub: Stand, tiny_config: dict[str, Any]) -> None:
    hub.put("config.json", json.dumps(tiny_config).encode())

    assert resolve(REPO).basis is Basis.FORMULA


@needs_hub
@pytest.mark.parametrize("quantisation", [{"quant_algo": "FP8"}, None, "FP8"])
def test_modelopts_own_file_is_asked_for_whatever_the_name(
    hub: Stand, tiny_config: dict[str, Any], quantisation: object
) -> None:
    hub.put("config.json", json.dumps(tiny_config).encode())
    hub.put("hf_quant_config.json", json.dumps({"quantization": quantisation}).encode())
    named = resolve(REPO).architecture.precision.name

    assert named == ("fp8" if isinstance(quantisation, dict) else "bfloat16")


@needs_hub
def test_a_file_that_changes_while_it_is_read(hub: Stand) -> None:
    hub.put("a.gguf", bytes(1 << 20))
    remote = Hub(REPO).open("a.gguf")
    assert remote is not None
    hub.put("a.gguf", bytes(1 << 19))

    with pytest.raises(HubError, match="changed"):
        remote.read_at(300_000, 10)
    with pytest.raises(HeaderError, match="ends after"):
        remote.read_at(1 << 20, 1)


@needs_hub
def test_a_catalogue_name_asks_nobody(hub: Stand) -> None:
    assert resolve("deepseek-ai/DeepSeek-V3").basis is Basis.FORMULA
    assert hub.seen == []
