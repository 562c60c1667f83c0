"""How much one request may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1024**2


@dataclass(frozen=True)
class Limits:
    """Bounds of a request; what goes beyond is refused, never cut.

    Attributes:
        body_bytes: Size of the request.
        images: Images in a conversation.
        image_bytes: Size of one image file.
        image_pixels: Width times height of one image.
        video_bytes: Size of one video file; a request has one.
        video_frames: Frames of one video.
        video_pixels: Width times height of its frames.
        new_tokens: Longest answer in tokens.
        default_new_tokens: Longest answer where the request does not say.
        waiting: Requests that wait while one is answered.
    """

    body_bytes: int = 48 * MEBIBYTE
    images: int = 8
    image_bytes: int = 16 * MEBIBYTE
    image_pixels: int = 40_000_000
    video_bytes: int = 32 * MEBIBYTE
    video_frames: int = 20_000
    video_pixels: int = 4_000_000
    new_tokens: int = 2048
    default_new_tokens: int = 256
    waiting: int = 16
