"""A watched video as one picture: frames along the time axis, what happens when, how much moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from chiasm.data.feature_files import load_features
from chiasm.data.video import open_video
from chiasm.data.video_drawing import COLORS, paint_features
from chiasm.data.video_file import scale_frame
from chiasm.data.video_sampling import UniformSampling
from chiasm.encoders.video_features import VideoFeatures
from chiasm.inference.answers import Segment
from chiasm.inference.videos import ShownVideo

GUTTER, AXIS, STRIP, LINE, CURVE, GAP = 110, 960, 96, 20, 60, 8
"""Pixels: left of the axis, along it, height of frames, of a row of bars, of the curve; between."""

FONT_SIZE, TICKS = 12, 8
PALEST = 0.25
"""How strong the colour of a segment of score 0 is."""


@dataclass(frozen=True)
class _Sheet:
    """What is drawn on; times are seconds of the axis."""

    image: Image.Image
    pen: ImageDraw.ImageDraw
    font: Any
    duration: float

    def place(self, time: float) -> int:
        return GUTTER + round(AXIS * min(1.0, max(0.0, time / self.duration)))

    def say(
        self, left: int, top: int, text: str, fill: str = "#444444", anchor: str = "la"
    ) -> None:
        self.pen.text((left, top), text, fill=fill, font=self.font, anchor=anchor)


def draw_timeline(video: Any, shown: ShownVideo, segments: Sequence[Segment]) -> Image.Image:
    """Draw a video that was watched.

    Args:
        video: The video, as it was set.
        shown: What is kept of it.
        segments: What to draw as bars, a row a label; the stronger the colour, the surer.

    Returns:
        A picture of mode RGB.

    Raises:
        MediaError: The video cannot be read again.
    """
    labels = list(dict.fromkeys(s.label for s in sorted(segments, key=lambda s: s.start)))
    bars = GAP + STRIP + 2 * LINE
    curve = bars + LINE * len(labels) + GAP
    image = Image.new("RGB", (GUTTER + AXIS + 2 * GAP, curve + CURVE + GAP), "white")
    font = ImageFont.load_default(FONT_SIZE)
    sheet = _Sheet(image, ImageDraw.Draw(image), font, shown.duration)
    _draw_frames(sheet, video, shown)
    for tick in range(TICKS + 1):
        time = shown.duration * tick / TICKS
        sheet.pen.line(
            (sheet.place(time), GAP + STRIP, sheet.place(time), curve + CURVE), fill="#dddddd"
        )
        anchor = "ra" if tick == TICKS else "ma"
        sheet.say(sheet.place(time), GAP + STRIP + 4, f"{time:.4g} s", anchor=anchor)
    for row, label in enumerate(labels):
        top = bars + row * LINE
        sheet.say(GAP, top + 3, label, fill="black")
        for segment in reversed([one for one in segments if one.label == label]):
            _draw_bar(sheet, segment, top, COLORS[row % len(COLORS)])
    _draw_curve(sheet, shown, curve)
    return image


def _draw_frames(sheet: _Sheet, video: Any, shown: ShownVideo) -> None:
    """Paste frames along the axis, each in the middle of its share of the time."""
    if isinstance(shown.model.reading.encoder, VideoFeatures):
        features = load_features(Path(video)) if isinstance(video, str | Path) else video
        sheet.image.paste(paint_features(features).resize((AXIS, STRIP)), (GUTTER, GAP))
        sheet.say(GAP, GAP, f"{features.shape[1]} features")
        return
    opened = open_video(video)
    height, width = opened.size
    across = max(1, round(STRIP * width / height))
    count = max(1, AXIS // (across + 2))
    clip = opened.sample(UniformSampling(count=count, short="repeat"))
    for place, frame in enumerate(clip.frames):
        left = GUTTER + round((place + 0.5) * AXIS / count - across / 2)
        sheet.image.paste(Image.fromarray(scale_frame(frame, (STRIP, across))), (left, GAP))
    sheet.say(GAP, GAP, f"{len(opened)} frames")


def _draw_bar(sheet: _Sheet, segment: Segment, top: int, color: str) -> None:
    strength = PALEST + (1 - PALEST) * min(1.0, max(0.0, segment.score))
    hues = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    fill = tuple(round(255 + (hue - 255) * strength) for hue in hues)
    left, right = sheet.place(segment.start), sheet.place(segment.end)
    box = (left, top + 2, max(left + 1, right), top + LINE - 3)
    sheet.pen.rectangle(box, fill=fill, outline=color)
    text = f"{segment.score:.2f}"
    if sheet.pen.textlength(text, font=sheet.font) < right - left - 4:
        sheet.say((left + right) // 2, top + 3, text, fill="black", anchor="ma")


def _draw_curve(sheet: _Sheet, shown: ShownVideo, top: int) -> None:
    """Draw how much each frame differs from the one before; the highest point touches the top."""
    change: NDArray[np.float32] = shown.change.numpy()
    most = float(change.max())
    heights = change / (most or 1.0)
    times = shown.times.numpy()
    points = [
        (sheet.place(float(time)), top + CURVE - round(float(height) * (CURVE - 2)))
        for time, height in zip(times, heights, strict=True)
    ]
    sheet.pen.line((GUTTER, top + CURVE, GUTTER + AXIS, top + CURVE), fill="#aaaaaa")
    sheet.pen.line(points if len(points) > 1 else points * 2, fill="#393939", width=1)
    sheet.say(GAP, top + 3, "change", fill="black")
    sheet.say(GAP, top + 3 + LINE, f"at most {most:.3g}")
