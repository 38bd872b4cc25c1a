"""Prompts of about so many tokens, no two alike, so that no prefix cache answers for the model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count

_WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
]
_PER_DIGEST = 64


@dataclass(frozen=True, slots=True)
class Prompts:
    """`tokens_per_word` is measured on the server itself; None where it does not count tokens."""

    salt: bytes
    tokens_per_word: float | None = None

    @classmethod
    def fresh(cls) -> Prompts:
        """Other prompts than any run before."""
        return cls(os.urandom(8))

    def words(self, number: int, n_words: int) -> str:
        """The prompt of that number."""
        found: list[str] = []
        for block in count():
            digest = blake2b(b"%d/%d" % (number, block), key=self.salt, digest_size=_PER_DIGEST).digest()
            found += [_WORDS[byte % len(_WORDS)] for byte in digest]
            if len(found) >= n_words:
                return " ".join(found[:n_words])
        raise AssertionError

    def of_tokens(self, number: int, n_tokens: int) -> str:
        """About so many tokens; a word for a token where the server does not count."""
        return self.words(number, max(1, int(n_tokens / (self.tokens_per_word or 1.0))))
