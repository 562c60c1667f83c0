"""Where a run stands: all that a resumed run must know besides tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainingState:
    """Progress of a run.

    Attributes:
        step: Optimizer steps done, over all stages.
        stage: Index of the current stage.
        stage_step: Optimizer steps done in the current stage.
        samples: Samples read, over all processes.
        tokens: Real tokens read, over all processes.
        seconds: Time spent training, over all attempts.
        skipped: Steps whose gradients overflowed in fp16 and were left out.
        best: Best value of the chosen metric.
        best_step: The step it was reached at.
        stale: Evaluations of this stage since the best.
        trainable: Parts that train instead of the stage's, after a switch; None without one.
        ever_trained: Parts that have trained so far.
    """

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    trainable: list[str] | None = None
    ever_trained: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)

    def report(
        self,
        *,
        finished: bool,
        interrupted: bool,
        loss: float | None,
        metrics: Mapping[str, float],
    ) -> TrainingReport:
        """Return what a call of `Trainer.train` came to."""
        return TrainingReport(
            step=self.step,
            finished=finished,
            interrupted=interrupted,
            loss=loss,
            metrics=dict(metrics),
            best=self.best,
            best_step=self.best_step,
            seconds=self.seconds,
            skipped=self.skipped,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainingState:
        """Build from what `to_json` returned."""
        return cls(**values)


@dataclass(frozen=True)
class StepNumbers:
    """What one optimizer step came to, over all micro-batches and processes.

    Attributes:
        loss: Weighted sum of the terms.
        terms: Mean by term, an item each (token, image, cell).
        tokens: Real tokens read.
        samples: Samples read.
        stopping: Whether any process was asked to stop.
    """

    loss: float
    terms: Mapping[str, float]
    tokens: int
    samples: int
    stopping: bool


@dataclass(frozen=True)
class TrainingReport:
    """What a call of `Trainer.train` came to.

    Attributes:
        step: Optimizer steps done in all.
        finished: Whether all stages are done.
        interrupted: Whether a signal ended the run; it can be resumed.
        loss: Weighted loss of the last step, None if no step was done.
        metrics: Numbers of the last evaluation.
        best: Best value of the chosen metric, None without evaluation.
        best_step: The step it was reached at.
        seconds: Time spent training, over all attempts.
        skipped: Steps left out because fp16 gradients overflowed.
    """

    step: int
    finished: bool
    interrupted: bool
    loss: float | None
    metrics: Mapping[str, float]
    best: float | None
    best_step: int | None
    seconds: float
    skipped: int
