"""Frames of a video file by torchcodec, where it is installed: the same frames, other machinery.

Which frames there are, and when, is still told by the file's packets, so that both decoders give
the same frames for the same indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from chiasm.core.errors import MediaError, MissingExtraError
from chiasm.data.video_file import Pixels, scale_frame
from chiasm.data.video_index import Damage, index_video

BATCH = 16
"""Frames decoded in one call."""


class TorchcodecReader:
    """Reads frames of a video file with torchcodec; attributes as of `FileReader`.

    Args:
        path: The file.
        damage: Whether damage is an error, or is counted.
        size: (height, width) to scale frames to, bilinear; None keeps theirs.
        threads: Threads of the decoder; 0 leaves their number to it.

    Raises:
        MissingExtraError: torchcodec is not installed, or finds no FFmpeg.
        MediaError: There is no such file, it is empty, no video, damaged, or to be shown in a
            mirror.
    """

    def __init__(
        self,
        path: Path,
        damage: Damage = "error",
        size: tuple[int, int] | None = None,
        threads: int = 1,
    ) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        # Without FFmpeg on the system its libraries fail to load with a RuntimeError.
        except (ImportError, OSError, RuntimeError):
            raise MissingExtraError("torchcodec", "torchcodec", "decoding by torchcodec") from None
        self.index = index_video(path, damage)
        if self.index.mirrored:
            raise MediaError(
                f"{path}: is to be shown in a mirror, which torchcodec does not do; read it with "
                "decoder='pyav'"
            )
        self.name = str(path)
        self.times = self.index.times
        self.duration = float(self.index.duration)
        self.key_frames = self.index.key_frames
        self.size = size or (self.index.height, self.index.width)
        self.faults = self.index.damage
        self._build = partial(
            VideoDecoder,
            str(path),
            dimension_order="NHWC",
            num_ffmpeg_threads=threads,
            seek_mode="exact",
        )

    def stream(self, indices: Sequence[int]) -> Iterator[tuple[int, Pixels | None]]:
        """Go through frames in the order of time; see `FileReader.stream`.

        Raises:
            MediaError: torchcodec gives another frame than the index tells of.
        """
        # Made here, so that no file is open between calls, and a reader can go to another process.
        decoder = self._build()
        for first in range(0, len(indices), BATCH):
            part = [int(index) for index in indices[first : first + BATCH]]
            found = decoder.get_frames_at(part)
            times = found.pts_seconds.numpy()
            if np.abs(times - self.times[part]).max() > 1e-3:
                raise MediaError(
                    f"{self.name}: torchcodec gives frames at {times.tolist()} s for those at "
                    f"{self.times[part].tolist()} s; read it with decoder='pyav'"
                )
            for index, pixels in zip(part, found.data.numpy(), strict=True):
                yield index, scale_frame(pixels, self.size)
