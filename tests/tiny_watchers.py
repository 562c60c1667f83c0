"""Tiny models of long videos that find actions and answer, and a video file to show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chiasm.data.video_writing import write_video
from chiasm.models.long_video import LongVideo
from tests.tiny_videos import SIZE, tiny_video

FRAMES, RATE = 23, 10
"""Frames of a written video, and how many a second."""

FEATURES = {"features": {"features": 7, "width": 22}, "feature_rate": 2}
"""Of a model that reads features."""

STREAM = {"frames": {"offsets": [-1]}, "reader": {"causal": True}}
"""Of a model that reads clip by clip."""

ACTIONS = {"hidden": 13, "borders": [3], "depth": 1, "prior": 0.3}


def tiny_watcher(**changes: Any) -> LongVideo:
    """Build a model with random weights and all heads, as `tiny_video`."""
    return tiny_video(seed=3, **{"action_head": ACTIONS, "answer_head": HEAD, **changes})


def by_domain() -> LongVideo:
    """A model that says something else of a video by the domain that the video names."""
    model = tiny_watcher(by_domain={"adapters": {"rank": 2}, "router": None})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    return model


HEAD = {"depth": 1, "heads": 2}


def moving_square(frames: int = FRAMES) -> NDArray[np.uint8]:
    """Return frames uint8 (T, H, W, 3) in which a square moves to the right."""
    height, width = SIZE
    video = np.full((frames, height, width, 3), 40, np.uint8)
    for index in range(frames):
        left = (width - 9) * index // frames
        video[index, 7:16, left : left + 9] = (230, 40, 60)
    return video


def write_square(path: Path, frames: int = FRAMES) -> Path:
    """Write `moving_square` as a video file."""
    write_video(path, moving_square(frames), RATE, quality=5)
    return path
