"""A timeline shows frames, bars and the curve where they belong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chiasm.inference.answers import Segment
from chiasm.inference.timeline import AXIS, CURVE, GAP, GUTTER, LINE, STRIP, draw_timeline
from chiasm.inference.videos import ShownVideo
from tests.tiny_watchers import FEATURES, moving_square, tiny_watcher

BARS = GAP + STRIP + 2 * LINE


@pytest.fixture(scope="module")
def shown() -> ShownVideo:
    return ShownVideo.look(tiny_watcher(), moving_square(50))


def draw(shown: ShownVideo, video: Any, *segments: Segment) -> np.ndarray[Any, Any]:
    return np.asarray(draw_timeline(video, shown, segments)).astype(int)


def test_bars_lie_where_segments_are(shown: ShownVideo) -> None:
    """Two seconds: one segment fills the second quarter, another label the last one, paler."""
    sheet = draw(
        shown, moving_square(50), Segment(0.5, 1.0, "jump", 1.0), Segment(1.5, 2.0, "spin", 0.1)
    )
    first, second = BARS + LINE - 5, BARS + 2 * LINE - 5

    def at(row: int, time: float) -> list[int]:
        return list(sheet[row, GUTTER + round(AXIS * time / 2)])

    assert at(first, 0.7) == [0x0F, 0x62, 0xFE]
    assert at(first, 0.45) == at(first, 1.05) == [255, 255, 255]
    assert at(second, 0.7) == [255, 255, 255]
    pale = at(second, 1.7)
    assert pale[1] > pale[0] > 0x24 and pale != [255, 255, 255]
    assert sheet.shape[0] == BARS + 2 * LINE + GAP + CURVE + GAP


def test_frames_follow_the_time(shown: ShownVideo) -> None:
    """The red square stands left in the first frame shown, and right in the last one."""
    sheet = draw(shown, moving_square(50))
    red = (sheet[GAP : GAP + STRIP, :, 0] > 180) & (sheet[GAP : GAP + STRIP, :, 1] < 90)
    columns = np.flatnonzero(red.any(0))
    count = AXIS // (round(STRIP * 42 / 28) + 2)
    wide = AXIS / count
    assert columns.min() < GUTTER + wide / 3
    assert columns.max() > GUTTER + AXIS - wide / 3


def test_the_curve_rises_where_something_changes() -> None:
    video = np.full((50, 28, 42, 3), 40, np.uint8)
    video[25:] = 200
    shown = ShownVideo.look(tiny_watcher(), video)
    sheet = draw(shown, video)
    top = BARS + GAP
    dark = (sheet[top : top + CURVE - 4] == 0x39).all(-1)
    columns = np.flatnonzero(dark[:, GUTTER:].any(0))
    assert 0.45 * AXIS < columns.min() < columns.max() < 0.55 * AXIS


def test_a_still_video_and_features_are_drawn() -> None:
    still = np.full((3, 28, 42, 3), 40, np.uint8)
    assert draw(ShownVideo.look(tiny_watcher(), still), still).shape[2] == 3
    features = np.sin(np.arange(77, dtype=np.float32)).reshape(11, 7)
    sheet = draw(ShownVideo.look(tiny_watcher(**FEATURES), features), features)
    assert len(np.unique(sheet[GAP : GAP + STRIP, GUTTER : GUTTER + AXIS])) > 20
