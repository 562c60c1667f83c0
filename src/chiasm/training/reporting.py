"""What a run says while it goes: the same facts to the screen, the log and the numbers' file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from chiasm.core.batch import Batch
from chiasm.training.freezing import PartRow, parts_lines, render_parts
from chiasm.training.progress import ProgressView
from chiasm.training.records import Records
from chiasm.training.state import TrainingState


class Reporter:
    """Screen and records of one attempt at a run; silent on processes other than the first.

    Args:
        output: The run directory.
        total: Optimizer steps of the run.
        step: The step this attempt goes on from.
        active: Whether this process speaks.
        console: Where progress is shown; standard error if None.
    """

    def __init__(
        self, output: Path, total: int, step: int, active: bool, console: Console | None
    ) -> None:
        self.total = total
        self.active = active
        self.progress = ProgressView(total, active, console)
        self.records = Records(output, step, active)

    def say(self, line: str) -> None:
        """Show a line and log it."""
        self.progress.say(line)
        self.records.say(line)

    def log(self, lines: Iterable[str]) -> None:
        """Log lines without showing them."""
        for line in lines:
            self.records.say(line)

    def show_parts(self, stage: str, rows: Sequence[PartRow]) -> None:
        """Show the parts table at the start of a stage."""
        if self.active:
            self.progress.say(render_parts(rows, f"PARAMETER FREEZE STATUS: {stage}"))
        self.log([f"stage {stage}", *parts_lines(rows)])

    def measure(
        self,
        state: TrainingState,
        stage: str,
        values: Mapping[str, Any],
        metrics: Mapping[str, Any],
    ) -> None:
        """Write one line of numbers and show it."""
        row: dict[str, Any] = {
            "stage": stage,
            **values,
            "samples": state.samples,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 3),
        }
        if metrics:
            row["evaluation"] = dict(metrics)
        self.records.measure(state.step, row)
        seconds = max(state.seconds, 1e-9)
        numbers = f"loss {values['loss']:.4f} {write_numbers(metrics)}".rstrip()
        speed = f"{state.samples / seconds:.1f} samples/s {state.tokens / seconds:.0f} tokens/s"
        left = (self.total - state.step) * seconds / state.step
        line = f"step {state.step}/{self.total} {stage} {numbers} {speed}"
        self.progress.note(f"{numbers} {speed}", f"{line}, {left:.0f} s left")
        self.log([line])


def write_names(window: Sequence[Batch]) -> str:
    """Return the identifiers of the samples of some batches, as a message names them."""
    names = [sample.identifier for batch in window for sample in batch.samples]
    return f"samples {', '.join(names)}" if names else "samples without identifiers"


def write_numbers(values: Mapping[str, float]) -> str:
    """Return numbers by name as a message names them."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
