"""How much every cell of every frame stands out, from the picture alone or from attention.

Every source is scaled to [0, 1] by its robust maximum over the clip; then the sources are fused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from chiasm.compression.views import ClipView, grey, to_cells, to_unit
from chiasm.core.config import Config
from chiasm.core.errors import InputError

Fusion = Literal["sum", "product", "maximum"]
"""How several sources become one: weighted mean, weighted geometric mean, largest."""

_RESIDUAL_SIDE = 64
"""Pixels a side at which Hou and Zhang take the spectral residual."""


def edges(view: ClipView) -> Tensor:
    """Return the mean Sobel gradient of each cell, float32 (T, rows, columns), grey levels a pixel.

    Sobel and Feldman (1968); at the border the last pixel goes on.
    """
    levels = F.pad(grey(view.pictures("edge saliency"))[:, None], (1, 1, 1, 1), mode="replicate")
    # The kernel is a smoothing (1, 2, 1) along one axis and a difference along the other.
    down = (levels[..., :-2, :] + 2 * levels[..., 1:-1, :] + levels[..., 2:, :]) / 4
    across = (levels[..., :-2] + 2 * levels[..., 1:-1] + levels[..., 2:]) / 4
    slope_x = (down[..., 2:] - down[..., :-2]) / 2
    slope_y = (across[..., 2:, :] - across[..., :-2, :]) / 2
    return to_cells(torch.hypot(slope_x, slope_y)[:, 0], view.geometry)


def colours(view: ClipView) -> Tensor:
    """Return the mean distance of each cell from its frame's mean colour, in units of CIELAB.

    Frequency-tuned saliency (Achanta et al., 2009, equation 4); in place of its small blur, colours
    are means of a sixteenth of a cell. float32 (T, rows, columns).
    """
    frames = view.pictures("colour saliency")
    size = (
        min(frames.shape[1], 4 * view.geometry.rows),
        min(frames.shape[2], 4 * view.geometry.columns),
    )
    small = F.interpolate(frames.movedim(3, 1).float(), size, mode="area")
    places = to_lab(small.movedim(1, 3))
    distance = (places - places.mean((1, 2), keepdim=True)).square().sum(-1).sqrt()
    return to_cells(distance, view.geometry)


def spectral_residual(view: ClipView) -> Tensor:
    """Return what the spectrum of a frame does not share with its own smooth version.

    Hou and Zhang (2007), equations 6 to 11, at 64 x 64 pixels, without the mean grey level, whose
    spectrum of one value would be all residual. float32 (T, rows, columns), without unit; zero for
    a flat frame.
    """
    levels = grey(view.pictures("spectral residual saliency"))[:, None]
    small = F.interpolate(levels, (_RESIDUAL_SIDE, _RESIDUAL_SIDE), mode="area")
    spectrum = torch.fft.fft2(small - small.mean((2, 3), keepdim=True))
    size = spectrum.abs()
    # What rounding leaves of a flat frame is no structure.
    real = size > 1e-2
    logarithm = torch.where(real, size, 1).log()
    smooth = F.avg_pool2d(F.pad(logarithm, (1, 1, 1, 1), mode="circular"), 3, stride=1)
    sharp = torch.polar(torch.where(real, (logarithm - smooth).exp(), 0), spectrum.angle())
    kernel = _gaussian(2.5, small.device)
    power = F.pad(torch.fft.ifft2(sharp).abs().square(), (7, 7, 7, 7), mode="reflect")
    blurred = F.conv2d(F.conv2d(power, kernel[None, None, :, None]), kernel[None, None, None])
    return to_cells(blurred[:, 0], view.geometry)


def received_attention(view: ClipView) -> Tensor:
    """Return the mean over the given rows of the attention that each cell receives.

    float32 (T, rows, columns), times the number of cells: 1 where all receive alike.
    """
    if view.attention is None:
        raise InputError(
            "attention saliency needs attention rows of the clip; give float (frames, ..., cells), "
            "or a weight of 0 for attention"
        )
    columns = (
        view.attention.float().flatten(1, -2).mean(1)
        if view.attention.dim() > 2
        else (view.attention.float())
    )
    grid = columns.unflatten(1, (view.geometry.rows, view.geometry.columns))
    return grid * view.geometry.count


SOURCES: Mapping[str, tuple[Callable[[ClipView], Tensor], float]] = {
    "edge": (edges, 4.0),
    "attention": (received_attention, 2.0),
    "colour": (colours, 10.0),
    "residual": (spectral_residual, 1e-4),
}
"""Name to source, and the smallest robust maximum that counts, in the source's unit."""


class SaliencyConfig(Config):
    """Which sources there are and how they become one.

    Attributes:
        edge: Weight of edges.
        attention: Weight of received attention.
        colour: Weight of colour.
        residual: Weight of the spectral residual.
        fusion: How sources with a weight above 0 become one.
        percentile: The percentile of a clip's values that becomes 1, with all above it.
    """

    edge: float = Field(default=0.4, ge=0)
    attention: float = Field(default=0.4, ge=0)
    colour: float = Field(default=0.2, ge=0)
    residual: float = Field(default=0.0, ge=0)
    fusion: Fusion = "sum"
    percentile: float = Field(default=95.0, gt=0, le=100)

    @model_validator(mode="after")
    def _some_weight(self) -> SaliencyConfig:
        if not sum(self.weights().values()):
            raise ValueError("all weights are 0; give at least one source a weight above 0")
        return self

    def weights(self) -> dict[str, float]:
        """Return the weight of each source by name."""
        return {
            "edge": self.edge,
            "attention": self.attention,
            "colour": self.colour,
            "residual": self.residual,
        }

    def build(self) -> Saliency:
        """Build the measure."""
        return Saliency(weights=self.weights(), fusion=self.fusion, percentile=self.percentile)


class Saliency:
    """Several sources of saliency, fused.

    Args:
        weights: Weight of each source of `SOURCES` by name; sources of weight 0 are not measured.
        fusion: "sum" (weighted mean), "product" (weighted geometric mean: all must agree) or
            "maximum" (one is enough; weights only choose the sources).
        percentile: The percentile of a clip's values that becomes 1, with all above it.
    """

    def __init__(
        self, *, weights: Mapping[str, float], fusion: Fusion = "sum", percentile: float = 95.0
    ) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.fusion = fusion
        self.percentile = percentile

    @torch.no_grad()
    def importance(self, view: ClipView) -> Tensor:
        """Return float32 (T, rows, columns) in [0, 1].

        Raises:
            InputError: The view lacks what a source reads.
        """
        found = {
            name: to_unit(SOURCES[name][0](view), self.percentile, SOURCES[name][1])
            for name in self.weights
        }
        return fuse(found, self.weights, self.fusion)


def fuse(maps: Mapping[str, Tensor], weights: Mapping[str, float], fusion: Fusion) -> Tensor:
    """Fuse maps in [0, 1] into one in [0, 1].

    Args:
        maps: Maps of one shape by name.
        weights: Weight of each, above 0. Their sum does not matter.
        fusion: "sum", "product" or "maximum".
    """
    stacked = torch.stack([maps[name] for name in weights])
    if fusion == "maximum":
        return stacked.amax(0)
    shares = stacked.new_tensor(list(weights.values()))
    shares = (shares / shares.sum()).view(-1, *[1] * (stacked.dim() - 1))
    if fusion == "product":
        return (stacked**shares).prod(0)
    return (stacked * shares).sum(0)


def to_lab(colours: Tensor) -> Tensor:
    """Convert sRGB to CIELAB under its white point D65 (IEC 61966-2-1; CIE 15:2004).

    Args:
        colours: float (..., 3) in [0, 255].

    Returns:
        float32 (..., 3): L* in [0, 100], a* and b* about [-110, 110].
    """
    levels = colours.float() / 255
    linear = torch.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    # Rows are X, Y, Z of the primaries.
    primaries = linear.new_tensor(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    # White is the sum of the primaries, so grey has no colour whatever the rounding.
    relative = linear @ (primaries / primaries.sum(1, keepdim=True)).T
    threshold = (6 / 29) ** 3
    bent = torch.where(
        relative > threshold, relative ** (1 / 3), relative / (3 * (6 / 29) ** 2) + 4 / 29
    )
    x, y, z = bent.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)


def _gaussian(deviation: float, device: torch.device) -> Tensor:
    """Return a normalised Gaussian of 15 values."""
    places = torch.arange(-7, 8, device=device, dtype=torch.float32)
    values = (-(places**2) / (2 * deviation**2)).exp()
    return values / values.sum()
