"""A video as one picture: some of its frames with their times, and below them what happens when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from chiasm.core.samples import Segment, VideoSource
from chiasm.data.feature_files import FEATURE_SUFFIXES, load_features
from chiasm.data.video import Video, open_video
from chiasm.data.video_file import scale_frame
from chiasm.data.video_sampling import UniformSampling

FRAMES, COLUMNS = 8, 4
TILE = 200
"""Longer side of a shown frame, in pixels."""

LINE, GAP, FONT_SIZE = 18, 6, 12
COLORS = ("#0f62fe", "#24a148", "#fa4d56", "#f1c21b", "#8a3ffc", "#08bdba", "#ff7eb6", "#ba4e00")
"""Colours of labels, in turn."""


def draw_video(
    source: VideoSource, segments: Sequence[Segment] | None = None, frames: int = FRAMES
) -> tuple[str, Image.Image]:
    """Draw a video.

    Args:
        source: The video. A file of features is drawn as grey values, a column a frame.
        segments: What happens in it.
        frames: Most frames shown, evenly spread.

    Returns:
        What it is, in a line; and a picture of mode RGB.

    Raises:
        MediaError: The video cannot be read.
    """
    if isinstance(source, str | Path) and Path(source).suffix.lower() in FEATURE_SUFFIXES:
        return _draw_features(Path(source))
    video = open_video(source)
    clip = video.sample(UniformSampling(count=frames, short="all"))
    height, width = video.size
    scale = TILE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    rows = -(-len(clip) // COLUMNS)
    labels = sorted({segment.label for segment in segments or ()})
    across = COLUMNS * (size[1] + GAP) + GAP
    bars = rows * (size[0] + LINE + GAP) + GAP
    sheet = Image.new("RGB", (across, bars + len(labels) * LINE + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for place, (frame, time) in enumerate(zip(clip.frames, clip.times, strict=True)):
        row, column = divmod(place, COLUMNS)
        left, top = GAP + column * (size[1] + GAP), GAP + row * (size[0] + LINE + GAP)
        sheet.paste(Image.fromarray(scale_frame(frame, size)), (left, top))
        pen.text((left, top + size[0] + 2), f"{time:.2f} s", fill="#444444", font=font)
    for row, label in enumerate(labels):
        color, top = COLORS[row % len(COLORS)], bars + row * LINE
        for segment in segments or ():
            if segment.label == label:
                begin, end = (_place(time, video, across) for time in (segment.start, segment.end))
                pen.rectangle((begin, top + 2, max(begin + 1, end), top + LINE - 3), fill=color)
        pen.text((GAP, top + 2), label, fill="black", font=font)
    told = f"video: {len(video)} frames, {video.duration:.2f} s, {height} x {width} pixels"
    return told, sheet


def _place(time: float, video: Video, across: int) -> int:
    part = (time - float(video.times[0])) / video.duration
    return round(GAP + min(1.0, max(0.0, part)) * (across - 2 * GAP))


def _draw_features(path: Path) -> tuple[str, Image.Image]:
    features = load_features(path)
    frames, width = features.shape
    picture = paint_features(features).resize((4 * frames, 2 * width))
    return f"features: {frames} frames of width {width}", picture


def paint_features(features: NDArray[np.float32]) -> Image.Image:
    """Return features float (frames, width) as grey values, a column a frame, in mode RGB."""
    low, high = float(features.min()), float(features.max())
    grey = ((features - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    return Image.fromarray(grey.T).convert("RGB")
