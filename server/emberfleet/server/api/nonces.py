"""Requests made before, remembered in memory: for those that change nothing.

Two generations, each as long as a signature may be old: a nonce is known for one to two of them. After a
restart nothing is remembered: a reading request replayed then shows what it has shown before.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from emberfleet.core.messages import Reason, RefusedError
from emberfleet.core.requests import CLOCK_WINDOW_S

GENERATION_S: Final = 2 * CLOCK_WINDOW_S
MOST_NONCES: Final = 200_000
MOST_OF_ONE: Final = 5_000
"""Requests of one device in one generation; a device at work makes a few hundred."""


class SeenNonces:
    """The nonces of late, at most `most` of them and `most_of_one` of each device per generation."""

    def __init__(self, most: int = MOST_NONCES, most_of_one: int = MOST_OF_ONE) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._by_device: Counter[str] = Counter()
        self._turned_at = 0.0

    def spend_nonce(self, device_id: str, nonce: str, now: float) -> bool:
        """Remember a nonce; False where the device has used it before.

        Raises:
            RefusedError: BUSY: there were more requests than can be remembered.
        """
        if not 0 <= now - self._turned_at < GENERATION_S:
            # A clock that was set back must not make anybody's nonces older than they are.
            self._old = self._young if now - self._turned_at < 2 * GENERATION_S else set()
            self._young, self._turned_at = set(), now
            self._by_device.clear()
        # Python's own hash, keyed anew in every process, holds the table small: 64 bits each.
        key = hash((device_id, nonce))
        if key in self._young or key in self._old:
            return False
        if len(self._young) >= self._most // 2 or self._by_device[device_id] >= self._most_of_one:
            raise RefusedError(
                Reason.BUSY,
                "more requests came than the server can tell apart",
                "Ask less often.",
                max(1.0, self._turned_at + GENERATION_S - now),
            )
        self._young.add(key)
        self._by_device[device_id] += 1
        return True

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
