"""The plan of a run: its stages matched to a model, who trains when, how long and how fast."""

from __future__ import annotations

from collections.abc import Collection

from chiasm.core.errors import ConfigError, UnknownNameError
from chiasm.training.freezing import match_parts, part_rate
from chiasm.training.schedule import rate_factor
from chiasm.training.settings import StageSettings, TrainingSettings


class Plan:
    """Stages of a run, matched to the parts of a model.

    Args:
        settings: Of the run.
        parts: Names of the model's parts.
        samples: Length of the dataset.
        processes: Number of processes.

    Raises:
        ConfigError: Stages name parts that are not there; all of them are listed.
    """

    def __init__(
        self, settings: TrainingSettings, parts: Collection[str], samples: int, processes: int
    ) -> None:
        self.stages = settings.stages
        self.totals = [settings.total_steps(stage, samples, processes) for stage in self.stages]
        self.declared: list[frozenset[str]] = []
        faults = []
        for stage in self.stages:
            try:
                self.declared.append(match_parts(stage.train, parts))
                match_parts(stage.learning_rates, parts)
            except UnknownNameError as error:
                faults.append(f"stage {stage.name!r}: {error}")
        if faults:
            raise ConfigError("stages name parts that the model does not have", faults)

    def __len__(self) -> int:
        return len(self.stages)

    @property
    def total(self) -> int:
        """Optimizer steps of all stages."""
        return sum(self.totals)

    @property
    def ever_declared(self) -> frozenset[str]:
        """Parts that any stage trains."""
        return frozenset().union(*self.declared)

    def planned_step(self, index: int, step: int) -> int:
        """Return the run's step that is `step` steps into a stage when no stage ends early.

        Data are read by this step, so that each stage reads its own samples also after one that
        ended early.
        """
        return sum(self.totals[:index]) + step

    def stage(self, index: int) -> StageSettings:
        """Return a stage; the last one for an index past the end."""
        return self.stages[min(index, len(self) - 1)]

    def peaks(self, index: int, trainable: Collection[str]) -> dict[str, float]:
        """Return the peak learning rate of each part that trains in a stage."""
        stage = self.stage(index)
        return {
            part: part_rate(part, stage.learning_rate, stage.learning_rates)
            for part in sorted(trainable)
        }

    def rates(self, index: int, step: int, trainable: Collection[str]) -> dict[str, float]:
        """Return the learning rate of each part that trains, `step` steps into a stage."""
        factor = rate_factor(self.stage(index), step, self.totals[index])
        return {part: peak * factor for part, peak in self.peaks(index, trainable).items()}
