"""What `size` is asked: the load, the limits, the choice of cards and formats, and how they are paid for."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from vram_planner.engines.base import ENGINES_WITH
from vram_planner.engines.register import engine
from vram_planner.errors import RequestError
from vram_planner.hardware_profiles.links import Servers
from vram_planner.planning.prices import Buying, Prices
from vram_planner.planning.request import DEFAULT_ENGINE, PlanRequest
from vram_planner.planning.workload import lengths_of
from vram_planner.units import ceil_div, parse_seconds, parse_size, parse_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vram_planner.hardware_profiles import Gpu
    from vram_planner.planning.workload import Lengths

_MOST_USERS = 10**7
_MOST_CHOICES = 64
_MOST_GPUS = 4096
_MOST_HEADROOM = 100.0
WORST, EXPECTED = "worst", "expected"
# Their cache is one pool of blocks: what a request does not use yet, others have. llama.cpp's slots are whole contexts.
PAGED = frozenset({"vllm", "sglang", "tensorrt-llm"})
_HEADROOM_HINT = "20% more load than asked, or 2GiB to spare on each GPU; both may be given"
NOT_YOURS = ("model", "ctx", "concurrency", "quant", "gpu", "gpu_count", "tp", "pp", "dp", "dp_attention",
             "prompt_tokens")  # fmt: skip


_READ: dict[str, Callable[[str], float]] = {
    **dict.fromkeys(("ctx", "prompt_tokens", "output_tokens"), parse_tokens),
    **dict.fromkeys(("ttft_s", "tpot_s", "think_s"), parse_seconds),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What is to be left over: a `share` of the load that may come on top of it, and `n_bytes` on the fullest GPU."""

    share: float = 0.0
    n_bytes: int = 0

    @classmethod
    def of(cls, asked: Headroom | str | float | Sequence[str | float] | None) -> Headroom:
        """Read 0.2, '20%', '2GiB' or two of them; RequestError or SizeError for what cannot be meant."""
        if isinstance(asked, Headroom):
            return asked
        several = (asked,) if isinstance(asked, str | int | float) else tuple(asked or ())
        found: dict[str, Any] = {}
        for value in several:
            name, amount = _headroom(value)
            if name in found:
                raise RequestError("--headroom says the same thing twice", hint=_HEADROOM_HINT)
            found[name] = amount
        return cls(**found)


def _headroom(value: str | float) -> tuple[str, float]:
    if isinstance(value, str) and not value.strip().endswith("%"):
        if value.strip()[-1:] not in ("B", "b"):
            raise RequestError(f"cannot read the head-room {value[:40]!r}", hint=_HEADROOM_HINT)
        return "n_bytes", parse_size(value)
    try:
        share = float(value.strip()[:40].removesuffix("%")) / 100 if isinstance(value, str) else float(value)
    except ValueError:
        share = -1.0
    if isinstance(value, bool) or not 0 <= share <= _MOST_HEADROOM:
        raise RequestError(f"the head-room {str(value)[:40]!r} is out of range", hint=_HEADROOM_HINT)
    return "share", share


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRequest:
    """
    A load and its limits. Give `users` or `rate` (requests a second), not both.

    `users` each wait `think_s` seconds between an answer and their next request; 0: always one in flight.
    A request has `prompt_tokens` (half of `ctx` if not said) and `output_tokens` (the rest of `ctx`) on average.
    `room` says for how much of each the cache has room: 'worst', `ctx` tokens; 'expected', the `held_tokens` that one
    holds at a random moment (prompt and half of the output if not said). `headroom` is what must be left: 0.2 or '20%'
    of the load, '2GiB' on each GPU, or both. `ttft_s` and `tpot_s` None: no limit. `quants` None
    stands for the model as stored; `gpus` empty for every card with a rent or a list price. `inter_node` joins
    servers of `node_gpus`: '400Gb/s' of each GPU, '100Gb/s/node' of each server; None: 400 Gb/s of each GPU, assumed.
    `options` are those of a plan: engine, kv_dtype, max_num_seqs ... Raises RequestError for what cannot be meant.
    """

    models: tuple[str, ...]
    ctx: int
    users: int | None = None
    rate: float | None = None
    think_s: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    quants: tuple[str | None, ...] = (None,)
    gpus: tuple[str, ...] = ()
    node_gpus: int = 8
    max_gpus: int = 256
    inter_node: str | None = None
    headroom: Headroom | str | float | Sequence[str | float] | None = None
    room: str = WORST
    held_tokens: int | None = None
    prices: Prices = field(default_factory=Prices)
    buying: Buying | None = None
    utilisation: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read token counts and times, then check every range."""
        for name, read in _READ.items():
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, read(value))
        self._check_kinds()
        for name in ("models", "quants", "gpus"):
            if len(getattr(self, name)) > _MOST_CHOICES:
                raise RequestError(f"more than {_MOST_CHOICES} {name}", hint="ask in several calls")
        if not self.models:
            raise RequestError("--model is missing", hint="as in --model 70b")
        if (self.users is None) == (self.rate is None):
            raise RequestError("say either --users or --rate", hint="as in --users 200 or --rate 2.5")
        self._check_numbers()
        object.__setattr__(self, "headroom", Headroom.of(self.headroom))
        Servers.of(self.node_gpus, self.inter_node)
        self._check_room()
        wrong = next((name for name in self.options if name in NOT_YOURS), None)
        if wrong is not None:
            raise RequestError(f"{wrong!r} is not for sizing", hint="sizing chooses cards and layouts itself")
        for model in self.models:
            self.plan_request(model, None)
        if self.prompt + self.output > self.ctx:
            raise RequestError(
                f"{self.prompt:,} prompt and {self.output:,} output tokens are more than the context of {self.ctx:,}",
                hint="--ctx is the longest request, both together",
            )

    def _check_kinds(self) -> None:
        """What Python callers may mistake: a command's options come as what they are."""
        for name in ("rate", "utilisation", "ttft_s", "tpot_s", "think_s"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise RequestError(f"{name} {str(value)[:40]!r} is no number", hint=f"as in {name}=0.5")
        kinds: dict[str, type] = {"prices": Prices, "buying": Buying, "inter_node": str}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and (value is not None or name == "prices"):
                raise RequestError(
                    f"{name} {str(value)[:40]!r} is no {kind.__name__}", hint="see help(vp.size)"
                )

    def _check_numbers(self) -> None:
        if self.users is not None and not _whole(self.users, _MOST_USERS):
            raise RequestError(f"--users {self.users} is out of range", hint=f"1 to {_MOST_USERS:,}")
        positive = {"rate": self.rate, "ttft": self.ttft_s, "tpot": self.tpot_s, "years": self._years()}
        for name, value in positive.items():
            if value is not None and not 0 < value < float("inf"):
                raise RequestError(f"--{name} {value} is out of range", hint="a number above zero")
        if not (isfinite(self.think_s) and self.think_s >= 0):
            raise RequestError(f"--think-time {self.think_s} is out of range", hint="0 or more seconds")
        if not 0 < self.utilisation <= 1:
            raise RequestError(f"--utilisation {self.utilisation} is no share", hint="above 0, at most 1")
        for name in ("node_gpus", "max_gpus"):
            if not _whole(getattr(self, name), _MOST_GPUS):
                raise RequestError(f"--{name.replace('_', '-')} is out of range", hint=f"1 to {_MOST_GPUS:,}")
        if self.output_tokens is not None and not _whole(self.output_tokens, self.ctx):
            raise RequestError(f"--output-tokens {self.output_tokens:,} is out of range", hint="1 to --ctx")
        self._check_money()

    def _check_money(self) -> None:
        if self.buying is not None:
            price, power = self.buying.price, self.buying.power_price
            if not (isfinite(power) and power >= 0) or (price is not None and not 0 < price < float("inf")):
                raise RequestError(
                    "a price is out of range",
                    hint="--price and --power-price are amounts of money, not below zero",
                )

    def _check_room(self) -> None:
        if self.room not in (WORST, EXPECTED):
            raise RequestError(
                f"no room is called {str(self.room)[:40]!r}",
                hint="worst: for --ctx tokens of each request; expected: for what one holds on average",
            )
        if (
            self.room == EXPECTED
            and (name := engine(self.options.get("engine") or DEFAULT_ENGINE).name) not in PAGED
        ):
            raise RequestError(
                f"{name} keeps a place of --ctx tokens for each request: there is no room by expectation",
                hint=f"--room worst, or --engine {', '.join(sorted(PAGED))}",
            )
        if self.held_tokens is not None and not _whole(self.held_tokens, self.ctx):
            raise RequestError(f"held_tokens {self.held_tokens} is out of range", hint="1 to ctx")

    def _years(self) -> float | None:
        return None if self.buying is None else self.buying.years

    @property
    def prompt(self) -> int:
        """Tokens of the average prompt."""
        return self.prompt_tokens if self.prompt_tokens is not None else max(1, self.ctx // 2)

    @property
    def output(self) -> int:
        """Tokens of the average answer."""
        return self.output_tokens if self.output_tokens is not None else max(1, self.ctx - self.prompt)

    @property
    def held(self) -> int:
        """
        Tokens that a request holds in the cache at a random moment of its decoding.

        Of a workload E[O · (P + O/2)] / E[O], as `simulate` has it; else of the average request, P + O/2.
        """
        return self.held_tokens if self.held_tokens is not None else self.prompt + ceil_div(self.output, 2)

    @property
    def spare(self) -> Headroom:
        """The head-room that was asked for."""
        return Headroom.of(self.headroom)

    @property
    def servers(self) -> Servers:
        """How cards stand, and what joins their servers."""
        return Servers.of(self.node_gpus, self.inter_node)

    def node_of(self, gpu: Gpu) -> int:
        """Cards of one server: as asked, but no more than are built with this card."""
        return self.servers.size_of(gpu)

    def plan_request(self, model: str, quant: str | None, **more: Any) -> PlanRequest:
        """The plan of one replica; `concurrency` is 1 unless `more` says otherwise."""
        asked = {"concurrency": 1, "prompt_tokens": self.prompt, **self.options, **more}
        return PlanRequest.of(model=model, quant=quant, ctx=self.ctx, **asked)


def of_workload(workload: str | Lengths, asked: dict[str, Any]) -> dict[str, Any]:
    """
    The fields of a SizeRequest with the lengths of a workload where none were asked for.

    The mean prompt and output give the times. The longest is the worst case for the cache, `held_tokens` what to expect.
    Of an engine with a prefix cache the workload's hits are taken, unless `prefix_hit` is said.
    """
    lengths = lengths_of(workload)
    ctx = parse_tokens(asked["ctx"]) if asked.get("ctx") is not None else lengths.longest
    prompt, output = lengths.means(max(2, ctx))
    found: dict[str, float] = {"ctx": ctx, "prompt_tokens": prompt, "output_tokens": output}
    if asked.get("prompt_tokens") is None and asked.get("output_tokens") is None:
        found["held_tokens"] = max(1, min(ctx, round(lengths.held(max(2, ctx)))))
    if lengths.prefix_hit and (asked.get("engine") or DEFAULT_ENGINE) in ENGINES_WITH["prefix_hit"]:
        found["prefix_hit"] = lengths.prefix_hit
    return {**asked, **{name: value for name, value in found.items() if asked.get(name) is None}}


def _whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
