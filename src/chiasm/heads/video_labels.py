"""One label for a whole video, out of a closed set: little that could be learned by heart."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError


class VideoLabelHeadConfig(Config):
    """The head.

    Attributes:
        stretches: Equal parts of a video whose means are looked at in order; 1 knows no order.
        dropout: Share of the means' numbers that training takes away.
    """

    stretches: int = Field(default=3, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)

    def build(self, *, width: int, labels: int) -> VideoLabelHead:
        """Build the head for states of a width and a number of labels."""
        return VideoLabelHead(
            width=width, labels=labels, stretches=self.stretches, dropout=self.dropout
        )


class VideoLabelHead(nn.Module):
    """A linear map of what the frames before reading, and the states after it, are on average.

    Both maps start at zero. The one of the frames alone is logistic regression on features; what
    the reader adds is learned on top of it, so that few videos suffice.

    Args:
        width: Width of tokens and states.
        labels: How many labels there are.
        stretches: As in the configuration.
        dropout: As in the configuration.
    """

    def __init__(self, *, width: int, labels: int, stretches: int, dropout: float) -> None:
        super().__init__()
        self.stretches = stretches
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.frames = nn.Linear(stretches * width, labels)
        self.states = nn.Linear(stretches * width, labels, bias=False)
        for weight in (self.frames.weight, self.frames.bias, self.states.weight):
            nn.init.zeros_(weight)

    def predict(self, tokens: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Score the labels of videos.

        Args:
            tokens: float (B, T, width), one a frame, before reading.
            states: float (B, T, width), after it.
            mask: bool (B, T), True for a real frame; padding stands at the end.

        Returns:
            float (B, labels).

        Raises:
            InputError: A video has fewer frames than there are stretches.
        """
        share = stretch_shares(mask, self.stretches).to(states.dtype)
        before = torch.einsum("bst,btd->bsd", share, tokens).flatten(1)
        after = torch.einsum("bst,btd->bsd", share, self.dropout(self.norm(states))).flatten(1)
        scores: Tensor = self.frames(before) + self.states(after)
        return scores


def stretch_shares(mask: Tensor, stretches: int) -> Tensor:
    """Return what part of each stretch's mean each frame is.

    Args:
        mask: bool (B, T), True for a real frame.
        stretches: How many; frame i of n lies in stretch floor(i stretches / n).

    Returns:
        float32 (B, stretches, T); each row sums to 1, and padding has no part.

    Raises:
        InputError: A video has fewer frames than there are stretches.
    """
    counts = mask.sum(1)
    if int(counts.min()) < stretches:
        raise InputError(
            f"a video of {int(counts.min())} frames has no {stretches} stretches; give longer "
            "videos, or build the head with fewer"
        )
    places = torch.arange(mask.shape[1], device=mask.device)
    stretch = places * stretches // counts[:, None]
    held = (stretch[:, None] == torch.arange(stretches, device=mask.device)[:, None]) & mask[
        :, None
    ]
    return held / held.sum(-1, keepdim=True)
