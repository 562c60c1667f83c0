"""A grounding model as something whose masks, and whose closer looks, are scored."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.core.samples import Sample
from chiasm.data.collate import Collator
from chiasm.evaluation.answering import describe_host
from chiasm.evaluation.chain_of_thought import picture_of
from chiasm.evaluation.grounding import REFINED, Grounded
from chiasm.inference.chain_of_thought import Closer, Thinking, Thought, ThoughtAnswer, think
from chiasm.language.host import Host
from chiasm.models.phrase_masks import PhraseMasks
from chiasm.models.probes import probing


class MaskModel(Protocol):
    """A model whose outputs hold masks of the phrases of a batch."""

    @property
    def masks(self) -> PhraseMasks:
        """Its mask heads."""
        ...

    @property
    def host(self) -> Host:
        """The language model that reads the phrases."""
        ...

    @property
    def collator(self) -> Collator:
        """Turns samples into batches, with their phrases."""
        ...

    def __call__(self, batch: Batch) -> Outputs:
        """Return logits of masks by head; see `Outputs.masks`."""
        ...

    def refine(self, batch: Batch, coarse: Sequence[Tensor]) -> Sequence[Tensor]:
        """Pass coarse logits, one float (h, w) a phrase, through the refiner."""
        ...


class ModelGrounder:
    """Points at the phrases of samples, without gradient.

    Args:
        model: The model.
        name: Name or directory of the run, for reports.
    """

    def __init__(self, model: MaskModel, name: str = "") -> None:
        self.model = model
        self.name = name

    def ground(self, samples: Sequence[Sample]) -> Grounded:
        """Point at all phrases of samples; see `evaluation.grounding.Grounder`.

        Raises:
            DataError: A sample is malformed, or a mask is broken.
            InputError: The batch holds no phrase with a mask.
        """
        model = self.model
        batch = model.collator.collate(samples).to(model.host.device)
        phrases = batch.phrases
        if phrases is None or not phrases.masks:
            raise InputError(
                f"no phrase with a mask in the batch from {samples[0].identifier!r}; masks are "
                "scored against true ones"
            )
        with probing(cast("nn.Module", model)):
            masks = model(batch).masks
        return Grounded(
            masks=masks,
            truths=phrases.masks,
            geometries=tuple(
                model.masks.cells(batch.geometries[image]) for image in phrases.images.tolist()
            ),
            refine=functools.partial(self._refine, batch) if REFINED in masks else None,
            least=model.masks.least,
        )

    def describe(self) -> dict[str, Any]:
        """Return what shaped the masks."""
        return describe_host(self.model.host, self.model.collator, self.name)

    def _refine(self, batch: Batch, coarse: Sequence[Tensor]) -> Sequence[Tensor]:
        with probing(cast("nn.Module", self.model)):
            return self.model.refine(batch, coarse)


class ModelThinker:
    """Answers with a closer look, greedily.

    Args:
        model: A model that answers and points.
        name: Name or directory of the run, for reports.
    """

    def __init__(self, model: Thinking, name: str = "") -> None:
        self.model = model
        self.name = name

    def think(
        self, sample: Sample, thought: Thought, closer: Closer, max_new_tokens: int
    ) -> ThoughtAnswer:
        """Answer the first user turn of a sample about its only picture.

        Raises:
            InputError: The sample has not exactly one picture.
            MediaError: It cannot be read.
        """
        return think(
            self.model,
            picture_of(sample),
            sample.turns[0].text,
            thought,
            closer=closer,
            max_new_tokens=max_new_tokens,
        )

    def describe(self) -> dict[str, Any]:
        """Return what shaped the answers."""
        return describe_host(self.model.host, self.model.collator, self.name)
