"""Dropping at even steps: the baseline that any merging has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from chiasm.compression.budget import part_of
from chiasm.compression.merge import check_keep
from chiasm.compression.schedule import Schedule, ScheduleConfig
from chiasm.core.config import Config
from chiasm.core.tokens import VisualTokens


class UniformDroppingConfig(Config):
    """Dropping at even steps.

    Attributes:
        ratio: Part of the tokens of each clip that is kept, in (0, 1].
        schedule: A curriculum; its ratios take the place of `ratio`, its weights are not read.
    """

    ratio: float = Field(default=0.5, gt=0, le=1)
    schedule: ScheduleConfig | None = None

    def build(self) -> UniformDropping:
        """Build the compression, which reads tokens only."""
        return UniformDropping(
            ratio=self.ratio,
            schedule=None if self.schedule is None else self.schedule.build(),
        )


class UniformDropping:
    """Keeps tokens at even steps of each row and drops the features of all others.

    Args:
        ratio: As in the configuration.
        schedule: A curriculum, or None.
    """

    def __init__(self, *, ratio: float, schedule: Schedule | None = None) -> None:
        self.ratio = ratio
        self.schedule = schedule

    def compress(
        self,
        tokens: VisualTokens,
        frames: Sequence[Tensor] | None = None,
        *,
        importance: Tensor | None = None,
        attention: Sequence[Tensor] | None = None,
        progress: float = 1.0,
    ) -> VisualTokens:
        """Drop; see `Compression`. Neither frames nor importance are read."""
        ratio = self.ratio if self.schedule is None else self.schedule.at(progress).ratio
        return drop_tokens(tokens, [part_of(count, ratio) for count in tokens.mask.sum(1).tolist()])


def drop_tokens(tokens: VisualTokens, keep: int | Sequence[int]) -> VisualTokens:
    """Keep tokens in the middle of even steps along each row, bit for bit.

    A dropped token counts for the nearest kept one, the earlier of two: in sizes, which so sum to
    the original tokens as after merging, and in sources. Cells and times are those of the kept
    token alone, for that is what its features show.

    Args:
        tokens: The tokens; they may be merged already.
        keep: How many tokens each row keeps: one number for all, or one a row.

    Raises:
        CompressionError: A row has fewer tokens than asked for, or fewer than 1 are asked for.
        InputError: There are not as many numbers as rows.
    """
    wanted = torch.tensor(check_keep(keep, tokens.mask), device=tokens.mask.device)[:, None]
    counts = tokens.mask.sum(1, keepdim=True)
    steps = torch.arange(int(wanted.max()), device=wanted.device).expand(len(wanted), -1)
    mask = steps < wanted
    # The middle of each of `wanted` equal parts of the row.
    kept = ((2 * steps + 1) * counts).div(2 * wanted, rounding_mode="floor")
    kept = torch.where(mask, kept, 0)
    places = torch.arange(tokens.mask.shape[1], device=wanted.device)
    # A token belongs to the next kept one once it has passed the middle between both.
    halfway = (kept[:, :-1] + kept[:, 1:]).div(2, rounding_mode="floor")
    halfway = torch.where(mask[:, 1:], halfway, len(places))
    holder = torch.searchsorted(halfway, places.expand(len(kept), -1).contiguous())
    holder = torch.where(tokens.mask, holder, 0)
    return VisualTokens(
        features=_take(tokens.features, kept, mask),
        cells=_take(tokens.cells, kept, mask),
        sizes=torch.zeros_like(kept).scatter_add(1, holder, tokens.sizes),
        sources=torch.where(tokens.sources < 0, -1, holder.gather(1, tokens.sources.clamp(min=0))),
        mask=mask,
        times=_take(tokens.times[..., None], kept, mask)[..., 0],
        geometries=tokens.geometries,
    )


def _take(values: Tensor, places: Tensor, mask: Tensor) -> Tensor:
    """Return (B, K, width): the rows at int64 (B, K) `places`, zero where `mask` is False."""
    taken = values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))
    return torch.where(mask[..., None], taken, 0)
