"""Videos whose frames somebody has encoded already, as tokens: one a frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens

_WHOLE = ImageGeometry.from_resize((1, 1), (1, 1), (1, 1))
"""A frame of one cell: nobody knows where in it something was."""


class VideoFeaturesConfig(Config):
    """A projection of features.

    Attributes:
        features: Width of what is given.
        width: Width of a token.
        dropout: Share of the features that training takes away from a video, the same in all of
            its frames: what one feature tells, its neighbours in time tell, too.
    """

    features: int = Field(ge=1)
    width: int = Field(default=96, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self) -> VideoFeatures:
        """Build the projection with random weights."""
        return VideoFeatures(features=self.features, width=self.width, dropout=self.dropout)


class VideoFeatures(nn.Module):
    """One token a frame out of its features.

    Args:
        features: Width of what is given.
        width: Width of a token.
        dropout: As in the configuration.
    """

    def __init__(self, *, features: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = features
        self.width = width
        self.norm = nn.LayerNorm(features)
        self.dropout = nn.Dropout1d(dropout)
        self.project = nn.Linear(features, width)

    def encode(self, features: Sequence[Tensor], times: Sequence[Tensor]) -> VisualTokens:
        """Project videos, one a row.

        Args:
            features: For each float (T, features).
            times: For each float32 (T,), seconds.

        Raises:
            InputError: Features have another width.
        """
        wrong = [tuple(one.shape) for one in features if one.shape[-1] != self.features]
        if wrong:
            raise InputError(
                f"features of shape {wrong[0]}; this model was built for (frames, {self.features})"
            )
        rows = [_WHOLE] * len(features)
        counts = torch.tensor([len(one) for one in features], device=features[0].device)
        padded = nn.utils.rnn.pad_sequence(list(features), batch_first=True)
        places = torch.arange(padded.shape[1], device=padded.device).expand(len(rows), -1)
        mask = places < counts[:, None]
        box = padded.new_tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float32)
        seen = self.norm(padded.to(self.project.weight.dtype))
        tokens = self.project(self.dropout(seen.transpose(1, 2)).transpose(1, 2))
        return VisualTokens(
            features=tokens.masked_fill(~mask[..., None], 0.0),
            cells=mask[..., None] * box,
            sizes=mask.long(),
            sources=torch.where(mask, places, -1),
            mask=mask,
            times=nn.utils.rnn.pad_sequence(list(times), batch_first=True),
            geometries=tuple(rows),
        )
