"""Learning rate schedules as pure functions of the step, so that a resumed run needs no state."""

from __future__ import annotations

import math

from chiasm.training.settings import StageSettings


def rate_factor(stage: StageSettings, step: int, total: int) -> float:
    """Return the learning rate at a step as a share of the peak, in (0, 1].

    Warm-up is linear and reaches the peak at its last step; it never gives zero, because a first
    step of zero would move nothing. Cosine follows Loshchilov and Hutter (2017), equation 5,
    without restarts inside a stage.

    Args:
        stage: The stage.
        step: Steps of this stage that are done, 0 or more.
        total: Steps of this stage in all.
    """
    warmup = warmup_steps(stage, total)
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if stage.schedule == "constant":
        return 1.0
    if stage.schedule == "linear":
        left = 1.0 - progress
    else:
        left = 0.5 * (1.0 + math.cos(math.pi * progress))
    return stage.minimum_ratio + (1.0 - stage.minimum_ratio) * left


def warmup_steps(stage: StageSettings, total: int) -> int:
    """Return the number of warm-up steps of a stage of `total` steps."""
    if stage.warmup >= 1:
        return int(stage.warmup)
    return math.ceil(stage.warmup * total)
