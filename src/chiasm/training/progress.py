"""The progress of a run on the screen: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressView:
    """Shows steps, loss, rates and time left on standard error.

    Args:
        total: Optimizer steps of the run.
        active: Whether this process shows anything.
        console: Where to; standard error if None.
    """

    def __init__(self, total: int, active: bool, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self.active = active
        self._bar: Progress | None = None
        if active and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self._task = self._bar.add_task("training", total=total, note="")

    def __enter__(self) -> ProgressView:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def move(self, step: int, stage: str) -> None:
        """Show that `step` steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=stage)

    def note(self, text: str, line: str) -> None:
        """Show the latest numbers: beside the bar as `text`, or as a plain `line`."""
        if self._bar is not None:
            self._bar.update(self._task, note=text)
        elif self.active:
            self.console.print(line, markup=False)

    def say(self, renderable: object) -> None:
        """Print something above the bar."""
        if self.active:
            self.console.print(renderable)
