"""The stages of watching a video, by themselves.

decode -> encode (and merge) -> read -> predict
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from chiasm.compression.protocol import Compression
from chiasm.core.batch import Batch, VideoBatch
from chiasm.core.errors import InputError
from chiasm.core.samples import Sample
from chiasm.core.tokens import VisualTokens

DECODE, ENCODE, READ, PREDICT = "decode", "encode", "read", "predict"


class Merging(Protocol):
    """Encodes and compresses videos, and its compression can be taken off and put on."""

    compression: Compression | None

    def encode(self, videos: VideoBatch) -> VisualTokens:
        """Return the tokens of videos, merged."""
        ...


class VideoModel(Protocol):
    """A model of videos that runs stage by stage."""

    @property
    def reading(self) -> Merging:
        """Videos to tokens."""
        ...

    @property
    def collator(self) -> Callable[[Sequence[Sample]], Batch]:
        """Samples to a batch; decodes."""
        ...

    def think(
        self, tokens: VisualTokens, videos: VideoBatch
    ) -> tuple[VisualTokens, Mapping[str, Any]]:
        """Return the tokens with states for features, and what is told beside."""
        ...

    def predict(self, states: VisualTokens, batch: Batch, videos: VideoBatch) -> Mapping[str, Any]:
        """Return what the heads say of states."""
        ...


@dataclass(frozen=True)
class LedgerStage:
    """One stage.

    Attributes:
        name: What the ledger calls it.
        run: From what the stage before gave to what this one gives.
        tokens: How many tokens what it gives holds; None where it gives no tokens.
    """

    name: str
    run: Callable[[Any], Any]
    tokens: Callable[[Any], int] | None = None


def video_stages(
    model: VideoModel,
    sample: Sample,
    finish: Callable[[Mapping[str, Any]], Any] | None = None,
) -> list[LedgerStage]:
    """Return the stages of a model that watches one video.

    Args:
        model: The model; it should be in evaluation mode.
        sample: The video, and what is asked about it. It is where the first stage begins.
        finish: Makes segments or words of what the heads say; without it `predict` ends there.
    """
    held: dict[str, Batch] = {}

    def decode(one: Sample) -> VideoBatch:
        held["batch"] = model.collator([one])
        return videos_of(held["batch"])

    def read(tokens: VisualTokens) -> VisualTokens:
        return model.think(tokens, videos_of(held["batch"]))[0]

    def predict(states: VisualTokens) -> Any:
        named = model.predict(states, held["batch"], videos_of(held["batch"]))
        return named if finish is None else finish(named)

    with torch.inference_mode():
        cells = int(model.reading.encode(decode(sample)).sizes.sum())
    return [
        LedgerStage(DECODE, decode, lambda _: cells),
        LedgerStage(ENCODE, model.reading.encode, count_tokens),
        LedgerStage(READ, read, count_tokens),
        LedgerStage(PREDICT, predict),
    ]


def videos_of(batch: Batch) -> VideoBatch:
    """Return the videos of a batch.

    Raises:
        InputError: It has none.
    """
    if batch.videos is None:
        raise InputError("the batch has no videos, and the ledger is about videos; give a video")
    return batch.videos


def count_tokens(tokens: VisualTokens) -> int:
    """Return how many tokens there are, padding left out."""
    return int(tokens.mask.sum())
