"""Ending cleanly: a signal is noted, and the run saves and leaves after the step at hand."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

_CAUGHT = (signal.SIGTERM, signal.SIGINT)


class CaughtSignals:
    """Notes SIGTERM and SIGINT inside a `with` block; a second one has its usual effect."""

    def __init__(self) -> None:
        self.name = ""
        self._former: dict[signal.Signals, signal.Handlers] = {}

    def __enter__(self) -> CaughtSignals:
        # Python lets only the main thread set handlers; elsewhere the caller handles signals.
        if threading.current_thread() is threading.main_thread():
            for number in _CAUGHT:
                self._former[number] = signal.signal(number, self._note)  # type: ignore[assignment]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}
