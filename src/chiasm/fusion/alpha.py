"""Ways to choose alpha, the share of the original at each pixel of a blend.

Each is a module from the pictures of a batch to alpha float32 (B or 1, 1, height, width) in (0, 1)
that starts at 0.5 everywhere. The arithmetic is float32 whatever the type of the parameters: near 0
and 1, where a trained alpha lives, bfloat16 has steps too coarse to learn by.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chiasm.layers.mlp import zero_linear


class StaticAlpha(nn.Module):
    """One learned share a pixel, the same for all images: alpha = sigmoid(map).

    Views of another size read the map bilinearly.

    Args:
        size: Side of the map in pixels.
    """

    def __init__(self, *, size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(1, 1, size, size))

    def forward(self, original: Tensor, reconstruction: Tensor, hidden: Tensor) -> Tensor:
        """Return float32 (1, 1, H, W); only the size of `original` is read."""
        return _resized(self.logits.float(), original.shape[2:]).sigmoid()


class ScalarAlpha(nn.Module):
    """One learned share for everything."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(()))

    def forward(self, original: Tensor, reconstruction: Tensor, hidden: Tensor) -> Tensor:
        """Return float32 (1, 1, H, W); only the size of `original` is read."""
        return self.logit.float().sigmoid().expand(1, 1, *original.shape[2:])


class MultiScaleAlpha(nn.Module):
    """Three learned maps, fine to coarse, mixed by learned shares.

        alpha = sum over k of softmax(weights)_k * sigmoid(map_k), map_k of side size / 2^k

    Args:
        size: Side of the finest map in pixels.
    """

    def __init__(self, *, size: int) -> None:
        super().__init__()
        sides = [max(1, size // 2**scale) for scale in range(3)]
        self.logits = nn.ParameterList(torch.zeros(1, 1, side, side) for side in sides)
        self.weights = nn.Parameter(torch.zeros(3))

    def forward(self, original: Tensor, reconstruction: Tensor, hidden: Tensor) -> Tensor:
        """Return float32 (1, 1, H, W); only the size of `original` is read."""
        size = original.shape[2:]
        maps = [_resized(logits.float(), size).sigmoid() for logits in self.logits]
        # Not as a product of matrices, which mixed precision would shorten.
        shares = self.weights.float().softmax(0)[:, None, None, None, None]
        return (shares * torch.stack(maps)).sum(0)


class ContentAlpha(nn.Module):
    """A share that looks: a small convolutional network on both pictures and the mask.

    It sees at a quarter of the view's resolution; its answer is read bilinearly. The last layer
    starts at zero.

    Args:
        width: Channels of the inner layers.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        # Both pictures, their difference's size, hidden, and whether hidden is known.
        self.network = nn.Sequential(
            nn.Conv2d(9, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
            nn.GELU(),
        )
        self.output = nn.Conv2d(width, 1, 1)
        zero_linear(self.output)

    def forward(self, original: Tensor, reconstruction: Tensor, hidden: Tensor) -> Tensor:
        """Return alpha of each image.

        Args:
            original: float (B, 3, H, W), RGB in [0, 1].
            reconstruction: float (B, 3, H, W), RGB in [0, 1].
            hidden: float (B, 2, H, W): where the original is occluded, and whether that is known.

        Returns:
            float32 (B, 1, H, W).
        """
        apart = (original - reconstruction).abs().mean(dim=1, keepdim=True)
        # From [0, 1] to [-1, 1], so that grey is zero as it is beyond the edge.
        seen = 2 * torch.cat([original, reconstruction, apart, hidden], dim=1) - 1
        logits = self.output(self.network(seen.to(self.output.weight.dtype)))
        return _resized(logits.float(), original.shape[2:]).sigmoid()


class ConstantAlpha(nn.Module):
    """The same share everywhere, without a parameter.

    Args:
        value: The share of the original.
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, original: Tensor, reconstruction: Tensor, hidden: Tensor) -> Tensor:
        """Return float32 (1, 1, H, W); only the size and device of `original` are read."""
        shape = (1, 1, *original.shape[2:])
        return torch.full(shape, self.value, dtype=torch.float32, device=original.device)


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[2:] == size:
        return maps
    return nn.functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
