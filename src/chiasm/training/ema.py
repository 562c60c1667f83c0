"""The exponential average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from chiasm.core.protocols import Model
from chiasm.training.freezing import named_parameters


class WeightAverage:
    """Exponential average of weights (Polyak and Juditsky 1992, in its exponential form).

    After update n the decay is min(decay, (1 + n) / (10 + n)), so that the first weights, which are
    the least trained, do not linger. A part joins with its weights at the step it first trains.

    Args:
        decay: In (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.averages: dict[str, Tensor] = {}

    def join(self, model: Model) -> None:
        """Take up parameters that train now and did not before."""
        for _, name, parameter in named_parameters(model):
            if parameter.requires_grad and name not in self.averages:
                self.averages[name] = parameter.detach().float().clone()

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Move the averages of the parameters that train towards their values."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for _, name, parameter in named_parameters(model):
            if parameter.requires_grad:
                self.averages[name].lerp_(parameter.float(), 1.0 - decay)
        self.updates += 1

    @contextmanager
    def applied(self, model: Model) -> Iterator[None]:
        """The model has the averages inside, and its own weights, bit for bit, outside."""
        own: dict[str, Tensor] = {}
        with torch.no_grad():
            for _, name, parameter in named_parameters(model):
                if name in self.averages:
                    own[name] = parameter.detach().clone()
                    parameter.copy_(self.averages[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for _, name, parameter in named_parameters(model):
                    if name in own:
                        parameter.copy_(own[name])

    def load(self, averages: Mapping[str, Tensor], updates: int, model: Model) -> None:
        """Restore averages that were saved, on the devices of the model's parameters."""
        devices = {name: parameter.device for _, name, parameter in named_parameters(model)}
        self.averages = {name: value.to(devices[name]) for name, value in averages.items()}
        self.updates = updates
