"""One AdamW over all parts, with groups by part, and its state as plain named tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from chiasm.core.errors import CheckpointError
from chiasm.core.protocols import Model
from chiasm.training.settings import TrainingSettings


def build_optimizer(
    model: Model, settings: TrainingSettings, parts: Collection[str] | None = None
) -> torch.optim.AdamW:
    """Build AdamW (Loshchilov and Hutter 2019) with two groups a part.

    Parameters with fewer than two axes (biases, norms, gates) do not decay. Frozen parts have
    groups too: their parameters have no gradient, so AdamW passes them over and keeps what it knows
    of them until a later stage trains them again. State comes into being with the first gradient,
    so a part that never trains costs nothing.

    Args:
        model: The model, on its device.
        settings: Decay, betas and epsilon.
        parts: The parts that get groups; all if None.
    """
    groups = []
    devices = set()
    for part, module in model.parts.items():
        if parts is not None and part not in parts:
            continue
        named = [(f"{part}/{name}", parameter) for name, parameter in module.named_parameters()]
        devices |= {parameter.device.type for _, parameter in named}
        for decays in (True, False):
            chosen = [(name, p) for name, p in named if (p.ndim >= 2) == decays]
            if chosen:
                groups.append(
                    {
                        "params": [parameter for _, parameter in chosen],
                        "names": [name for name, _ in chosen],
                        "part": part,
                        "weight_decay": settings.weight_decay if decays else 0.0,
                    }
                )
    return torch.optim.AdamW(
        groups,
        lr=0.0,
        betas=settings.betas,
        eps=settings.epsilon,
        # One kernel a step; offered for these two devices.
        fused=devices <= {"cpu", "cuda"},
    )


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float]) -> None:
    """Set the learning rate of each group by its part; parts that are not named get zero."""
    for group in optimizer.param_groups:
        group["lr"] = rates.get(group["part"], 0.0)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimizer as tensors named "part/parameter:slot"."""
    return {
        f"{name}:{slot}": value
        for name, parameter in _by_name(optimizer).items()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` returned.

    Raises:
        CheckpointError: The tensors name a parameter that the optimizer does not have.
    """
    parameters = _by_name(optimizer)
    for key, value in tensors.items():
        name, slot = key.rsplit(":", 1)
        if name not in parameters:
            raise CheckpointError(
                f"the optimizer state has the parameter {name!r}, the model has not; resume with "
                "the model that the run was started with"
            )
        parameter = parameters[name]
        value = value.to(parameter.device)
        if value.shape == parameter.shape:
            # In memory as the parameter lies there: arithmetic over two layouts rounds otherwise,
            # and a resumed run would part from the straight one.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        optimizer.state[parameter][slot] = value


def _by_name(optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
