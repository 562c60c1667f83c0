"""Temporal action detection without anchors: a pyramid over states, and what each point says.

In the manner of ActionFormer (Zhang et al., 2022, arXiv:2202.07925, section 3): states are halved
in number from level to level, and heads shared by all levels say at each point which actions
happen there, and how far away their start and end are. Long actions are told by coarse levels,
short ones by fine levels. Each point also says how near the middle of its action it is (FCOS, Tian
et al., 2019, arXiv:1904.01355, section 3.4), since points near the borders guess worse.

Everything that leaves the head is in seconds, so that losses and decoding need not know how frames
were sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.layers.mlp import MLP

_KERNEL = 3


class ActionHeadConfig(Config):
    """A pyramid and its heads.

    Attributes:
        borders: Where one level ends and the next one begins, ascending, in states: a point of
            level l answers for segments whose farther end is at least `borders[l - 1]` and less
            than `borders[l]` states away. There is one level more than borders; the first begins
            at 0 and the last has no end.
        hidden: Width inside the head.
        depth: Convolutions before each answer.
        prior: Probability that each class is given at the start, in (0, 1). Almost all points show
            no action; a start at one half would drown the rest (Lin et al., 2017,
            arXiv:1708.02002, section 3.3).
    """

    borders: tuple[float, ...] = (4.0, 8.0, 16.0, 32.0, 64.0)
    hidden: int = Field(default=256, ge=1)
    depth: int = Field(default=2, ge=0)
    prior: float = Field(default=0.01, gt=0, lt=1)

    @field_validator("borders")
    @classmethod
    def _ascend(cls, borders: tuple[float, ...]) -> tuple[float, ...]:
        edges = (0.0, *borders)
        if not all(math.isfinite(e) for e in edges) or any(b <= a for a, b in pairwise(edges)):
            raise ValueError("borders are finite, above 0, and ascend; none gives one level")
        return borders

    def build(self, *, width: int, classes: int) -> ActionHead:
        """Build the head for states of a width and a number of actions."""
        return ActionHead(
            width=width,
            classes=classes,
            borders=self.borders,
            hidden=self.hidden,
            depth=self.depth,
            prior=self.prior,
        )


class ActionHead(nn.Module):
    """Says at each point of a pyramid what happens, and when it starts and ends.

    Padding is zeroed before each convolution, so a row's answers do not depend on its neighbours.

    Args:
        width: Width D of the states.
        classes: Number of actions; a point may show several.
        borders: As in the configuration.
        hidden: As in the configuration.
        depth: As in the configuration.
        prior: As in the configuration.

    Raises:
        InputError: There is no class.
    """

    def __init__(
        self,
        *,
        width: int,
        classes: int,
        borders: Sequence[float],
        hidden: int,
        depth: int,
        prior: float,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise InputError(f"an action head of {classes} classes; name at least one action")
        self.edges = (0.0, *borders, math.inf)
        levels = len(self.edges) - 1
        self.project = nn.Linear(width, hidden)
        self.pyramid = nn.ModuleList(
            _Level(width=hidden, stride=1 if level == 0 else 2) for level in range(levels)
        )
        self.class_tower = _Tower(width=hidden, depth=depth)
        self.place_tower = _Tower(width=hidden, depth=depth)
        self.classes = _MaskedConvolution(hidden, classes, start=math.log(prior / (1 - prior)))
        self.centres = _MaskedConvolution(hidden, 1)
        self.offsets = _MaskedConvolution(hidden, 2)
        self.scales = nn.Parameter(torch.ones(levels))

    def predict(self, states: Tensor, mask: Tensor, times: Tensor) -> dict[str, Tensor]:
        """Say what happens at each of the P points of all levels, finest level first.

        Point i of level l stands where state i 2^l stands, and strides are 2^l mean distances
        between the states of a row.

        Args:
            states: float (B, T, D), one a frame.
            mask: bool (B, T), True for a real state; padding stands at the end.
            times: float (B, T), seconds, ascending: where each state stands.

        Returns:
            By name:

            - `actions.classes`: float (B, P, classes), logits.
            - `actions.centres`: float (B, P), logits of the centre-ness.
            - `actions.offsets`: float (B, P, 2), seconds back to the start and on to the end,
              both positive.
            - `actions.points`: float (B, P, 4), of each point its time, its level's stride, and
              from where to where the farther end of a segment lies that it answers for: seconds.
            - `actions.mask`: bool (B, P), True for a real point.

        Raises:
            InputError: Shapes do not fit, or a row has fewer than two states.
        """
        steps = _steps(states, mask, times)
        x = self.project(states.to(self.project.weight.dtype))
        found: dict[str, list[Tensor]] = {name: [] for name in _NAMES}
        for level, block in enumerate(self.pyramid):
            x, mask = block(x, mask)
            times = times[:, :: block.stride]
            said, placed = self.class_tower(x, mask), self.place_tower(x, mask)
            low, high, stride = (
                (steps[:, None] * factor).expand(mask.shape)
                for factor in (self.edges[level], self.edges[level + 1], 2.0**level)
            )
            away = nn.functional.softplus(self.offsets(placed, mask).float() * self.scales[level])
            found["classes"].append(self.classes(said, mask).float())
            found["centres"].append(self.centres(placed, mask).float()[..., 0])
            found["offsets"].append(away * stride[..., None])
            found["points"].append(torch.stack([times.float(), stride, low, high], -1))
            found["mask"].append(mask)
        return {f"actions.{name}": torch.cat(parts, 1) for name, parts in found.items()}


_NAMES = ("classes", "centres", "offsets", "points", "mask")


class _MaskedConvolution(nn.Module):
    """A convolution over the states of a row (B, T, C) that reads zeros at padding."""

    def __init__(
        self, width: int, output: int, stride: int = 1, *, start: float | None = None
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, output, _KERNEL, stride, padding=_KERNEL // 2)
        if start is not None and self.convolution.bias is not None:
            nn.init.constant_(self.convolution.bias, start)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map float (B, T, width) to (B, ceil(T / stride), output)."""
        kept = x.masked_fill(~mask[..., None], 0.0)
        return self.convolution(kept.transpose(1, 2)).transpose(1, 2)


class _Level(nn.Module):
    """One step up the pyramid: a strided convolution beside a strided maximum, then an MLP."""

    def __init__(self, *, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm = nn.LayerNorm(width)
        self.mix = _MaskedConvolution(width, width, stride)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width=width, hidden=2 * width, output=width)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map float (B, T, width) and its mask to (B, ceil(T / stride), width) and its mask."""
        kept = mask[:, :: self.stride]
        mixed = self.mix(self.norm(x), mask)
        if self.stride > 1:
            shown = x.masked_fill(~mask[..., None], -torch.inf).transpose(1, 2)
            x = nn.functional.max_pool1d(shown, _KERNEL, self.stride, _KERNEL // 2).transpose(1, 2)
            x = x.masked_fill(~kept[..., None], 0.0)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), kept


class _Tower(nn.Module):
    """Convolutions before an answer, shared by all levels."""

    def __init__(self, *, width: int, depth: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(_MaskedConvolution(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map float (B, T, width) to the same."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nn.functional.gelu(norm(convolution(x, mask)))
        return x


def _steps(states: Tensor, mask: Tensor, times: Tensor) -> Tensor:
    """Return the mean distance between neighbouring states of each row, float32 (B,), seconds."""
    shape = tuple(states.shape[:2])
    if states.dim() != 3 or mask.shape != shape or times.shape != shape:
        raise InputError(
            f"action head: states {tuple(states.shape)}, mask {tuple(mask.shape)}, times "
            f"{tuple(times.shape)}; give (batch, frames, width) and (batch, frames) twice"
        )
    counts = mask.sum(1)
    if int(counts.min()) < 2:
        row = int(counts.argmin())
        raise InputError(
            f"action head: row {row} has {int(counts[row])} state(s); two or more are needed to "
            "tell how far apart they are in time"
        )
    last = times.gather(1, counts[:, None] - 1)[:, 0]
    return ((last - times[:, 0]) / (counts - 1)).float()
