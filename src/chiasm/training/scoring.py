"""The loss of one optimizer step: sums over micro-batches and processes, divided by counts once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from chiasm.core.batch import Batch
from chiasm.core.errors import NonFiniteLossError, TrainingError, UnknownNameError
from chiasm.core.protocols import Objective
from chiasm.training.engine import Engine
from chiasm.training.processes import Processes
from chiasm.training.reporting import write_names, write_numbers
from chiasm.training.state import StepNumbers


class Scorer:
    """Scores windows: the micro-batches of one optimizer step.

    Each term's sum is divided by its count over the whole window on all processes, so an item
    weighs the same wherever it lies: accumulation, several processes and one large batch agree.

    Args:
        objective: Gives sums and counts.
        engine: Runs the model.
        processes: The processes.
    """

    def __init__(self, objective: Objective, engine: Engine, processes: Processes) -> None:
        self.objective = objective
        self.engine = engine
        self.processes = processes
        self.terms: set[str] = set()

    def count(
        self, window: Sequence[Batch], weights: Mapping[str, float], place: str
    ) -> dict[str, float]:
        """Count items by term over the window on all processes, before any backward pass.

        Args:
            window: Micro-batches of this process.
            weights: Weight by term.
            place: Where in the run this is, for messages.

        Raises:
            UnknownNameError: A weight names a term that the objective never counted.
            TrainingError: No term has an item.
        """
        counts: dict[str, float] = {}
        for batch in window:
            for term, count in self.objective.count(batch).items():
                counts[term] = counts.get(term, 0.0) + count
        totals = self.processes.total_counts(counts)
        self.terms |= set(totals)
        for term in weights:
            if term not in self.terms:
                raise UnknownNameError(f"loss term in loss_weights ({place})", term, self.terms)
        if not any(totals.values()):
            raise TrainingError(
                f"{place}: nothing to score in {write_names(window)}; no term counts any item. "
                "Check that the data has supervised tokens or labels"
            )
        return totals

    def accumulate(
        self,
        window: Sequence[Batch],
        counts: Mapping[str, float],
        weights: Mapping[str, float],
    ) -> list[dict[str, Tensor]]:
        """Forward, score and backward for each micro-batch; return its sums by term.

        Args:
            window: Micro-batches of this process.
            counts: From `count`.
            weights: Weight by term.

        Raises:
            TrainingError: The objective scores what it does not count.
        """
        scales = {
            # Processes average gradients where a sum is meant, hence the factor.
            term: weights.get(term, 1.0) * self.processes.count / count if count else 0.0
            for term, count in counts.items()
        }
        found = []
        for turn, batch in enumerate(window):
            last = turn == len(window) - 1
            with self.engine.exchange(last):
                moved = batch.to(self.processes.device)
                sums = dict(self.objective.score(self.engine.forward(moved), moved))
                uncounted = sorted(set(sums) - set(counts))
                if uncounted or not sums:
                    raise TrainingError(
                        f"the objective scores {uncounted or 'nothing'} without counting it; its "
                        f"counts are {sorted(counts)}. score and count must name the same terms"
                    )
                scaled = [scales[term] * value for term, value in sums.items()]
                self.engine.backward(torch.stack(scaled).sum())
            found.append({term: value.detach() for term, value in sums.items()})
        self.engine.reconcile()
        return found

    def add_up(
        self,
        window: Sequence[Batch],
        sums: Sequence[Mapping[str, Tensor]],
        counts: Mapping[str, float],
        weights: Mapping[str, float],
        stop: bool,
        place: str,
    ) -> StepNumbers:
        """Add up over processes; all of them stop together on a loss that is not finite.

        Raises:
            NonFiniteLossError: A term is infinite or no number; terms and samples are named.
        """
        own = [float(sum(part[term] for part in sums if term in part)) for term in counts]
        tokens = float(sum(int(batch.attention_mask.sum()) for batch in window))
        samples = float(sum(len(batch) for batch in window))
        added = self.processes.total([float(stop), tokens, samples, *own])
        terms = {
            term: value / count if count else 0.0
            for (term, count), value in zip(counts.items(), added[3:], strict=True)
        }
        if not all(map(math.isfinite, added)):
            self._fail(window, sums, terms, place)
        loss = sum(weights.get(term, 1.0) * value for term, value in terms.items())
        return StepNumbers(loss, terms, int(added[1]), int(added[2]), bool(added[0]))

    def _fail(
        self,
        window: Sequence[Batch],
        sums: Sequence[Mapping[str, Tensor]],
        terms: Mapping[str, float],
        place: str,
    ) -> None:
        own = [
            write_names([batch])
            for batch, part in zip(window, sums, strict=True)
            if not all(bool(torch.isfinite(value)) for value in part.values())
        ]
        where = [name for names in self.processes.gather(own) for name in names]
        raise NonFiniteLossError(
            f"{place}: the loss is not finite: {write_numbers(terms)}. It comes from "
            f"{'; '.join(where)}. The weights are those of the step before; look at these samples, "
            "or lower the learning rate"
        )
