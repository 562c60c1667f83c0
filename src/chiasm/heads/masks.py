"""Mask logits and the original image: carried there, and decided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chiasm.core.grid import ImageGeometry
from chiasm.core.sampling import view_to_image


def masks_on_images(
    logits: Sequence[Tensor], geometries: Sequence[ImageGeometry]
) -> tuple[Tensor, ...]:
    """Carry logits from the views of their images to the whole original images.

    Args:
        logits: For each phrase float (h, w) over the view of its image, padding included.
        geometries: For each phrase the geometry of its image.

    Returns:
        For each phrase float (h', w') over exactly the original image, of the same density.
    """
    alike: dict[tuple[tuple[int, ...], ImageGeometry], list[int]] = {}
    for index, (one, geometry) in enumerate(zip(logits, geometries, strict=True)):
        alike.setdefault((tuple(one.shape), geometry), []).append(index)
    carried: dict[int, Tensor] = {}
    for (_, geometry), members in alike.items():
        together = torch.stack([logits[index] for index in members])
        carried.update(zip(members, view_to_image(together, geometry), strict=True))
    return tuple(carried[index] for index in range(len(logits)))


@torch.no_grad()
def mask_and_score(logits: Tensor, size: tuple[int, int]) -> tuple[NDArray[np.bool_], float]:
    """Decide a mask: probability above one half, at the size of the original image.

    Args:
        logits: float (h, w) over the whole original image.
        size: (height, width) of the original image.

    Returns:
        bool (height, width), and the mean probability inside it (0 for an empty mask).
    """
    grown = nn.functional.interpolate(logits.float()[None, None], size, mode="bilinear")[0, 0]
    mask = grown > 0
    score = float(grown.sigmoid()[mask].mean()) if bool(mask.any()) else 0.0
    return mask.cpu().numpy(), score
