"""Asking about an image and its reconstruction: what is given, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from PIL import Image
from torch import nn

from chiasm.core.batch import Batch
from chiasm.core.errors import InputError
from chiasm.core.samples import Pair, Sample, Turn
from chiasm.inference.answers import Answer, Completion
from chiasm.inference.pair_requests import PairRequest
from chiasm.inference.pair_sights import PairSight, read_sights
from chiasm.inference.responding import Generation, write_rows
from chiasm.inference.senses import Sensing, check_sense
from chiasm.models.pair_answering import ReadsPairs, pairs_of, splice_pairs
from chiasm.models.pair_results import Completed, PairView
from chiasm.models.probes import probing


class Pairing(ReadsPairs, Protocol):
    """A model with the sense `reconstruction`."""

    @property
    def senses(self) -> frozenset[str]:
        """Keys of `inference.senses.SENSES`."""
        ...

    def look(self, batch: Batch, detail: bool = False) -> PairView:
        """Blend, encode and fuse the pairs of a batch, without gradient."""
        ...

    def complete(
        self,
        batch: Batch,
        *,
        texts: Sequence[str | Sequence[int]] | None = None,
        view: PairView | None = None,
        **settings: Any,
    ) -> list[Completed]:
        """Draw the complete picture after each answer."""
        ...


@dataclass(frozen=True)
class Painting:
    """How a picture is drawn; see `language.drawing`.

    Attributes:
        temperature: 0 takes the likeliest code, above 0 samples.
        top_k: With sampling, how many of the likeliest codes may be drawn; 0 for all.
        guidance: Classifier-free guidance; 1 is none.
        seed: Of the sampling; each picture is then the same alone and among others, beyond
            rounding. None goes on with torch's own numbers.
    """

    temperature: float = 1.0
    top_k: int = 0
    guidance: float = 1.0
    seed: int | None = None


def as_pairing(model: Sensing) -> Pairing:
    """Return a model as one that reads pairs.

    Raises:
        InputError: It has no such sense.
    """
    check_sense(model, "reconstruction")
    return cast("Pairing", model)


@dataclass(frozen=True)
class ShownPair:
    """What is kept of a pair: the pictures, and what the model made of them.

    Attributes:
        model: The model.
        image: The original.
        pair: What completes it.
        view: What the model made of both, with the attention's weights.
        sight: The same for people.
    """

    model: Pairing
    image: Image.Image
    pair: Pair
    view: PairView
    sight: PairSight

    @classmethod
    def look(cls, model: Pairing, image: Image.Image, pair: Pair) -> ShownPair:
        """Look at a pair once.

        Raises:
            DataError: A box shows nothing of its picture.
        """
        # What is seen does not depend on the text; some turn must stand for the placeholder.
        sample = Sample("pair", (Turn("user", (0,)),), (image,), pair=pair)
        batch = collate_pairs(model, [sample])
        view = model.look(batch, detail=True)
        return cls(model, image, pair, view, read_sights(view, batch, pairs_of(batch))[0])

    def sample(self, turns: Sequence[Turn]) -> Sample:
        """Return a conversation about the pair, whose first turn refers to image 0."""
        return Sample("question", tuple(turns), (self.image,), pair=self.pair)

    def answer(
        self,
        turns: Sequence[Turn],
        generation: Generation,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer the last turn; see `Session.ask`."""
        batch = collate_pairs(self.model, [self.sample(turns)])
        (answer,) = answer_rows(self.model, batch, self.view, generation, on_text)
        return replace(answer, pair=self.sight)

    def complete(
        self, turns: Sequence[Turn], generation: Generation, painting: Painting
    ) -> Completion:
        """Answer the last turn and draw the complete picture; see `Session.complete`."""
        check_sense(self.model, "complete")
        batch = collate_pairs(self.model, [self.sample(turns)])
        (answer,) = answer_rows(self.model, batch, self.view, generation)
        (drawn,) = self.model.complete(
            batch, texts=[answer.tokens], view=self.view, **vars(painting)
        )
        return _completion(replace(answer, pair=self.sight), drawn)


def batch(
    model: Sensing,
    pairs: Sequence[Mapping[str, Any]],
    *,
    complete: bool = False,
    detail: bool = False,
    batch_size: int = 8,
    generation: Generation | None = None,
    painting: Painting | None = None,
    on_done: Callable[[int], None] | None = None,
) -> list[Answer] | list[Completion]:
    """Ask about several pairs.

    Args:
        model: A model with the sense `reconstruction`.
        pairs: For each pair a dictionary with `image`, `reconstruction` and `question`, and where
            known `mask`, `image_box`, `reconstruction_box` and `id`; see `PairRequest`.
        complete: Whether to draw the complete pictures too.
        detail: Whether to compute the attention's maps.
        batch_size: Pairs at a time.
        generation: How answers are written.
        painting: How pictures are drawn.
        on_done: Told how many pairs were just done.

    Returns:
        In the order of `pairs`: answers with what was made of the pair in `pair`, or completions
        where `complete` is asked for.

    Raises:
        InputError: The model lacks a sense, or a request is malformed.
        DataError: A mask or box does not fit its picture.
        MediaError: A file is missing or no image.
    """
    pairing = as_pairing(model)
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}; give 1 or more")
    requests = [PairRequest.of(values, index) for index, values in enumerate(pairs)]
    samples = [request.sample() for request in requests]
    settings = (generation or Generation(), painting or Painting())
    found: list[Any] = []
    for start in range(0, len(samples), batch_size):
        some = samples[start : start + batch_size]
        found += ask_pairs(pairing, some, *settings, complete=complete, detail=detail)
        if on_done is not None:
            on_done(len(some))
    return found


def ask_pairs(
    model: Pairing,
    samples: Sequence[Sample],
    generation: Generation,
    painting: Painting,
    *,
    complete: bool = False,
    detail: bool = False,
) -> list[Answer] | list[Completion]:
    """Ask about the pairs of one batch; see `batch`."""
    if complete:
        check_sense(model, "complete")
    collated = collate_pairs(model, samples)
    view = model.look(collated, detail)
    answers = answer_pairs(model, collated, view, generation)
    if not complete:
        return answers
    tokens = [answer.tokens for answer in answers]
    drawn = model.complete(collated, texts=tokens, view=view, **vars(painting))
    return [_completion(answer, one) for answer, one in zip(answers, drawn, strict=True)]


def collate_pairs(model: Pairing, samples: Sequence[Sample]) -> Batch:
    """Collate samples with pairs for generation.

    Raises:
        InputError: The collator left out rows that are too long.
    """
    found = model.collator.collate(samples, generation=True).to(model.host.device)
    if len(found) != len(samples):
        raise InputError(
            f"{len(samples) - len(found)} of {len(samples)} questions are longer than "
            f"{model.collator.max_length} tokens and were dropped; shorten them"
        )
    return found


def answer_rows(
    model: Pairing,
    collated: Batch,
    view: PairView,
    generation: Generation,
    on_text: Callable[[str], None] | None = None,
) -> list[Answer]:
    """Answer each row of a batch of pairs; see `responding.respond`."""
    with probing(cast("nn.Module", model)):
        spliced = splice_pairs(model, collated, view)
        return write_rows(model.host, spliced, generation, on_text)


def answer_pairs(
    model: Pairing,
    collated: Batch,
    view: PairView,
    generation: Generation,
    on_text: Callable[[str], None] | None = None,
) -> list[Answer]:
    """As `answer_rows`, with what was made of each pair beside its answer."""
    answers = answer_rows(model, collated, view, generation, on_text)
    sights = read_sights(view, collated, pairs_of(collated))
    return [replace(answer, pair=sight) for answer, sight in zip(answers, sights, strict=True)]


def prompt_length(model: Pairing, collated: Batch, view: PairView) -> int:
    """Return how many tokens the longest row of a batch of pairs has before its answer."""
    with probing(cast("nn.Module", model)):
        return int(splice_pairs(model, collated, view).input_ids.shape[1])


def score_reply(model: Pairing, collated: Batch, view: PairView) -> list[float]:
    """Return, for each row, the log-probability of what is supervised in it.

    Args:
        model: The model.
        collated: Collated for training.
        view: What the model made of its pairs.
    """
    with probing(cast("nn.Module", model)):
        spliced = splice_pairs(model, collated, view, left=False)
        logits, targets = model.host.supervised(spliced, model.host.read(spliced))
        chosen = torch.log_softmax(logits.float(), -1).gather(1, targets[:, None])[:, 0]
        counts = (spliced.labels[:, 1:] >= 0).sum(1).tolist()
    return [float(row.sum()) for row in chosen.split(counts)]


def _completion(answer: Answer, drawn: Completed) -> Completion:
    return Completion(
        image=Image.fromarray(drawn.image), answer=answer, codes=tuple(drawn.codes.tolist())
    )
