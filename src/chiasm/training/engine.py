"""How a step runs on one process or several: autocast, gradient exchange, clipping."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from chiasm.core.batch import Batch
from chiasm.core.errors import TrainingError
from chiasm.core.outputs import Outputs
from chiasm.training.processes import Processes
from chiasm.training.settings import TrainingSettings

Named = Sequence[tuple[str, nn.Parameter]]
"""Parameters with their names, "part/parameter"."""


class Engine(Protocol):
    """What the loop asks of the machinery below it.

    Attributes:
        sees_gradients: Whether gradients can be read between backward pass and step.
        unused: Whether processes may differ in which parameters they use.
    """

    sees_gradients: bool
    unused: bool

    def wrap(self, trainable: Named) -> None:
        """Prepare for a set of trainable parameters; called whenever it changes."""
        ...

    def forward(self, batch: Batch) -> Outputs:
        """Run the model; floating point outputs come back in float32."""
        ...

    def exchange(self, last: bool, apart: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a micro-batch: gradients are exchanged in the last one only.

        Args:
            last: Whether this is the last micro-batch of the step.
            apart: Keep each process's gradients to itself, for `reconcile`.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a scalar to the gradients."""
        ...

    def reconcile(self) -> None:
        """Exchange gradients that were kept apart, and see who has which.

        Raises:
            TrainingError: Some process lacks a gradient that another would wait for, and the
                settings do not allow it.
        """
        ...

    def clip(self) -> float:
        """Clip the gradients; return their norm before, over all trainable parameters."""
        ...

    def step(self) -> bool:
        """Step the optimizer; return False if fp16 gradients overflowed, which leaves it out."""
        ...

    def zero_grad(self) -> None:
        """Let go of all gradients."""
        ...


class PlainEngine:
    """One process, or several with DistributedDataParallel.

    Args:
        model: The model, on its device.
        optimizer: Its optimizer.
        accelerator: From `build_accelerator`.
        processes: The processes.
        settings: Of the run.
    """

    sees_gradients = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        processes: Processes,
        settings: TrainingSettings,
    ) -> None:
        self.unused = bool(settings.find_unused_parameters)
        self._model = model
        self._wrapped: nn.Module = model
        self._accelerator = accelerator
        self._optimizer = accelerator.prepare_optimizer(optimizer)
        self._processes = processes
        self._settings = settings
        self._trainable: Named = ()

    def wrap(self, trainable: Named) -> None:
        """See `Engine.wrap`.

        DistributedDataParallel fixes at construction which parameters it exchanges, so a new set
        needs a new wrapper. The old one is let go first, with the hooks it keeps on parameters.
        """
        self._trainable = tuple(trainable)
        self._wrapped = self._model
        if self._processes.count == 1:
            return
        on_gpu = self._processes.device.type == "cuda"
        self._wrapped = DistributedDataParallel(
            self._model,
            device_ids=[self._accelerator.local_process_index] if on_gpu else None,
            find_unused_parameters=self.unused,
        )

    def forward(self, batch: Batch) -> Outputs:
        """See `Engine.forward`."""
        with self._accelerator.autocast():
            outputs: Outputs = self._wrapped(batch)
        return as_float32(outputs)

    def exchange(self, last: bool, apart: bool) -> contextlib.AbstractContextManager[Any]:
        """See `Engine.exchange`."""
        if self._processes.count > 1 and (apart or not last):
            return self._accelerator.no_sync(self._wrapped)
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """See `Engine.backward`."""
        if loss.requires_grad:
            self._accelerator.backward(loss)
        elif self._processes.count > 1:
            # Nothing here reaches a trained part, but the other processes wait for the exchange.
            touched = [parameter.sum() * 0.0 for _, parameter in self._trainable]
            self._accelerator.backward(torch.stack(touched).sum())

    def reconcile(self) -> None:
        """See `Engine.reconcile`."""
        own = [name for name, parameter in self._trainable if parameter.grad is not None]
        by_rank = [set(names) for names in self._processes.gather(own)]
        anywhere = set().union(*by_rank)
        for name, parameter in self._trainable:
            if name in anywhere:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
                parameter.grad.div_(self._processes.count)
        missing = [
            f"{name}: no gradient on process {rank}"
            for rank, names in enumerate(by_rank)
            for name, _ in self._trainable
            if name not in names
        ]
        if not missing or self.unused:
            return
        if self._settings.find_unused_parameters is False or self._settings.check_gradients:
            listed = "\n".join(f"  - {line}" for line in missing[:20])
            raise TrainingError(
                f"{len(missing)} gradient(s) are missing; the other processes would wait for them "
                "for ever. Let the model touch these parameters in every batch, or set "
                f"find_unused_parameters to true\n{listed}"
            )
        self.unused = True
        self.wrap(self._trainable)

    def clip(self) -> float:
        """See `Engine.clip`."""
        limit = self._settings.clip_norm or float("inf")
        parameters = [parameter for _, parameter in self._trainable if parameter.grad is not None]
        return float(self._accelerator.clip_grad_norm_(parameters, limit))

    def step(self) -> bool:
        """See `Engine.step`."""
        self._optimizer.step()
        return not self._accelerator.optimizer_step_was_skipped

    def zero_grad(self) -> None:
        """See `Engine.zero_grad`."""
        self._optimizer.zero_grad(set_to_none=True)


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
