"""What a video file holds, found by demuxing alone: times, key frames, true length, damage.

Headers are not trusted: frame counts, durations and rates of a file are what its packets say. Times
are the container's own presentation times, exact, and are not moved to start at zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import MediaError, MissingExtraError

if TYPE_CHECKING:
    from av import FFmpegError
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Damage = Literal["error", "count"]
"""What happens to a damaged video: `error` refuses it; `count` reads what is there and tells how
much is not."""

MENDED = "download it again, or write what is there anew, as `ffmpeg -i FILE NEW` does"
COUNTED = "chiasm.data.video.open_video(FILE, damage='count')"
"""What helps with a damaged file, anywhere and in Python."""

QUARTER = 90


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """What a video file holds.

    Attributes:
        path: The file.
        ticks: Presentation time of each frame in units of `time_base`, int64 (T,), ascending.
        time_base: Seconds a tick, exact.
        duration: Seconds from the start of the first frame to the end of the last, exact.
        key_frames: Which frames can be decoded without others, int64 (K,), ascending.
        height: Of a frame as it is shown, after rotation, in pixels.
        width: Of a frame as it is shown, after rotation, in pixels.
        mirrored: Whether a stored frame is shown with left and right exchanged, as cameras on the
            side of a screen have it.
        quarter_turns: Counterclockwise quarter turns that then make it the shown one.
        codec: Name of the codec.
        damage: Everything wrong with the file, one line each; empty for a sound one.
    """

    path: Path
    ticks: NDArray[np.int64]
    time_base: Fraction
    duration: Fraction
    key_frames: NDArray[np.int64]
    height: int
    width: int
    mirrored: bool
    quarter_turns: int
    codec: str
    damage: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.ticks)

    @property
    def times(self) -> NDArray[np.float64]:
        """Presentation time of each frame in seconds, float64 (T,)."""
        seconds: NDArray[np.float64] = (
            self.ticks * self.time_base.numerator / self.time_base.denominator
        )
        return seconds

    def time(self, index: int) -> Fraction:
        """Return the exact presentation time of a frame in seconds."""
        return int(self.ticks[index]) * self.time_base

    @property
    def rate(self) -> Fraction:
        """Mean frames a second."""
        return Fraction(len(self.ticks)) / self.duration

    @property
    def constant_rate(self) -> bool:
        """Whether neighbouring frames lie equally far apart, to within one tick."""
        steps = np.diff(self.ticks)
        return len(steps) == 0 or int(steps.max() - steps.min()) <= 1


def index_video(path: Path, damage: Damage = "error") -> VideoIndex:
    """Index a video file; only its first frame is decoded.

    Args:
        path: The file.
        damage: Whether a damaged file is an error, or is described in `VideoIndex.damage`.

    Raises:
        MediaError: There is no such file, it is empty, no video, or damaged; the message names it.
        MissingExtraError: PyAV is not installed.
    """
    with opened(path) as (container, stream):
        first = _first_frame(container, stream, path)
        height, width, codec = first.height, first.width, stream.codec_context.name
        mirrored, turns = _orientation(first, path)
    if turns % 2:
        height, width = width, height
    with opened(path) as (container, stream):
        packets, faults = _packets(container, stream)
        base = stream.time_base
        if base is None:
            raise MediaError(f"{path}: its video has no time base; write it again")
        declared, seconds = stream.frames, _declared_seconds(stream)
        ticks, lengths, keys = _in_order(packets, path, faults)
        # AVI has a tick a frame and counts those that were left empty, where the rate varies.
        there = int(ticks[-1]) + 1 if container.format.name == "avi" else 0
    duration = (int(ticks[-1] - ticks[0]) + int(lengths[-1])) * base
    # A container that tells how much it holds shows that a file was cut off.
    if declared and declared > max(there, len(packets)):
        faults.append(f"{len(packets)} frames are there of the {declared} its header tells of")
    longest = int(np.diff(ticks).max(initial=int(lengths[-1]))) * base
    # What Matroska writes is when the last frame ends, which need not have begun at zero.
    end = (int(ticks[-1]) + int(lengths[-1])) * base
    if seconds is not None and seconds - max(end, duration) > 2 * longest:
        faults.append(
            f"{float(end):.2f} seconds are there of the {seconds:.2f} its header tells of"
        )
    if faults and damage == "error":
        raise MediaError(
            f"{path}: is damaged: {'; '.join(faults)}; {MENDED}. In Python, "
            f"{COUNTED} counts what is missing"
        )
    return VideoIndex(
        path=path,
        ticks=ticks,
        time_base=base,
        duration=duration,
        key_frames=np.flatnonzero(keys),
        height=height,
        width=width,
        mirrored=mirrored,
        quarter_turns=turns,
        codec=codec,
        damage=tuple(faults),
    )


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file, and close it whatever happens.

    Raises:
        MediaError: There is no such file, it is empty, or no video.
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", "reading video files") from None

    check_file(path)
    try:
        container = av.open(str(path), "r")
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path}: cannot be opened as a video, it is truncated, damaged or of another kind: "
            f"{_words(error)}; write or download it again"
        ) from error
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            raise MediaError(f"{path}: holds no video, only sound or data; give a video file")
        yield container, stream


def check_file(path: Path) -> None:
    """Check that a path leads to a file that is not empty.

    Raises:
        MediaError: It does not.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise MediaError(f"{path}: does not exist; correct the path or set media_root") from None
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be read: {error}") from error
    if path.is_dir():
        raise MediaError(f"{path}: is a folder; give a video file")
    if size == 0:
        raise MediaError(f"{path}: is empty (0 bytes); write or download it again")


def _first_frame(container: InputContainer, stream: VideoStream, path: Path) -> VideoFrame:
    import av

    try:
        for packet in container.demux(stream):
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    return frame
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path}: its first frame cannot be decoded: {_words(error)}; write or download it "
            "again"
        ) from error
    raise MediaError(f"{path}: holds no frame; write or download it again")


def _orientation(frame: VideoFrame, path: Path) -> tuple[bool, int]:
    """Return whether a stored frame is mirrored, and how often it is then turned.

    A display matrix takes (x, y) of the stored frame to (a x + c y, b x + d y) of the shown one
    (ISO/IEC 14496-12, section 6.2.2), of which PyAV tells the angle alone.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, 0
    a, b, _, c, d = (float(value) for value in np.frombuffer(cast("bytes", data), np.int32)[:5])
    mirrored = a * d < b * c
    clockwise = round(math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a)))
    turns, rest = divmod(-clockwise, QUARTER)
    if rest:
        raise MediaError(
            f"{path}: is to be shown turned by {-clockwise} degrees; allowed: multiples of "
            f"{QUARTER}"
        )
    return mirrored, turns % 4


def _packets(
    container: InputContainer, stream: VideoStream
) -> tuple[list[Packet[VideoStream]], list[str]]:
    """Return the packets that hold a frame, in the order of the file, and what is wrong."""
    import av

    found: list[Packet[VideoStream]] = []
    faults: list[str] = []
    try:
        for packet in container.demux(stream):
            # The last packet is empty: it makes a decoder give what it holds back.
            if packet.size:
                found.append(packet)
    except (av.FFmpegError, OSError) as error:
        faults.append(f"reading ends after {len(found)} frames: {_words(error)}")
    broken = sum(packet.is_corrupt for packet in found)
    if broken:
        faults.append(f"{broken} of its frames are incomplete")
    return found, faults


def _in_order(
    packets: list[Packet[VideoStream]], path: Path, faults: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return time, length and "is a key frame" of each frame that is shown, by time.

    Frames that an edit list cuts away are not shown; that is the container's wish, and no damage.
    """
    shown = [packet for packet in packets if not packet.is_discard]
    untimed = sum(packet.pts is None for packet in shown)
    if untimed == len(shown):
        raise MediaError(
            f"{path}: none of its {len(shown)} frames has a presentation time; write it into a "
            "container with times, such as MP4"
        )
    if untimed:
        faults.append(f"{untimed} of its frames have no presentation time")
    timed = [packet for packet in shown if packet.pts is not None]
    all_ticks = np.array([packet.pts for packet in timed], np.int64)
    ticks, first = np.unique(all_ticks, return_index=True)
    if len(ticks) < len(all_ticks):
        faults.append(f"{len(all_ticks) - len(ticks)} of its frames repeat the time of another one")
    lengths = np.array([timed[place].duration or 0 for place in first], np.int64)
    if lengths[-1] <= 0:
        # The last frame stays as long as the one before it did; a lone one for one tick.
        lengths[-1] = int(ticks[-1] - ticks[-2]) if len(ticks) > 1 else 1
    keys = np.array([timed[place].is_keyframe for place in first], np.bool_)
    if not keys[0]:
        faults.append("its first frame is no key frame")
    return ticks, lengths, keys


def _declared_seconds(stream: VideoStream) -> float | None:
    """Return how long Matroska says the video is, which writes it as 00:00:09.720000000."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def _words(error: FFmpegError | OSError) -> str:
    # Without the number and the path that the error's own words surround it with.
    return error.strerror or str(error) or type(error).__name__
