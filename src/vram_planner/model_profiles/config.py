"""A typed reader over a config.json: every figure is there, of its type and within bounds, or it is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from vram_planner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Ten times and more above anything published; what lies beyond is a slip or an attack, never a model.
_MOST: Final = {
    "num_hidden_layers": 10_000,
    "num_nextn_predict_layers": 1_000,
    "vocab_size": 10**8,
    "max_position_embeddings": 10**9,
    "sliding_window": 10**9,
}
_MOST_ELSE: Final = 10**7
_LONGEST_LIST: Final = 100_000
_LONGEST_TEXT: Final = 80
_MOST_BITS: Final = 1000  # of a whole number that a float can still hold


class Config:
    """
    One object of a config.json. `where` is its path inside the file, for messages; `outer` the object around it.

    A key that is absent or null gives the default; without a default it is a ConfigError. The first key
    that is present wins over its aliases.
    """

    __slots__ = ("_data", "outer", "where")

    def __init__(self, data: Mapping[str, Any], *, where: str = "", outer: Config | None = None) -> None:
        """Of a JSON object; `where` and `outer` are set by `sub`."""
        self._data = data
        self.where = where
        self.outer = outer

    def raw(self, *keys: str) -> Any:
        """The value as it stands under the first of these keys that is there and not null, else None."""
        for key in keys:
            value = self._data.get(key)
            if value is not None:
                return value
        return None

    def has(self, key: str) -> bool:
        """Whether the key is there, null or not."""
        return key in self._data

    def with_defaults(self, defaults: Mapping[str, Any]) -> Config:
        """The same object, with a family's own figures where it is silent."""
        # A null that no default replaces stays: for some keys it means "none", not "the usual".
        missing = {
            key: value for key, value in defaults.items() if self._data.get(key) is None and value is not None
        }
        return Config({**self._data, **missing}, where=self.where, outer=self.outer)

    def replaced(self, values: Mapping[str, Any]) -> Config:
        """The same object with other figures under some keys."""
        return Config({**self._data, **values}, where=self.where, outer=self.outer) if values else self

    def names(self) -> tuple[str, ...]:
        """All keys of this object."""
        return tuple(self._data)

    def integer(self, *keys: str, default: int | None = None, least: int = 1, most: int | None = None) -> int:
        """A whole number from `least` to `most` (by default a bound that no published model comes near)."""
        value = self._present(keys, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._refuse(keys[0], value, "a whole number")
        limit = most if most is not None else _MOST.get(keys[0], _MOST_ELSE)
        if not least <= value <= limit:
            raise self._refuse(keys[0], value, f"between {least:,} and {limit:,}")
        return value

    def optional_integer(self, *keys: str, least: int = 1) -> int | None:
        """As `integer`, None where the key is absent or null."""
        return None if self.raw(*keys) is None else self.integer(*keys, least=least)

    def number(self, *keys: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._present(keys, default)
        huge = isinstance(value, int) and value.bit_length() > _MOST_BITS
        if isinstance(value, bool) or not isinstance(value, int | float) or huge or not math.isfinite(value):
            raise self._refuse(keys[0], value, "a finite number")
        return float(value)

    def flag(self, *keys: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._present(keys, default)
        if not isinstance(value, bool):
            raise self._refuse(keys[0], value, "true or false")
        return value

    def text(self, *keys: str, default: str | None = None) -> str:
        """A string."""
        value = self._present(keys, default)
        if not isinstance(value, str):
            raise self._refuse(keys[0], value, "a string")
        return value

    def integers(self, *keys: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """A list of whole numbers that are not negative."""
        values = self._list(keys, default)
        if any(
            isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_ELSE
            for value in values
        ):
            raise self._refuse(keys[0], values, "a list of whole numbers")
        return tuple(values)

    def texts(self, *keys: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of strings."""
        values = self._list(keys, default)
        if not all(isinstance(value, str) for value in values):
            raise self._refuse(keys[0], values, "a list of strings")
        return tuple(values)

    def sub(self, *keys: str) -> Config:
        """The object under a key; an empty one where it is absent, so that a family's defaults apply."""
        value = self.raw(*keys)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self._refuse(keys[0], value, "an object")
        return Config(value, where=f"{self.where}{keys[0]}.", outer=self)

    def _list(self, keys: tuple[str, ...], default: tuple[Any, ...] | None) -> list[Any] | tuple[Any, ...]:
        values = self._present(keys, default)
        if not isinstance(values, list | tuple) or len(values) > _LONGEST_LIST:
            raise self._refuse(keys[0], values, f"a list of at most {_LONGEST_LIST:,}")
        return values

    def _present(self, keys: tuple[str, ...], default: object) -> Any:
        value = self.raw(*keys)
        if value is not None:
            return value
        if default is None:
            names = " or ".join(keys)
            raise ConfigError(
                f"the config has no {self.where}{names}",
                hint=f"add {keys[0]!r} to the config.json; without it the memory cannot be known",
            )
        return default

    def _refuse(self, key: str, value: object, wanted: str) -> ConfigError:
        return ConfigError(
            f"{self.where}{key} is {show(value)}, which is not {wanted}",
            hint=f"correct {key!r} in the config.json",
        )


def show(value: object) -> str:
    """A value of a config in a few characters, whatever it is."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 100:  # noqa: PLR2004
        return f"a number of {value.bit_length():,} bits"
    if isinstance(value, dict | list | tuple):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value):,}"
    text = repr(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
