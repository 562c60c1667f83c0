"""The part of a recipe that says how a run is trained, stage by stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from chiasm.core.config import Config
from chiasm.models.dual_encoder_modes import TRAINING_MODES
from chiasm.recipes.data_choice import Source
from chiasm.recipes.validation import LOWER_IS_BETTER
from chiasm.training.settings import StageSettings, TrainingSettings


class Stage(Config):
    """One stage of a curriculum; what is not said here is as in `training`."""

    name: str = Field(min_length=1)
    """Unique within the recipe."""
    description: str = ""
    """For people."""
    steps: int | None = Field(default=None, gt=0)
    """Optimizer steps; give this or `epochs`."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the stage's data."""
    mode: str | None = None
    """A training mode of the dual encoder (`fusion_only`, `encoders_only`, ...)."""
    train: tuple[str, ...] | None = None
    """Names of the parts that train, in place of a mode."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate; by default that of the recipe."""
    learning_rates: dict[str, float] = Field(default_factory=dict)
    """Peak learning rate by part, where it differs."""
    loss_weights: dict[str, float] = Field(default_factory=dict)
    """Factor on a term's weight in this stage."""
    data: tuple[Source, ...] | None = None
    """The stage's own training data."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.0, ge=0)
    minimum_ratio: float = Field(default=0.0, ge=0, le=1)

    @field_validator("mode")
    @classmethod
    def _known_mode(cls, mode: str | None) -> str | None:
        if mode is not None and mode not in TRAINING_MODES:
            raise ValueError(f"unknown training mode; known: {', '.join(TRAINING_MODES)}")
        return mode

    @model_validator(mode="after")
    def _length(self) -> Stage:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        if self.mode is not None and self.train is not None:
            raise ValueError("give `mode` or `train`, not both")
        return self


class TrainingChoice(Config):
    """How the run is trained; see `chiasm.training.settings` for what each value does."""

    stages: tuple[Stage, ...] = Field(min_length=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of stages and parts that name none."""
    batch_size: int = Field(default=8, gt=0)
    accumulation: int = Field(default=1, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip_norm: float | None = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float | None = Field(default=None, gt=0, lt=1)
    evaluate_every: int | None = Field(default=None, gt=0)
    checkpoint_every: int | None = Field(default=None, gt=0)
    keep: int = Field(default=2, gt=0)
    metric: str | None = None
    patience: int | None = Field(default=None, gt=0)
    log_every: int = Field(default=10, gt=0)
    workers: int = Field(default=0, ge=0)
    gradient_checkpointing: bool = False
    audit_steps: int = Field(default=3, gt=0)
    uneven_gradients: bool | None = None

    def settings(
        self, stages: tuple[StageSettings, ...], seed: int, metric: str | None, uneven: bool = False
    ) -> TrainingSettings:
        """Return the trainer's settings, with stages resolved to parts and steps.

        Args:
            stages: The stages.
            seed: Of the run.
            metric: What picks the best checkpoint.
            uneven: Whether the run is one whose batches may leave parts unused; read where nothing
                is said.
        """
        own = self.model_dump(exclude={"stages", "learning_rate", "metric"})
        if uneven and self.uneven_gradients is None:
            own["uneven_gradients"] = True
        return TrainingSettings(
            stages=stages,
            seed=seed,
            order="sequential",
            metric=metric,
            mode="min" if metric in LOWER_IS_BETTER else "max",
            **own,
        )
