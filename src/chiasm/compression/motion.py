"""How much every cell of every frame moves.

A frame is compared with the one after it, the last with the one before it. Magnitudes keep their
unit (pixels, grey levels, cosine distance) over the whole clip; a vector is never brought to length
1. Only importance is scaled, by a robust maximum of the clip.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from chiasm.compression.flow import DIS, RAFT, Preset, load_raft
from chiasm.compression.views import ClipView, to_cells, to_unit
from chiasm.core.config import Config
from chiasm.core.errors import InputError


class MotionSignal(Protocol):
    """Measures movement."""

    def magnitude(self, view: ClipView) -> Tensor:
        """Return float32 (T, rows, columns), not negative, in the signal's own unit.

        Raises:
            InputError: The view lacks what the signal reads.
        """
        ...


class Motion:
    """Movement as importance.

    Args:
        signal: What measures it.
        percentile: The percentile of a clip's magnitudes that becomes 1, with all above it.
        floor: The smallest magnitude that can become 1, in the signal's unit.
    """

    def __init__(self, signal: MotionSignal, *, percentile: float, floor: float) -> None:
        self.signal = signal
        self.percentile = percentile
        self.floor = floor

    def magnitude(self, view: ClipView) -> Tensor:
        """Return float32 (T, rows, columns), not negative, in the signal's own unit."""
        return self.signal.magnitude(view)

    def importance(self, view: ClipView) -> Tensor:
        """Return float32 (T, rows, columns) in [0, 1]; zero for a still clip or a single frame."""
        return to_unit(self.magnitude(view), self.percentile, self.floor)


class _RobustConfig(Config):
    """How magnitudes become importance; see `Motion`."""

    percentile: float = Field(default=95.0, gt=0, le=100)
    floor: float = Field(default=1.0, gt=0)

    def _motion(self, signal: MotionSignal) -> Motion:
        return Motion(signal, percentile=self.percentile, floor=self.floor)


class DifferenceConfig(_RobustConfig):
    """Difference of frames: cheap, and enough to tell still from moving.

    Attributes:
        percentile: See `Motion`.
        floor: In grey levels; the noise of a good codec stays below it.
    """

    floor: float = Field(default=8.0, gt=0)

    def build(self) -> Motion:
        """Build the signal."""
        return self._motion(Difference())


class DISConfig(_RobustConfig):
    """Dense inverse search optical flow of OpenCV.

    Attributes:
        percentile: See `Motion`.
        floor: In pixels.
        preset: Speed against accuracy.
    """

    preset: Preset = "fast"

    def build(self) -> Motion:
        """Build the signal.

        Raises:
            MissingExtraError: OpenCV is not installed.
        """
        return self._motion(DIS(preset=self.preset))


class RAFTConfig(_RobustConfig):
    """RAFT optical flow of torchvision.

    Attributes:
        percentile: See `Motion`.
        floor: In pixels.
        path: Local file with the weights: safetensors, or torchvision's own .pth.
        size: Which of torchvision's models.
        updates: Refinements of the flow.
    """

    path: str
    size: Literal["small", "large"] = "small"
    updates: int = Field(default=6, ge=1)

    def build(self) -> Motion:
        """Load the model.

        Raises:
            CheckpointError: There is no such file, or it does not hold the weights.
        """
        return self._motion(RAFT(model=load_raft(Path(self.path), self.size), updates=self.updates))


class FeatureChangeConfig(_RobustConfig):
    """Change of the tokens that are there anyway: no pixel is read.

    Attributes:
        percentile: See `Motion`.
        floor: In cosine distance.
    """

    floor: float = Field(default=0.05, gt=0)

    def build(self) -> Motion:
        """Build the signal."""
        return self._motion(FeatureChange())


MotionConfig = DifferenceConfig | DISConfig | RAFTConfig | FeatureChangeConfig
"""Every configuration of the table."""

MOTIONS: dict[str, type[MotionConfig]] = {
    "difference": DifferenceConfig,
    "dis": DISConfig,
    "raft": RAFTConfig,
    "features": FeatureChangeConfig,
}
"""Name to configuration; `MOTIONS[name](...).build()` is a `Motion`."""


class Difference:
    """Mean absolute difference of a cell's pixels and colours, in grey levels of [0, 255]."""

    def magnitude(self, view: ClipView) -> Tensor:
        """See `MotionSignal`; reads the frames."""
        frames = view.pictures("the frame difference")
        pairs = [
            to_cells(_difference(first, second)[None], view.geometry)
            for first, second in itertools.pairwise(frames)
        ]
        return _with_last(pairs, view, frames.device)


class FeatureChange:
    """1 - cosine of a cell's features in two frames, in [0, 2]."""

    @torch.no_grad()
    def magnitude(self, view: ClipView) -> Tensor:
        """See `MotionSignal`; reads the features."""
        if view.features is None:
            raise InputError(
                "the change of features needs the features of the clip; give float (frames, cells, "
                "width)"
            )
        unit = F.normalize(view.features.float(), dim=-1)
        # Half the squared distance is 1 - cosine, and exactly 0 for equal features.
        change = (unit[1:] - unit[:-1]).square().sum(-1) / 2
        grids = change.unflatten(1, (view.geometry.rows, view.geometry.columns))
        pairs = [one[None] for one in grids]
        return _with_last(pairs, view, unit.device)


def _difference(first: Tensor, second: Tensor) -> Tensor:
    """Return the absolute difference of uint8 (H, W, 3), mean of colours: float32 (H, W)."""
    # Bytes wrap around; the larger less the smaller does not.
    levels = (torch.maximum(first, second) - torch.minimum(first, second)).float()
    # A product of matrices is three times as fast as a mean over three values.
    return levels @ levels.new_full((3,), 1 / 3)


def _with_last(pairs: list[Tensor], view: ClipView, device: torch.device) -> Tensor:
    """Give the last frame its difference from the one before; a single frame does not move.

    Args:
        pairs: For each frame but the last float32 (1, rows, columns), how it differs from the next.
        view: The clip.
        device: Where the result of a single frame lies.
    """
    if not pairs:
        return torch.zeros((1, view.geometry.rows, view.geometry.columns), device=device)
    return torch.cat([*pairs, pairs[-1]])
