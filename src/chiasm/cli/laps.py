"""Seconds of each part of some work."""

from __future__ import annotations

import time


class Laps:
    """Measures wall-clock seconds from one `end` to the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def end(self, name: str) -> None:
        """Note the seconds since the last `end`, or the start, under a name."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 1)
        self._last = now
