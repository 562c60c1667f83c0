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
from chiasm.training.state import StepNumbers, TrainingState


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
        numbers: StepNumbers,
        rates: Mapping[str, float],
        norm: float,
        metrics: Mapping[str, float],
    ) -> None:
        """Write one line of numbers and show it.

        Args:
            state: Where the run stands after the step.
            stage: Name of the step's stage.
            numbers: Of the step.
            rates: Learning rate by part.
            norm: Norm of the gradients before clipping.
            metrics: Numbers of an evaluation after the step, if there was one.
        """
        row: dict[str, Any] = {
            "stage": stage,
            "loss": numbers.loss,
            "terms": dict(numbers.terms),
            "learning_rates": dict(rates),
            "gradient_norm": norm,
            "samples": state.samples,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 3),
        }
        if metrics:
            row["evaluation"] = dict(metrics)
        self.records.measure(state.step, row)
        seconds = max(state.seconds, 1e-9)
        shown = f"loss {numbers.loss:.4f} {write_numbers(metrics)}".rstrip()
        speed = f"{state.samples / seconds:.1f} samples/s {state.tokens / seconds:.0f} tokens/s"
        left = (self.total - state.step) * seconds / state.step
        line = f"step {state.step}/{self.total} {stage} {shown} {speed}"
        self.progress.note(f"{shown} {speed}", f"{line}, {left:.0f} s left")
        self.log([line])


def write_names(window: Sequence[Batch]) -> str:
    """Return the identifiers of the samples of some batches, as a message names them."""
    names = [sample.identifier for batch in window for sample in batch.samples]
    return f"samples {', '.join(names)}" if names else "samples without identifiers"


def write_numbers(values: Mapping[str, float]) -> str:
    """Return numbers by name as a message names them."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
