"""The batches of a run, step after step, read ahead by its loader processes."""

from __future__ import annotations

from collections.abc import Iterator

from chiasm.core.batch import Batch
from chiasm.core.protocols import Collate, Dataset
from chiasm.training.sampler import Order, Slices, micro_batches
from chiasm.training.settings import TrainingSettings


class Feed:
    """Reads the micro-batches of optimizer steps in the order of the run.

    Args:
        dataset: The samples.
        collate: Turns samples into a batch.
        settings: Batch size, accumulation, order, seed and loader processes.
        processes: Training processes in all.
        rank: Which of them this is.
    """

    def __init__(
        self,
        dataset: Dataset,
        collate: Collate,
        settings: TrainingSettings,
        *,
        processes: int,
        rank: int,
    ) -> None:
        self._dataset, self._collate, self._settings = dataset, collate, settings
        self._slices = Slices(
            order=Order(len(dataset), settings.seed, settings.order == "shuffle"),
            batch_size=settings.batch_size,
            accumulation=settings.accumulation,
            processes=processes,
            rank=rank,
        )
        self._batches: Iterator[Batch] | None = None

    def read(self, planned_step: int) -> list[Batch]:
        """Read the micro-batches of one optimizer step.

        Args:
            planned_step: Where the plan has this step. Looked at for the first read, and the first
                after `stop`; from there one step follows the other.
        """
        if self._batches is None:
            self._batches = micro_batches(
                self._dataset,
                self._collate,
                self._slices,
                step=planned_step,
                workers=self._settings.workers,
                seed=self._settings.seed,
            )
        return [next(self._batches) for _ in range(self._settings.accumulation)]

    def stop(self) -> None:
        """End the reading processes; the next read begins where it is told."""
        self._batches = None
