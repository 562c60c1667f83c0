"""Videos that are changed for training show what is then said of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.core.samples import FrameSource, Sample, Segment, Turn
from chiasm.data.video import ArrayFrames, open_video
from chiasm.data.video_changing import ChangedVideo, ChangedVideos, change_sample
from chiasm.data.video_collate import VideoCollator
from chiasm.data.video_sampling import KeyFrameSampling, RateSampling
from chiasm.data.video_transforms import VideoAugmentConfig
from chiasm.data.video_words import ACTIONS_REQUEST, say_segments
from chiasm.data.video_writing import write_video
from chiasm.data.vocabulary import Vocabulary

FRAMES, HEIGHT, WIDTH, RATE = 61, 38, 62, 10.0
ON = Segment(1.5, 3.2, "light on the left")
ALL: dict[str, Any] = {"seconds": (0.4, 0.9), "speed": (0.5, 2.0), "area": (0.6, 0.9), "flip": 0.5}


def lamp() -> np.ndarray[Any, Any]:
    """A lamp at the left that is green exactly during a segment, and red else."""
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for index in range(FRAMES):
        on = ON.start <= index / RATE < ON.end
        frames[index, :, : WIDTH // 2] = (0, 250, 0) if on else (200, 0, 0)
    return frames


def sample(*texts: str, video: Any = None) -> Sample:
    """A sample about the lamp: what the user says, and what is answered, in turn."""
    turns = tuple(
        Turn("assistant" if place % 2 else "user", (text,), supervised=bool(place % 2))
        for place, text in enumerate(texts)
    )
    truth = {"domain": "news", "captions": ["a lamp"]}
    source = ArrayFrames(lamp(), RATE) if video is None else video
    return Sample("lamp", turns, video=source, segments=(ON,), truth=truth)


def changed(given: Sample, seed: int, **config: Any) -> Sample:
    augment = VideoAugmentConfig(**config).build()
    return change_sample(given, augment, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(12))
def test_what_is_said_is_what_is_shown(seed: int) -> None:
    found = changed(sample(), seed, **ALL, least_segment=0.0)
    assert isinstance(found.video, ChangedVideo) and isinstance(found.video, FrameSource)
    video = open_video(found.video)
    assert video.times[0] == 0 and np.array_equal(video.times, found.video.times)
    clip = video.read(range(len(video)))
    green = clip.frames[..., 1].max((1, 2)) > 200
    segments = found.segments or ()
    for index, time in enumerate(video.times.tolist()):
        # What is shown when a part begins began before it.
        time = time if index else max((s.start for s in segments if s.start < 1e-6), default=0.0)
        on = any(s.start - 1e-6 <= time < s.end - 1e-6 for s in segments)
        assert green[index] == on, (index, time, segments)
    lit = clip.frames.max(3) > 100
    left, right = lit[..., : WIDTH // 8].any(), lit[..., -(WIDTH // 8) :].any()
    for segment in segments:
        assert segment.label == ("light on the left" if left and not right else segment.label)
        assert segment.label == ("light on the right" if right and not left else segment.label)
    assert found.truth == {"domain": "news"} or "dropped" in found.truth


def test_a_video_that_is_asked_about_stays_whole() -> None:
    for texts in (("What is left of it?", "the left one"), ("Describe this video.", "A lamp.")):
        found = changed(sample(*texts), 1, seconds=(0.2, 0.3), speed=(2.0, 2.0), flip=1.0)
        assert isinstance(found.video, ChangedVideo)
        assert len(found.video.places) == FRAMES
        assert found.video.duration == pytest.approx(FRAMES / RATE / 2)
        assert found.segments == (Segment(0.75, 1.6, "light on the right"),)
    assert changed(sample("What is left of it?", "the left one"), 1, flip=1.0).turns == (
        Turn("user", ("What is right of it?",)),
        Turn("assistant", ("the right one",), supervised=True),
    )


def test_actions_in_words_are_those_that_are_left() -> None:
    given = sample(ACTIONS_REQUEST, say_segments([ON]))
    found = changed(given, 3, seconds=(0.7, 0.7), speed=(2.0, 2.0), flip=1.0)
    assert found.segments and found.turns[1].text == say_segments(found.segments)
    assert "light on the right" in found.turns[1].text
    lost = changed(given, 0, seconds=(0.2, 0.2), least_segment=1.0)
    assert lost.segments == () and lost.truth["dropped"] == {"segments cut away": 1}
    assert lost.turns[1].text == "nothing"


def test_a_position_is_changed_alike_each_time_and_each_position_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "lamp.mp4"
    write_video(path, lamp(), RATE)
    given = sample(video=path)
    augment = VideoAugmentConfig(**ALL).build()
    videos = ChangedVideos([given] * 5, augment, seed=7)
    assert len(videos) == 5
    read = [videos[place] for place in (0, 1, 0)]
    first, second, again = (
        (one.segments, one.video.times.tolist(), one.video.box, one.video.mirror)  # type: ignore
        for one in read
    )
    assert first == again != second
    assert ChangedVideos([given], augment, seed=8)[0].video.times.tolist() != first[1]  # type: ignore
    # Workers send samples from process to process.
    sent = pickle.loads(pickle.dumps(read[0].video))
    assert np.array_equal(sent.frames([2, 5]), read[0].video.frames([2, 5]))  # type: ignore
    plain = Sample("text", (Turn("user", ("Hello.",)),))
    assert ChangedVideos([plain], augment, seed=7)[0] is plain


@pytest.mark.parametrize("sampling", [RateSampling(rate=5), KeyFrameSampling()])
def test_a_batch_holds_the_changed_video(tmp_path: Path, sampling: Any) -> None:
    path = tmp_path / "lamp.mp4"
    write_video(path, lamp(), RATE, key_frames=30)
    given = changed(sample(video=path), 5, seconds=(0.3, 0.3), area=(0.5, 0.5), flip=1.0)
    assert isinstance(given.video, ChangedVideo)
    collator = VideoCollator(Vocabulary(("x",)), sampling=sampling, size=(14, 28))
    videos = collator([given]).videos
    assert videos is not None and videos.frames[0].shape[1:] == (14, 28, 3)
    chosen = sampling.choose(given.video.open(None))
    assert len(videos.frames[0]) == len(chosen) > 0
    assert float(videos.durations[0]) == pytest.approx(0.3 * FRAMES / RATE)
    shown = given.video.open((14, 28)).read(chosen).frames
    assert np.array_equal(videos.frames[0].numpy(), shown)
