"""Frames of a video file: as few decoded as the frames asked for need.

Seeking once per touched group of pictures beats reading through when few groups are touched, and
reading through wins when most are; seeking once per frame loses everywhere by an order of
magnitude. So the reader goes on where it stands, unless the key frame of the next frame lies
farther ahead than a seek costs.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiasm.data.video_index import Damage, VideoIndex, index_video, opened

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SEEK_COST = 4
"""Frames that could be decoded in the time of a seek (640 x 360 H.264, one thread: 2 to 3 ms)."""

Pixels = NDArray[np.uint8]


def scale_frame(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Return a frame uint8 (H, W, 3) at (height, width), bilinear with antialiasing."""
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))


class FileReader:
    """Reads frames of a video file with PyAV.

    Args:
        path: The file.
        damage: Whether damage is an error, or is counted.
        size: (height, width) to scale frames to, bilinear; None keeps theirs.
        threads: Threads of the decoder; 0 leaves their number to it.

    Attributes:
        index: What the file holds.
        decoded: Frames decoded so far, wanted or not.
        seeks: Seeks so far.

    Raises:
        MediaError: There is no such file, it is empty, no video, or damaged.
    """

    def __init__(
        self,
        path: Path,
        damage: Damage = "error",
        size: tuple[int, int] | None = None,
        threads: int = 1,
    ) -> None:
        self.index: VideoIndex = index_video(path, damage)
        self.name = str(path)
        self.times = self.index.times
        self.duration = float(self.index.duration)
        self.key_frames = self.index.key_frames
        self.size = size or (self.index.height, self.index.width)
        self.faults = self.index.damage
        self.threads = threads
        self.decoded = 0
        self.seeks = 0

    def stream(self, indices: Sequence[int]) -> Iterator[tuple[int, Pixels | None]]:
        """Go through frames in the order of time.

        Args:
            indices: Which frames, ascending, each once.

        Yields:
            Index and pixels, uint8 (H, W, 3) RGB; None for a frame that cannot be decoded.
        """
        with opened(self.index.path) as (container, stream):
            stream.codec_context.thread_count = self.threads
            stream.codec_context.thread_type = "NONE" if self.threads == 1 else "AUTO"
            # By default a decoder paints over what it cannot read, and says nothing.
            stream.codec_context.options = {"err_detect": "explode"}
            cursor = _Cursor(container, stream, self.index)
            try:
                for index in indices:
                    frame = cursor.fetch(index)
                    yield index, None if frame is None else self._pixels(frame)
            finally:
                self.decoded += cursor.decoded
                self.seeks += cursor.seeks

    def _pixels(self, frame: VideoFrame) -> Pixels:
        turns = self.index.quarter_turns
        height, width = self.size if turns % 2 == 0 else self.size[::-1]
        scaled = frame.reformat(
            width=width, height=height, format="rgb24", interpolation="BILINEAR"
        ).to_ndarray()
        if self.index.mirrored:
            scaled = scaled[:, ::-1]
        return np.ascontiguousarray(np.rot90(scaled, turns))


class _Cursor:
    """A place in an open file that moves forwards, by decoding or by seeking."""

    def __init__(self, container: InputContainer, stream: VideoStream, index: VideoIndex) -> None:
        self.container = container
        self.video = stream
        self.index = index
        self.at = -1
        """Index of the frame held; the number of frames at the end of the file."""
        self.held: VideoFrame | None = None
        self.decoded = 0
        self.seeks = 0
        self._frames = self._decode()

    def fetch(self, index: int) -> VideoFrame | None:
        """Return a frame that lies behind the one fetched before; None where it is broken."""
        place = int(np.searchsorted(self.index.key_frames, index, side="right")) - 1
        start = int(self.index.key_frames[place]) if place >= 0 else 0
        if start - self.at > SEEK_COST:
            self._seek(start)
            self._advance()
            # A container's table may lead behind the key frame; then an earlier one is taken.
            while self.at > index and start > 0:
                place -= 1
                start = int(self.index.key_frames[place]) if place >= 0 else 0
                self._seek(start)
                self._advance()
        while self.at < index:
            self._advance()
        return self.held if self.at == index else None

    def _seek(self, start: int) -> None:
        tick = int(self.index.ticks[start])
        self.container.seek(tick, stream=self.video, backward=True, any_frame=False)
        self.seeks += 1
        self.at = -1
        self._frames.close()
        self._frames = self._decode()

    def _advance(self) -> None:
        """Hold the next frame that the index knows."""
        for frame in self._frames:
            self.decoded += 1
            if frame.pts is None or frame.is_corrupt:
                continue
            found = int(np.searchsorted(self.index.ticks, frame.pts))
            known = found < len(self.index) and int(self.index.ticks[found]) == frame.pts
            # Frames that repeat the time of another one were counted by the index.
            if known and found > self.at:
                self.at, self.held = found, frame
                return
        self.at, self.held = len(self.index), None

    def _decode(self) -> Generator[VideoFrame, None, None]:
        import av

        packets = self.container.demux(self.video)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError, OSError):
                # Where reading broke off was found by the index.
                return
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError):
                # The frames that this packet should have given are missed by who asks for them.
                continue
            yield from (frame for frame in frames if isinstance(frame, av.VideoFrame))
