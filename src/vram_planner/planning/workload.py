"""Traffic: how long requests are and how they arrive. Lengths as numbers, as a lognormal, as presets, or as a trace."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from math import exp, isfinite, log, sqrt
from pathlib import Path
from random import Random
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RequestError
from vram_planner.units import parse_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

_PRESETS = Path(__file__).parent / "workloads" / "presets.json"
_Z90 = NormalDist().inv_cdf(0.9)
_LONGEST = 1 << 24
_DRAWN = 20_000
_LEAST_FIT = 0.01  # of the prompts, for a simulation of the others to mean something
_BEYOND = 0.999  # where a lognormal is cut if no longest request is named
_LENGTHS_HINT = (
    "as in 512, lognormal:median=500,p90=2000, lognormal:mean=800,p90=1500 or lognormal:median=500,sigma=1"
)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always so many tokens."""

    tokens: int

    def at(self, share: float) -> float:  # noqa: ARG002  the same at every quantile
        """The length at a quantile."""
        return float(self.tokens)

    @property
    def longest(self) -> int:
        """The longest that is drawn."""
        return self.tokens

    def __str__(self) -> str:
        """As people read it."""
        return f"{self.tokens:,}"


@dataclass(frozen=True, slots=True)
class Lognormal:
    """
    Lengths whose logarithm is normal with mean μ = ln(median) and standard deviation σ.

    By mean m and 90th percentile q: m = exp(μ + σ²/2), q = exp(μ + zσ), hence σ = z − √(z² − 2 ln(q/m)), the smaller
    root, with z = 1.2816. By median and mean: σ = √(2 ln(m / median)).
    """

    median: float
    sigma: float

    @classmethod
    def of(
        cls,
        *,
        median: float | None = None,
        mean: float | None = None,
        p90: float | None = None,
        sigma: float | None = None,
    ) -> Lognormal:
        """By two of median, mean and a spread (p90 or σ); RequestError for what no lognormal has."""
        given = [value for value in (median, mean, p90, sigma) if value is not None]
        if len(given) != 2 or (median is None and mean is None):  # noqa: PLR2004  two parameters
            raise RequestError("a lognormal needs two of median, mean, and p90 or sigma", hint=_LENGTHS_HINT)
        middle = median if median is not None else mean
        for value in (median, mean, p90):
            if value is not None and not 1 <= value <= _LONGEST:
                raise RequestError(
                    f"{value:g} tokens are out of range", hint=f"between 1 and {_LONGEST:,} tokens"
                )
        if median is not None and mean is not None:
            if mean < median:
                raise RequestError(
                    f"a mean of {mean:g} below the median {median:g}", hint="mean is at least the median"
                )
            return cls(float(median), sqrt(2 * log(mean / median)))
        if sigma is None:
            sigma = _sigma(float(middle or 1), float(p90 or 1), by_mean=mean is not None)
        if not (isfinite(sigma) and 0 <= sigma <= 4):  # noqa: PLR2004  a spread of e⁴ either way
            raise RequestError(f"sigma {sigma:g} is out of range", hint="between 0 and 4")
        return cls(float(middle or 1) * (exp(-sigma * sigma / 2) if mean is not None else 1.0), sigma)

    def at(self, share: float) -> float:
        """The length at a quantile."""
        share = min(1 - 1e-12, max(1e-12, share))
        return self.median * exp(self.sigma * NormalDist().inv_cdf(share))

    @property
    def longest(self) -> int:
        """One in a thousand is longer: those are cut."""
        return max(1, round(self.at(_BEYOND)))

    def __str__(self) -> str:
        """As people read it."""
        return f"about {self.median:,.0f} (lognormal, 90 % up to {self.at(0.9):,.0f})"


def _sigma(middle: float, p90: float, *, by_mean: bool) -> float:
    ratio = log(p90 / middle)
    if ratio < 0:
        raise RequestError(
            f"a 90th percentile of {p90:g} below {middle:g}", hint="p90 is at least the median or mean"
        )
    if not by_mean:
        return ratio / _Z90
    under = _Z90 * _Z90 - 2 * ratio
    if under < 0:
        raise RequestError(
            f"no lognormal has the mean {middle:g} and the 90th percentile {p90:g}",
            hint=f"p90 is at most {exp(_Z90 * _Z90 / 2):.2f} times the mean; say the median in place of the mean",
        )
    return _Z90 - sqrt(under)


@dataclass(frozen=True, slots=True)
class Table:
    """Lengths at ascending quantiles, straight lines between them."""

    quantiles: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, share: float) -> float:
        """The length at a quantile."""
        right = min(len(self.quantiles) - 1, max(1, bisect_right(self.quantiles, share)))
        low, high = self.quantiles[right - 1], self.quantiles[right]
        part = (share - low) / (high - low)
        return self.values[right - 1] + part * (self.values[right] - self.values[right - 1])

    @property
    def longest(self) -> int:
        """The longest that is drawn."""
        return round(self.values[-1])

    def __str__(self) -> str:
        """As people read it."""
        return f"about {self.at(0.5):,.0f} (90 % up to {self.at(0.9):,.0f})"


Spread = Fixed | Lognormal | Table


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Lengths:
    """
    Prompt and output lengths of requests; `pairs` (from a trace) go before the two spreads.

    Prompt and output are drawn independently from spreads, together from pairs. `basis` is 'measured',
    'measured in part' (the source says what is assumed) or 'asked'; `prefix_hit` the share of prompts that a prefix cache finds in this traffic.
    """

    name: str
    prompt: Spread
    output: Spread
    pairs: tuple[tuple[int, int], ...] = ()
    basis: str = "asked"
    source: str = "as asked"
    prefix_hit: float = 0.0

    @property
    def longest(self) -> int:
        """Tokens of the longest request, prompt and output."""
        if self.pairs:
            return max(prompt + output for prompt, output in self.pairs)
        return self.prompt.longest + self.output.longest

    @property
    def longest_output(self) -> int:
        """Tokens of the longest output."""
        return max(output for _, output in self.pairs) if self.pairs else self.output.longest

    def draw(self, random: Random, ctx: int) -> tuple[int, int, bool] | None:
        """
        One request, and whether its output was cut to fit into `ctx` tokens; None where its prompt leaves no room for one.

        Engines end an output at their longest sequence, and refuse a prompt that is as long (vLLM:
        `InputProcessor._validate_prompt_len`; SGLang: `validate_input_length`).
        """
        if self.pairs:
            prompt, output = self.pairs[int(random.random() * len(self.pairs))]
        else:
            prompt = max(1, round(self.prompt.at(random.random())))
            output = max(1, round(self.output.at(random.random())))
        if prompt >= ctx:
            return None
        return prompt, min(output, ctx - prompt), prompt + output > ctx

    def sample(self, ctx: int, seed: int = 0) -> list[tuple[int, int, bool]]:
        """A fixed set of draws without those refused; RequestError where hardly any prompt fits."""
        random = Random(seed)  # noqa: S311  no secret
        drawn = [each for _ in range(_DRAWN) if (each := self.draw(random, ctx)) is not None]
        if len(drawn) < _DRAWN * _LEAST_FIT:
            raise RequestError(
                f"{1 - len(drawn) / _DRAWN:.1%} of the prompts leave no room for an output in {ctx:,} tokens",
                hint="a larger --ctx, or shorter prompts",
            )
        return drawn

    def means(self, ctx: int) -> tuple[int, int]:
        """Mean prompt and output of requests cut to `ctx` tokens, over a fixed set of draws."""
        drawn = self.sample(ctx)
        prompt, output = (round(fmean(each[part] for each in drawn)) for part in (0, 1))
        return max(1, prompt), max(1, output)

    def held(self, ctx: int) -> float:
        """
        Tokens that a request holds at a random moment of its decoding: E[O · (P + O/2)] / E[O].

        Long outputs are met more often, and are half done when met. Over the draws of `means`.
        """
        drawn = self.sample(ctx)
        tokens = sum(output * (prompt + output / 2) for prompt, output, _cut in drawn)
        return tokens / sum(output for _prompt, output, _cut in drawn)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: quantiles of the spreads, where they come from."""
        shown = {}
        for name, spread in (("prompt", self.prompt), ("output", self.output)):
            shown[name] = {f"p{round(share * 100)}": round(spread.at(share)) for share in (0.5, 0.9, 0.99)}
        return {"name": self.name, "basis": self.basis, "source": self.source, "longest": self.longest,
                "prefix_hit": self.prefix_hit, "requests": len(self.pairs) or None, **shown}  # fmt: skip


def parse_lengths(text: str | int) -> Spread:
    """512, '32K', 'lognormal:median=500,p90=2000' …; RequestError for what cannot be read."""
    if isinstance(text, int) or not str(text).startswith("lognormal"):
        tokens = parse_tokens(text)
        if not 1 <= tokens <= _LONGEST:
            raise RequestError(f"{tokens:,} tokens are out of range", hint=f"between 1 and {_LONGEST:,}")
        return Fixed(tokens)
    known: dict[str, float] = {}
    for part in text[:200].removeprefix("lognormal").lstrip(":").split(","):
        name, sign, value = part.strip().partition("=")
        if not sign or name not in ("median", "mean", "p90", "sigma") or name in known:
            raise RequestError(f"cannot read the lengths {text[:60]!r}", hint=_LENGTHS_HINT)
        try:
            known[name] = float(value) if name == "sigma" else float(parse_tokens(value))
        except ValueError:
            raise RequestError(f"cannot read the lengths {text[:60]!r}", hint=_LENGTHS_HINT) from None
    return Lognormal.of(**known)


@lru_cache(maxsize=1)
def presets() -> Mapping[str, Lengths]:
    """Named traffic with its source."""
    document = json.loads(_PRESETS.read_text(encoding="utf-8"))
    quantiles = tuple(document["quantiles"])
    return {
        name: Lengths(
            name=name,
            prompt=_preset_spread(row["prompt"], quantiles),
            output=_preset_spread(row["output"], quantiles),
            basis=row["basis"],
            source=f"{row['about']}: {row['source']}",
            prefix_hit=row.get("prefix_hit", 0.0),
            pairs=tuple((prompt, output) for prompt, output in row.get("pairs", ())),
        )
        for name, row in document["workloads"].items()
    }


def _preset_spread(row: Any, quantiles: tuple[float, ...]) -> Spread:
    return Table(quantiles, tuple(row)) if isinstance(row, list) else Lognormal.of(**row)


def lengths_of(
    workload: str | Lengths | None = None,
    prompt_tokens: str | int | None = None,
    output_tokens: str | int | None = None,
) -> Lengths:
    """
    Lengths by a preset's name or a trace file, or by both lengths; a length beside a preset replaces its own.

    Raises RequestError for what cannot be read or meant.
    """
    from vram_planner.planning.trace import read_trace  # noqa: PLC0415  only where a file is named

    if workload is None:
        if prompt_tokens is None or output_tokens is None:
            raise RequestError(
                "say --workload, or both --prompt-tokens and --output-tokens",
                hint=f"--workload is one of {', '.join(presets())} or a CSV or JSONL file of lengths",
            )
        prompt, output = parse_lengths(prompt_tokens), parse_lengths(output_tokens)
        return Lengths(name="as asked", prompt=prompt, output=output)
    if isinstance(workload, Lengths):
        found = workload
    elif workload in presets():
        found = presets()[workload]
    elif "." in workload or "/" in workload:
        found = read_trace(workload)
    else:
        raise RequestError(
            f"no workload is called {workload[:40]!r}",
            hint=f"one of {', '.join(presets())}, or a CSV or JSONL file of lengths",
        )
    if prompt_tokens is None and output_tokens is None:
        return found
    return Lengths(
        name=f"{found.name}, changed",
        prompt=found.prompt if prompt_tokens is None else parse_lengths(prompt_tokens),
        output=found.output if output_tokens is None else parse_lengths(output_tokens),
        basis="asked",
        source=found.source,
        prefix_hit=found.prefix_hit,
    )
