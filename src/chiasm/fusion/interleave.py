"""Interleaving: extra tokens stand beside the host's, cell by cell.

    host 1, extra 1, host 2, extra 2, ...        each extra token at the position of its cell

Interleaving after two adapters is the I-MoF of Tong et al. (2024, arXiv:2401.06209); it keeps the
host's tokens whole and pays with twice the tokens.

What is a no-op here. A token that attention can see always takes part: with a finite score its
weight is positive, whatever its features. A token that attention cannot see has no gradient. So no
state in which the tokens are present is both a no-op and trainable, and this fusion has two states:

- closed (the start): the extra tokens are absent. What they would say is added to the host's token
  of the same cell, through a scale for each channel that starts at zero. That is the host bit for
  bit, and it trains: the scale has a gradient at the first step, the adapters from the second.
- opened: the same, and the extra tokens are inserted. The outputs jump at that moment. It is an
  event of its own, called by `open` or declared as `opened`, never a side effect of training.

Extra tokens have the host's root mean square, image by image, so that they arrive at the size the
language model knows. See docs/decisions/0003-interleave-identity.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.protocols import Fused
from chiasm.core.tokens import VisualTokens
from chiasm.fusion.streams import aligned_streams, masked_mean, only_real, stream_names
from chiasm.layers.mlp import MLP


class InterleaveFusionConfig(Config):
    """Interleaving.

    Attributes:
        hidden: Width of the adapters' inner layer; None takes the host's width.
        opened: Whether the extra tokens are inserted from the start. Then the start is no no-op.
    """

    hidden: int | None = Field(default=None, ge=1)
    opened: bool = False

    def build(self, *, host_width: int, encoder_widths: Mapping[str, int]) -> InterleaveFusion:
        """Build the fusion for a host's width and the widths of its encoders by name."""
        return InterleaveFusion(
            host_width=host_width,
            encoder_widths=encoder_widths,
            hidden=self.hidden or host_width,
            opened=self.opened,
        )


class InterleaveFusion(nn.Module):
    """Adapts each extra stream and, once opened, inserts it after the host's token of each cell.

    Args:
        host_width: Width of the host's tokens, in and out.
        encoder_widths: Width of each extra encoder by name; extras stand in this order.
        hidden: Width of the adapters' inner layer.
        opened: Whether it starts opened.
    """

    opened: Tensor

    def __init__(
        self, *, host_width: int, encoder_widths: Mapping[str, int], hidden: int, opened: bool
    ) -> None:
        super().__init__()
        self.names = stream_names(tuple(encoder_widths))
        self.adapters = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.LayerNorm(width), MLP(width=width, hidden=hidden, output=host_width)
                )
                for name, width in encoder_widths.items()
            }
        )
        self.scales = nn.Parameter(torch.zeros(len(encoder_widths), host_width))
        # A buffer, so that a checkpoint says whether it was trained opened.
        self.register_buffer("opened", torch.tensor(opened))

    def open(self) -> None:
        """Insert the extra tokens from now on. The model's outputs change at this moment."""
        self.opened.fill_(True)

    def fuse(self, host: VisualTokens, extra: Mapping[str, VisualTokens]) -> Fused:
        """Fuse streams that share the host's cells; see `Fusion`.

        Returns:
            One token a cell while closed. Opened: 1 + E tokens a cell, the host's first, each of
            size 1 and its own source.
        """
        dtype = self.scales.dtype
        features = aligned_streams(self.names, host, extra)
        size = _root_mean_square(host)
        spoken = torch.stack(
            [
                _normalised(self.adapters[name](feature.to(dtype))) * size.to(dtype)
                for name, feature in zip(self.names[1:], features[1:], strict=True)
            ],
            dim=2,
        )
        update = only_real((spoken * self.scales).sum(dim=2), host.mask)
        aligned = host.with_features(host.features + update.to(host.features.dtype))
        if not bool(self.opened):
            return Fused(tokens=aligned, named={})
        return Fused(
            tokens=_interleave(aligned, only_real(spoken, host.mask)),
            named={},
            tokens_per_cell=len(self.names),
        )


def _root_mean_square(tokens: VisualTokens) -> Tensor:
    """Return float (I, 1, 1): the size of an image's features, without gradient."""
    squares = tokens.features.detach().float().square().mean(-1)
    return masked_mean(squares, tokens.mask).sqrt()[:, None, None]


def _normalised(features: Tensor) -> Tensor:
    return nn.functional.rms_norm(features, features.shape[-1:], eps=1e-6)


def _interleave(host: VisualTokens, spoken: Tensor) -> VisualTokens:
    """Write host and extra tokens cell by cell: (I, N, D) and (I, N, E, D) to (I, N * (1+E), D)."""
    each = 1 + spoken.shape[2]
    features = torch.cat([host.features[:, :, None], spoken.to(host.features.dtype)], dim=2)
    mask = host.mask.repeat_interleave(each, dim=1)
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return replace(
        host,
        features=features.flatten(1, 2),
        cells=host.cells.repeat_interleave(each, dim=1),
        sizes=mask.long(),
        sources=torch.where(mask, places, -1),
        mask=mask,
        times=host.times.repeat_interleave(each, dim=1),
    )
