"""The DeepSpeed engine: ZeRO stage 2, which shares optimizer state and gradients between processes.

Rajbhandari et al. 2020, "ZeRO: memory optimizations toward training trillion parameter models".
Weights stay whole on every process, so parts are probed, saved and audited as ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.core.outputs import Outputs
from chiasm.core.protocols import Model
from chiasm.training.engine import Engine, Named, PlainEngine, as_float32
from chiasm.training.freezing import freeze_all_but
from chiasm.training.optimiser import build_optimizer
from chiasm.training.processes import Processes, is_deepspeed
from chiasm.training.settings import TrainingSettings

FIXED = (
    "DeepSpeed, which divides the parameters that train when it starts; give every stage the same "
    "`train`, run the stages one after another as runs, or launch with ddp.yaml"
)
"""Why and what next, where what trains would change under DeepSpeed."""


class ZeroEngine:
    """Trains with DeepSpeed ZeRO-2, from an engine file of `accelerate launch`.

    DeepSpeed divides the parameters that train between processes when it starts, so the same ones
    must train throughout: stages may differ in learning rates and losses, not in `train`.

    Args:
        model: The model, on its device.
        optimizer: Its optimizer, over the parts that train.
        accelerator: From `build_accelerator`.
        processes: The processes.
        settings: Of the run.

    Raises:
        ConfigError: The engine file or the settings ask for what this engine does not do.
    """

    # Gradients are divided and let go during the backward pass.
    sees_gradients = False
    fixed = True
    shared_state = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        processes: Processes,
        settings: TrainingSettings,
    ) -> None:
        plugin = accelerator.state.deepspeed_plugin
        check_plugin(plugin, settings)
        self.uneven = bool(settings.uneven_gradients)
        self.watched = False
        self._model = model
        self._optimizer = optimizer
        self._accelerator = accelerator
        self._processes = processes
        self._names: list[str] = []
        self._last = False
        self._saved: Mapping[str, Tensor] = {}
        plugin.deepspeed_config.update(
            {
                "train_micro_batch_size_per_gpu": settings.batch_size,
                "gradient_accumulation_steps": settings.accumulation,
                "gradient_clipping": settings.clip_norm or 0.0,
                # The optimizer is torch's AdamW, the same as without DeepSpeed.
                "zero_allow_untested_optimizer": True,
            }
        )
        accelerator.gradient_accumulation_steps = settings.accumulation
        if settings.precision == "bf16":
            plugin.deepspeed_config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}

    def wrap(self, trainable: Named) -> None:
        """See `Engine.wrap`; the second time, the parameters must be the same.

        Raises:
            ConfigError: They are not.
        """
        names = [name for name, _ in trainable]
        if self._names:
            if self._names != names:
                raise ConfigError(f"what trains cannot change in a run with {FIXED}")
            return
        self._names = names
        self._engine, _ = self._accelerator.prepare(self._model, self._optimizer)
        if self._saved:
            self._restore(self._saved)

    def forward(self, batch: Batch) -> Outputs:
        """See `Engine.forward`."""
        return as_float32(self._engine(batch))

    def exchange(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """See `Engine.exchange`; DeepSpeed counts micro-batches itself."""
        self._last = last
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """See `Engine.backward`."""
        # The loss is divided by counts over the whole step already.
        self._engine.backward(loss, scale_wrt_gas=False)
        if not self._last:
            # Counts the micro-batch; nothing is updated before the last one.
            self._engine.step()

    def reconcile(self) -> None:
        """See `Engine.reconcile`; an absent gradient counts as zero."""

    def clip(self) -> float:
        """Clip and step, which DeepSpeed does in one; return the norm before clipping."""
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def step(self) -> bool:
        """See `Engine.step`; it was done in `clip`."""
        return True

    def zero_grad(self) -> None:
        """See `Engine.zero_grad`; DeepSpeed lets go of gradients in its step."""

    def state(self) -> dict[str, Tensor]:
        """Return this process's share of the optimizer's state, named "group:slot"."""
        return {
            f"{place}:{slot}": torch.as_tensor(value)
            for place, group in enumerate(self._optimizer.param_groups)
            for slot, value in self._optimizer.state[group["params"][0]].items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; done once DeepSpeed has started."""
        self._saved = dict(tensors)

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        groups = self._optimizer.param_groups
        for key, value in tensors.items():
            place, slot = key.split(":")
            parameter = groups[int(place)]["params"][0]
            if value.ndim and value.shape != parameter.shape:
                raise CheckpointError(
                    f"the optimizer state of group {place} has {value.numel()} numbers, this "
                    f"process's share is {parameter.numel()}; resume with as many processes"
                )
            self._optimizer.state[parameter][slot] = value.to(parameter.device)


def build_engine(
    module: nn.Module,
    declared: Sequence[frozenset[str]],
    accelerator: Accelerator,
    processes: Processes,
    settings: TrainingSettings,
) -> tuple[torch.optim.Optimizer, Engine]:
    """Build the optimizer and the engine that the launcher asks for.

    Args:
        module: The model, on its device.
        declared: For each stage the parts that train.
        accelerator: From `build_accelerator`.
        processes: The processes.
        settings: Of the run.

    Raises:
        ConfigError: Under DeepSpeed, stages train different parts, or its engine file asks for
            what is not possible.
    """
    model: Model = module  # type: ignore[assignment]
    if not is_deepspeed(accelerator):
        optimizer = build_optimizer(model, settings)
        return optimizer, PlainEngine(module, optimizer, accelerator, processes, settings)
    if len(set(declared)) > 1:
        raise ConfigError(f"the stages train different parts, which cannot be with {FIXED}")
    # DeepSpeed takes what requires a gradient at its start, and nothing that is frozen.
    freeze_all_but(model, declared[0])
    optimizer = build_optimizer(model, settings, declared[0])
    return optimizer, ZeroEngine(module, optimizer, accelerator, processes, settings)


def check_plugin(plugin: Any, settings: TrainingSettings) -> None:
    """Check that an engine file and settings ask for what `ZeroEngine` does.

    Raises:
        ConfigError: They do not; all faults are listed.
    """
    faults = []
    if plugin.zero_stage not in (1, 2):
        faults.append(
            f"zero_stage {plugin.zero_stage}: stages 1 and 2 are possible; stage 3 divides the "
            "weights, which parts and audit need whole"
        )
    for name, device in (
        ("offload_optimizer_device", plugin.offload_optimizer_device),
        ("offload_param_device", plugin.offload_param_device),
    ):
        if device not in (None, "none"):
            faults.append(f"{name} {device!r}: only none is possible")
    if settings.precision == "fp16":
        faults.append("precision fp16: use bf16 or fp32 with DeepSpeed")
    if settings.check_gradients:
        faults.append("check_gradients: DeepSpeed's gradients cannot be compared; launch without")
    if faults:
        raise ConfigError("the DeepSpeed engine file and the settings do not go together", faults)
