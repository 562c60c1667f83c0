"""What a training run is asked to do: its stages, its batches, its schedule, its records."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from chiasm.core.config import Config

ScheduleName = Literal["cosine", "linear", "constant"]
Precision = Literal["fp32", "bf16", "fp16"]


class StageSettings(Config):
    """One stage of a curriculum. The learning rate schedule starts anew in each stage.

    Attributes:
        name: Unique within the run.
        steps: Optimizer steps; give this or `epochs`.
        epochs: Passes over the data, rounded up to whole optimizer steps.
        train: The parts that train: exact names, a name that stands for all below it ("encoder"
            for "encoder.dino"), or globs ("encoder.*"). All others are frozen.
        learning_rate: Peak learning rate.
        learning_rates: Peak learning rate by part (names and globs as in `train`) where it differs.
        loss_weights: Weight by loss term; a term that is left out weighs 1.
        schedule: What follows the warm-up.
        warmup: Steps of linear warm-up if 1 or more (a whole number), a share of the stage if less.
        minimum_ratio: What cosine and linear end at, as a share of the peak.
    """

    name: str = Field(min_length=1)
    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    train: tuple[str, ...] = Field(min_length=1)
    learning_rate: float = Field(gt=0)
    learning_rates: dict[str, float] = Field(default_factory=dict)
    loss_weights: dict[str, float] = Field(default_factory=dict)
    schedule: ScheduleName = "cosine"
    warmup: float = Field(default=0.0, ge=0)
    minimum_ratio: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> StageSettings:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"stage {self.name!r}: give exactly one of steps and epochs")
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise ValueError(
                f"stage {self.name!r}: warmup {self.warmup} is neither a whole number of steps nor "
                "a share below 1"
            )
        for part, rate in self.learning_rates.items():
            if rate <= 0:
                raise ValueError(
                    f"stage {self.name!r}: learning rate {rate} of {part!r}; give more than 0, or "
                    "leave the part out of train to freeze it"
                )
        for term, weight in self.loss_weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(
                    f"stage {self.name!r}: loss weight {weight} of {term!r}; give 0 or more"
                )
        return self


class TrainingSettings(Config):
    """How a model is trained.

    Attributes:
        stages: Run one after the other.
        batch_size: Samples of one process in one forward pass.
        accumulation: Forward passes an optimizer step.
        precision: Of the arithmetic; weights keep their own type.
        clip_norm: Largest norm of all gradients together, or None.
        weight_decay: Of parameters with two or more axes; vectors and scalars do not decay.
        betas: Of AdamW.
        epsilon: Of AdamW.
        ema: Decay of the exponential average of the trained weights, or None. With it, evaluation
            and the published model use the average.
        seed: Of the data's order and of all random draws.
        order: `shuffle`, or `sequential` for a dataset that has its own order.
        evaluate_every: Steps between evaluations; None evaluates only at the end.
        checkpoint_every: Steps between checkpoints; None saves only at the end and at a new best.
        keep: How many of the newest checkpoints stay, besides the best.
        metric: Which number of the evaluation picks the best checkpoint.
        mode: Whether the metric should rise (`max`) or fall (`min`).
        patience: End a stage after this many evaluations in a row without a new best; None never.
        log_every: Steps between lines of the log.
        workers: Processes that read data; the result does not depend on it.
        gradient_checkpointing: Recompute activations of layers of transformers and of readers of
            tokens instead of keeping them.
        audit_steps: After how many steps of a stage a declared part must have moved.
        uneven_gradients: With several processes, whether a process may leave parameters unused that
            another uses (a batch without an image). None looks at the first step of a stage. If
            they may, gradients are exchanged after the backward pass instead of meanwhile.
        check_gradients: With several processes, compare in every step which parameters have a
            gradient, and name those that differ. Without it, a difference that comes up later than
            the first step makes the processes wait for each other. Slower; for finding such a case.
    """

    stages: tuple[StageSettings, ...] = Field(min_length=1)
    batch_size: int = Field(default=8, gt=0)
    accumulation: int = Field(default=1, gt=0)
    precision: Precision = "fp32"
    clip_norm: float | None = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    order: Literal["shuffle", "sequential"] = "shuffle"
    evaluate_every: int | None = Field(default=None, gt=0)
    checkpoint_every: int | None = Field(default=None, gt=0)
    keep: int = Field(default=2, gt=0)
    metric: str | None = None
    mode: Literal["max", "min"] = "max"
    patience: int | None = Field(default=None, gt=0)
    log_every: int = Field(default=10, gt=0)
    workers: int = Field(default=0, ge=0)
    gradient_checkpointing: bool = False
    audit_steps: int = Field(default=3, gt=0)
    uneven_gradients: bool | None = None
    check_gradients: bool = False

    @model_validator(mode="after")
    def _check(self) -> TrainingSettings:
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"stage name given twice: {', '.join(twice)}")
        if self.patience is not None and self.metric is None:
            raise ValueError("patience needs metric: the number whose best is waited for")
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise ValueError(f"betas {self.betas}: both must lie in [0, 1)")
        return self

    def total_steps(self, stage: StageSettings, samples: int, processes: int) -> int:
        """Return the optimizer steps of a stage over `samples` samples with `processes` processes.

        Epochs are rounded up, so the last step of a stage may reach into the next pass: no sample
        is dropped and no batch is short.
        """
        if stage.steps is not None:
            return stage.steps
        window = self.batch_size * self.accumulation * processes
        return max(1, math.ceil((stage.epochs or 0) * samples / window))
