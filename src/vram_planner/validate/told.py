"""What a run tells whoever watches it: the name of each stage and, if that is listened to, how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def share_of(tell: Callable[[str], None]) -> Callable[[float], None]:
    """Where to say how much of a stage is done, from 0 to 1: `tell.share`, and nowhere where it has none."""
    found: Callable[[float], None] = getattr(tell, "share", _unheard)
    return found


def _unheard(_: float) -> None:
    """Nobody listens."""
