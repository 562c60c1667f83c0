"""A small U-Net that turns maps of attention into one mask logit a place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError

_LEAST_SUM = 1e-12
"""A channel's spatial sum is held above this before it divides."""


class MaskUNetConfig(Config):
    """U-Net mask head; the sizes are those of F-LMM (Wu et al., 2024, arXiv:2406.05821).

    Attributes:
        channels: Maps a phrase: layers times heads of the host, over all its grids.
        widths: Channels of each stage; a stage has half the resolution of the one before.
        least: Maps whose longer side is shorter are enlarged to it before the first stage.
    """

    channels: int = Field(gt=0)
    widths: tuple[int, ...] = Field(default=(64, 128, 256, 512), min_length=1)
    least: int = Field(default=64, gt=0)

    @field_validator("widths")
    @classmethod
    def _positive(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if min(widths) < 1:
            raise ValueError(f"widths {widths}; each must be 1 or more")
        return widths

    def build(self) -> MaskUNet:
        """Build the head."""
        return MaskUNet(channels=self.channels, widths=self.widths, least=self.least)


class MaskUNet(nn.Module):
    """U-Net (Ronneberger et al., 2015, arXiv:1505.04597) on maps with values in [0, 1].

    1. normalise: each channel is divided by its spatial sum, so that a map says where, not how much
    2. enlarge: bilinear, in float32, until the longer side has `least` places
    3. pad: zeros on the right and at the bottom up to whole cells of the deepest stage
    4. the net; 5. crop the padding off

    With the default widths it has 7,182,785 + 576 * channels parameters.

    Args:
        channels: As in the configuration.
        widths: As in the configuration.
        least: As in the configuration.
    """

    def __init__(self, *, channels: int, widths: Sequence[int], least: int) -> None:
        super().__init__()
        self.channels = channels
        self.least = least
        self.down = nn.ModuleList(
            _two_convolutions(before, width) for before, width in pairwise([channels, *widths])
        )
        deep_to_flat = list(pairwise(reversed(widths)))
        self.narrow = nn.ModuleList(_block(deep, flat, 1) for deep, flat in deep_to_flat)
        self.up = nn.ModuleList(_two_convolutions(2 * flat, flat) for _, flat in deep_to_flat)
        self.score = nn.Conv2d(widths[0], 1, kernel_size=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Score each place of P maps of one size.

        Args:
            maps: float (P, channels, h, w) in [0, 1].

        Returns:
            float32 (P, h', w'), logits; h' x w' is h x w enlarged to `least` where it was smaller.

        Raises:
            InputError: The channels are not those the head was built for, or a value is not in
                [0, 1].
        """
        self._check(maps)
        grown = _enlarge(normalise(maps.float()), self.least)
        logits = self._run(_pad(grown, 2 ** (len(self.down) - 1)).to(self.score.weight.dtype))
        return logits[:, : grown.shape[2], : grown.shape[3]].float()

    def predict(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Score maps of different sizes; equal sizes run together, the order is kept.

        What a map's logits are does not depend on its neighbours, up to rounding.

        Args:
            maps: For each phrase float (channels, h, w) in [0, 1].

        Returns:
            For each phrase float (h', w'), as `forward`.

        Raises:
            InputError: As `forward`.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, one in enumerate(maps):
            groups.setdefault(tuple(one.shape), []).append(index)
        found: dict[int, Tensor] = {}
        for members in groups.values():
            logits = self(torch.stack([maps[index] for index in members]))
            found.update(zip(members, logits, strict=True))
        return [found[index] for index in range(len(maps))]

    def _run(self, maps: Tensor) -> Tensor:
        skipped: list[Tensor] = []
        for stage, convolve in enumerate(self.down):
            maps = convolve(nn.functional.max_pool2d(maps, 2) if stage else maps)
            skipped.append(maps)
        maps = skipped.pop()
        for narrow, convolve in zip(self.narrow, self.up, strict=True):
            beside = skipped.pop()
            maps = nn.functional.interpolate(maps, beside.shape[2:], mode="bilinear")
            maps = convolve(torch.cat([beside, narrow(maps)], dim=1))
        return self.score(maps)[:, 0]

    def _check(self, maps: Tensor) -> None:
        if maps.dim() != 4 or maps.shape[1] != self.channels:
            raise InputError(
                f"mask head: maps of shape {tuple(maps.shape)}, the head has {self.channels} "
                "channels; give (phrases, channels, rows, columns), channels being the layers "
                "times the heads that the tap reads"
            )
        if not len(maps):
            return
        least, most = torch.aminmax(maps.detach())
        if not (least >= 0 and most <= 1):
            raise InputError(
                f"mask head: maps with values from {float(least):.4g} to {float(most):.4g}; "
                "attention lies in [0, 1], and scores must be made so first"
            )


def normalise(maps: Tensor) -> Tensor:
    """Divide each channel of float (P, C, h, w) by its spatial sum, held above 1e-12."""
    return maps / maps.sum(dim=(2, 3), keepdim=True).clamp_min(_LEAST_SUM)


def _enlarge(maps: Tensor, least: int) -> Tensor:
    scale = least / max(maps.shape[2:])
    if scale <= 1:
        return maps
    size = [max(1, round(side * scale)) for side in maps.shape[2:]]
    return nn.functional.interpolate(maps, size, mode="bilinear")


def _pad(maps: Tensor, multiple: int) -> Tensor:
    right, bottom = -maps.shape[3] % multiple, -maps.shape[2] % multiple
    return nn.functional.pad(maps, (0, right, 0, bottom))


def _block(before: int, after: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, size, padding=size // 2, bias=False),
        nn.GroupNorm(1, after),
        nn.ReLU(),
    )


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(_block(before, after, 3), _block(after, after, 3))
