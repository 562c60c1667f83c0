"""The processes of a run: how many, which this is, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedType,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)

from chiasm.core.errors import ConfigError
from chiasm.training.settings import TrainingSettings

# An evaluation on the first process must not outlast the patience of the others.
_PATIENCE = timedelta(hours=2)


def launched_processes() -> int:
    """Return how many processes the launcher has started, 1 without a launcher.

    Needs nothing of Accelerate, whose state must not come into being before `build_accelerator`.
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def build_accelerator(settings: TrainingSettings) -> Accelerator:
    """Build Accelerate's accelerator for the precision asked for.

    Raises:
        ConfigError: The precision is not possible on this device, or the launcher started several
            processes that do not find each other.
    """
    launched = launched_processes()
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    # Under torchrun on a machine without an accelerator, Accelerate joins processes only when told.
    no_gpu = launched > 1 and not torch.accelerator.is_available()
    # Under DeepSpeed it takes the backend as a sign that there are several.
    group = InitProcessGroupKwargs(
        timeout=_PATIENCE, backend="gloo" if no_gpu and deepspeed else None
    )
    # DeepSpeed would turn the weights themselves into bf16; its engine asks for autocast instead.
    wanted = "no" if deepspeed or settings.precision == "fp32" else settings.precision
    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision") != wanted:
        # One process may train several models one after another; Accelerate's shared state holds
        # the first one's precision, and letting go of it has no public name. Processes stay.
        AcceleratorState._reset_state()
    try:
        accelerator = Accelerator(
            mixed_precision=wanted,
            cpu=no_gpu and not deepspeed,
            kwargs_handlers=[group],
        )
    except ValueError as error:
        raise ConfigError(
            f"Accelerate refuses precision {settings.precision!r} or the launcher's engine file: "
            f"{error}. Use fp32 or bf16, and one of the shipped engine files"
        ) from None
    if settings.precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate would say nothing and train in float32.
        raise ConfigError("precision 'fp16' is not possible on a CPU; use fp32 or bf16")
    if accelerator.num_processes != launched:
        raise ConfigError(
            f"the launcher started {launched} processes, but they see {accelerator.num_processes}; "
            "each would train alone and write the same files. Build the trainer before anything "
            "else that uses Accelerate, and launch with torchrun or accelerate launch"
        )
    return accelerator


def is_deepspeed(accelerator: Accelerator) -> bool:
    """Whether the run was launched with a DeepSpeed engine file."""
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)


class Processes:
    """The processes of a run.

    Args:
        accelerator: From `build_accelerator`.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.count: int = accelerator.num_processes
        self.rank: int = accelerator.process_index
        self.is_main: bool = accelerator.is_main_process
        self.device: torch.device = accelerator.device

    def total(self, values: Sequence[float]) -> list[float]:
        """Return values summed over all processes, the same to the last bit on each."""
        if self.count == 1:
            return list(values)
        return [sum(column) for column in zip(*self.table(values), strict=True)]

    def table(self, values: Sequence[float]) -> list[list[float]]:
        """Return the values of each process, one row a process; all give equally many."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        gathered: torch.Tensor = self._accelerator.gather(tensor[None])
        return [[float(value) for value in row] for row in gathered.tolist()]

    def total_counts(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Return counts by name summed over all processes, which need not know the same names."""
        totals: dict[str, float] = {}
        for own in self.gather(dict(counts)):
            for name, count in own.items():
                totals[name] = totals.get(name, 0.0) + count
        return {name: totals[name] for name in sorted(totals)}

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each process, in order."""
        return [value] if self.count == 1 else list(gather_object([value]))

    def from_main(self, value: Any) -> Any:
        """Return the first process's value on every process."""
        return value if self.count == 1 else broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._accelerator.wait_for_everyone()
