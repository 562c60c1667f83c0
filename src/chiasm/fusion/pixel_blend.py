"""One picture out of an original and its reconstruction, pixel by pixel.

    I = alpha * original + (1 - alpha) * reconstruction

Where the occlusion mask of a row is known, alpha is bounded by it, by a scale rather than a cut, so
that gradient reaches alpha everywhere:

    inside the mask:   alpha = bound * a                  <= bound
    outside the mask:  alpha = (1 - bound) + bound * a    >= 1 - bound
    with a in (0, 1): what was learned

Where the reconstruction was moved and nothing of it lies, alpha is 1: black is no knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.fusion.alpha import (
    ConstantAlpha,
    ContentAlpha,
    MultiScaleAlpha,
    ScalarAlpha,
    StaticAlpha,
)
from chiasm.layers.warp import warp

AlphaMode = Literal["static", "scalar", "multi_scale", "content", "fixed", "original"]


class PixelBlendConfig(Config):
    """The blend of an image and its reconstruction.

    Attributes:
        alpha: What chooses the share of the original. `static`: a learned map, the same for all
            images. `scalar`: one learned number. `multi_scale`: three learned maps of falling size,
            mixed by learned shares. `content`: a small network that looks at both pictures and the
            mask. `fixed`: 0.5 exactly, no parameter. `original`: 1, which takes the level out.
        size: Side in pixels of the learned map (`static`, `multi_scale`); other views read it
            bilinearly.
        width: Channels of the network (`content`).
        bound: How far a known occlusion mask binds alpha: 1 not at all, 0 wholly (the
            reconstruction inside, the original outside, and nothing is learned in such rows).
            `fixed` and `original` are what they say and are not bound.
        align_first: Whether the reconstruction is moved onto the original before the blend. Without
            it, as in the source, pictures that lie apart blend into a double image.
    """

    alpha: AlphaMode = "static"
    size: int = Field(default=448, ge=1)
    width: int = Field(default=16, ge=1)
    bound: float = Field(default=0.5, ge=0, le=1)
    align_first: bool = False

    def build(self) -> PixelBlend:
        """Build the blend; it starts at alpha 0.5 (1 for `original`)."""
        chosen: nn.Module
        match self.alpha:
            case "static":
                chosen = StaticAlpha(size=self.size)
            case "scalar":
                chosen = ScalarAlpha()
            case "multi_scale":
                chosen = MultiScaleAlpha(size=self.size)
            case "content":
                chosen = ContentAlpha(width=self.width)
            case "fixed":
                chosen = ConstantAlpha(0.5)
            case "original":
                chosen = ConstantAlpha(1.0)
        learned = self.alpha not in ("fixed", "original")
        bound = self.bound if learned else 1.0
        return PixelBlend(alpha=chosen, bound=bound, align_first=self.align_first)


@dataclass(frozen=True)
class Blended:
    """What a blend gives.

    Attributes:
        image: float (B, 3, H, W), RGB in [0, 1], of the type of the original.
        alpha: float32 (B, 1, H, W) in [0, 1], the share of the original that was used.
        reconstruction: float (B, 3, H, W), the reconstruction as it was blended: moved where the
            blend aligns first, else as given.
    """

    image: Tensor
    alpha: Tensor
    reconstruction: Tensor


class PixelBlend(nn.Module):
    """Blends two pictures by a share that `alpha` chooses.

    Args:
        alpha: A module of `chiasm.fusion.alpha`, or one like them.
        bound: As in the configuration.
        align_first: As in the configuration.
    """

    def __init__(self, *, alpha: nn.Module, bound: float, align_first: bool) -> None:
        super().__init__()
        self.alpha = alpha
        self.bound = bound
        self.align_first = align_first

    def blend(
        self,
        original: Tensor,
        reconstruction: Tensor,
        hidden: Tensor,
        hidden_known: Tensor,
        affine: Tensor | None = None,
    ) -> Blended:
        """Blend the pairs of a batch; gradient reaches alpha and the pixels of both pictures.

        Args:
            original: float (B, 3, H, W), RGB in [0, 1].
            reconstruction: float (B, 3, H, W), RGB in [0, 1].
            hidden: bool (B, H, W), True where the original is occluded.
            hidden_known: bool (B,), whether `hidden` of a row says anything.
            affine: float (B, 2, 3), what carries the reconstruction onto the original (see
                `box_affine`); read only with `align_first`.

        Raises:
            InputError: Shapes disagree, or the blend aligns first and has no affine maps.
        """
        self._check(original, reconstruction, hidden, hidden_known)
        covered = None
        if self.align_first:
            if affine is None:
                raise InputError(
                    "pixel blend: align_first moves the reconstruction and no affine maps were "
                    "given; give `affine` (B, 2, 3), or build with align_first=False"
                )
            reconstruction, covered = warp(reconstruction, affine)
        known = hidden_known[:, None, None, None]
        inside = hidden[:, None] & known
        masks = torch.cat([inside, known.expand_as(inside)], dim=1).to(original.dtype)
        alpha = self.alpha(original, reconstruction, masks).expand(len(original), -1, -1, -1)
        if self.bound < 1:
            lowest = (1 - self.bound) * (~inside).float()
            alpha = torch.where(known, lowest + self.bound * alpha, alpha)
        if covered is not None:
            alpha = alpha.masked_fill(~covered, 1.0)
        image = alpha * original.float() + (1 - alpha) * reconstruction.float()
        return Blended(image.to(original.dtype), alpha, reconstruction)

    def _check(
        self, original: Tensor, reconstruction: Tensor, hidden: Tensor, known: Tensor
    ) -> None:
        batch, size = len(original), tuple(original.shape[2:])
        expected = (batch, 3, *size), (batch, *size), (batch,)
        found = tuple(reconstruction.shape), tuple(hidden.shape), tuple(known.shape)
        if original.dim() != 4 or original.shape[1] != 3 or found != expected:
            raise InputError(
                f"pixel blend: original {tuple(original.shape)}, reconstruction {found[0]}, hidden "
                f"{found[1]}, hidden_known {found[2]}; give (B, 3, H, W) twice, (B, H, W) and (B,)"
            )
