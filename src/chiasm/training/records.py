"""What a run leaves behind for people: log.txt, metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from torch.utils.tensorboard import SummaryWriter

from chiasm.training.durable import sync, write_text

METRICS = "metrics.jsonl"
LOG = "log.txt"


class Records:
    """The records of a run; on processes other than the first it does nothing.

    Args:
        output: The run directory.
        step: The step the run goes on from; later lines of an earlier attempt are removed.
        active: Whether this process writes.
    """

    def __init__(self, output: Path, step: int, active: bool) -> None:
        self.active = active
        self.output = output
        if not active:
            return
        truncate_metrics(output / METRICS, step)
        self._metrics: IO[str] = (output / METRICS).open("a", encoding="utf-8")
        self._log: IO[str] = (output / LOG).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(output), purge_step=step + 1)

    def say(self, line: str) -> None:
        """Append a line to the log."""
        if self.active:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            self._log.write(f"{stamp} {line}\n")
            self._log.flush()

    def measure(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a line of numbers, and hand them to TensorBoard."""
        if not self.active:
            return
        self._metrics.write(json.dumps({"step": step, **values}) + "\n")
        self._metrics.flush()
        for name, value in _scalars(values):
            self._board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Have everything on disk, before a checkpoint says that it is."""
        if self.active:
            for file in (self._metrics, self._log):
                file.flush()
                os.fsync(file.fileno())
            self._board.flush()

    def close(self) -> None:
        """Close the files."""
        if self.active:
            self.sync()
            self._metrics.close()
            self._log.close()
            self._board.close()
            sync(self.output)


def truncate_metrics(path: Path, step: int) -> None:
    """Keep the lines of steps up to `step`; a line that a killed process left half is dropped."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            known = line.endswith("\n") and json.loads(line)["step"] <= step
        except ValueError:
            known = False
        if known:
            kept.append(line)
    write_text(path, "".join(kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, in order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _scalars(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((prefix + name, float(value)))
    return found
