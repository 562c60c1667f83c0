"""What every token is worth keeping for itself: movement and saliency of its cells, in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    SkipValidation,
    field_serializer,
    field_validator,
)
from torch import Tensor

from chiasm.compression.merge import unmerge_tokens
from chiasm.compression.motion import MOTIONS, DifferenceConfig, Motion, MotionConfig
from chiasm.compression.saliency import Saliency, SaliencyConfig
from chiasm.compression.views import ClipView
from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.tokens import VisualTokens


class ImportanceConfig(Config):
    """Movement and saliency, combined.

    Attributes:
        motion: The motion signal, in a file with its `kind` (a name of `MOTIONS`).
        saliency: The sources of saliency. By default those that a picture alone has: no attention.
        motion_weight: Weight of movement in the mean of both.
        saliency_weight: Weight of saliency.
    """

    motion: SkipValidation[MotionConfig] = DifferenceConfig()
    saliency: SaliencyConfig = SaliencyConfig(attention=0.0)
    motion_weight: float = Field(default=0.5, ge=0)
    saliency_weight: float = Field(default=0.5, ge=0)

    @field_validator("motion", mode="before")
    @classmethod
    def _read_motion(cls, value: Any) -> Any:
        known = ", ".join(MOTIONS)
        if isinstance(value, tuple(MOTIONS.values())):
            return value
        if not isinstance(value, dict) or "kind" not in value:
            raise ValueError(
                f"{value!r} is no motion signal; write {{kind: ...}} with one of: {known}"
            )
        values = dict(value)
        kind = values.pop("kind")
        if kind not in MOTIONS:
            raise ValueError(f"unknown motion signal {kind!r}; known: {known}")
        return MOTIONS[kind].model_validate(values)

    @field_serializer("motion", mode="wrap")
    def _write_motion(self, value: MotionConfig, write: SerializerFunctionWrapHandler) -> Any:
        kind = next(name for name, config in MOTIONS.items() if config is type(value))
        return {"kind": kind, **value.model_dump(exclude_defaults=True)}

    def build(self) -> Importance:
        """Build the measure.

        Raises:
            MissingExtraError: The motion signal needs OpenCV, and it is not installed.
            CheckpointError: The motion signal needs weights that are not there.
        """
        return Importance(
            motion=self.motion.build(),
            saliency=self.saliency.build(),
            weights=(self.motion_weight, self.saliency_weight),
        )


class Importance:
    """The weighted mean of movement and saliency.

    Args:
        motion: Movement.
        saliency: Saliency.
        weights: Of movement and of saliency, not both 0. Their sum does not matter; what has
            weight 0 is not measured.
    """

    def __init__(
        self, *, motion: Motion, saliency: Saliency, weights: tuple[float, float] = (0.5, 0.5)
    ) -> None:
        self.motion = motion
        self.saliency = saliency
        self.weights = weights

    def of_clip(self, view: ClipView, weights: tuple[float, float] | None = None) -> Tensor:
        """Measure one clip.

        Args:
            view: The clip.
            weights: Instead of those given at the start, as a curriculum does.

        Returns:
            float32 (T, rows, columns) in [0, 1].

        Raises:
            InputError: The view lacks what a signal reads, or the weights are negative or all 0.
        """
        motion, saliency = weights or self.weights
        if min(motion, saliency) < 0 or motion + saliency == 0:
            raise InputError(
                f"weights {motion} of movement and {saliency} of saliency; give 0 or more, and at "
                "least one above 0"
            )
        if not saliency:
            return self.motion.importance(view)
        if not motion:
            return self.saliency.importance(view)
        both = motion * self.motion.importance(view) + saliency * self.saliency.importance(view)
        return both / (motion + saliency)

    def of_tokens(
        self,
        tokens: VisualTokens,
        frames: Sequence[Tensor] | None = None,
        attention: Sequence[Tensor] | None = None,
        weights: tuple[float, float] | None = None,
    ) -> Tensor:
        """Measure all tokens of a batch.

        Args:
            tokens: The tokens; they may be merged already.
            frames: For each row uint8 (T, height, width, 3) in [0, 255], RGB.
            attention: For each row float (T, ..., cells), attention rows over its cells.
            weights: As in `of_clip`.

        Returns:
            float32 (B, N) in [0, 1]; a merged token has the largest value of its cells. 0 on
            padding.

        Raises:
            InputError: As `of_clip`, or rows, frames and cells do not agree.
        """
        with torch.no_grad():
            views = clip_views(tokens, frames, attention)
            found = [self.of_clip(view, weights).flatten() for view in views]
        values = torch.zeros(tokens.sources.shape, device=tokens.features.device)
        for row, (real, value) in enumerate(zip(tokens.sources >= 0, found, strict=True)):
            values[row, real] = value.to(values)
        held = torch.where(tokens.sources < 0, tokens.mask.shape[1], tokens.sources)
        spread = values.new_zeros((len(values), tokens.mask.shape[1] + 1))
        return spread.scatter_reduce(1, held, values, "amax")[:, :-1]


def clip_views(
    tokens: VisualTokens,
    frames: Sequence[Tensor] | None = None,
    attention: Sequence[Tensor] | None = None,
) -> list[ClipView]:
    """Gather what is known of each row of a batch.

    Raises:
        InputError: There are not as many frames or attention rows as rows, or the original tokens
            of a row are no whole number of frames, or not as many as given.
    """
    rows = len(tokens.geometries)
    for name, given in (("frames", frames), ("attention", attention)):
        if given is not None and len(given) != rows:
            raise InputError(f"{name} of {len(given)} clips for {rows} rows; give one a row")
    features = unmerge_tokens(tokens).detach()
    views = []
    for row, geometry in enumerate(tokens.geometries):
        real = tokens.sources[row] >= 0
        count = int(real.sum())
        if count == 0 or count % geometry.count:
            raise InputError(
                f"row {row} has {count} original tokens, no whole number of frames of "
                f"{geometry.rows} x {geometry.columns} cells; give one token a cell of each frame"
            )
        view = ClipView(
            geometry=geometry,
            frames=None if frames is None else frames[row],
            features=features[row][real].unflatten(0, (-1, geometry.count)),
            attention=None if attention is None else attention[row],
        )
        views.append(view)
    return views
