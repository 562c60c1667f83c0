"""Augmentations of a clip that keep what is said of it true.

Each one changes frames, times, segments and boxes together, and is a pure function; `VideoAugment`
draws one of each by chance. Segments are seconds of the clip's own time, boxes pixels of its
frames. What no longer lies in the clip is dropped and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.samples import Segment
from chiasm.data.video_file import scale_frame

_PAIRS = (
    *((f"left{end}", f"right{end}") for end in ("", "s", "most", "ward", "wards")),
    ("clockwise", "counterclockwise"),
)
SIDES = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
"""Words that mean the other one in a mirror."""

_AGAINST = re.compile(r"(?:counter|anti)[-_ ]?clockwise", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
"""Words in a text or in a name such as `turn_left` or `turnLeft`."""


@dataclass(frozen=True, eq=False)
class AnnotatedClip:
    """A clip with what is said of it.

    Attributes:
        frames: uint8 (T, H, W, 3) RGB in [0, 255].
        times: When each frame is shown, in seconds of the clip's time, float64 (T,), ascending.
        end: When the last frame is over, in seconds.
        segments: What happens when, in seconds of the clip's time.
        boxes: float64 (T, K, 4), for each frame and thing XYXY in pixels of the frames; NaN where
            a thing is not to be seen. K is 0 where there are none.
        dropped: What is no longer in the clip, and how often, by reason.
    """

    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    end: float
    segments: tuple[Segment, ...] = ()
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 4)))
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.frames)
        if not self.boxes.size:
            object.__setattr__(self, "boxes", np.zeros((count, 0, 4)))
        ascending = bool((np.diff(self.times) > 0).all())
        sound = count > 0 and len(self.times) == count == len(self.boxes) and ascending
        if not sound or not self.end > self.times[-1]:
            raise InputError(
                f"clip of {count} frames with {len(self.times)} times and {len(self.boxes)} rows "
                f"of boxes that ends at {self.end:g} s; give one time and row a frame, ascending, "
                "and an end behind the last"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a frame."""
        return self.frames.shape[1], self.frames.shape[2]


def mirrored(text: str) -> str:
    """Return a text with the words that mean sides exchanged, as it is true in a mirror.

    `counterclockwise`, `anticlockwise` and `counter-clockwise` become `clockwise`, and that the
    first of them.
    """

    def other(found: re.Match[str]) -> str:
        word = found.group()
        return _like(SIDES[word.lower()], word) if word.lower() in SIDES else word

    plain = _AGAINST.sub(lambda found: _like("counterclockwise", found.group()), text)
    return _WORD.sub(other, plain)


def _like(word: str, model: str) -> str:
    """Return a word with capitals as another one has them."""
    return word.upper() if model.isupper() else word.capitalize() if model[0].isupper() else word


def flip(clip: AnnotatedClip) -> AnnotatedClip:
    """Return the clip in a mirror: left and right change places, in pictures and in labels."""
    width = clip.size[1]
    boxes = clip.boxes.copy()
    boxes[..., 0], boxes[..., 2] = width - clip.boxes[..., 2], width - clip.boxes[..., 0]
    labels = (replace(segment, label=mirrored(segment.label)) for segment in clip.segments)
    frames = np.ascontiguousarray(clip.frames[:, :, ::-1])
    return replace(clip, frames=frames, boxes=boxes, segments=tuple(labels))


def crop(clip: AnnotatedClip, box: tuple[int, int, int, int]) -> AnnotatedClip:
    """Return the same part of every frame.

    Boxes are cut to the part; one that lies outside of it is NaN, and counted.

    Args:
        clip: The clip.
        box: XYXY in pixels of the frames.

    Raises:
        InputError: The part does not lie in the frames, or is empty.
    """
    left, top, right, bottom = box
    height, width = clip.size
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise InputError(
            f"crop: box {box} (left, top, right, bottom) of frames of {height} x {width} pixels "
            "(height x width); give a box inside them"
        )
    boxes = clip.boxes - np.array([left, top, left, top])
    limits = np.array([right - left, bottom - top] * 2)
    boxes = np.minimum(np.maximum(boxes, 0), limits)
    outside = (boxes[..., 0] >= boxes[..., 2]) | (boxes[..., 1] >= boxes[..., 3])
    boxes[outside] = np.nan
    frames = np.ascontiguousarray(clip.frames[:, top:bottom, left:right])
    return _told(replace(clip, frames=frames, boxes=boxes), "boxes outside", int(outside.sum()))


def resize(clip: AnnotatedClip, size: tuple[int, int]) -> AnnotatedClip:
    """Return the clip at another size, bilinear with antialiasing.

    Args:
        clip: The clip.
        size: (height, width).

    Raises:
        InputError: The size is below 1 x 1.
    """
    if min(size) < 1:
        raise InputError(f"resize: {size} is not allowed; give (height, width) of at least 1")
    scale = np.array([size[1] / clip.size[1], size[0] / clip.size[0]] * 2)
    frames = np.empty((len(clip.frames), *size, 3), np.uint8)
    for place, frame in enumerate(clip.frames):
        frames[place] = scale_frame(frame, size)
    return replace(clip, frames=frames, boxes=clip.boxes * scale)


def cut(clip: AnnotatedClip, start: float, end: float, least: float = 0.0) -> AnnotatedClip:
    """Return the part of the clip between two times; it begins at zero.

    The frame that is shown at `start` is the first. Segments are cut to the part.

    Args:
        clip: The clip.
        start: Seconds of the clip's time.
        end: Seconds of the clip's time.
        least: A segment of which a smaller part than this is left is dropped, and counted; half of
            an action is not always that action.

    Raises:
        InputError: The part does not lie in the clip, or is empty.
    """
    first = float(clip.times[0])
    if not (first <= start < end <= clip.end + 1e-9) or not 0 <= least <= 1:
        raise InputError(
            f"cut: from {start:g} to {end:g} s with least {least:g} of a clip from {first:g} to "
            f"{clip.end:g} s; give a part of it, and least in [0, 1]"
        )
    begin = int(np.searchsorted(clip.times, start + 1e-9, side="right")) - 1
    stop = int(np.searchsorted(clip.times, end - 1e-9))
    kept = []
    for segment in clip.segments:
        left, right = max(segment.start, start), min(segment.end, end)
        share = (right - left) / (segment.end - segment.start)
        if share > 0 and share >= least:
            kept.append(replace(segment, start=left - start, end=right - start))
    part = replace(
        clip,
        frames=clip.frames[begin:stop],
        # The first frame was there before the part began.
        times=np.maximum(clip.times[begin:stop] - start, 0.0),
        end=end - start,
        boxes=clip.boxes[begin:stop],
        segments=tuple(kept),
    )
    return _told(part, "segments cut away", len(clip.segments) - len(kept))


def change_speed(clip: AnnotatedClip, factor: float) -> AnnotatedClip:
    """Return the clip played faster (factor above 1) or slower; no frame is dropped or made.

    Raises:
        InputError: The factor is not above 0.
    """
    if not (np.isfinite(factor) and factor > 0):
        raise InputError(f"change_speed: factor {factor} is not allowed; give one above 0")
    segments = (replace(s, start=s.start / factor, end=s.end / factor) for s in clip.segments)
    return replace(clip, times=clip.times / factor, end=clip.end / factor, segments=tuple(segments))


def jitter(clip: AnnotatedClip, count: int, rng: np.random.Generator) -> AnnotatedClip:
    """Return `count` frames, one by chance from each of as many equal runs of frames.

    Every frame keeps its own time, so segments stay as they are.

    Raises:
        InputError: The clip has fewer frames.
    """
    total = len(clip.frames)
    if not 1 <= count <= total:
        raise InputError(f"jitter: {count} frames of a clip of {total}; give 1 to {total}")
    edges = np.linspace(0, total, count + 1)
    low, high = np.ceil(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
    places = rng.integers(low, high)
    return replace(
        clip, frames=clip.frames[places], times=clip.times[places], boxes=clip.boxes[places]
    )


class VideoAugmentConfig(Config):
    """What is done to a clip by chance, in this order: cut, speed, jitter, crop, flip, resize."""

    seconds: tuple[float, float] = (1.0, 1.0)
    """Part of the clip's length that is kept: least and most; 1 keeps all. Of a recipe's videos,
    those that are asked about stay whole."""
    least_segment: float = Field(default=0.5, ge=0, le=1)
    """A segment of which less is left after the cut is dropped."""
    speed: tuple[float, float] = (1.0, 1.0)
    """Factor: least and most."""
    frames: int | None = Field(default=None, ge=1)
    """How many frames are drawn, one from each of as many equal runs; None keeps all."""
    area: tuple[float, float] = (1.0, 1.0)
    """Part of height and width that is kept: least and most."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Chance of a mirror. Words of sides in labels, and in texts of a recipe's samples, are
    exchanged: leave it at 0 where they mean something else, or where pictures show writing."""
    size: tuple[int, int] | None = None
    """(height, width) at the end; None keeps it."""

    @model_validator(mode="after")
    def _check(self) -> VideoAugmentConfig:
        for name, (low, high) in (("seconds", self.seconds), ("area", self.area)):
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name}: {(low, high)} is no range in (0, 1]")
        if not 0 < self.speed[0] <= self.speed[1] < np.inf:
            raise ValueError(f"speed: {self.speed} is no range above 0")
        return self

    def build(self) -> VideoAugment:
        """Build the augmentation."""
        return VideoAugment(self)


class VideoAugment:
    """Draws augmentations of clips.

    Args:
        config: What is done, and how far.
    """

    def __init__(self, config: VideoAugmentConfig) -> None:
        self.config = config

    def __call__(self, clip: AnnotatedClip, rng: np.random.Generator) -> AnnotatedClip:
        """Return the clip as chance has it.

        Raises:
            InputError: Fewer frames are left than are to be drawn.
        """
        config = self.config
        clip = self.in_time(clip, rng)
        if config.frames is not None:
            clip = jitter(clip, config.frames, rng)
        box, mirror = self.draw_view(clip.size, rng)
        clip = clip if box is None else crop(clip, box)
        clip = flip(clip) if mirror else clip
        return clip if config.size is None else resize(clip, config.size)

    def in_time(
        self, clip: AnnotatedClip, rng: np.random.Generator, whole: bool = False
    ) -> AnnotatedClip:
        """Return the clip cut, unless it is to stay `whole`, and with another speed."""
        config = self.config
        length = clip.end - float(clip.times[0])
        part = float(rng.uniform(*config.seconds)) * length
        start = float(clip.times[0]) + float(rng.uniform(0, length - part))
        if part < length and not whole:
            clip = cut(clip, start, min(clip.end, start + part), config.least_segment)
        return change_speed(clip, float(rng.uniform(*config.speed)))

    def draw_view(
        self, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[tuple[int, int, int, int] | None, bool]:
        """Draw the part of frames of a size that is shown, None for all, and whether mirrored."""
        height, width = (max(1, round(side * rng.uniform(*self.config.area))) for side in size)
        top = int(rng.integers(size[0] - height + 1))
        left = int(rng.integers(size[1] - width + 1))
        box = None if (height, width) == size else (left, top, left + width, top + height)
        return box, bool(rng.random() < self.config.flip)


def _told(clip: AnnotatedClip, reason: str, count: int) -> AnnotatedClip:
    """Add to what a clip says it has lost."""
    if not count:
        return clip
    return replace(clip, dropped={**clip.dropped, reason: clip.dropped.get(reason, 0) + count})
