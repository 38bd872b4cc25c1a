"""Servers that are slow, wrong, closed, elsewhere: each is told apart, in bounded time and size."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vram_planner.errors import RequestError, ServerError, ServerKeyError
from vram_planner.validate import server
from vram_planner.validate.server_http import MOST_BYTES, Client

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = "/v1/models"


def never(web: Any) -> Any:
    """A page that says nothing until the test is over."""

    def page(_: Any) -> None:
        web.over.wait(30)

    return page


def dripping(web: Any) -> Any:
    """A page whose body comes byte by byte, for ever."""

    def page(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not web.over.wait(0.02):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return

    return page


def test_no_server_is_status_4_and_says_what_to_give() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with pytest.raises(ServerError, match="no server listens") as caught:
        server(f"http://127.0.0.1:{port}")
    assert caught.value.exit_status == 4
    assert "http://127.0.0.1:8000" in caught.value.hint


@pytest.mark.parametrize("slow", [never, dripping])
def test_a_slow_server_is_cut_at_the_time_limit(web: Any, slow: Any) -> None:
    web.pages[MODELS] = slow(web)

    with pytest.raises(ServerError, match=r"did not answer within 0.3 s") as caught:
        server(web.url, timeout_s=0.3)
    assert "--timeout" in caught.value.hint


def test_headers_that_drip_are_cut_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def drip() -> None:
            taken, _ = listening.accept()
            with taken:
                taken.recv(1000)
                taken.sendall(b"HTTP/1.1 200 OK\r\n")
                while not over.wait(0.02):
                    try:
                        taken.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(ServerError, match="did not answer within"):
            server(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.3)
        over.set()
        thread.join()


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b""])
def test_what_is_no_json_object_is_refused(web: Any, body: bytes) -> None:
    web.pages[MODELS] = body

    with pytest.raises(ServerError, match="answers no JSON object"):
        server(web.url)


def test_a_huge_body_is_refused(web: Any) -> None:
    web.pages[MODELS] = b" " * (MOST_BYTES + 2)

    with pytest.raises(ServerError, match="more than 16,777,216 bytes"):
        server(web.url)


def test_what_does_not_speak_http_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            taken, _ = listening.accept()
            with taken:
                taken.recv(1000)
                taken.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(ServerError, match="does not answer as a web server does"):
            server(f"http://127.0.0.1:{listening.getsockname()[1]}")
        thread.join()


def test_a_redirect_is_told_and_not_followed(web: Any) -> None:
    web.pages[MODELS] = (307, b"", {"Location": f"{web.url}/elsewhere"})

    with pytest.raises(ServerError, match=r"redirects to '.*/elsewhere'"):
        server(web.url)
    assert [path for path, *_ in web.asked] == [MODELS]


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_wanted_is_wrong_input(web: Any, status: int) -> None:
    web.pages[MODELS] = (status, {"error": "Unauthorized"})

    with pytest.raises(ServerKeyError, match="wants a key") as caught:
        server(web.url)
    assert caught.value.exit_status == 2
    assert caught.value.hint == "--api-key KEY, or $VRAM_PLANNER_API_KEY"


def test_the_key_is_sent_as_a_bearer_and_only_when_given(web: Any) -> None:
    Client(web.url).get("/a")
    Client(web.url, api_key="secret").get("/b")

    assert [headers.get("Authorization") for _, headers, _ in web.asked] == [None, "Bearer secret"]


def test_a_loading_server_is_told_to_be_waited_for(web: Any) -> None:
    web.pages[MODELS] = (503, {"error": {"message": "Loading model"}})

    with pytest.raises(ServerError, match=r"not ready \(HTTP 503\).*Loading model") as caught:
        server(web.url)
    assert caught.value.hint == "wait until it has started"


def test_404_everywhere_is_no_engine(web: Any) -> None:
    with pytest.raises(ServerError, match="answers HTTP 404"):
        server(web.url)


def test_another_openai_api_is_named_as_such(web: Any) -> None:
    web.pages[MODELS] = {"data": [{"id": "gpt", "owned_by": "somebody"}]}

    with pytest.raises(ServerError, match=r"none of vLLM.*owned by somebody"):
        server(web.url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x",
        "http://",
        "http://x:99999",
        "http://x:0",
        "http://a b",
        "http://x/?q=1",
        "http://[::1",
        "http://x/\n",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(RequestError):
        Client(url)


def test_a_key_in_the_address_is_refused() -> None:
    with pytest.raises(RequestError, match="shown in lists of processes"):
        Client("http://user:pass@localhost")


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://localhost/v1/", "http://localhost:80"),
        ("https://example.org/llm/v1", "https://example.org:443/llm"),
        ("http://[::1]:9", "http://[::1]:9"),
    ],
)
def test_addresses_are_read_with_and_without_v1(url: str, plain: str) -> None:
    assert Client(url).url == plain


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40))
def test_no_address_crashes(url: str) -> None:
    try:
        Client(url)
    except RequestError:
        return


def test_a_proxy_of_the_environment_is_not_used(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    web.pages["/a"] = {"yes": True}

    assert Client(web.url).json("/a") == {"yes": True}


def test_tls_against_a_plain_server_says_so(web: Any) -> None:
    with pytest.raises(ServerError, match="is not trusted") as caught:
        Client(web.url.replace("http:", "https:")).get("/")
    assert "http://" in caught.value.hint


def events(*lines: bytes) -> bytes:
    return b"".join(line + b"\n\n" for line in lines)


def drained(client: Client) -> list[Any]:
    return [event for _, event in client.stream("/s", {}, 2.0)]


def test_a_stream_gives_its_events_and_skips_comments(web: Any) -> None:
    web.pages["/s"] = events(b": ping", b'data: {"a": 1}', b'data:{"a": 2}', b"data: [DONE]", b"data: never")

    assert drained(Client(web.url)) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (events(b'data: {"a": 1}'), "closed the connection in the middle"),
        (events(b"data: nonsense"), "something else than JSON"),
        (events(b'data: {"error": {"message": "out of memory"}}'), "broke off.*out of memory"),
        (b"data: " + b"x" * (1 << 21), "longer than any answer"),
    ],
)
def test_a_broken_stream_is_told(web: Any, body: bytes, words: str) -> None:
    web.pages["/s"] = body

    with pytest.raises(ServerError, match=words):
        drained(Client(web.url))


def test_stopping_cuts_what_is_open_and_refuses_what_comes(web: Any) -> None:
    web.pages["/s"] = dripping(web)
    client = Client(web.url, limit_s=30)
    found: list[str] = []

    def read() -> None:
        try:
            client.get("/s")
        except ServerError as error:
            found.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    while not web.asked:
        pass
    client.stop()
    thread.join(20)

    assert found == ["stopped"]
    with pytest.raises(ServerError, match="stopped"):
        client.get("/s")


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() <= before + 1
