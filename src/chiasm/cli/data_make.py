"""What `chiasm data make` does: a procedural world as files, with progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from chiasm.cli.output import console


def make(world: str, output: Path, count: int, seed: int) -> dict[str, Any]:
    """Write a world to a folder and tell how far it is: a bar on a terminal, lines otherwise.

    Args:
        world: Name of the world.
        output: The folder to make.
        count: Scenes for training; the other splits get a tenth each.
        seed: Seed of all splits.

    Returns:
        What was made, ready for JSON.
    """
    from chiasm.data.world import write

    if not console.is_terminal:
        return write.make(world, output, count, seed, progress=_tell_tenths)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(f"world {world}", total=None, rate="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.0f} scenes/s" if speed else ""
            bar.update(task, completed=done, total=total, rate=rate)

        return write.make(world, output, count, seed, progress=show)


def _tell_tenths(done: int, total: int) -> None:
    if done * 10 // total > (done - 1) * 10 // total:
        console.print(f"{done} of {total} scenes")
