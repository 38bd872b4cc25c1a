"""What the requests of a published benchmark suite really are, where its records name other lengths."""

from __future__ import annotations

import re
from typing import NamedTuple


class Suite(NamedTuple):
    """
    Requests of one suite of AccelMark, whose client runs in the engine's own process.

    `prompt` is the median of its dataset's prompts in tokens with the chat template, `output` what its runs
    generated in the mean, `longest` where the suite cuts an output, `at_once` how many requests its offline run
    hands over, `arrivals` how many come in its online run.

    Source: https://github.com/FreedomIntelligence/AccelMark, datasets/*/requests.jsonl (`input_tokens`),
    suites/*/suite.json (`output_tokens_max`, `request_count`, `online_request_count`) and the runs' tokens / requests; the README of each
    dataset, which the records quote, names 280 and 310, or 95 and 150.
    """

    prompt: int
    output: int
    longest: int
    at_once: int
    arrivals: int

    @property
    def batch(self) -> float:
        """Requests that decode in the mean over a run in which all start together: n · output / longest."""
        return self.at_once * self.output / self.longest


_STANDARD = Suite(prompt=210, output=347, longest=512, at_once=100, arrivals=300)
_SUITES = {
    "A": _STANDARD,
    "B": _STANDARD._replace(arrivals=200),
    "C": _STANDARD,
    "D": Suite(prompt=28_650, output=256, longest=256, at_once=50, arrivals=100),
    "E": _STANDARD._replace(at_once=150),
    "F": Suite(prompt=80, output=210, longest=256, at_once=200, arrivals=300),
    "G": _STANDARD._replace(output=333),
}


# Its runner ends streamed outputs at 224 tokens; so many in the mean of its runs.
_STREAMED_BY_SGLANG = 188


def suite_of(note: str, engine: str) -> Suite | None:
    """The suite that a record's note names ('suite F offline: ...'); None where it names none."""
    match = re.match(r"suite ([A-G])\b", note)
    if match is None:
        return None
    suite = _SUITES[match[1]]
    if engine == "sglang" and "offline" not in note:
        return suite._replace(output=min(suite.output, _STREAMED_BY_SGLANG))
    return suite
