"""Evaluation inside a run: it changes nothing, and it says which checkpoint is the best."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import nn

from chiasm.core.config import lookup
from chiasm.core.protocols import Evaluate, Model
from chiasm.training.ema import WeightAverage
from chiasm.training.randomness import undisturbed_generators
from chiasm.training.settings import TrainingSettings
from chiasm.training.state import TrainingState


def measure(
    evaluate: Evaluate,
    module: nn.Module,
    model: Model,
    average: WeightAverage | None,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Evaluate, with the averaged weights where there are any.

    The model is in evaluation mode and under the run's precision meanwhile. Afterwards its modes,
    its weights and all random generators are what they were.
    """
    modes = {inner: inner.training for inner in module.modules()}
    module.eval()
    try:
        with undisturbed_generators(), torch.no_grad(), accelerator.autocast():
            if average is None:
                return dict(evaluate())
            with average.applied(model):
                return dict(evaluate())
    finally:
        for inner, training in modes.items():
            inner.training = training


def take_note(
    state: TrainingState, metrics: Mapping[str, float], settings: TrainingSettings
) -> bool:
    """Note the chosen metric in the state; return whether it is a new best.

    A value that is not a number is never the best.

    Raises:
        UnknownNameError: The evaluation does not give the metric that the settings name.
    """
    value = float(lookup(metrics, settings.metric or "", "metric of the evaluation"))
    sign = 1.0 if settings.mode == "max" else -1.0
    floor = -float("inf") if state.best is None else sign * state.best
    if sign * value > floor:
        state.best, state.best_step, state.stale = value, state.step, 0
        return True
    state.stale += 1
    return False
