"""Videos from files, folders of frames, arrays and programs, always as 8-bit RGB with true times.

    video = open_video("match.mp4")
    clip = video.sample(UniformSampling(count=32))       # frames (32, H, W, 3), times (32,)
    for clip in video.clips(64):                         # any length, in the memory of 64 frames
        ...

Frames are turned as the file says they are to be shown. Pixels that are not square stay as they are
stored. Nothing is silently short: a damaged file is an error, or with `damage="count"` every frame
that is missing is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from chiasm.core.config import lookup
from chiasm.core.errors import InputError, MediaError
from chiasm.core.samples import FrameSource, VideoSource
from chiasm.data.media import load_image, local_path
from chiasm.data.video_file import FileReader, Pixels, scale_frame
from chiasm.data.video_index import COUNTED, MENDED, Damage
from chiasm.data.video_sampling import Sampling
from chiasm.data.video_torchcodec import TorchcodecReader

Decoder = Literal["pyav", "torchcodec"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of the files of a folder of frames."""

DEFAULT_RATE = 25.0
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, eq=False)
class VideoClip:
    """Some frames of a video.

    Attributes:
        frames: uint8 (T, H, W, 3) RGB in [0, 255].
        times: Presentation time of each frame in seconds, float64 (T,).
        indices: Which frames of the video they are, int64 (T,).
        missing: Frames asked for that could not be decoded; empty unless damage is counted.
    """

    frames: Pixels
    times: NDArray[np.float64]
    indices: NDArray[np.int64]
    missing: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)


class Reader(Protocol):
    """One kind of source; see `FileReader`."""

    name: str
    times: NDArray[np.float64]
    duration: float
    key_frames: NDArray[np.int64]
    size: tuple[int, int]
    faults: tuple[str, ...]

    def stream(self, indices: Sequence[int]) -> Iterator[tuple[int, Pixels | None]]:
        """Go through frames, ascending; None for one that cannot be decoded."""
        ...


READERS: dict[str, Callable[[Path, Damage, tuple[int, int] | None, int], Reader]] = {
    "pyav": FileReader,
    "torchcodec": TorchcodecReader,
}
"""Decoder of video files by name."""


class Video:
    """A video that frames can be read from; it holds no open file between calls.

    Args:
        reader: Where the frames come from.
        damage: Whether a frame that cannot be decoded is an error, or is counted.

    Attributes:
        name: What messages call it.
        times: Presentation time of each frame in seconds, float64 (T,), ascending.
        duration: Seconds from the start of the first frame to the end of the last.
        key_frames: Frames that can be decoded without others, int64 (K,).
        size: (height, width) of the frames it gives.
        faults: What is wrong with the file, one line each.
    """

    def __init__(self, reader: Reader, damage: Damage = "error") -> None:
        self.reader = reader
        self.damage = damage
        self.name = reader.name
        self.times = reader.times
        self.duration = reader.duration
        self.key_frames = reader.key_frames
        self.size = reader.size
        self.faults = reader.faults

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.times)

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> VideoClip:
        """Read frames.

        Args:
            indices: Which, in any order, also more than once.

        Raises:
            InputError: There are none, or one is outside the video.
            MediaError: A frame cannot be decoded, and damage is an error.
        """
        asked = np.asarray(indices, np.int64)
        if asked.ndim != 1 or not len(asked) or asked.min() < 0 or asked.max() >= len(self):
            raise InputError(
                f"{self.name}: frames {asked.tolist()[:8]}; give at least one index from 0 to "
                f"{len(self) - 1}"
            )
        distinct, places = np.unique(asked, return_inverse=True)
        frames = np.empty((len(asked), *self.size, 3), np.uint8)
        kept = np.zeros(len(distinct), np.bool_)
        for number, (index, pixels) in enumerate(self.reader.stream(distinct.tolist())):
            if pixels is None:
                self._refuse(index)
                continue
            kept[number] = True
            frames[places == number] = pixels
        there = kept[places]
        if not there.all():
            frames, asked = frames[there], asked[there]
        missing = tuple(int(index) for index in distinct[~kept])
        return VideoClip(frames, self.times[asked], asked, missing)

    def frames(self, indices: Sequence[int]) -> Pixels:
        """Return frames uint8 (indices, H, W, 3), as `FrameSource` has it.

        Raises:
            MediaError: One of them cannot be decoded.
        """
        clip = self.read(indices)
        if clip.missing:
            self._refuse(clip.missing[0], always=True)
        return clip.frames

    def sample(self, sampling: Sampling) -> VideoClip:
        """Read the frames that a rule chooses.

        Raises:
            InputError: The video does not fit the rule.
            MediaError: A frame cannot be decoded, and damage is an error.
        """
        return self.read(sampling.choose(self))

    def clips(
        self, length: int, *, every: int = 1, first: int = 0, stop: int | None = None
    ) -> Iterator[VideoClip]:
        """Go through the video clip by clip, in the memory of one clip.

        Args:
            length: Frames in a clip; the last clip may hold fewer.
            every: Take every so many frames.
            first: The first frame taken.
            stop: One past the last frame that may be taken; None for the end.

        Raises:
            InputError: A number is out of range.
            MediaError: A frame cannot be decoded, and damage is an error.
        """
        end = len(self) if stop is None else stop
        if length < 1 or every < 1 or not 0 <= first < end <= len(self):
            raise InputError(
                f"{self.name}: clips of {length} frames, every {every}, from {first} to {end}; "
                f"length and every are at least 1, and 0 <= first < stop <= {len(self)}"
            )
        yield from self.pieces(range(first, end, every), length)

    def pieces(
        self, indices: Sequence[int] | NDArray[np.int64], length: int
    ) -> Iterator[VideoClip]:
        """Go through chosen frames piece by piece, in the memory of one piece.

        Args:
            indices: Which, ascending; the same frame may come several times.
            length: Frames in a piece; the last one may hold fewer.

        Raises:
            InputError: The indices do not ascend or lie outside the video, or a length below 1.
            MediaError: A frame cannot be decoded, and damage is an error.
        """
        asked = np.asarray(indices, np.int64)
        sound = asked.ndim == 1 and len(asked) > 0 and length >= 1 and (np.diff(asked) >= 0).all()
        if not sound or asked[0] < 0 or asked[-1] >= len(self):
            raise InputError(
                f"{self.name}: frames {asked.tolist()[:8]} in pieces of {length}; give pieces of "
                f"at least 1 and ascending indices from 0 to {len(self) - 1}"
            )
        distinct, counts = np.unique(asked, return_counts=True)
        frames = np.empty((length, *self.size, 3), np.uint8)
        held: list[int] = []
        missing: list[int] = []
        for (index, pixels), count in zip(
            self.reader.stream(distinct.tolist()), counts.tolist(), strict=True
        ):
            if pixels is None:
                self._refuse(index)
                missing.append(index)
                continue
            for _ in range(count):
                frames[len(held)] = pixels
                held.append(index)
                if len(held) == length:
                    yield self._clip(frames, held, missing)
                    # What was handed out stays as it is.
                    frames, held, missing = np.empty_like(frames), [], []
        if held or missing:
            yield self._clip(frames[: len(held)], held, missing)

    def _clip(self, frames: Pixels, indices: list[int], missing: list[int]) -> VideoClip:
        taken = np.asarray(indices, np.int64)
        return VideoClip(frames, self.times[taken], taken, tuple(missing))

    def _refuse(self, index: int, always: bool = False) -> None:
        if always or self.damage == "error":
            way = COUNTED if self.damage == "error" else "`Video.read`"
            raise MediaError(
                f"{self.name}: frame {index} at {self.times[index]:.3f} s cannot be decoded; "
                f"{MENDED}. In Python, {way} leaves it out and counts it"
            )


class _FolderReader:
    """Images of a folder, in the order of the numbers in their names."""

    def __init__(self, folder: Path, rate: float, size: tuple[int, int] | None) -> None:
        files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise MediaError(
                f"{folder}: holds no frame; allowed: images with a suffix of "
                f"{', '.join(IMAGE_SUFFIXES)}"
            )
        # 10.png stands behind 9.png.
        self.files = sorted(files, key=_in_number_order)
        first = load_image(self.files[0])
        self.stored = (first.height, first.width)
        self.name = str(folder)
        self.times = np.arange(len(files)) / rate
        self.duration = len(files) / rate
        self.key_frames = np.arange(len(files), dtype=np.int64)
        self.size = size or self.stored
        self.faults: tuple[str, ...] = ()

    def stream(self, indices: Sequence[int]) -> Iterator[tuple[int, Pixels | None]]:
        for index in indices:
            image = load_image(self.files[index])
            if (image.height, image.width) != self.stored:
                raise MediaError(
                    f"{self.files[index]}: is {image.height} x {image.width} pixels (height x "
                    f"width), the first frame of its folder {self.stored[0]} x {self.stored[1]}; "
                    "frames of a video have one size"
                )
            yield index, scale_frame(np.asarray(image), self.size)


class _SourceReader:
    """Frames of an array or a program."""

    def __init__(self, source: FrameSource, name: str, size: tuple[int, int] | None) -> None:
        self.source = source
        self.name = name
        self.times = np.asarray(source.times, np.float64)
        self.duration = float(source.duration)
        if not len(self.times) or (np.diff(self.times) <= 0).any():
            raise MediaError(f"{name}: its times must be at least one, and ascend")
        self.key_frames = np.arange(len(self.times), dtype=np.int64)
        height, width = source.frames([0]).shape[1:3]
        self.size = size or (height, width)
        self.faults: tuple[str, ...] = ()

    def stream(self, indices: Sequence[int]) -> Iterator[tuple[int, Pixels | None]]:
        for index in indices:
            yield index, scale_frame(self.source.frames([index])[0], self.size)


@dataclass(frozen=True, eq=False)
class ArrayFrames:
    """An array as a source of frames.

    Attributes:
        array: uint8 (T, H, W, 3) RGB in [0, 255].
        rate: Frames a second.
    """

    array: Pixels
    rate: float = DEFAULT_RATE

    @property
    def times(self) -> NDArray[np.float64]:
        """Presentation time of each frame in seconds, float64 (T,)."""
        return np.arange(len(self.array)) / self.rate

    @property
    def duration(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        return len(self.array) / self.rate

    def frames(self, indices: Sequence[int]) -> Pixels:
        """Return frames (indices, H, W, 3)."""
        return self.array[list(indices)]


def open_video(
    source: VideoSource,
    *,
    rate: float | None = None,
    size: tuple[int, int] | None = None,
    damage: Damage = "error",
    decoder: Decoder = "pyav",
    threads: int = 1,
) -> Video:
    """Open a video of any kind.

    Args:
        source: A path or `file:` URI of a video file or of a folder of frames, an array THWC uint8,
            or a `FrameSource`.
        rate: Frames a second of a folder or an array, which have no times of their own (25 by
            default). A file or a program says itself when its frames are shown.
        size: (height, width) to scale frames to, bilinear; None keeps theirs.
        damage: `error` refuses a damaged file; `count` gives what is there, and tells in
            `Video.faults` and `VideoClip.missing` what is not.
        decoder: For files: `pyav`, or `torchcodec` where that is installed.
        threads: Threads of the decoder; 0 leaves their number to it.

    Raises:
        InputError: An argument is out of range, or does not go with the source.
        MediaError: There is no such file, it is empty, no video, or damaged; the message names it.
        MissingExtraError: The decoder is not installed.
        UnknownNameError: No such decoder.
    """
    _check(rate, size, damage)
    read_file = lookup(READERS, decoder, "video decoder")
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 4 or source.shape[-1] != 3 or not source.size:
            raise MediaError(
                f"video array {source.dtype} {source.shape} is not allowed; allowed: uint8 "
                "(frames, height, width, 3) in [0, 255]"
            )
        return Video(_SourceReader(ArrayFrames(source, rate or DEFAULT_RATE), "video array", size))
    if isinstance(source, str | Path):
        path = local_path(source)
        if path.is_dir():
            return Video(_FolderReader(path, rate or DEFAULT_RATE, size), damage)
        _refuse_rate(rate, str(path))
        return Video(read_file(path, damage, size, threads), damage)
    name = type(source).__name__
    _refuse_rate(rate, name)
    return Video(_SourceReader(source, name, size))


def _check(rate: float | None, size: tuple[int, int] | None, damage: str) -> None:
    if rate is not None and not (np.isfinite(rate) and rate > 0):
        raise InputError(f"rate {rate} is not allowed; give frames a second, above 0")
    if size is not None and min(size) < 1:
        raise InputError(f"size {size} is not allowed; give (height, width) of at least 1 pixel")
    if damage not in ("error", "count"):
        raise InputError(f"damage {damage!r} is not allowed; allowed: 'error', 'count'")


def _refuse_rate(rate: float | None, name: str) -> None:
    if rate is not None:
        raise InputError(
            f"{name}: a rate of {rate:g} is given, but it says itself when its frames are shown; "
            "leave the rate out, or sample at a rate"
        )


def _in_number_order(file: Path) -> tuple[tuple[int, ...], str]:
    return tuple(int(number) for number in _NUMBER.findall(file.stem)), file.name
