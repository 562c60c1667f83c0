"""Videos of training samples as chance has them, read frame by frame as they are needed.

What is said of a sample stays true: segments move with the frames, words of sides are exchanged in
a mirror, and a video that something is asked about stays whole, since the answer may lie anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chiasm.core.protocols import Dataset
from chiasm.core.samples import Sample, Turn
from chiasm.data.video import Decoder, Video, open_video
from chiasm.data.video_file import Pixels, scale_frame
from chiasm.data.video_transforms import AnnotatedClip, VideoAugment, mirrored
from chiasm.data.video_words import ACTIONS_REQUEST, say_segments

_STREAM = 3
"""Keeps these draws apart from those of other uses of a run's seed."""

KEPT = ("domain", "split", "kinds")
"""What of a sample's truth a change leaves as it is; the rest is left out."""


@dataclass(frozen=True, eq=False)
class ChangedVideo:
    """A video with the change that was drawn for it; a `FrameSource`.

    Attributes:
        video: The video.
        places: Which of its frames are left, int64 (T,).
        times: When each is shown, in seconds from the start, float64 (T,).
        duration: Seconds.
        box: XYXY in pixels, the part of each frame that is shown; None for all of it.
        mirror: Whether left and right are exchanged.
    """

    video: Video
    places: NDArray[np.int64]
    times: NDArray[np.float64]
    duration: float
    box: tuple[int, int, int, int] | None
    mirror: bool

    def frames(self, indices: Sequence[int]) -> Pixels:
        """Return frames uint8 (indices, H, W, 3), as `FrameSource` has it."""
        return self.open(None).frames(indices)

    def open(self, size: tuple[int, int] | None) -> Video:
        """Return the video, with frames scaled to (height, width); None keeps theirs."""
        return Video(_ChangedReader(self, size))


class _ChangedReader:
    """Frames of a changed video; attributes as of `FileReader`."""

    def __init__(self, changed: ChangedVideo, size: tuple[int, int] | None) -> None:
        left, top, right, bottom = changed.box or (0, 0, *changed.video.size[::-1])
        self.changed = changed
        self.name = changed.video.name
        self.times = changed.times
        self.duration = changed.duration
        keys = np.flatnonzero(np.isin(changed.places, changed.video.key_frames))
        # A part may lie between two of them.
        self.key_frames = keys if len(keys) else np.zeros(1, np.int64)
        self.size = size or (bottom - top, right - left)
        self.faults = changed.video.faults
        self._rows, self._columns = slice(top, bottom), slice(left, right)

    def stream(self, indices: Sequence[int]) -> Iterator[tuple[int, Pixels | None]]:
        """Go through frames in the order of time; see `FileReader.stream`."""
        places = self.changed.places[list(indices)].tolist()
        read = self.changed.video.reader.stream(places)
        for index, (_, pixels) in zip(indices, read, strict=True):
            if pixels is not None:
                pixels = pixels[self._rows, self._columns]
                pixels = pixels[:, ::-1] if self.changed.mirror else pixels
                pixels = scale_frame(np.ascontiguousarray(pixels), self.size)
            yield index, pixels


class ChangedVideos:
    """Samples whose videos are changed by chance: a pure function of seed and position.

    Args:
        samples: The samples, by position in a run.
        augment: Draws the changes; of cut, speed, crop and flip.
        seed: Of the run.
        decoder: Of video files, see `open_video`.
    """

    def __init__(
        self, samples: Dataset, augment: VideoAugment, seed: int, decoder: Decoder = "pyav"
    ) -> None:
        self.samples = samples
        self.augment = augment
        self.seed = seed
        self.decoder: Decoder = decoder

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, position: int) -> Sample:
        """Return the sample at a position, changed.

        Raises:
            MediaError: Its video cannot be opened.
        """
        sample = self.samples[position]
        if sample.video is None:
            return sample
        rng = np.random.default_rng([self.seed, _STREAM, position])
        return change_sample(sample, self.augment, rng, self.decoder)


def change_sample(
    sample: Sample, augment: VideoAugment, rng: np.random.Generator, decoder: Decoder = "pyav"
) -> Sample:
    """Return a sample with a changed video, and with what is said of it.

    Segments that a cut leaves too little of are counted in `truth["dropped"]`.

    Raises:
        MediaError: The video cannot be opened.
    """
    assert sample.video is not None
    video = open_video(sample.video, decoder=decoder)
    asked = any(t.role == "user" and t.text.strip() != ACTIONS_REQUEST for t in sample.turns)
    count = len(video)
    # A clip of one pixel stands for the frames, and its boxes tell which of them are left.
    numbers = np.repeat(np.arange(count, dtype=np.float64), 4).reshape(count, 1, 4)
    clip = AnnotatedClip(
        np.zeros((count, 1, 1, 3), np.uint8),
        video.times - video.times[0],
        video.duration,
        sample.segments or (),
        numbers,
    )
    clip = augment.in_time(clip, rng, whole=asked)
    box, mirror = augment.draw_view(video.size, rng)
    changed = ChangedVideo(
        video, clip.boxes[:, 0, 0].astype(np.int64), clip.times, clip.end, box, mirror
    )
    said = [replace(one, label=mirrored(one.label)) for one in clip.segments]
    segments = tuple(said) if mirror else clip.segments
    truth = {name: value for name, value in sample.truth.items() if name in KEPT}
    return replace(
        sample,
        video=changed,
        segments=None if sample.segments is None else segments,
        turns=_say(sample, say_segments(segments), mirror),
        truth={**truth, "dropped": dict(clip.dropped)} if clip.dropped else truth,
    )


def _say(sample: Sample, segments: str, mirror: bool) -> tuple[Turn, ...]:
    """Return what is said of a changed video."""
    turns = []
    request = ""
    for turn in sample.turns:
        if turn.role == "assistant" and request == ACTIONS_REQUEST:
            turn = replace(turn, parts=(segments,))
        elif mirror:
            parts = (mirrored(part) if isinstance(part, str) else part for part in turn.parts)
            turn = replace(turn, parts=tuple(parts))
        request = turn.text.strip() if turn.role == "user" else ""
        turns.append(turn)
    return tuple(turns)
