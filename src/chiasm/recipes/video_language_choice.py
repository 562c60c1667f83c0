"""The part of a recipe that says how a video reaches the host."""

from __future__ import annotations

from pydantic import Field

from chiasm.core.config import Config
from chiasm.language.video_projector import VideoProjectorConfig


class VideoLanguageChoice(Config):
    """What the family `video_language` adds to a host and to what watches videos."""

    path: str | None = None
    """A run of the family `long_video` (`tiny-video`, a directory) that watches; its heads are left
    out. Without it the recipe's `video` says what watches, from random weights."""
    budget: int = Field(default=64, ge=1)
    """Most states of a video that the host reads, one token each, however long the video is."""
    projector: VideoProjectorConfig = VideoProjectorConfig()
    """What brings states to the width of the host, with their times."""
