"""Frames to an MP4 file that plays everywhere: H.264, 4:2:0, even sides."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

TICKS = 90_000
"""Ticks a second of a written file: the usual clock of video."""


def write_video(
    path: Path | str,
    frames: Iterable[NDArray[np.uint8]],
    rate: float | Fraction,
    *,
    times: Iterable[float | Fraction] | None = None,
    key_frames: int = 30,
    quality: int = 18,
) -> int:
    """Write an MP4 file, frame by frame, in the memory of a few frames.

    The file appears complete or not at all.

    Args:
        path: The file; it is replaced if it exists.
        frames: Each uint8 (H, W, 3) RGB in [0, 255], all of one size, both sides even.
        rate: Frames a second.
        times: Presentation time of each frame in seconds, ascending, for a variable rate; by
            default frame i lies at i / rate.
        key_frames: At most so many frames lie between two key frames.
        quality: Constant rate factor of x264: 0 loses nothing but colour detail, 18 is not told
            from the original by eye, 51 is the worst.

    Returns:
        How many frames were written.

    Raises:
        InputError: There is no frame, one has another size or type, or times do not ascend.
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", "writing video files") from None

    target = Path(path)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    steady = Fraction(rate).limit_denominator(1001)
    moments = None if times is None else iter(times)
    count, last = 0, -1
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=steady)
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, TICKS)
            stream.codec_context.gop_size = key_frames
            # One thread, so that the scheduler has no say in what the file holds.
            stream.codec_context.thread_count = 1
            # Nor have roundings of the processor: with them one file in some hundreds differed.
            exact = {"preset": "veryfast", "x264-params": "cpu-independent=1"}
            stream.codec_context.options = {"crf": f"{quality}", **exact}
            for array in frames:
                _check(array, count, (stream.height, stream.width) if count else None, target)
                if not count:
                    stream.height, stream.width = array.shape[:2]
                tick = round((count / steady if moments is None else next(moments)) * TICKS)
                if tick <= last:
                    raise InputError(
                        f"{target}: frame {count} lies at {tick / TICKS:.5f} s, the one before at "
                        f"{last / TICKS:.5f} s; times ascend from 0 or more"
                    )
                drawn: VideoFrame = av.VideoFrame.from_ndarray(array, format="rgb24")
                frame = drawn.reformat(format="yuv420p", threads=1)
                frame.pts, frame.time_base = tick, Fraction(1, TICKS)
                container.mux(stream.encode(frame))
                count, last = count + 1, tick
            if not count:
                raise InputError(f"{target}: no frame to write; give at least one")
            container.mux(stream.encode(None))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _check(
    array: NDArray[np.uint8], place: int, size: tuple[int, int] | None, target: Path
) -> None:
    sound = array.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] == 3
    if not sound or array.shape[0] % 2 or array.shape[1] % 2 or not array.size:
        raise InputError(
            f"{target}: frame {place} is {array.dtype} {array.shape}; allowed: uint8 (height, "
            "width, 3) with even height and width"
        )
    if size is not None and array.shape[:2] != size:
        raise InputError(
            f"{target}: frame {place} is {array.shape[:2]}, the first one {size} (height, width); "
            "frames of a video have one size"
        )
