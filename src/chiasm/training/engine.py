"""How a step runs on one process or several: autocast, gradient exchange, clipping."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
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
from chiasm.training.optimiser import load_optimizer_tensors, optimizer_tensors
from chiasm.training.processes import Processes
from chiasm.training.settings import TrainingSettings

Named = Sequence[tuple[str, nn.Parameter]]
"""Parameters with their names, "part/parameter"."""

# Numbers in one message between processes: 25 MiB of float32, what DistributedDataParallel takes.
_MESSAGE = 25 * 2**20 // 4


class Engine(Protocol):
    """What the loop asks of the machinery below it.

    Attributes:
        sees_gradients: Whether gradients can be read between backward pass and step.
        fixed: Whether what trains cannot change in a run.
        shared_state: Whether each process holds its own share of the optimizer's state.
        watched: Set while the audit looks: gradients of several processes are then compared.
        uneven: Whether processes may differ in which parameters they use.
    """

    sees_gradients: bool
    fixed: bool
    shared_state: bool
    watched: bool
    uneven: bool

    def wrap(self, trainable: Named) -> None:
        """Prepare for a set of trainable parameters; called whenever it changes."""
        ...

    def forward(self, batch: Batch) -> Outputs:
        """Run the model; floating point outputs come back in float32."""
        ...

    def exchange(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a micro-batch: gradients are exchanged in the last one only.

        Args:
            last: Whether this is the last micro-batch of the step.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a scalar to the gradients."""
        ...

    def reconcile(self) -> None:
        """End a step's backward passes: exchange gradients that were kept apart, see who has which.

        Raises:
            TrainingError: Some process lacks a gradient that another would wait for, and the
                settings do not allow it.
        """
        ...

    def clip(self) -> float:
        """Clip the gradients; return their norm before, over all trainable parameters.

        Learning rates are set before, for DeepSpeed clips and steps in one.
        """
        ...

    def step(self) -> bool:
        """Step the optimizer; return False if fp16 gradients overflowed, which leaves it out."""
        ...

    def zero_grad(self) -> None:
        """Let go of all gradients."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer's state, or this process's share of it, as named tensors."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned.

        Raises:
            CheckpointError: It belongs to another model or another number of processes.
        """
        ...


class PlainEngine:
    """One process, or several with DistributedDataParallel.

    DistributedDataParallel exchanges gradients during the backward pass and waits for every
    parameter on every process. Where processes differ in what they use, or while it is not known
    yet, gradients are exchanged after the backward pass instead: the result is the same, an absent
    gradient counts as zero, and one that no process has stays absent, as with one process.

    Args:
        model: The model, on its device.
        optimizer: Its optimizer.
        accelerator: From `build_accelerator`.
        processes: The processes.
        settings: Of the run.
    """

    sees_gradients = True
    fixed = False
    shared_state = False

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        processes: Processes,
        settings: TrainingSettings,
    ) -> None:
        self.uneven = bool(settings.uneven_gradients)
        self.watched = False
        self._model = model
        self._wrapped: nn.Module = model
        self._accelerator = accelerator
        self._raw = optimizer
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
            self._model, device_ids=[self._accelerator.local_process_index] if on_gpu else None
        )

    def forward(self, batch: Batch) -> Outputs:
        """See `Engine.forward`."""
        with self._accelerator.autocast():
            outputs: Outputs = self._wrapped(batch)
        return as_float32(outputs)

    def exchange(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """See `Engine.exchange`."""
        if self._processes.count > 1 and (self.apart or not last):
            return self._accelerator.no_sync(self._wrapped)
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """See `Engine.backward`."""
        if loss.requires_grad:
            self._accelerator.backward(loss)
        elif self._processes.count > 1 and not self.apart:
            # Nothing here reaches a trained part, but the other processes wait for the exchange.
            touched = [parameter.sum() * 0.0 for _, parameter in self._trainable]
            self._accelerator.backward(torch.stack(touched).sum())

    def reconcile(self) -> None:
        """See `Engine.reconcile`."""
        if not self.apart:
            return
        lacking = self._lacking()
        self._average([p for name, p in self._trainable if lacking[name] < self._everywhere])
        missing = {name: ranks for name, ranks in lacking.items() if ranks}
        if not missing or self.uneven:
            return
        if self._settings.uneven_gradients is False or self._settings.check_gradients:
            raise TrainingError(_describe(missing))
        self.uneven = True

    @property
    def apart(self) -> bool:
        """Whether gradients are exchanged after the backward passes instead of meanwhile."""
        return self._processes.count > 1 and (
            self.watched or self.uneven or self._settings.check_gradients
        )

    @property
    def _everywhere(self) -> set[int]:
        return set(range(self._processes.count))

    def _lacking(self) -> dict[str, set[int]]:
        """Return, by parameter, the processes on which it has no gradient."""
        own = [float(parameter.grad is None) for _, parameter in self._trainable]
        by_rank = self._processes.table(own)
        return {
            name: {rank for rank, row in enumerate(by_rank) if row[place]}
            for place, (name, _) in enumerate(self._trainable)
        }

    def _average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average gradients over processes, many in one message; an absent one counts as zero."""
        pending: list[nn.Parameter] = []
        for place, parameter in enumerate(parameters):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            pending.append(parameter)
            following = parameters[place + 1] if place + 1 < len(parameters) else None
            full = sum(other.numel() for other in pending) >= _MESSAGE
            if following is None or full or following.dtype != parameter.dtype:
                gradients = [other.grad for other in pending if other.grad is not None]
                message = torch.cat([gradient.flatten() for gradient in gradients])
                dist.all_reduce(message)
                message.div_(self._processes.count)
                parts = message.split([gradient.numel() for gradient in gradients])
                for gradient, part in zip(gradients, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))
                pending = []

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

    def state(self) -> dict[str, Tensor]:
        """See `Engine.state`."""
        return optimizer_tensors(self._raw)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Engine.load_state`."""
        load_optimizer_tensors(self._raw, tensors)


def _describe(missing: Mapping[str, set[int]]) -> str:
    lines = [f"  - {name}: no gradient on process {sorted(by)}" for name, by in missing.items()]
    return (
        f"{len(missing)} parameter(s) have no gradient on some process, and the others would wait "
        "for it for ever. Let the model touch them in every batch, or set uneven_gradients to "
        "true\n" + "\n".join(lines[:20])
    )


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
