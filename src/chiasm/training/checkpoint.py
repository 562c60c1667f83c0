"""Checkpoints of a run: whole or not there, exact to resume from, free of pickles.

A folder `checkpoints/step-N` holds

- `model.safetensors`, `host.json`, `receipt.safetensors`: a model that loads like a run directory,
  with the averaged weights where an average is kept,
- `training.safetensors`: where an average is kept, the averages and the weights themselves,
- `optimizer-R.safetensors`: the optimizer's state, for each process R that holds a share of it,
- `generators-R.safetensors`: the random generators of process R,
- `state.json`: progress, audit, scaler, and what the run was asked to do.

`checkpoints/last` and `checkpoints/best` are links to two of them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.training.durable import (
    point,
    pointed,
    remove_partial,
)

FREE_TO_CHANGE = frozenset(
    {
        "keep",
        "log_every",
        "workers",
        "checkpoint_every",
        "check_gradients",
        "uneven_gradients",
    }
)
"""Settings that leave the result as it is; a resumed run may have others."""


class CheckpointStore:
    """The folder `checkpoints` of a run.

    Args:
        output: The run directory.
        keep: How many of the newest stay, besides the best.
    """

    def __init__(self, output: Path, keep: int) -> None:
        self.folder = output / "checkpoints"
        self.keep = keep

    def prepare(self) -> None:
        """Make the folder, and delete what a killed process left half written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partial(self.folder)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending; all of them are whole."""
        if not self.folder.is_dir():
            return []
        names = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.iterdir())
        return sorted(int(match.group(1)) for match in names if match)

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.folder / f"step-{step}"

    def mark(self, name: str, step: int) -> None:
        """Let `last` or `best` stand for a step."""
        point(self.folder / name, f"step-{step}")

    def marked(self, name: str) -> Path | None:
        """Return what `last` or `best` stands for."""
        return pointed(self.folder / name)

    def prune(self) -> None:
        """Delete all but the newest checkpoints and the best one."""
        steps = self.steps()
        best = self.marked("best")
        for step in steps[: max(0, len(steps) - self.keep)]:
            if best is None or best.name != self.path(step).name:
                # Renamed first, so that a kill half-way leaves no checkpoint that looks whole.
                doomed = self.folder / f".partial-{self.path(step).name}"
                self.path(step).rename(doomed)
                shutil.rmtree(doomed)

    def newest(self) -> Path:
        """Return the newest checkpoint.

        Raises:
            CheckpointError: There is none.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(
                f"{self.folder} holds no checkpoint to resume from; start the run without resume"
            )
        return self.path(steps[-1])


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings and lists as one mapping from dotted key to plain value."""
    if isinstance(value, Mapping):
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        return {prefix.removesuffix("."): value}
    found: dict[str, Any] = {}
    for key, inner in items:
        found.update(flatten(inner, f"{prefix}{key}."))
    return found


def check_unchanged(saved: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Check that a resumed run is asked for what it was started with.

    Raises:
        ConfigError: It is not; each key that differs is named with both values.
    """
    before, now = flatten(json.loads(json.dumps(saved))), flatten(json.loads(json.dumps(found)))
    faults = [
        f"{key}: started with {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and key.rsplit(".", 1)[-1] not in FREE_TO_CHANGE
    ]
    if faults:
        raise ConfigError(
            "the recipe is not the one that the run was started with; resume with that one, or "
            "start a new run in another directory",
            faults,
        )
