"""States of a video in the width that a host reads, told when each of them was seen."""

from __future__ import annotations

import math
from typing import cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.tokens import VisualTokens
from chiasm.layers.mlp import MLP


class VideoProjectorConfig(Config):
    """The projector.

    Attributes:
        expansion: Width of the inner layer, in widths of what comes out.
        periods: Of the sines of time, in seconds. None should be longer than the videos learned
            from: a phase that was never seen means nothing.
    """

    expansion: int = Field(default=2, ge=1)
    periods: tuple[float, ...] = Field(default=(1.0, 2.0, 4.0, 8.0, 16.0), min_length=1)

    @field_validator("periods")
    @classmethod
    def _lasts(cls, periods: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < period < math.inf for period in periods):
            raise ValueError("a period is a number of seconds above 0")
        return periods

    def build(self, *, width: int, output: int) -> VideoProjector:
        """Build the projector of states of a width to tokens of another."""
        return VideoProjector(
            width=width, output=output, expansion=self.expansion, periods=self.periods
        )


class VideoProjector(nn.Module):
    """MLP(norm(state) + W [sin, cos](2 pi time / period)).

    Two layers, as LLaVA-1.5 brings patches to its language model (Liu et al., 2023,
    arXiv:2310.03744, section 3.2); time is added before them, so that it reaches hosts whose
    positions only count tokens.

    Args:
        width: Width of a state.
        output: Width of a token.
        expansion: As in the configuration.
        periods: As in the configuration.
    """

    def __init__(
        self, *, width: int, output: int, expansion: int, periods: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.periods = periods
        self.norm = nn.LayerNorm(width)
        self.time = nn.Linear(2 * len(periods), width, bias=False)
        self.mlp = MLP(width=width, hidden=expansion * output, output=output)

    def forward(self, states: VisualTokens) -> Tensor:
        """Return the states as tokens, float (B, N, output); what padding holds means nothing."""
        periods = torch.tensor(self.periods, device=states.times.device)
        angles = 2 * math.pi * states.times[..., None] / periods
        when = torch.cat([angles.sin(), angles.cos()], -1).to(states.features.dtype)
        return cast("Tensor", self.mlp(self.norm(states.features) + self.time(when)))
