"""
The measuring process over two cards, in this process: real torch and transformers on the CPU, and a stand-in for
torch.cuda that counts. What CUDA itself does is not seen here.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from vram_planner.validate import live_child
from vram_planner.validate.live_child import Servant
from vram_planner.validate.measure import CudaMeter
from vram_planner.validate.passes import (
    Generation,
    build_spread,
    bytes_held_by_card,
    layer_devices,
    make_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

torch = pytest.importorskip("torch", reason="torch is not installed (the extra [validate])")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

CONFIG = {
    "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
}  # fmt: skip


class Counters:
    """torch.cuda of two cards: card 1 holds twice of what card 0 does; each pass is told by `grow`."""

    def __init__(self) -> None:
        self.live, self.peaks, self.calls = [10, 20], [10, 20], 0

    def grow(self, n_bytes: int) -> None:
        self.live = [self.live[0] + n_bytes, self.live[1] + 2 * n_bytes]
        self.peaks = [max(pair) for pair in zip(self.peaks, self.live, strict=True)]

    def synchronize(self, card: int) -> None:
        self.calls += card in (0, 1)

    def empty_cache(self) -> None:
        self.calls += 1

    def reset_peak_memory_stats(self, card: int) -> None:
        self.peaks[card] = self.live[card]

    def memory_allocated(self, card: int) -> int:
        return self.live[card]

    memory_reserved = memory_allocated

    def max_memory_allocated(self, card: int) -> int:
        return self.peaks[card]

    max_memory_reserved = max_memory_allocated

    def mem_get_info(self, card: int) -> tuple[int, int]:
        return 1000 * (card + 1), 9999


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Counters:
    """The servant's meter reads these; tensors themselves are on the CPU."""
    found = Counters()

    class Meter(CudaMeter):
        def __init__(self, cards: int) -> None:
            super().__init__(type("Torch", (), {"cuda": found}), cards)

        def open(self) -> None:
            self.settle()

        def make_room(self, build: Callable[[], Any]) -> None:
            """Nothing is taken: the tensors are on the CPU (test_measure_room.py holds what it takes)."""

    monkeypatch.setattr(live_child, "meter_for", lambda _torch, _device, cards=1: Meter(cards))
    return found


def ask(servant: Servant, do: str, **words: Any) -> dict[str, Any]:
    found = servant.answer({"do": do, **words})
    assert found["ok"]
    return found


def test_every_answer_has_each_card(counters: Counters, monkeypatch: pytest.MonkeyPatch) -> None:
    servant = Servant()
    opened = ask(servant, "open", device="cpu", config=dict(CONFIG), cards=2)
    loaded = ask(servant, "load", config=dict(CONFIG), dtype="float32", attn="sdpa", weights=None)
    forward = Generation.forward

    def counted(self: Any, n_tokens: int) -> Any:
        counters.grow(n_tokens)
        return forward(self, n_tokens)

    monkeypatch.setattr(Generation, "forward", counted)
    for stage in ("prefill", "decode", "kv"):
        ask(servant, stage, batch=1, context=16, prompt=8)
    stages = ask(servant, "told")
    step = ask(servant, "step", batch=1, context=16, prompt=8)

    assert opened["card_limit_bytes"] == (1010, 2020)
    assert [card["allocated_bytes"] for card in loaded["cards"]] == [10, 20]
    assert [card["allocated_peak_bytes"] for card in stages["prefill"]["cards"]] == [18, 36]
    # All of 16 tokens but the last, then the last.
    assert [card["allocated_peak_bytes"] for card in stages["decode"]["cards"]] == [26, 52]
    assert stages["decode"]["allocated_peak_bytes"] == 78
    assert [card["allocated_peak_bytes"] for card in step["cards"]] == [42, 84]
    assert [card["cache_bytes"] for card in stages["kv"]["cards"]] == [0, 0]  # it lies on the CPU
    assert stages["kv"]["cache_bytes"] == 4 * 2 * 16 * 2 * 16 * 4


def test_a_kernel_that_cannot_be_made_is_no_room_under_a_limit_alone(
    counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What oneDNN says where RLIMIT_AS refuses the pages of a compiled kernel; without a limit it is a fault."""

    def fail(*_: Any) -> None:
        raise RuntimeError("could not create a primitive")

    work = {"do": "step", "batch": 1, "context": 16, "prompt": 8}
    servant = Servant()
    ask(servant, "open", device="cpu", config=dict(CONFIG))
    ask(servant, "load", config=dict(CONFIG), dtype="float32", attn="sdpa", weights=None)
    monkeypatch.setattr(live_child, "limit_address_space", lambda _: None)
    forward = Generation.forward
    monkeypatch.setattr(Generation, "forward", fail)
    with pytest.raises(RuntimeError, match="primitive"):
        servant.answer(dict(work))
    ask(servant, "limit", more_bytes=1)
    calls = counters.calls
    failed = servant.answer(dict(work))
    cleaned = counters.calls > calls
    monkeypatch.setattr(Generation, "forward", forward)

    assert failed == {"error": "no room", "message": "could not create a primitive"}
    assert cleaned
    assert servant.answer(dict(work))["ok"]


def test_a_session_that_cannot_be_ended_does_not_end_the_process(
    counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that finds no room, and then the profiler, which finds none for its events either."""

    @contextmanager
    def session(_: Any, held_bytes: int = 0) -> Iterator[dict[str, Any]]:
        yield {}
        raise MemoryError(held_bytes)

    def fail(*_: Any) -> None:
        raise MemoryError

    servant = Servant()
    ask(servant, "open", device="cpu", config=dict(CONFIG))
    ask(servant, "load", config=dict(CONFIG), dtype="float32", attn="sdpa", weights=None)
    monkeypatch.setattr(CudaMeter, "session", session)
    monkeypatch.setattr(Generation, "forward", fail)
    failed = servant.answer({"do": "prefill", "batch": 1, "context": 16, "prompt": 8})
    monkeypatch.undo()

    assert (failed["error"], counters.live) == ("no room", [10, 20])
    assert ask(servant, "step", batch=1, context=16, prompt=8)["tpot_s"] > 0


def test_too_few_gpus_are_refused_and_no_cuda_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    few = Servant().answer({"do": "open", "device": "cuda", "config": dict(CONFIG), "cards": 2})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    none = Servant().answer({"do": "open", "device": "cuda", "config": dict(CONFIG)})

    assert "sees 1 of the 2 GPUs" in few["message"]
    assert "sees no CUDA device" in none["message"]
    assert {few["error"], none["error"]} == {"refused"}


def test_a_cache_is_counted_where_it_lies() -> None:
    """Tensors of cuda:0 and cuda:1 that have no data (torch's fake tensors)."""
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    with fake.FakeTensorMode():
        cache = [torch.empty(4, device=f"cuda:{card}") for card in (0, 1, 1)] + [torch.empty(4)]

    class Moved:
        """A storage as CUDA's would say of itself: a fake tensor's is on the meta device."""

        def __init__(self, tensor: Any) -> None:
            self.device, self.nbytes = tensor.device, tensor.untyped_storage().nbytes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "vram_planner.validate.passes.storages_of",
            lambda _torch, things: dict(enumerate(map(Moved, things))),
        )
        assert bytes_held_by_card(torch, cache, 2) == [16, 32]


@pytest.mark.parametrize("tied", [False, True])
def test_random_weights_are_made_where_the_layers_go(tied: bool) -> None:
    """By the way of from_pretrained(device_map="auto"), here with the CPU alone; tied tensors stay tied."""
    values = make_config(transformers, {**CONFIG, "tie_word_embeddings": tied})
    room: dict[int | str, int] = {"cpu": 10**9}
    model = build_spread(torch, transformers, values, dtype=torch.bfloat16, attn="sdpa", max_memory=room)
    head, table = model.lm_head.weight, model.model.embed_tokens.weight

    assert (head.data_ptr() == table.data_ptr()) is tied
    assert layer_devices(torch, model) == ["cpu"] * 4
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(parameter.float().std() > 0.01 for parameter in model.parameters() if parameter.dim() > 1)
    with torch.no_grad():
        assert model(torch.zeros(1, 4, dtype=torch.long)).logits.isfinite().all()
