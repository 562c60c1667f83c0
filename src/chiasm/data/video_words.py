"""What is said of a video in words, so that a language model can learn what heads learn."""

from __future__ import annotations

from collections.abc import Sequence

from chiasm.core.samples import Segment

VIDEO_REQUEST = "Describe this video."
"""What a caption of a video is taken to answer."""

ACTIONS_REQUEST = "What happens in this video, and when?"
"""What the segments of a video are taken to answer."""

NOT_CLOSED = (ACTIONS_REQUEST, VIDEO_REQUEST)
"""Requests whose answer is in no closed set: segments tell the one, a caption the other."""

NOTHING = "nothing"


def say_segments(segments: Sequence[Segment]) -> str:
    """Return segments as text, by start: "1.5 - 5.2 s: walking; 7 - 9.25 s: jumping"."""
    ordered = sorted(segments, key=lambda segment: (segment.start, segment.end, segment.label))
    said = [f"{_number(s.start)} - {_number(s.end)} s: {s.label}" for s in ordered]
    return "; ".join(said) or NOTHING


def _number(seconds: float) -> str:
    return f"{seconds:.2f}".rstrip("0").rstrip(".")
