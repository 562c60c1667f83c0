"""After every change of a clip, what is said of it is still what it shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from chiasm.core.errors import InputError
from chiasm.core.samples import Segment
from chiasm.data.video_transforms import (
    AnnotatedClip,
    VideoAugmentConfig,
    change_speed,
    crop,
    cut,
    flip,
    jitter,
    mirrored,
    resize,
)
from chiasm.data.world.motion import Act, Motion, Mover
from chiasm.data.world.motion_render import MotionFrames

FRAMES, HEIGHT, WIDTH, RATE = 47, 38, 62, 8.0
ON = Segment(1.5, 3.25, "light on the left")


def lamp() -> AnnotatedClip:
    """A red lamp that moves to the right, and is bright green exactly during a segment."""
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    boxes = np.zeros((FRAMES, 1, 4))
    times = np.arange(FRAMES) / RATE
    for index, time in enumerate(times):
        left, top = 3 + index, 11
        frames[index, top : top + 8, left : left + 6] = (200, 0, 0)
        if ON.start <= time < ON.end:
            frames[index, top : top + 8, left : left + 6] = (0, 250, 0)
        boxes[index, 0] = (left, top, left + 6, top + 8)
    return AnnotatedClip(frames, times, FRAMES / RATE, (ON,), boxes)


def check_truth(clip: AnnotatedClip, tolerance: float = 1.0) -> None:
    """Hold what is said against what is shown: the box around the lamp, and when it is green."""
    for index, frame in enumerate(clip.frames):
        box = clip.boxes[index, 0]
        shown = frame.max(-1) > 90
        if np.isnan(box).any():
            assert not shown.any()
            continue
        rows, columns = shown.any(1).nonzero()[0], shown.any(0).nonzero()[0]
        if len(rows) and len(columns):
            found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert np.abs(box - found).max() <= tolerance, (index, box, found)
            green = bool((frame[..., 1] > 90).any())
            on = any(s.start - 1e-9 <= clip.times[index] < s.end - 1e-9 for s in clip.segments)
            assert green == on, (index, clip.times[index], clip.segments)


def test_the_lamp_itself_is_true() -> None:
    check_truth(lamp(), 0)


def test_a_mirror_changes_pictures_boxes_and_words() -> None:
    clip = flip(lamp())
    check_truth(clip, 0)
    assert clip.segments[0].label == "light on the right"
    assert np.array_equal(flip(clip).frames, lamp().frames)
    assert np.array_equal(flip(clip).boxes, lamp().boxes)
    assert flip(clip).segments == lamp().segments
    assert mirrored("Left of it, not leftover; RIGHT") == "Right of it, not leftover; LEFT"


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("turn anticlockwise", "turn clockwise"),
        ("Counter-clockwise turn", "Clockwise turn"),
        ("anti clockwise", "clockwise"),
        ("turn clockwise", "turn counterclockwise"),
        ("moves leftwards", "moves rightwards"),
        ("the rightmost one", "the leftmost one"),
        ("turn_left", "turn_right"),
        ("turnLeft", "turnRight"),
        ("left-to-right", "right-to-left"),
        ("bright, alright", "bright, alright"),
    ],
)
def test_words_of_sides_are_exchanged_however_they_are_spelled(said: str, seen: str) -> None:
    assert mirrored(said) == seen


def test_a_crop_moves_cuts_and_drops_boxes() -> None:
    clip = crop(lamp(), (10, 5, 40, 33))
    assert clip.size == (28, 30)
    check_truth(clip, 0)
    gone = int(np.isnan(clip.boxes[:, 0, 0]).sum())
    # It leaves to the left before 10 and to the right from 40 on.
    assert gone == sum(3 + i + 6 <= 10 or 3 + i >= 40 for i in range(FRAMES)) > 0
    assert clip.dropped == {"boxes outside": gone}
    with pytest.raises(InputError, match=r"crop: box \(10, 5, 63, 33\) .* of 38 x 62"):
        crop(lamp(), (10, 5, 63, 33))


def test_resizing_scales_boxes() -> None:
    clip = resize(lamp(), (2 * HEIGHT, 3 * WIDTH))
    assert clip.size == (76, 186)
    check_truth(clip, 2)
    with pytest.raises(InputError, match=r"resize: \(0, 5\)"):
        resize(lamp(), (0, 5))


def test_a_cut_begins_at_zero_and_cuts_segments() -> None:
    clip = cut(lamp(), 2.0, 4.0)
    assert clip.times[0] == 0
    assert len(clip.frames) == 16
    assert clip.end == 2.0
    assert clip.segments == (Segment(0.0, 1.25, ON.label),)
    check_truth(clip, 0)
    between = cut(lamp(), 2.05, 4.0)
    assert between.times[:2].tolist() == pytest.approx([0, 0.075])
    assert np.array_equal(between.frames[0], lamp().frames[16])
    assert between.segments[0].end == pytest.approx(1.2)


def test_segments_of_which_too_little_is_left_are_counted() -> None:
    assert cut(lamp(), 2.0, 4.0, least=0.7).segments != ()
    clip = cut(lamp(), 2.0, 4.0, least=0.75)
    assert clip.segments == ()
    assert clip.dropped == {"segments cut away": 1}
    assert cut(lamp(), 4.0, 5.0).dropped == {"segments cut away": 1}
    for start, end in ((3.0, 2.0), (-1.0, 2.0), (2.0, 9.0)):
        with pytest.raises(InputError, match="give a part of it"):
            cut(lamp(), start, end)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_speed_moves_times_and_segments_alike(factor: float) -> None:
    clip = change_speed(lamp(), factor)
    check_truth(clip, 0)
    assert clip.end == pytest.approx(FRAMES / RATE / factor)
    assert clip.segments[0].end - clip.segments[0].start == pytest.approx(1.75 / factor)
    with pytest.raises(InputError, match="factor 0 is not allowed"):
        change_speed(clip, 0)


def test_jitter_draws_one_frame_of_each_run_and_keeps_its_time() -> None:
    drawn = [jitter(lamp(), 5, np.random.default_rng(seed)) for seed in range(40)]
    places = np.array([(clip.times * RATE).round().astype(int) for clip in drawn])
    edges = np.linspace(0, FRAMES, 6)
    for run in range(5):
        assert edges[run] <= places[:, run].min()
        assert places[:, run].max() < edges[run + 1]
        assert len(set(places[:, run])) > 4
    for clip in drawn:
        check_truth(clip, 0)
    assert np.array_equal(jitter(lamp(), FRAMES, np.random.default_rng(0)).frames, lamp().frames)
    with pytest.raises(InputError, match="jitter: 48 frames of a clip of 47"):
        jitter(lamp(), 48, np.random.default_rng(0))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_whatever_chance_does_what_is_said_stays_true(seed: int) -> None:
    config = VideoAugmentConfig(
        seconds=(0.3, 1.0), least_segment=0.0, speed=(0.5, 2.0), area=(0.4, 1.0), flip=0.5
    )
    clip = config.build()(lamp(), np.random.default_rng(seed))
    check_truth(clip, 0)
    again = config.build()(lamp(), np.random.default_rng(seed))
    assert np.array_equal(clip.frames, again.frames)
    assert clip.segments == again.segments


def test_everything_together_gives_the_frames_asked_for() -> None:
    config = VideoAugmentConfig(seconds=(0.5, 0.9), frames=7, area=(0.5, 0.9), size=(22, 26))
    clips = [config.build()(lamp(), np.random.default_rng(seed)) for seed in range(20)]
    assert {clip.frames.shape for clip in clips} == {(7, 22, 26, 3)}
    assert len({clip.frames.tobytes() for clip in clips}) == 20
    still = VideoAugmentConfig().build()(lamp(), np.random.default_rng(0))
    assert np.array_equal(still.frames, lamp().frames)
    assert still.segments == lamp().segments


def test_wrong_configurations_and_clips_are_named() -> None:
    for wrong in ({"seconds": (0.0, 1.0)}, {"area": (0.9, 0.5)}, {"speed": (0.0, 1.0)}):
        with pytest.raises(ValidationError, match="is no range"):
            VideoAugmentConfig(**wrong)
    clip = lamp()
    with pytest.raises(InputError, match="clip of 47 frames with 46 times"):
        AnnotatedClip(clip.frames, clip.times[:-1], clip.end)
    with pytest.raises(InputError, match="that ends at 1 s"):
        AnnotatedClip(clip.frames, clip.times, 1.0)


def test_acts_of_the_world_stay_where_they_are_seen() -> None:
    """A blink glows in the frames of its segment and in no other, whatever was done."""
    mover = Mover("circle", "blue", "plain", 6, 31.0, 19.0, 12.0)
    motion = Motion(HEIGHT, WIDTH, RATE, FRAMES, "news", (mover,), (Act("blink", 0, 16, 28),))
    frames = MotionFrames(motion)
    clip = AnnotatedClip(
        frames.frames(range(FRAMES)), frames.times, frames.duration, motion.segments
    )
    changed = flip(change_speed(cut(clip, 1.0, 5.0), 1.7))
    bright = (changed.frames.min(-1) > 200).any((1, 2))
    (blink,) = changed.segments
    shown = changed.times[bright]
    assert shown.min() == pytest.approx(blink.start)
    assert blink.start <= shown.max() < blink.end
    assert bright.sum() == 6
