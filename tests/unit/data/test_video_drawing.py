"""Videos as pictures: frames at their times, and segments where they happen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ImageColor

from chiasm.core.errors import MediaError
from chiasm.core.samples import Segment
from chiasm.data.video import ArrayFrames
from chiasm.data.video_drawing import COLORS, GAP, TILE, draw_video

FRAMES, HEIGHT, WIDTH = 21, 31, 62


def video() -> ArrayFrames:
    """Frames whose brightness tells which one they are."""
    levels = np.arange(FRAMES, dtype=np.uint8)[:, None, None, None] * 12
    return ArrayFrames(np.broadcast_to(levels, (FRAMES, HEIGHT, WIDTH, 3)).copy(), rate=7)


def test_frames_are_spread_and_segments_are_bars() -> None:
    segments = (Segment(0.0, 1.0, "walking"), Segment(2.0, 3.0, "running"))
    told, sheet = draw_video(video(), segments)
    assert told == "video: 21 frames, 3.00 s, 31 x 62 pixels"
    pixels = np.asarray(sheet)
    middles = [GAP + column * (TILE + GAP) + TILE // 2 for column in range(4)]
    rows = (GAP + TILE // 4, GAP + TILE // 4 + TILE // 2 + GAP + 18)
    shown = [pixels[row, middle, 0] // 12 for row in rows for middle in middles]
    assert shown == [1, 3, 6, 9, 11, 14, 17, 19]
    across = sheet.width - 2 * GAP
    for color, (first, last) in zip(COLORS, ((2 / 3, 1.0), (0.0, 1 / 3)), strict=False):
        # Labels stand in the order of the alphabet: running, walking.
        found = (pixels == ImageColor.getrgb(color)).all(-1).any(0).nonzero()[0]
        assert found[0] == pytest.approx(GAP + first * across, abs=2)
        assert found[-1] == pytest.approx(GAP + last * across, abs=2)


def test_a_short_video_shows_all_it_has() -> None:
    told, sheet = draw_video(np.zeros((3, HEIGHT, WIDTH, 3), np.uint8))
    assert told.startswith("video: 3 frames")
    assert sheet.height == 2 * GAP + TILE // 2 + 18 + GAP


def test_features_are_grey_values(tmp_path: Path) -> None:
    features = np.linspace(0, 1, 5 * 3, dtype=np.float32).reshape(5, 3)
    np.save(tmp_path / "a.npy", features)
    told, sheet = draw_video(tmp_path / "a.npy")
    assert told == "features: 5 frames of width 3"
    assert sheet.size == (20, 6)
    assert np.asarray(sheet)[0, 0, 0] < 5
    assert np.asarray(sheet)[-1, -1, 0] > 250
    with pytest.raises(MediaError, match="does not exist"):
        draw_video(tmp_path / "b.npy")
