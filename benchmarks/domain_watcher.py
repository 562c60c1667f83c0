"""A small watcher of videos of four domains, which says what colour each cell shows.

What `benchmarks/domains.py` adapts: it learns the domain `general` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.core.batch import IGNORE
from chiasm.core.tokens import VisualTokens
from chiasm.data.world.domains import DOMAINS
from chiasm.data.world.motion_cells import MOTION_LABELS, label_motion
from chiasm.data.world.motion_worlds import MOTION_WORLDS, MotionDataset
from chiasm.encoders.frames import FrameEncoder, FrameEncoderConfig
from chiasm.heads.cells import CellHead
from chiasm.layers.reader import Reader, ReaderConfig

NAMES = tuple(DOMAINS)
GENERAL = ("general",)
COLOUR = "colour"


@dataclass(frozen=True)
class Settings:
    """How much of everything.

    Attributes:
        width: Width of a token.
        frames: Frames that are looked at of each video.
        base_videos: Videos of the domain `general`.
        base_steps: Steps of the base model.
        videos: Videos of all domains to adapt on.
        steps: Steps of the adapters.
        held: Videos for each of validation and test.
        batch: Videos in a step.
        rank: Of an adapter.
        rates: Learning rates of adapters, to be chosen from.
        balance: Weight of the load-balance term.
    """

    width: int = 64
    frames: int = 2
    base_videos: int = 800
    base_steps: int = 450
    videos: int = 800
    steps: int = 200
    held: int = 400
    batch: int = 16
    rank: int = 2
    rates: tuple[float, ...] = (0.01, 0.03)
    balance: float = 0.02


QUICK = Settings(
    width=16,
    frames=2,
    base_videos=8,
    base_steps=2,
    videos=8,
    steps=2,
    held=8,
    batch=4,
    rates=(0.01,),
)


@dataclass(frozen=True)
class Clips:
    """Some frames of videos, and what they show.

    Attributes:
        frames: For each video uint8 (T, H, W, 3).
        colours: int64 (videos, T * cells), class of the colour, `IGNORE` where nothing is said.
        domains: int64 (videos,), place in `NAMES`.
    """

    frames: tuple[Tensor, ...]
    colours: Tensor
    domains: Tensor


@dataclass(frozen=True)
class Seen:
    """Clips that the tower has read.

    Attributes:
        tokens: One row a video.
        colours: As in `Clips`.
        domains: As in `Clips`.
    """

    tokens: VisualTokens
    colours: Tensor
    domains: Tensor

    def part(self, rows: Tensor) -> Seen:
        """Some videos."""
        tokens = self.tokens
        cut = {
            name: getattr(tokens, name)[rows]
            for name in ("features", "cells", "sizes", "sources", "mask", "times")
        }
        geometries = tuple(tokens.geometries[row] for row in rows.tolist())
        return Seen(
            replace(tokens, geometries=geometries, **cut), self.colours[rows], self.domains[rows]
        )


def draw_clips(
    settings: Settings, domains: Sequence[str], split: str, count: int, seed: int
) -> Clips:
    """Paint frames spread over each of some videos."""
    config = MOTION_WORLDS["motion"].model_copy(update={"domains": tuple(domains)})
    data = MotionDataset(world=config, split=split, seed=seed, count=count)
    cell = FrameEncoderConfig().cell
    frames, colours, places = [], [], []
    for index in range(count):
        sample = data[index]
        video: Any = sample.video
        cuts = np.linspace(0, len(video.times) - 1, settings.frames + 2)[1:-1].round().astype(int)
        frames.append(torch.from_numpy(video.frames(cuts.tolist())))
        rows, columns = frames[-1].shape[1] // cell, frames[-1].shape[2] // cell
        labels = label_motion(video.timeline, cuts.tolist(), rows, columns)[COLOUR]
        colours.append(torch.from_numpy(labels).flatten())
        places.append(NAMES.index(sample.group))
    return Clips(tuple(frames), torch.stack(colours), torch.tensor(places))


class Watcher(nn.Module):
    """Tower, reader, and a head that says the colour of each cell."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        # A still tower: what is asked for is seen in one frame.
        tower = FrameEncoderConfig(offsets=(), stem=24, channels=(32, 48), width=settings.width)
        self.tower: FrameEncoder = tower.build()
        reader = ReaderConfig(attention="dense", options={}, depth=2, heads=4)
        self.reader: Reader = reader.build(width=settings.width)
        self.head = CellHead(
            width=settings.width, attributes={COLOUR: 1 + len(MOTION_LABELS[COLOUR])}
        )

    def encode(self, clips: Sequence[Tensor]) -> VisualTokens:
        """Read frames: one token a cell."""
        times = [torch.arange(len(clip)).float() for clip in clips]
        none = [clip[:0] for clip in clips]
        return self.tower.encode(clips, times, none, none)

    def read(self, tokens: VisualTokens) -> Tensor:
        """Return the scores of colours, float (B, N, classes)."""
        height, width = tokens.geometries[0].original_height, tokens.geometries[0].original_width
        middles = (tokens.cells[..., :2] + tokens.cells[..., 2:]) / 2
        states = self.reader(
            tokens.features,
            tokens.times,
            middles / torch.tensor([width, height]),
            tokens.sizes,
            tokens.mask,
        )
        return self.head.score(states)[f"cells.{COLOUR}"]


def colour_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of cells that are labelled."""
    return F.cross_entropy(scores.flatten(0, 1), truth.flatten(), ignore_index=IGNORE)


def learn_base(settings: Settings, clips: Clips, seed: int) -> Watcher:
    """Learn the domain `general`."""
    torch.manual_seed(seed)
    model = Watcher(settings)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.003, total_steps=settings.base_steps, pct_start=0.1
    )
    chance = torch.Generator().manual_seed(seed)
    for _ in range(settings.base_steps):
        rows = torch.randint(len(clips.frames), (settings.batch,), generator=chance)
        tokens = model.encode([clips.frames[row] for row in rows.tolist()])
        loss = colour_loss(model.read(tokens), clips.colours[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def look(model: Watcher, clips: Clips) -> Seen:
    """Read clips with the tower, which no variant changes."""
    return Seen(model.encode(clips.frames), clips.colours, clips.domains)
