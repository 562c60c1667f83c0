"""What a model can be shown and asked, and which families can."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from chiasm.core.errors import InputError

SENSES: dict[str, tuple[str, ...]] = {
    "ask": ("dual_encoder", "occlusion", "long_video", "video_language", "grounding"),
    "image": ("dual_encoder", "occlusion", "grounding"),
    "reconstruction": ("occlusion",),
    "video": ("long_video", "video_language"),
    "point": ("grounding",),
    "complete": ("occlusion",),
    "watch": ("long_video",),
    "caption": ("long_video",),
}
"""Sense to the families that have it. `image`, `reconstruction` and `video` are what can be shown;
`ask`, `point`, `complete`, `watch` and `caption` what can be wanted."""


@runtime_checkable
class Sensing(Protocol):
    """A model that declares its senses."""

    @property
    def senses(self) -> frozenset[str]:
        """Keys of `SENSES`."""
        ...


def check_sense(model: Sensing, sense: str) -> None:
    """Check that a model has a sense.

    Raises:
        InputError: It has not; the message names the families that have.
    """
    if sense not in model.senses:
        raise InputError(
            f"this model has no {sense!r}; it has {', '.join(sorted(model.senses)) or 'none'}. "
            f"Train or load a model of the family {' or '.join(SENSES[sense])}"
        )
