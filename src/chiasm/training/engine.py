"""How a step runs on one process or several: autocast, gradient exchange, clipping, sums."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs, broadcast_object_list
from accelerate.utils import gather_object as gather_objects
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError, TrainingError
from chiasm.core.outputs import Outputs
from chiasm.training.settings import TrainingSettings

# An evaluation on the first process must not outlast the patience of the others.
_PATIENCE = timedelta(hours=2)


class Engine(Protocol):
    """What the loop asks of the machinery below it."""

    accelerator: Accelerator
    sees_gradients: bool

    def wrap(self, trainable: Sequence[tuple[str, nn.Parameter]]) -> None:
        """Prepare for a set of trainable parameters; called whenever it changes."""
        ...

    def forward(self, batch: Batch) -> Outputs:
        """Run the model; floating point outputs come back in float32."""
        ...

    def backward(self, loss: Tensor, last: bool, local: bool) -> None:
        """Add to the gradients.

        Args:
            loss: Scalar.
            last: Whether this is the last micro-batch of the step.
            local: Keep gradients of this process apart, for `reconcile`.
        """
        ...


def build_accelerator(settings: TrainingSettings) -> Accelerator:
    """Build Accelerate's accelerator for the precision asked for.

    Raises:
        ConfigError: The precision is not possible on this device.
    """
    wanted = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[settings.precision]
    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision") != wanted:
        # One process may train several models one after another; Accelerate's shared state holds
        # the first one's precision and has no other way to let go of it. Processes stay as they are.
        AcceleratorState._reset_state()
    try:
        return Accelerator(
            mixed_precision=wanted, kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)]
        )
    except ValueError as error:
        raise ConfigError(
            f"precision {settings.precision!r} is not possible here: {error}. Use fp32 or bf16"
        ) from None


class PlainEngine:
    """One process, or several with DistributedDataParallel.

    Args:
        model: The model; moved to the device in place.
        optimizer: Its optimizer.
        accelerator: From `build_accelerator`.
        settings: Of the run.
    """

    sees_gradients = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        settings: TrainingSettings,
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.raw = optimizer
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.settings = settings
        self.unused = bool(settings.find_unused_parameters)
        self.wrapped: nn.Module = model
        self.trainable: list[tuple[str, nn.Parameter]] = []

    def wrap(self, trainable: Sequence[tuple[str, nn.Parameter]]) -> None:
        """See `Engine.wrap`. The old wrapper is let go first: its hooks would fire too."""
        self.trainable = list(trainable)
        self.wrapped = self.model
        if self.accelerator.num_processes == 1:
            return
        index = self.accelerator.local_process_index
        self.wrapped = DistributedDataParallel(
            self.model,
            device_ids=[index] if self.accelerator.device.type == "cuda" else None,
            find_unused_parameters=self.unused,
        )

    def forward(self, batch: Batch) -> Outputs:
        """See `Engine.forward`."""
        with self.accelerator.autocast():
            outputs: Outputs = self.wrapped(batch)
        return as_float32(outputs)

    def exchange(self, last: bool, local: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a micro-batch: gradients are exchanged in the last one only."""
        if self.accelerator.num_processes > 1 and (local or not last):
            return self.accelerator.no_sync(self.wrapped)
        return contextlib.nullcontext()

    def backward(self, loss: Tensor, last: bool, local: bool) -> None:
        """See `Engine.backward`."""
        if loss.requires_grad:
            self.accelerator.backward(loss)
        elif self.accelerator.num_processes > 1:
            # Nothing here reaches a trained part, but the other processes wait for the exchange.
            zero = torch.stack([parameter.sum() * 0.0 for _, parameter in self.trainable]).sum()
            self.accelerator.backward(zero)

    def reconcile(self) -> None:
        """Exchange gradients that were kept apart, and see who has which.

        Raises:
            TrainingError: Some process lacks a gradient that its wrapper would wait for, and the
                settings do not allow it.
        """
        if self.accelerator.num_processes == 1:
            return
        present = [[name for name, p in self.trainable if p.grad is not None]]
        by_rank = [set(names) for names in gather_objects(present)]
        anywhere = set().union(*by_rank)
        for name, parameter in self.trainable:
            if name in anywhere:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
                parameter.grad.div_(self.accelerator.num_processes)
        missing = [
            f"{name}: no gradient on process {rank}"
            for rank, names in enumerate(by_rank)
            for name, _ in self.trainable
            if name not in names
        ]
        if missing and not self.unused:
            self._allow_unused(missing)

    def _allow_unused(self, missing: list[str]) -> None:
        if self.settings.find_unused_parameters is False or self.settings.check_gradients:
            listed = "\n".join(f"  - {line}" for line in missing[:20])
            raise TrainingError(
                f"{len(missing)} gradient(s) are missing; the other processes would wait for them "
                "for ever. Let the model touch these parameters in every batch, or set "
                f"find_unused_parameters to true\n{listed}"
            )
        self.unused = True
        self.wrap(self.trainable)

    def clip(self) -> float:
        """Clip the gradients; return their norm before, over all trainable parameters."""
        limit = self.settings.clip_norm or float("inf")
        parameters = [parameter for _, parameter in self.trainable if parameter.grad is not None]
        return float(self.accelerator.clip_grad_norm_(parameters, limit))

    def step(self) -> bool:
        """Step the optimizer; return False if fp16 gradients overflowed and the step was left out."""
        self.optimizer.step()
        return not self.accelerator.optimizer_step_was_skipped

    def zero_grad(self) -> None:
        """Let go of all gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def total(self, values: Sequence[float]) -> list[float]:
        """Return values summed over all processes."""
        if self.accelerator.num_processes == 1:
            return list(values)
        # Sums of a few values decide what all processes do next, so they are added in one order.
        tensor = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        gathered = self.accelerator.gather(tensor[None])
        return gathered.sum(0).tolist()

    def total_counts(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Return counts by name summed over all processes, which need not know the same names."""
        if self.accelerator.num_processes == 1:
            return dict(counts)
        totals: dict[str, float] = {}
        for own in gather_objects([dict(counts)]):
            for name, count in own.items():
                totals[name] = totals.get(name, 0.0) + count
        return {name: totals[name] for name in sorted(totals)}

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each process."""
        return [value] if self.accelerator.num_processes == 1 else gather_objects([value])

    def from_main(self, value: Any) -> Any:
        """Return the first process's value on every process."""
        return broadcast_object_list([value])[0] if self.accelerator.num_processes > 1 else value


def as_float32(outputs: Outputs) -> Outputs:
    """Return outputs with floating point tensors in float32, so that losses add up in float32."""
    return replace(
        outputs,
        logits=None if outputs.logits is None else outputs.logits.float(),
        named={
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in outputs.named.items()
        },
    )


def is_deepspeed(accelerator: Accelerator) -> bool:
    """Whether the run was launched with a DeepSpeed engine file."""
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)
