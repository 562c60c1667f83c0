"""Long videos of features out of short ones: actions in a row, with something else in between.

Clips that were cut to one action teach when actions start and end once they are joined again: a
piece of a clip, a piece of background, another clip. Where the joints lie is known exactly.

    OUTPUT/
      training/                            and validation, test
        features/train-0.npy               float32 (frames, width)
        annotations/action_detection.json  {"video_id", "actions": [{start, end, label}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from chiasm.core.config import Config, lookup
from chiasm.core.errors import InputError
from chiasm.core.samples import Segment
from chiasm.data.feature_files import FeatureSet

FOLDERS = {"train": "training", "validation": "validation", "test": "test"}
"""Split -> the folder that holds it."""


class JoiningConfig(Config):
    """How clips are joined. A range holds both of its ends.

    Attributes:
        actions: How many actions a video has.
        frames: How many frames of its clip an action keeps, from a random place on.
        background: How many frames lie before, between and after actions; where the least is 0, two
            actions may touch.
        rate: Frames a second.
    """

    actions: tuple[int, int] = (3, 6)
    frames: tuple[int, int] = (8, 25)
    background: tuple[int, int] = (4, 25)
    rate: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ranges(self) -> JoiningConfig:
        least = {"actions": 1, "frames": 1, "background": 0}
        for name, (low, high) in (
            ("actions", self.actions),
            ("frames", self.frames),
            ("background", self.background),
        ):
            if not least[name] <= low <= high:
                raise ValueError(f"{name}: from {low} to {high}; ascending, {least[name]} or more")
        return self


@dataclass(frozen=True, eq=False)
class JoinedVideo:
    """Clips in a row.

    Attributes:
        features: float32 (frames, width).
        segments: Its actions, by start; their ends lie on the borders of frames.
        places: Row of each action's clip in its file, in the same order.
    """

    features: NDArray[np.float32]
    segments: tuple[Segment, ...]
    places: tuple[int, ...]


def join_clips(
    actions: FeatureSet,
    background: FeatureSet,
    names: Mapping[int, str],
    config: JoiningConfig,
    *,
    count: int,
    seed: int = 0,
) -> Iterator[JoinedVideo]:
    """Join clips to videos.

    Clips of actions come in random order, and none a second time before all have come, so each is
    used as often as any other, give or take once. Background is drawn anew each time.

    Args:
        actions: Clips of one action each, with labels.
        background: Clips in which none of these happens; needed unless `background` is (0, 0).
        names: What each label of `actions` is called.
        config: How.
        count: How many videos.
        seed: Another seed gives other videos.

    Raises:
        InputError: Clips have no labels, a label has no name, clips are shorter than what is
            asked for, or widths differ.
        UnknownNameError: A label has no name.
    """
    _check(actions, background, config)
    assert actions.labels is not None
    called = [
        lookup({str(k): v for k, v in names.items()}, str(n), "label") for n in actions.labels
    ]
    random = np.random.default_rng(seed)
    deck: list[int] = []
    for _ in range(count):
        pieces = [_piece(background, None, config.background, random)]
        segments, places = [], []
        at = len(pieces[0])
        for _ in range(int(random.integers(config.actions[0], config.actions[1] + 1))):
            if not deck:
                deck = random.permutation(len(actions)).tolist()
            clip = deck.pop()
            shown = _piece(actions, clip, config.frames, random)
            after = _piece(background, None, config.background, random)
            end = at + len(shown)
            segments.append(Segment(at / config.rate, end / config.rate, called[clip]))
            places.append(int(actions.places[clip]))
            pieces += [shown, after]
            at = end + len(after)
        yield JoinedVideo(np.concatenate(pieces), tuple(segments), tuple(places))


def write_joined(folder: Path, split: str, videos: Iterator[JoinedVideo]) -> Iterator[int]:
    """Write the files of one split, in the layout that `data.formats.videos` reads.

    Args:
        folder: Of the whole dataset.
        split: Name in `FOLDERS`.
        videos: From `join_clips`.

    Yields:
        The number of each video once its features are written; annotations follow the last.

    Raises:
        UnknownNameError: The split is another one.
    """
    place = folder / lookup(FOLDERS, split, "split")
    (place / "features").mkdir(parents=True)
    (place / "annotations").mkdir()
    records = []
    for index, video in enumerate(videos):
        name = f"{split}-{index}"
        np.save(place / "features" / f"{name}.npy", video.features)
        told = [{"start": s.start, "end": s.end, "label": s.label} for s in video.segments]
        records.append({"video_id": name, "actions": told, "clips": list(video.places)})
        yield index
    text = json.dumps(records, ensure_ascii=False, indent=1)
    path = place / "annotations" / "action_detection.json"
    path.write_text(text + "\n", encoding="utf-8")


def _piece(
    clips: FeatureSet, clip: int | None, lengths: tuple[int, int], random: np.random.Generator
) -> NDArray[np.float32]:
    """Return some neighbouring frames of a clip, or of a random one."""
    length = int(random.integers(lengths[0], lengths[1] + 1))
    if not length:
        return np.zeros((0, clips.features.shape[-1]), np.float32)
    if clip is None:
        clip = int(random.integers(len(clips)))
    start = int(random.integers(clips.features.shape[1] - length + 1))
    return clips.features[clip, start : start + length]


def _check(actions: FeatureSet, background: FeatureSet, config: JoiningConfig) -> None:
    if actions.labels is None or not len(actions):
        raise InputError(f"{len(actions)} clips to join, with labels; at least one is needed")
    for name, clips, most in (
        ("actions", actions, config.frames[1]),
        ("background", background, config.background[1]),
    ):
        shape = clips.features.shape
        if most and (len(shape) != 3 or not len(clips) or shape[1] < most):
            raise InputError(
                f"{name}: features {shape} give no piece of {most} frames; give clips (videos, "
                "frames, width) that are long enough, or ask for shorter pieces"
            )
        if shape[-1] != actions.features.shape[-1]:
            raise InputError(
                f"{name}: features of width {shape[-1]} beside {actions.features.shape[-1]}; one "
                "encoder must have made both"
            )
