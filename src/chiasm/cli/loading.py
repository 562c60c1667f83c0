"""Loading a run for a verb, onto the device it shall run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chiasm.core.errors import InputError

if TYPE_CHECKING:
    import torch

    from chiasm.recipes.build import Family

Device = Annotated[
    str,
    typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda, cuda:1, mps, ..."),
]
"""The `--device` option, spelled once."""


def load_on(run: str, device: str) -> Family:
    """Load a run onto a device.

    Args:
        run: A run directory, or the name of a shipped model.
        device: `auto`, or the name of a device of torch.

    Raises:
        CheckpointError: The run cannot be loaded.
        InputError: There is no such device.
    """
    from chiasm.recipes.loading import load_run

    place = choose_device(device)
    return load_run(run).to(place)


def choose_device(name: str) -> torch.device:
    """Return a device of torch; `auto` is CUDA where it works, else the CPU.

    Raises:
        InputError: There is no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}; allowed: auto, cpu, or "
            "a device that `chiasm doctor` lists"
        ) from None
    return device
