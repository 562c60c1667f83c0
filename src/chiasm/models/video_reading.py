"""From videos to states: encode, compress, read; whole videos at a time, or clip by clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.compression.memory import consolidate
from chiasm.compression.progress import Progress
from chiasm.compression.protocol import Compression
from chiasm.compression.spans import join_spans, stack_rows
from chiasm.core.batch import VideoBatch
from chiasm.core.errors import ConfigError, InputError
from chiasm.core.tokens import VisualTokens
from chiasm.encoders.frames import FrameEncoder
from chiasm.encoders.video_features import VideoFeatures
from chiasm.layers.reader import Reader


@dataclass(frozen=True)
class Watched:
    """What is kept of a stream between clips; its size does not depend on what went before.

    Attributes:
        state: Of the reader's layers.
        past: uint8 (n, H, W, 3), the last frames, which the next clip's first ones are compared
            with; None before the first clip.
        memory: Merged states of all clips so far, one row; None before the first clip.
    """

    state: tuple[Any, ...]
    past: Tensor | None = None
    memory: VisualTokens | None = None


@dataclass(frozen=True)
class _Clip:
    """Frames [start, end) of a row's video."""

    row: int
    start: int
    end: int


class VideoReading(nn.Module):
    """Encodes, compresses and reads videos.

    Args:
        encoder: Of frames, or of features that are given.
        compression: Merges the tokens of each clip before most of the encoder's work; None merges
            nothing. Features that are given are never merged.
        reader: Reads a row of tokens.
        clip: Frames that are merged with each other, and read at a time in a stream.
        at_once: Clips encoded at a time outside of training, so that frames of long videos need
            little memory.
        memory: States that a video is brought down to after reading, where they are looked at by
            questions; None keeps all.
        progress: Where the schedule of `compression` is in training; outside of training its end
            holds.
    """

    def __init__(
        self,
        *,
        encoder: FrameEncoder | VideoFeatures,
        compression: Compression | None,
        reader: Reader,
        clip: int = 16,
        at_once: int = 8,
        memory: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        if clip < 1 or at_once < 1 or (memory is not None and memory < 1):
            raise ConfigError(f"clip={clip}, at_once={at_once}, memory={memory}; give 1 or more")
        self.encoder = encoder
        self.compression = compression
        self.reader = reader
        self.clip = clip
        self.at_once = at_once
        self.memory = memory
        self.progress = progress or Progress(None)

    def read(self, videos: VideoBatch) -> VisualTokens:
        """Return the states of videos, one row each; merged as `compression` says.

        Raises:
            InputError: The batch holds frames for a model of features, or the other way round.
        """
        return self.think(self.encode(videos))

    def encode(self, videos: VideoBatch) -> VisualTokens:
        """Return the tokens of videos before they are read; see `read`."""
        if isinstance(self.encoder, VideoFeatures):
            if not videos.features:
                raise InputError("the model reads features, the batch holds frames; encode them")
            return self.encoder.encode(videos.features, videos.times)
        if not videos.frames:
            raise InputError("the model reads frames, the batch holds features; give the videos")
        self.progress.move(self.training)
        clips = [clip for row, one in enumerate(videos.frames) for clip in self._cut(row, len(one))]
        step = len(clips) if self.training else self.at_once
        chunks = [
            self._encode(videos.frames, videos.times, clips[start : start + step])
            for start in range(0, len(clips), step)
        ]
        counts = [sum(clip.row == row for clip in clips) for row in range(len(videos))]
        return join_spans(stack_rows(chunks), counts)

    def think(self, tokens: VisualTokens) -> VisualTokens:
        """Read tokens: the same tokens with states for features."""
        states = self.reader(
            tokens.features, tokens.times, _places(tokens), tokens.sizes, tokens.mask
        )
        return tokens.with_features(states)

    def remember(self, states: VisualTokens) -> VisualTokens:
        """Return what questions look at: states brought down to `memory` tokens."""
        return states if self.memory is None else consolidate(None, states, self.memory)

    def begin(self) -> Watched:
        """Return what is known before the first clip of one stream."""
        return Watched(self.reader.initial_state(1))

    def watch(self, clip: Tensor, times: Tensor, watched: Watched) -> tuple[VisualTokens, Watched]:
        """Go on with one clip of a stream.

        Args:
            clip: uint8 (T, H, W, 3), the frames that follow.
            times: float32 (T,), seconds.
            watched: What is known so far.

        Returns:
            The states of the clip, one row, and what is kept.

        Raises:
            ConfigError: The encoder compares frames with later ones, or reads features.
        """
        if not isinstance(self.encoder, FrameEncoder) or max(self.encoder.offsets, default=-1) > 0:
            raise ConfigError(
                "a stream shows no later frames: this takes an encoder of frames whose offsets are "
                "all negative"
            )
        past = clip[:0] if watched.past is None else watched.past
        tokens = self.encoder.encode([clip], [times], [past], [clip[:0]], self._compress)
        read, state = self.reader.step(
            tokens.features, tokens.times, _places(tokens), tokens.sizes, watched.state
        )
        states = tokens.with_features(read)
        memory = consolidate(watched.memory, states, self.memory)
        # Counted from the front: a tower that compares no frames keeps none.
        seen = torch.cat([past, clip])
        kept = seen[max(0, len(seen) - self.encoder.past) :].clone()
        return states, replace(watched, state=state, past=kept, memory=memory)

    def _cut(self, row: int, frames: int) -> Iterator[_Clip]:
        for start in range(0, frames, self.clip):
            yield _Clip(row, start, min(start + self.clip, frames))

    def _encode(
        self, frames: Sequence[Tensor], times: Sequence[Tensor], clips: Sequence[_Clip]
    ) -> VisualTokens:
        encoder = self.encoder
        assert isinstance(encoder, FrameEncoder)
        behind, ahead = encoder.past, encoder.future
        return encoder.encode(
            [frames[c.row][c.start : c.end] for c in clips],
            [times[c.row][c.start : c.end] for c in clips],
            [frames[c.row][max(0, c.start - behind) : c.start] for c in clips],
            [frames[c.row][c.end : c.end + ahead] for c in clips],
            self._compress,
        )

    def _compress(self, tokens: VisualTokens, frames: Sequence[Tensor]) -> VisualTokens:
        if self.compression is None:
            return tokens
        return self.compression.compress(tokens, frames, progress=self.progress.part(self.training))


def _places(tokens: VisualTokens) -> Tensor:
    """Return the middle of each token's cell, float32 (B, N, 2) in parts of the frame."""
    sizes = torch.tensor(
        [[one.original_width, one.original_height] for one in tokens.geometries],
        dtype=torch.float32,
        device=tokens.cells.device,
    )
    return (tokens.cells[..., :2] + tokens.cells[..., 2:]) / 2 / sizes[:, None]
