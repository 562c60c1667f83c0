"""What a model of pairs shows and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from chiasm.core.protocols import Fused


@dataclass(frozen=True)
class PairView:
    """What was made of a batch of pairs before the decoder read it.

    Attributes:
        alpha: float (B, 1, side, side) in [0, 1], the original's share of the blend.
        blended: float (B, 3, side, side), RGB in [0, 1].
        aligned: float (B, 3, side, side), RGB in [0, 1]: the reconstruction, moved onto the
            original.
        boxes: float (B, 2, 4), XYXY as parts of the view's side: the thing in the original and in
            the reconstruction.
        rules: For each row how each box was found; see `fusion.object_boxes`.
        fused: The tokens that the decoder reads, and by name what the attention tells.
        extras: What the host's family adds.
    """

    alpha: Tensor
    blended: Tensor
    aligned: Tensor
    boxes: Tensor
    rules: tuple[tuple[str, str], ...]
    fused: Fused
    extras: Any

    @property
    def attention(self) -> Tensor | None:
        """Float (B, heads, cells, cells), where it was asked for and there is any."""
        return self.fused.named.get("attention")


@dataclass(frozen=True)
class Completed:
    """A completed picture.

    Attributes:
        text: The answer that was written before it.
        image: uint8 (H, W, 3) in [0, 255], of the original's size.
        codes: int64 (n,), row by row over the view.
    """

    text: str
    image: NDArray[np.uint8]
    codes: Tensor
