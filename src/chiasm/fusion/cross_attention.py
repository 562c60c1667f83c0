"""Windowed cross-attention: each host token looks at the extra tokens around its cell.

    q_i = W_q LayerNorm(host_i)
    keys and values: every extra encoder's tokens whose cells lie within `radius` of cell i
    out_i = host_i + W_o Attention(q_i, window of i),  W_o = 0 at the start

The window over cells is that of the spatial vision aggregator of Cambrian-1 (Tong et al., 2024,
arXiv:2406.16860), with the host's tokens in place of learned queries. Windows are gathered by
geometry, so cost grows with tokens times window and no tokens-by-tokens matrix exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import ConfigError, GeometryError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import Fused
from chiasm.core.tokens import VisualTokens
from chiasm.fusion.streams import aligned_streams, only_real, stream_names
from chiasm.layers.mlp import zero_linear


class CrossAttentionFusionConfig(Config):
    """Windowed cross-attention.

    Attributes:
        width: Width of queries, keys and values over all heads.
        heads: Number of heads; divides the width.
        radius: Cells to each side of a cell that its token looks at; 1 is a window of 3 x 3.
    """

    width: int = Field(default=1024, ge=1)
    heads: int = Field(default=16, ge=1)
    radius: int = Field(default=1, ge=0)

    def build(self, *, host_width: int, encoder_widths: Mapping[str, int]) -> CrossAttentionFusion:
        """Build the fusion for a host's width and the widths of its encoders by name.

        Raises:
            ConfigError: Heads do not divide the width, or there would be one token to look at.
        """
        if self.width % self.heads:
            raise ConfigError(
                f"cross-attention: {self.heads} heads do not divide the width {self.width}; "
                "choose a multiple"
            )
        if self.radius == 0 and len(encoder_widths) == 1:
            raise ConfigError(
                "cross-attention: radius 0 with one encoder leaves one token to look at, and "
                "nothing to attend; take a radius of 1 or more, or the fusion 'concat'"
            )
        return CrossAttentionFusion(
            host_width=host_width,
            encoder_widths=encoder_widths,
            width=self.width,
            heads=self.heads,
            radius=self.radius,
        )


class CrossAttentionFusion(nn.Module):
    """Lets each host token attend to the extra tokens of the cells around it.

    Args:
        host_width: Width of the host's tokens, in and out.
        encoder_widths: Width of each extra encoder by name.
        width: Width of queries, keys and values over all heads.
        heads: Number of heads.
        radius: Cells to each side.
    """

    def __init__(
        self,
        *,
        host_width: int,
        encoder_widths: Mapping[str, int],
        width: int,
        heads: int,
        radius: int,
    ) -> None:
        super().__init__()
        self.names = stream_names(tuple(encoder_widths))
        self.heads = heads
        self.radius = radius
        self.query = nn.Sequential(nn.LayerNorm(host_width), nn.Linear(host_width, width))
        self.norms = nn.ModuleDict({n: nn.LayerNorm(size) for n, size in encoder_widths.items()})
        # A bias on keys shifts all scores of a query alike, which softmax does not see.
        self.keys = nn.ModuleDict(
            {n: nn.Linear(size, width, bias=False) for n, size in encoder_widths.items()}
        )
        self.values = nn.ModuleDict(
            {name: nn.Linear(size, width) for name, size in encoder_widths.items()}
        )
        window = (2 * radius + 1) ** 2
        self.offsets = nn.Parameter(torch.zeros(heads, len(encoder_widths) * window))
        self.output = nn.Linear(width, host_width)
        zero_linear(self.output)

    def fuse(self, host: VisualTokens, extra: Mapping[str, VisualTokens]) -> Fused:
        """Fuse streams that share the host's cells; see `Fusion`.

        Raises:
            GeometryError: Tokens were compressed, so that cells have no neighbours.
        """
        dtype = self.output.weight.dtype
        features = aligned_streams(self.names, host, extra)[1:]
        index, inside = _windows(host, self.radius)
        keys, values = [], []
        for name, feature in zip(self.names[1:], features, strict=True):
            normed = self.norms[name](feature.to(dtype))
            keys.append(self._gather(self.keys[name](normed), index))
            values.append(self._gather(self.values[name](normed), index))
        images, tokens = host.mask.shape
        query = self.query(host.features.to(dtype)).unflatten(-1, (self.heads, -1))
        # One attention a token: tokens take the place of the batch.
        seen = nn.functional.scaled_dot_product_attention(
            query.flatten(0, 1)[:, :, None],
            torch.cat(keys, dim=2),
            torch.cat(values, dim=2),
            attn_mask=self._bias(inside, len(features)).to(dtype),
        )
        update = self.output(seen.reshape(images, tokens, -1))
        update = only_real(update, host.mask).to(host.features.dtype)
        return Fused(tokens=host.with_features(host.features + update), named={})

    def _gather(self, features: Tensor, index: Tensor) -> Tensor:
        """Gather windows: (I, N, D) and (I, N, W) to (I * N, heads, W, D / heads)."""
        images = torch.arange(len(features), device=features.device)[:, None, None]
        windows = features[images, index].flatten(0, 1)
        return windows.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _bias(self, inside: Tensor, encoders: int) -> Tensor:
        """Return float (I * N, heads, 1, encoders * W): learned by offset, shut outside."""
        shut = ~inside.flatten(0, 1).repeat(1, encoders)
        bias = self.offsets.expand(len(shut), *self.offsets.shape)
        return bias.masked_fill(shut[:, None], float("-inf"))[:, :, None]


def _windows(tokens: VisualTokens, radius: int) -> tuple[Tensor, Tensor]:
    """Return, for each token, its neighbours: int64 and bool (I, N, window)."""
    counts = tokens.mask.sum(1).tolist()
    cells = [geometry.count for geometry in tokens.geometries]
    if counts != cells:
        raise GeometryError(
            f"images have {counts} tokens for {cells} cells; windowed cross-attention reads one "
            "token a cell, so fuse before any compression"
        )
    longest = tokens.mask.shape[1]
    pairs = [_image_windows(geometry, radius, longest) for geometry in tokens.geometries]
    return _stack([pair[0] for pair in pairs], tokens), _stack([pair[1] for pair in pairs], tokens)


def _image_windows(geometry: ImageGeometry, radius: int, longest: int) -> tuple[Tensor, Tensor]:
    """Return neighbours of each cell and whether they exist, padded to `longest` cells."""
    reach = torch.arange(-radius, radius + 1)
    row = torch.arange(geometry.rows)[:, None, None, None] + reach[:, None]
    column = torch.arange(geometry.columns)[:, None, None] + reach
    inside = (row >= 0) & (row < geometry.rows) & (column >= 0) & (column < geometry.columns)
    index = torch.where(inside, row * geometry.columns + column, 0)
    window = (2 * radius + 1) ** 2
    padded_index = torch.zeros(longest, window, dtype=torch.long)
    # Padding looks at token 0: its result is dropped, and an empty softmax would be no number.
    padded_inside = torch.ones(longest, window, dtype=torch.bool)
    padded_index[: geometry.count] = index.reshape(geometry.count, window)
    padded_inside[: geometry.count] = inside.reshape(geometry.count, window)
    return padded_index, padded_inside


def _stack(rows: Sequence[Tensor], like: VisualTokens) -> Tensor:
    return torch.stack(list(rows)).to(like.features.device)
