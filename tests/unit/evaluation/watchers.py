"""A small watcher of videos: it merges inside of encoding, as models of videos do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chiasm.compression import COMPRESSIONS
from chiasm.compression.protocol import Compression
from chiasm.core.batch import Batch, VideoBatch
from chiasm.core.samples import Sample, Turn
from chiasm.core.tokens import VisualTokens
from tests.unit.compression.clips import CELL, clip_tokens

FRAMES, ROWS, COLUMNS = 11, 3, 5


class Reading(nn.Module):
    """Two clips a video; what the first layer gives is merged."""

    def __init__(self, compression: Compression | None, width: int) -> None:
        super().__init__()
        self.compression = compression
        self.width = width
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def encode(self, videos: VideoBatch) -> VisualTokens:
        count = len(videos.frames[0])
        assert count == FRAMES
        clips = [(6, ROWS, COLUMNS), (5, ROWS, COLUMNS)]
        found = []
        for seed, clip in enumerate(clips):
            tokens = clip_tokens([clip], width=self.width, seed=seed)
            if self.compression is not None:
                tokens = self.compression.compress(tokens)
            found.append(tokens.with_features(self.layers[0](tokens.features)))
        return VisualTokens(
            **{
                name: torch.cat([getattr(one, name) for one in found], 1)
                for name in ("features", "cells", "sizes", "sources", "mask", "times")
            },
            geometries=found[0].geometries,
        )


class Watcher:
    """The whole of it."""

    def __init__(self, ratio: float | None = None, width: int = 7) -> None:
        merging = None if ratio is None else COMPRESSIONS["similarity"](ratio=ratio).build()
        self.reading = Reading(merging, width)

    def collator(self, samples: Sequence[Sample]) -> Batch:
        """One question without words a video."""
        frames = [torch.as_tensor(sample.video) for sample in samples]
        zeros = torch.zeros(0, dtype=torch.long)
        ids = torch.zeros(len(samples), 1, dtype=torch.long)
        videos = VideoBatch(
            frames=tuple(frames),
            features=(),
            times=tuple(torch.arange(len(one)).float() for one in frames),
            durations=torch.tensor([float(len(one)) for one in frames]),
            segments=torch.zeros(0, 2),
            segment_rows=zeros,
            segment_labels=zeros,
            segments_known=torch.zeros(len(samples), dtype=torch.bool),
            asked=torch.arange(len(samples)),
            answers=torch.full((len(samples),), -100),
            domains=torch.full((len(samples),), -100),
        )
        return Batch(ids, ids, ids, ids, samples=tuple(samples), videos=videos)

    def think(
        self, tokens: VisualTokens, videos: VideoBatch
    ) -> tuple[VisualTokens, Mapping[str, Tensor]]:
        states = self.reading.layers[1](tokens.features)
        return tokens.with_features(states), {"read": states.sum((1, 2))}

    def predict(
        self, states: VisualTokens, batch: Batch, videos: VideoBatch
    ) -> Mapping[str, Tensor]:
        assert len(batch) == len(videos)
        return {"mean": states.features.mean((1, 2))}


def video() -> Sample:
    frames = np.zeros((FRAMES, ROWS * CELL, COLUMNS * CELL, 3), np.uint8)
    return Sample("video", (Turn("user", ("What happens?",)),), video=frames)


def heavy(name: str, megabytes: int) -> Any:
    """A stage that holds so much at once."""
    return SimpleNamespace(
        name=name, run=lambda value: bytearray(b"1") * (megabytes << 20) and value, tokens=None
    )
