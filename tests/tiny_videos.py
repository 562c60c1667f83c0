"""A tiny random model of long videos, and videos for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from chiasm.core.batch import Batch
from chiasm.core.samples import Sample, Turn
from chiasm.models.long_video import LongVideo
from chiasm.recipes.objective_choice import ObjectiveChoice
from chiasm.recipes.video_choice import VideoChoice
from chiasm.recipes.video_models import build_video

SIZE = (28, 42)
"""2 x 3 cells of 14 pixels."""

WIDTH = 22

FRAMES: dict[str, Any] = {
    "cell": 14,
    "margin": 2,
    "patch": 2,
    "stem": 3,
    "channels": [5, 7],
    "width": WIDTH,
    "detail": 7,
}


def tiny_choice(**changes: Any) -> VideoChoice:
    """Everything small; `frames` and `reader` may be given in part."""
    values: dict[str, Any] = {
        "size": SIZE,
        "clip": 5,
        "at_once": 2,
        "answer_head": {"heads": 2, "depth": 1, "longest": 11},
        **changes,
        "frames": {**FRAMES, **changes.get("frames", {})},
        "reader": {
            "attention": "dense",
            "options": {},
            "depth": 2,
            "heads": 2,
            **changes.get("reader", {}),
        },
    }
    if "features" in changes:
        del values["frames"]
    return VideoChoice.model_validate(values)


def tiny_video(seed: int = 0, cells: bool = False, **changes: Any) -> LongVideo:
    """Build a model with random weights in evaluation mode."""
    torch.manual_seed(seed)
    terms: dict[str, Any] = {"cells": {"shape": 1.0, "act": 1.0}} if cells else {}
    objective = ObjectiveChoice.model_validate({"answers": 1.0, **terms})
    return build_video(tiny_choice(**changes), objective).eval()


def noise(frames: int, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray[Any, Any]:
    """Return a video of noise, uint8 (frames, H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (frames, *size, 3), dtype=np.uint8)


def asked(video: Any, *questions: str, name: str = "video") -> Sample:
    """Return a sample that asks questions nobody has answered."""
    turns = tuple(Turn("user", (question,)) for question in questions)
    return Sample(identifier=name, turns=turns, video=video)


def collated(model: LongVideo, *samples: Sample) -> Batch:
    """Return samples as the model reads them."""
    return model.collator(samples)
