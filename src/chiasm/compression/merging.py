"""Merging by a budget: guided by importance, or by similarity alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from chiasm.compression.budget import Budget, BudgetConfig, apportion
from chiasm.compression.importance import Importance, ImportanceConfig
from chiasm.compression.merge import merge_tokens
from chiasm.compression.schedule import Schedule, ScheduleConfig, Setting
from chiasm.compression.spans import join_spans, split_spans
from chiasm.core.config import Config
from chiasm.core.errors import CompressionError
from chiasm.core.tokens import VisualTokens


class GuidedMergingConfig(Config):
    """Merging that spares what moves and what stands out.

    Attributes:
        importance: How importance is measured.
        budget: How many tokens each clip keeps.
        schedule: A curriculum: its ratios and weights take the place of the configured ones.
        penalty: Price of one unit of importance, in cosine similarity.
        weigh: What a token weighs in a mean: its size, or its size times its importance.
        step: Largest part of a row's tokens merged in one round.
        span: Frames that are merged with each other, None for all of a clip.
    """

    importance: ImportanceConfig = ImportanceConfig()
    budget: BudgetConfig = BudgetConfig()
    schedule: ScheduleConfig | None = None
    penalty: float = Field(default=1.0, ge=0)
    weigh: Literal["size", "importance"] = "size"
    step: float = Field(default=0.25, gt=0, le=0.5)
    span: int | None = Field(default=None, ge=1)

    def build(self) -> Merging:
        """Build the compression.

        Raises:
            MissingExtraError: The motion signal needs OpenCV, and it is not installed.
            CheckpointError: The motion signal needs weights that are not there.
        """
        return Merging(
            importance=self.importance.build(),
            budget=self.budget.build(),
            schedule=None if self.schedule is None else self.schedule.build(),
            penalty=self.penalty,
            weigh=self.weigh,
            step=self.step,
            span=self.span,
        )


class SimilarityMergingConfig(Config):
    """Merging of what is alike, whatever it shows: what importance is compared with.

    Attributes:
        ratio: Part of the tokens of each clip that is kept, in (0, 1].
        schedule: A curriculum; its ratios take the place of `ratio`, its weights are not read.
        step: Largest part of a row's tokens merged in one round.
        span: Frames that are merged with each other, None for all of a clip.
    """

    ratio: float = Field(default=0.5, gt=0, le=1)
    schedule: ScheduleConfig | None = None
    step: float = Field(default=0.25, gt=0, le=0.5)
    span: int | None = Field(default=None, ge=1)

    def build(self) -> Merging:
        """Build the compression, which reads tokens only."""
        return Merging(
            importance=None,
            budget=BudgetConfig(ratio=self.ratio).build(),
            schedule=None if self.schedule is None else self.schedule.build(),
            step=self.step,
            span=self.span,
        )


class Merging:
    """Merges the tokens of each row, or of each span of it, to a budget.

    Args:
        importance: What measures importance; None merges by similarity alone and reads neither
            frames nor importance.
        budget: How many tokens each clip keeps.
        schedule: A curriculum, or None.
        penalty: As in the configuration.
        weigh: As in the configuration.
        step: As in the configuration.
        span: As in the configuration.
    """

    def __init__(
        self,
        *,
        importance: Importance | None,
        budget: Budget,
        schedule: Schedule | None = None,
        penalty: float = 1.0,
        weigh: Literal["size", "importance"] = "size",
        step: float = 0.25,
        span: int | None = None,
    ) -> None:
        self.importance = importance
        self.budget = budget
        self.schedule = schedule
        self.penalty = penalty
        self.weigh = weigh
        self.step = step
        self.span = span

    def compress(
        self,
        tokens: VisualTokens,
        frames: Sequence[Tensor] | None = None,
        *,
        importance: Tensor | None = None,
        attention: Sequence[Tensor] | None = None,
        progress: float = 1.0,
    ) -> VisualTokens:
        """Merge; see `Compression`."""
        setting = None if self.schedule is None else self.schedule.at(progress)
        if self.importance is None:
            importance = None
        elif importance is None:
            weights = None if setting is None else (setting.motion, setting.saliency)
            importance = self.importance.of_tokens(tokens, frames, attention, weights)
        keep = self._keep(tokens, importance, setting)
        if self.span is None:
            return self._merge(tokens, keep, importance)
        return self._merge_spans(tokens, keep, importance, self.span)

    def _keep(
        self, tokens: VisualTokens, importance: Tensor | None, setting: Setting | None
    ) -> list[int]:
        counts = tokens.mask.sum(1)
        content = None
        if importance is not None and importance.shape == tokens.mask.shape:
            content = (_real(importance, tokens).sum(1) / counts).tolist()
        ratio = None if setting is None else setting.ratio
        return self.budget.allot(counts.tolist(), content, ratio)

    def _merge(
        self, tokens: VisualTokens, keep: Sequence[int], importance: Tensor | None
    ) -> VisualTokens:
        return merge_tokens(
            tokens,
            keep,
            importance,
            penalty=self.penalty,
            weigh=self.weigh if importance is not None else "size",
            step=self.step,
        )

    def _merge_spans(
        self, tokens: VisualTokens, keep: Sequence[int], importance: Tensor | None, span: int
    ) -> VisualTokens:
        """Divide the tokens of each clip over its spans, more where more is important."""
        cutting, spans = split_spans(tokens, span)
        counts = cutting.mask.sum(1)
        weights = counts.float()
        worth = None
        if importance is not None:
            # Importance travels as features do.
            worth = split_spans(tokens.with_features(importance[..., None]), span)[0].features[
                ..., 0
            ]
            weights = _real(worth, cutting).sum(1)
        kept: list[int] = []
        for row, (wanted, sizes, heavy) in enumerate(
            zip(keep, counts.split(spans), weights.split(spans), strict=True)
        ):
            most = sizes.tolist()
            if wanted < len(most):
                raise CompressionError(
                    f"row {row} is to keep {wanted} tokens in {len(most)} spans of {span} "
                    "frame(s), and each keeps at least 1; keep more, or take longer spans"
                )
            # A quarter of what an even division gives stays with each span, however still it is.
            least = [max(1, int(wanted / sum(most) * size / 4)) for size in most]
            kept += apportion(wanted, heavy.tolist(), least, most)
        return join_spans(self._merge(cutting, kept, worth), spans)


def _real(importance: Tensor, tokens: VisualTokens) -> Tensor:
    return torch.where(tokens.mask, importance, 0)
