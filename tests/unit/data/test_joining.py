"""Joined clips: what lies where, how often each is used, and the files they become."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from chiasm.core.errors import InputError, UnknownNameError
from chiasm.data.dataset import load_dataset
from chiasm.data.feature_files import FeatureSet, load_features
from chiasm.data.joining import JoiningConfig, join_clips, write_joined

FRAMES, WIDTH = 13, 3
NAMES = {4: "walk", 9: "jump"}
CONFIG = JoiningConfig(actions=(2, 3), frames=(5, 11), background=(1, 7), rate=2.0)


def clips(count: int, first: int, labels: list[int] | None = None) -> FeatureSet:
    """Clips whose every feature tells (clip, frame, width)."""
    frames = np.arange(FRAMES)[None, :, None] / 100 + first + np.arange(count)[:, None, None]
    features = np.repeat(frames, WIDTH, 2).astype(np.float32)
    known = None if labels is None else np.array(labels, np.int64)
    return FeatureSet(features, known, None, np.arange(count) + 50)


ACTIONS, BACKGROUND = clips(7, 100, [4, 4, 4, 9, 9, 9, 9]), clips(3, 500)


def test_actions_lie_where_their_segments_say() -> None:
    found = list(join_clips(ACTIONS, BACKGROUND, NAMES, CONFIG, count=20, seed=3))
    lengths = set()
    for video in found:
        marks = np.zeros(len(video.features), bool)
        assert 2 <= len(video.segments) <= 3
        for segment, place in zip(video.segments, video.places, strict=True):
            start, end = round(segment.start * 2), round(segment.end * 2)
            own = video.features[start:end, 0]
            assert own.astype(int).tolist() == [100 + place - 50] * (end - start)
            assert np.allclose(np.diff(own), 0.01, atol=1e-3)
            assert segment.label == ("walk" if place < 53 else "jump")
            marks[start:end] = True
            lengths.add(end - start)
        assert (video.features[~marks, 0] >= 500).all()
        assert not marks[0] and not marks[-1]
    assert lengths == set(range(5, 12))


def test_each_clip_comes_as_often_as_any_other() -> None:
    found = list(join_clips(ACTIONS, BACKGROUND, NAMES, CONFIG, count=30, seed=3))
    used = Counter(place for video in found for place in video.places)
    assert len(used) == 7
    assert max(used.values()) - min(used.values()) <= 1


def test_a_seed_is_a_set_of_videos() -> None:
    def made(seed: int) -> list[list[float]]:
        videos = join_clips(ACTIONS, BACKGROUND, NAMES, CONFIG, count=3, seed=seed)
        return [video.features[:, 0].tolist() for video in videos]

    assert made(3) == made(3) != made(4)


def test_without_background_actions_touch() -> None:
    config = CONFIG.model_copy(update={"background": (0, 0)})
    nothing = clips(0, 0)
    (video,) = join_clips(ACTIONS, nothing, NAMES, config, count=1)
    assert video.segments[0].start == 0
    assert video.segments[0].end == video.segments[1].start
    assert video.segments[-1].end == len(video.features) / 2


def test_written_videos_are_read_as_samples(tmp_path: Path) -> None:
    for split, seed in (("train", 1), ("test", 2)):
        videos = join_clips(ACTIONS, BACKGROUND, NAMES, CONFIG, count=3, seed=seed)
        assert list(write_joined(tmp_path, split, videos)) == [0, 1, 2]
    dataset = load_dataset(tmp_path)
    assert dataset.format == "videos"
    assert [sample.truth["split"] for sample in dataset] == ["train"] * 3 + ["test"] * 3
    wanted = list(join_clips(ACTIONS, BACKGROUND, NAMES, CONFIG, count=3, seed=2))[1]
    sample = dataset[4]
    assert sample.segments == wanted.segments
    assert isinstance(sample.video, Path)
    assert np.array_equal(load_features(sample.video), wanted.features)


def test_wrong_input_is_told(tmp_path: Path) -> None:
    def join(actions: FeatureSet, background: FeatureSet, **changes: tuple[int, int]) -> None:
        config = CONFIG.model_copy(update=changes)
        next(join_clips(actions, background, NAMES, config, count=1))

    with pytest.raises(InputError, match="7 clips to join, with labels"):
        join(clips(7, 0), BACKGROUND)
    with pytest.raises(InputError, match=r"actions: features \(7, 13, 3\) give no piece of 14"):
        join(ACTIONS, BACKGROUND, frames=(2, 14))
    with pytest.raises(InputError, match=r"background: features \(0, 13, 3\) give no piece of 7"):
        join(ACTIONS, clips(0, 0))
    narrow = FeatureSet(BACKGROUND.features[..., :2], None, None, BACKGROUND.places)
    with pytest.raises(InputError, match="background: features of width 2 beside 3"):
        join(ACTIONS, narrow)
    with pytest.raises(UnknownNameError, match="unknown label '9'; known: 4"):
        next(join_clips(ACTIONS, BACKGROUND, {4: "walk"}, CONFIG, count=1))
    with pytest.raises(UnknownNameError, match="unknown split 'dev'"):
        next(write_joined(tmp_path, "dev", iter(())))
    with pytest.raises(ValidationError, match="frames: from 5 to 3; ascending"):
        JoiningConfig(frames=(5, 3))
