"""The readings of several GPUs, from a stand-in for torch.cuda that counts: no GPU and no torch is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from vram_planner.validate.measure import CudaMeter, meter_for


@dataclass
class Card:
    """A caching allocator: what is freed stays reserved until the cache is emptied."""

    free: int
    live: int = 0
    peak: int = 0
    reserved: int = 0
    reserved_peak: int = 0

    def take(self, n_bytes: int) -> None:
        self.live += n_bytes
        self.free -= max(0, self.live - self.reserved)
        self.reserved = max(self.reserved, self.live)
        self.peak, self.reserved_peak = max(self.peak, self.live), max(self.reserved_peak, self.reserved)

    def drop(self, n_bytes: int) -> None:
        self.live -= n_bytes


@dataclass
class FakeCuda:
    """The part of torch.cuda that is asked; every call names its device, or it fails."""

    cards: list[Card]
    waited_for: list[int] = field(default_factory=list)

    def synchronize(self, card: int) -> None:
        self.waited_for.append(card)

    def empty_cache(self) -> None:
        for card in self.cards:
            card.free += card.reserved - card.live
            card.reserved = card.live

    def reset_peak_memory_stats(self, card: int) -> None:
        self.cards[card].peak = self.cards[card].live
        self.cards[card].reserved_peak = self.cards[card].reserved

    def memory_allocated(self, card: int) -> int:
        return self.cards[card].live

    def max_memory_allocated(self, card: int) -> int:
        return self.cards[card].peak

    def memory_reserved(self, card: int) -> int:
        return self.cards[card].reserved

    def max_memory_reserved(self, card: int) -> int:
        return self.cards[card].reserved_peak

    def mem_get_info(self, card: int) -> tuple[int, int]:
        return self.cards[card].free, 1000


def fake_torch(*free: int) -> Any:
    """Making the first tensor on a card takes its cuBLAS work space, 8 bytes here."""
    cuda = FakeCuda([Card(n_bytes) for n_bytes in free])

    class Ones:
        def __init__(self, *_: int, dtype: Any, device: str) -> None:
            assert dtype == "half"
            cuda.cards[int(device.removeprefix("cuda:"))].take(8)

        def __matmul__(self, other: Any) -> Any:
            return SimpleNamespace(sum=lambda: SimpleNamespace(item=lambda: other))

    return SimpleNamespace(cuda=cuda, ones=Ones, float16="half")


def test_each_card_has_readings_of_its_own_and_the_whole_their_sums() -> None:
    torch = fake_torch(900, 700)
    meter = meter_for(torch, "cuda", 2)
    assert isinstance(meter, CudaMeter)
    meter.open()
    first, second = torch.cuda.cards
    with meter.session() as found, meter.phase("load"):
        first.take(100)
        second.take(300)
        second.drop(200)
    told = found["load"].to_dict()

    assert [card["allocated_bytes"] for card in told["cards"]] == [108, 108]
    assert [card["allocated_peak_bytes"] for card in told["cards"]] == [108, 308]
    assert [card["reserved_bytes"] for card in told["cards"]] == [108, 308]
    assert (told["allocated_bytes"], told["allocated_peak_bytes"]) == (216, 416)
    assert "cards" not in told["cards"][0]


def test_a_peak_is_counted_anew_on_every_card_in_each_phase() -> None:
    torch = fake_torch(900, 900)
    meter = CudaMeter(torch, 2)
    with meter.session() as found:
        with meter.phase("prefill"):
            torch.cuda.cards[1].take(500)
            torch.cuda.cards[1].drop(500)
        with meter.phase("decode"):
            torch.cuda.cards[0].take(50)

    assert [card.allocated_peak_bytes for card in found["prefill"].cards] == [0, 500]
    assert [card.allocated_peak_bytes for card in found["decode"].cards] == [50, 0]
    assert [card.reserved_peak_bytes for card in found["decode"].cards] == [50, 0]
    assert set(torch.cuda.waited_for) == {0, 1}


def test_limits_are_free_and_reserved_of_each_card() -> None:
    torch = fake_torch(900, 700)
    meter = CudaMeter(torch, 2)
    torch.cuda.cards[0].take(100)

    assert meter.card_limit_bytes() == (900, 700)
    assert meter.limit_bytes() == 1600


@pytest.mark.parametrize("cards", [1, 2])
def test_one_card_alone_is_read_as_before(cards: int) -> None:
    torch = fake_torch(900, 700)
    torch.cuda.cards[0].take(64)
    told = CudaMeter(torch, cards).read().to_dict()

    assert told["allocated_bytes"] == 64
    assert ("cards" in told) is (cards == 2)
    assert meter_for(torch, "cpu").card_limit_bytes() == ()
