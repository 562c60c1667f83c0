"""What pairs are turned into on their way: what the tower reads, and what is to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chiasm.core.batch import PairBatch
from chiasm.core.errors import GeometryError
from chiasm.core.grid import ImageGeometry
from chiasm.core.sampling import view_to_image

Drawn = Literal["picture", "blend"]
"""What is drawn: the complete picture, or the blend that was read."""


def normalise_views(
    views: Sequence[Tensor], mean: Sequence[float], deviation: Sequence[float]
) -> Tensor:
    """Stack views and normalise them as the tower's image processor does; differentiable.

    Args:
        views: Each float (B, 3, side, side), RGB in [0, 1].
        mean: By channel.
        deviation: By channel.

    Returns:
        float (len(views) * B, 3, side, side), view by view.
    """
    stacked = torch.cat(list(views))
    return (stacked - _channels(mean, stacked)) / _channels(deviation, stacked)


def view_to_draw(pairs: PairBatch, blend: Tensor, drawn: Drawn) -> Tensor:
    """Return what each row should draw, without gradient.

    Args:
        pairs: The pairs.
        blend: float (B, 3, side, side), RGB in [0, 1]: what was read.
        drawn: `picture`: the target where it is known, else the reconstruction. `blend`: what was
            read, which lets alpha drift to a blend that is easy to predict.

    Returns:
        float32 (B, 3, height, height), RGB in [0, 1].

    Raises:
        GeometryError: Targets are no squares, as a view is.
    """
    if drawn == "blend":
        return blend.detach().float()
    height, width = pairs.target.shape[2:]
    if height != width:
        raise GeometryError(
            f"targets of {height} x {width} pixels; views are squares: frame targets as the "
            "tokenizer of pictures reads them"
        )
    if bool(pairs.target_known.all()):
        return pairs.target
    rebuilt = pairs.reconstruction
    if rebuilt.shape[2] != height:
        size = (height, height)
        rebuilt = nn.functional.interpolate(rebuilt, size, mode="bilinear", antialias=True)
    return torch.where(pairs.target_known[:, None, None, None], pairs.target, rebuilt)


def _channels(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(list(values))[:, None, None]


def draw_on_image(drawn: Tensor, geometry: ImageGeometry) -> NDArray[np.uint8]:
    """Carry a drawn view to the original image.

    Args:
        drawn: float (3, side, side) over the view of `geometry`, RGB in [-1, 1].
        geometry: Where the view lies in the original image.

    Returns:
        uint8 (H, W, 3) in [0, 255], of the original's size, without the view's padding.
    """
    size = (geometry.original_height, geometry.original_width)
    picture = view_to_image(drawn.float(), geometry, size)
    scaled = ((picture + 1) * 127.5).round().clamp(0, 255)
    pixels: NDArray[np.uint8] = scaled.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels
