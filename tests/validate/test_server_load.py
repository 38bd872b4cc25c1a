"""A load on a stand-in engine with so many seats and so large a cache; real engines are in test_server_real.py."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.cli.main import cli
from vram_planner.errors import RequestError, ServerError
from vram_planner.validate import server
from vram_planner.validate.ramp import Ended
from vram_planner.validate.server_load import LoadAsk, _Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN_S = 0.02
ENDS_S = 60.0  # a guard, not a figure: the machine may be busy
SIZES: dict[str, Any] = {"prompt_tokens": 32, "output_tokens": 10, "step_limit_s": 30.0}


class Engine:
    """Streams tokens to `seats` requests at once; the others wait. `tokens` are what its cache holds."""

    def __init__(self, web: Any, seats: int, tokens: int = 10**6) -> None:
        self.seats, self.tokens = threading.Semaphore(seats), tokens
        self.lock = threading.Lock()
        self.running = self.waiting = self.held = 0
        self.prompts: list[str] = []
        self.fails_after: int | None = None
        self.token_s, self.ends = TOKEN_S, threading.Event()
        web.pages["/v1/completions"] = self.complete
        web.pages["/metrics"] = self.metrics

    def metrics(self, _: Any) -> str:
        with self.lock:
            return (
                f"vllm:num_requests_running {self.running}\nvllm:num_requests_waiting {self.waiting}\n"
                f"vllm:kv_cache_usage_perc {min(1.0, self.held / self.tokens)}\n"
            )

    def complete(self, handler: Any) -> Any:
        body = json.loads(handler.body)
        prompt, count = body["prompt"], body["max_tokens"]
        with self.lock:
            self.prompts.append(prompt)
            number = len(self.prompts)
            self.waiting += 1
        if self.fails_after is not None and number > self.fails_after:
            self.waiting -= 1
            return (500, {"error": "out of memory"})
        with self.seats:
            used = len(prompt.split()) + count
            self._count(-1, 1, used)
            # Whoever was cut off does not listen any more.
            with suppress(OSError):
                self._stream(handler, len(prompt.split()), count)
            self._count(0, -1, -used)
        return None

    def _count(self, waiting: int, running: int, held: int) -> None:
        with self.lock:
            self.waiting += waiting
            self.running += running
            self.held += held

    def _stream(self, handler: Any, prompt: int, count: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        events: list[Any] = [{"choices": [{"text": "x"}]}] * count
        events.append({"choices": [], "usage": {"prompt_tokens": 2 * prompt, "completion_tokens": count}})
        for event in events:
            if event["choices"]:
                self.ends.wait(self.token_s)
            handler.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        handler.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture
def engine(web: Any, recorded: Callable[[str], str]) -> Callable[..., Engine]:
    """A stand-in vLLM at `web.url`."""
    recorded("vllm-0.32.0-cpu")
    return lambda **sizes: Engine(web, **sizes)


def test_the_queue_grows_beyond_the_seats_and_stops_the_load(web: Any, engine: Callable[..., Engine]) -> None:
    engine(seats=2)
    found = server(web.url, load=64, **SIZES)

    assert found.load is not None
    assert [step.batch for step in found.load.steps] == [1, 2, 4]
    assert found.findings["queue_grows_at"] == 4
    assert found.load.largest == 2
    assert found.load.stopped == "at 4: the queue grows"
    assert not found.load.complete
    last = found.load.steps[-1]
    assert (last.ended, last.done) == (Ended.RAN, 12)
    assert last.running_most == 2
    assert last.waiting_most is not None
    assert 1 <= last.waiting_most <= 2
    assert found.recommendation is not None
    assert found.recommendation.concurrency <= 2


def test_prompts_have_the_asked_tokens_and_never_repeat(web: Any, engine: Callable[..., Engine]) -> None:
    """The stand-in counts two tokens a word: 32 tokens are 16 words."""
    stand_in = engine(seats=8)
    found = server(web.url, load=2, **SIZES)

    assert found.load is not None
    assert {step.prompt_tokens for step in found.load.steps} == {32.0}
    assert len(set(stand_in.prompts)) == len(stand_in.prompts) == 1 + 3 + 6
    assert {len(prompt.split()) for prompt in stand_in.prompts[1:]} == {16}


class Scripted:
    """A client whose tokens come half a second apart, by its own account."""

    limit_s = 10.0

    def stream(self, *_: Any) -> Any:
        start = time.perf_counter() + 100
        for number in range(5):
            yield start + number / 2, {"choices": [{"text": "x"}]}
        yield start + 3, {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}


def test_latencies_are_of_the_moments_at_which_tokens_came() -> None:
    """TTFT 100 s; nine tokens in five chunks over 2 s: TPOT 2 / 8."""
    client: Any = Scripted()
    reader: Any = type("Reader", (), {"ignores_eos": True})
    found = _Sender(client, reader, "m", LoadAsk(most=1, prompt_tokens=8, output_tokens=9)).send(10, [])

    assert found.ttft_s == pytest.approx(100, abs=5)
    assert found.tpot_s == pytest.approx(0.25)
    assert (found.prompt_tokens, found.output_tokens) == (7, 9)


def test_a_step_counts_its_tokens_and_orders_its_percentiles(web: Any, engine: Callable[..., Engine]) -> None:
    engine(seats=8)
    found = server(web.url, load=1, **SIZES)

    assert found.load is not None
    (step,) = found.load.steps
    assert step.ttft_s is not None
    assert step.tokens_per_s == pytest.approx(30 / step.seconds)
    assert step.ttft_s[0] <= step.ttft_s[1] <= step.ttft_s[2] <= step.seconds
    assert found.load.complete
    assert found.load.stopped == "the most that was asked for"


def test_a_full_cache_is_told_apart_from_taken_seats(web: Any, engine: Callable[..., Engine]) -> None:
    engine(seats=8, tokens=2 * (16 + 10))
    found = server(web.url, load=8, **SIZES)

    assert found.findings["cache_full_at"] == 2
    assert found.findings["queue_grows_at"] is None


def test_a_broken_latency_ends_it_and_the_recommendation_keeps_it(
    web: Any, engine: Callable[..., Engine]
) -> None:
    engine(seats=8)
    found = server(web.url, load=8, tpot_s=TOKEN_S / 10, **SIZES)

    assert found.load is not None
    assert found.findings["tpot_broken_at"] == 1
    assert not found.load.kept_limits
    assert found.recommendation is not None
    assert (found.recommendation.concurrency, found.recommendation.bound_by) == (0, "latency")
    assert server(web.url, load=1, ttft_s=60, tpot_s=60, **SIZES).recommendation.concurrency == 1  # type: ignore[union-attr]


def test_a_latency_that_breaks_later_is_the_reason(web: Any, engine: Callable[..., Engine]) -> None:
    """One at once is quick and two are not: one is recommended, and not because the ramp ended there."""
    stand_in = engine(seats=8)

    def slow_down(step: str) -> None:
        if step == "2 at once":
            stand_in.token_s = 0.8

    sizes = {**SIZES, "output_tokens": 3}
    found = server(web.url, load=8, ctx=64, tpot_s=0.6, tell=slow_down, **sizes)

    assert found.findings["tpot_broken_at"] == 2
    assert found.recommendation is not None
    assert (found.recommendation.concurrency, found.recommendation.bound_by) == (1, "latency")
    assert found.recommendation.why == "1 is the most that keeps TPOT within 0.6 s"


def test_failing_requests_end_it_with_the_servers_words(web: Any, engine: Callable[..., Engine]) -> None:
    engine(seats=8).fails_after = 5
    found = server(web.url, load=8, **SIZES)

    assert found.load is not None
    assert found.findings["failed_at"] == 2
    assert found.load.steps[-1].ended is Ended.FAILED
    assert "HTTP 500" in found.load.stopped
    assert "out of memory" in found.load.stopped


def test_a_server_that_answers_nothing_is_not_measured(web: Any, engine: Callable[..., Engine]) -> None:
    engine(seats=8).fails_after = 0

    with pytest.raises(ServerError, match="HTTP 500"):
        server(web.url, load=8, **SIZES)


def test_a_step_ends_at_its_time_limit(web: Any, engine: Callable[..., Engine]) -> None:
    """Three requests of 40 tokens of 20 ms in 2 s: the last is cut, which is no failure of the server's."""
    engine(seats=1)
    found = server(web.url, load=1, prompt_tokens=32, output_tokens=40, step_limit_s=2.0)

    assert found.load is not None
    (step,) = found.load.steps
    assert step.done < 3
    assert (step.ended, step.broke) == (Ended.RAN, ())
    assert step.note == "the time limit cut 1 requests short"


def test_a_busy_server_is_said_to_be(web: Any, engine: Callable[..., Engine]) -> None:
    engine(seats=1).running = 3

    assert any("busy with 3 other requests" in line for line in server(web.url).warnings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"load": 0},
        {"load": 513},
        {"load": 1, "prompt_tokens": 2000},
        {"load": 1, "output_tokens": 0},
        {"load": 1, "step_limit_s": 0},
    ],
)
def test_loads_that_make_no_sense_are_refused_before_anything_is_sent(
    web: Any, engine: Callable[..., Engine], wrong: dict[str, Any]
) -> None:
    stand_in = engine(seats=1)

    with pytest.raises(RequestError):
        server(web.url, **wrong)
    assert stand_in.prompts == []


def left_of(threads: set[threading.Thread]) -> list[threading.Thread]:
    """Threads that there were not before and that do not end, the web server's own for a request included."""
    deadline = time.monotonic() + ENDS_S
    # Looked at again and again: one that the interrupt caught as it was starting cannot be joined yet.
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        time.sleep(0.01)
    return list(set(threading.enumerate()) - threads)


@pytest.fixture
def _sigint_interrupts() -> Iterator[None]:
    """Python's own handler, which a process that was started in the background lacks, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_between_two_steps_leaves_no_thread(web: Any, engine: Callable[..., Engine]) -> None:
    engine(seats=1)
    before = set(threading.enumerate())

    def interrupt(step: str) -> None:
        if step == "2 at once":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server(web.url, load=8, tell=interrupt, **SIZES)
    assert left_of(before) == []


@pytest.mark.usefixtures("_sigint_interrupts")
def test_ctrl_c_amid_a_step_leaves_no_thread(web: Any, engine: Callable[..., Engine]) -> None:
    """Requests of a quarter of an hour: they end because they are cut, not because they are done."""
    stand_in = engine(seats=8)
    before = set(threading.enumerate())

    def interrupt(step: str) -> None:
        def when_they_run() -> None:
            while stand_in.running < 2:
                time.sleep(0.01)
            signal.raise_signal(signal.SIGINT)

        if step == "2 at once":
            stand_in.token_s = 100.0
            threading.Thread(target=when_they_run, daemon=True).start()

    with pytest.raises(KeyboardInterrupt):
        server(web.url, load=8, tell=interrupt, **SIZES)
    stand_in.ends.set()
    assert left_of(before) == []


@pytest.mark.usefixtures("_sigint_interrupts")
def test_ctrl_c_in_the_middle_of_a_step_ends_the_command(web: Any, engine: Callable[..., Engine]) -> None:
    stand_in = engine(seats=1)
    words = ["validate", "server", web.url, "--load", "8", "--output-tokens", "200"]
    run = subprocess.Popen(
        [sys.executable, "-m", "vram_planner", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(stand_in.prompts) < 2 and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)

    assert (run.returncode, out) == (130, "")
    assert "error: interrupted" in err


def test_the_command_prints_one_document_and_keeps_the_exit_statuses(
    web: Any, engine: Callable[..., Engine], capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    engine(seats=8)
    sizes = ["--prompt-tokens", "32", "--output-tokens", "4"]

    def run(*words: str) -> tuple[Any, str, str]:
        status = cli.main(["validate", "server", web.url, *words], standalone_mode=False)
        return status, *capsys.readouterr()

    status, out, err = run("--json", "--load", "2", *sizes)
    found = json.loads(out)
    assert (status, found["rung"], found["server"]["engine"]) == (0, "server", "vllm")
    assert [step["batch"] for step in found["load"]["steps"]] == [1, 2]
    assert found["findings"]["queue_grows_at"] is None
    assert "\r" not in err

    status, out, _ = run("--load", "1", "--ttft", "0.0001", *sizes)
    assert status == 3
    assert "TTFT is over its limit at 1 at once" in out

    status, out, err = run()
    assert status == 4
    assert "say --gpu for its card" in err

    config = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
              "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    web.pages["/metrics"] = (
        'vllm:cache_config_info{block_size="128",num_gpu_blocks="4096",kv_cache_memory_bytes="1073741824"} 1.0\n'
    )
    assert run("--model", str(tmp_path))[0] == 0
    web.pages["/metrics"] = web.pages["/metrics"].replace("4096", "5096")
    status, out, _ = run("--model", str(tmp_path))
    assert status == 3
    assert "the plan did not hold within 5%: KV tokens of its bytes" in out
