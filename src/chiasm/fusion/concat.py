"""Channel concatenation: streams side by side, then a small perceptron added to the host.

    out = host + MLP([LayerNorm(host), LayerNorm(x_1), ..., LayerNorm(x_E)]),  MLP = 0 at the start

Concatenation along channels with a perceptron of two or three layers is the connector of Prismatic
(Karamcheti et al., 2024, arXiv:2402.07865) and, in the comparison of Eagle (Shi et al., 2024,
arXiv:2408.15998), as good as more intricate mixers. Theirs replaces the host's projector; here it
is added to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import nn

from chiasm.core.config import Config
from chiasm.core.protocols import Fused
from chiasm.core.tokens import VisualTokens
from chiasm.fusion.streams import HOST, aligned_streams, only_real, stream_names
from chiasm.layers.mlp import MLP


class ConcatFusionConfig(Config):
    """Channel concatenation.

    Attributes:
        hidden: Width of the inner layers; None takes the host's width.
        depth: Number of linear layers.
    """

    hidden: int | None = Field(default=None, ge=1)
    depth: int = Field(default=2, ge=2, le=3)

    def build(self, *, host_width: int, encoder_widths: Mapping[str, int]) -> ConcatFusion:
        """Build the fusion for a host's width and the widths of its encoders by name."""
        return ConcatFusion(
            host_width=host_width,
            encoder_widths=encoder_widths,
            hidden=self.hidden or host_width,
            depth=self.depth,
        )


class ConcatFusion(nn.Module):
    """Concatenates normalised streams and adds a perceptron of them to the host's tokens.

    Args:
        host_width: Width of the host's tokens, in and out.
        encoder_widths: Width of each extra encoder by name.
        hidden: Width of the inner layers.
        depth: Number of linear layers.
    """

    def __init__(
        self, *, host_width: int, encoder_widths: Mapping[str, int], hidden: int, depth: int
    ) -> None:
        super().__init__()
        self.names = stream_names(tuple(encoder_widths))
        widths = {HOST: host_width, **encoder_widths}
        self.norms = nn.ModuleDict({name: nn.LayerNorm(size) for name, size in widths.items()})
        self.mlp = MLP(
            width=sum(widths.values()), hidden=hidden, output=host_width, depth=depth, zero=True
        )

    def fuse(self, host: VisualTokens, extra: Mapping[str, VisualTokens]) -> Fused:
        """Fuse streams that share the host's cells; see `Fusion`."""
        dtype = next(self.mlp.parameters()).dtype
        features = aligned_streams(self.names, host, extra)
        normed = [
            self.norms[name](feature.to(dtype))
            for name, feature in zip(self.names, features, strict=True)
        ]
        update = only_real(self.mlp(torch.cat(normed, dim=-1)), host.mask)
        return Fused(
            tokens=host.with_features(host.features + update.to(host.features.dtype)), named={}
        )
