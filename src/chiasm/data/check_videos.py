"""What is wrong with the videos that samples name, and with what is said to happen in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chiasm.core.errors import ChiasmError
from chiasm.core.samples import Sample
from chiasm.data.conversation import Fault
from chiasm.data.feature_files import FEATURE_SUFFIXES, load_features
from chiasm.data.video import open_video

SLACK = 0.05
"""Seconds by which a segment may outlast its video: annotators round up."""


@dataclass(frozen=True)
class _Looked:
    """What is known of a video: when it ends, in seconds (None for features), or why not."""

    end: float | None = None
    seconds: float = 0.0
    fault: str = ""


class VideoInspector:
    """Opens each video once: its packets are counted and timed, its first frame is decoded.

    Attributes:
        named: Samples that name a video.
    """

    def __init__(self) -> None:
        self.named = 0
        self._seen: dict[Path, _Looked] = {}

    @property
    def sound(self) -> int:
        """Different videos without fault."""
        return sum(not looked.fault for looked in self._seen.values())

    @property
    def seconds(self) -> float:
        """Length of the different videos together, in seconds."""
        return sum(looked.seconds for looked in self._seen.values())

    def inspect(self, sample: Sample) -> list[Fault]:
        """Return what is wrong with a sample's video and segments."""
        if not isinstance(sample.video, str | Path):
            return []
        self.named += 1
        path = Path(sample.video)
        if path not in self._seen:
            self._seen[path] = _look(path)
        looked = self._seen[path]
        if looked.fault:
            allowed = "a whole video, folder of frames or file of features"
            return [Fault(sample.origin, "video", looked.fault, allowed)]
        if looked.end is None:
            return []
        return [
            Fault(
                sample.origin,
                f"segments[{index}]",
                f"{segment.label!r} from {segment.start:g} to {segment.end:g} s lies outside",
                f"the video ends at {looked.end:g} s; times are seconds",
            )
            for index, segment in enumerate(sample.segments or ())
            if segment.end > looked.end + SLACK
        ]


def _look(path: Path) -> _Looked:
    try:
        if path.suffix.lower() in FEATURE_SUFFIXES:
            load_features(path)
            return _Looked()
        video = open_video(path)
    except ChiasmError as error:
        return _Looked(fault=str(error))
    if path.is_dir():
        # Frames have no times of their own, so nothing can be said of their end.
        return _Looked()
    return _Looked(video.duration, video.duration)
