"""Two fixed videos, the same on every machine: what the receipt of a video model is taken of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from chiasm.core.samples import Sample, Turn
from chiasm.data.video_captions import VideoCaptions
from chiasm.encoders.frames import FrameEncoder
from chiasm.encoders.video_features import VideoFeatures
from chiasm.models.probes import PROBE_QUESTION

FRAMES = 24
"""Frames of a probe: more than most clips hold."""

CAPTION_WORDS = 5
"""Words of the caption of a probe."""


def build_probes_for(
    encoder: FrameEncoder | VideoFeatures,
    size: tuple[int, int] | None,
    captions: VideoCaptions | None = None,
) -> tuple[Sample, Sample]:
    """Return two probes as an encoder reads them.

    Args:
        encoder: Of frames or of features.
        size: (height, width) of frames; None for four cells a side.
        captions: What the model writes; each probe then has a caption of its first words.
    """
    one, other = _build_silent(encoder, size)
    if captions is None:
        return one, other
    written = " ".join(captions.vocabulary.words[: min(CAPTION_WORDS, captions.longest)])
    told = (Turn("user", (min(captions.requests),)), Turn("assistant", (written,)))
    return replace(one, turns=one.turns + told), replace(other, turns=other.turns + told)


def _build_silent(
    encoder: FrameEncoder | VideoFeatures, size: tuple[int, int] | None
) -> tuple[Sample, Sample]:
    if isinstance(encoder, FrameEncoder):
        return build_video_probe_samples(size or (4 * encoder.cell, 4 * encoder.cell))
    turns = (Turn("user", (PROBE_QUESTION,)),)
    angles = np.outer(np.arange(FRAMES) + 1, np.arange(encoder.features) + 1) / 7
    waves = {"sines": np.sin(angles), "cosines": np.cos(angles)}
    one, other = (
        Sample(identifier=name, turns=turns, video=values.astype(np.float32))
        for name, values in waves.items()
    )
    return one, other


def build_video_probe_samples(size: tuple[int, int], frames: int = FRAMES) -> tuple[Sample, Sample]:
    """Return two silent videos: a square that moves, and a pattern that blinks.

    Args:
        size: (height, width) in pixels.
        frames: Of each.
    """
    height, width = size
    moving = np.full((frames, height, width, 3), (60, 80, 100), np.uint8)
    side = max(2, min(size) // 4)
    for index in range(frames):
        left = (width - side) * index // max(1, frames - 1)
        moving[index, height // 3 : height // 3 + side, left : left + side] = (220, 40, 60)
    blinking = np.full((frames, height, width, 3), (90, 90, 90), np.uint8)
    tile = (np.arange(height)[:, None] // 7 + np.arange(width)[None, :] // 7) % 2 == 1
    blinking[(np.arange(frames) // 3) % 2 == 1] = np.where(tile[..., None], 230, 20)
    turns = (Turn("user", (PROBE_QUESTION,)),)
    return (
        Sample(identifier="moving", turns=turns, video=moving),
        Sample(identifier="blinking", turns=turns, video=blinking),
    )
