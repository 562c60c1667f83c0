"""Patch info mining: each host token looks at the fine features inside its own cell.

    q_i  = W_q LayerNorm(host_i)
    k_ij = W_k LayerNorm(fine_ij),  v_ij = W_v LayerNorm(fine_ij),  j over the S x S places of i
    out_i = host_i + softmax_j(q_i . k_ij / sqrt(D)) v_ij,  W_v = 0 at the start

Mini-Gemini (Li et al., 2024, arXiv:2403.18814), section 3.2. One head, of the width of the host's
tokens. Mini-Gemini mines before the host's projector: so does this with a host of the family `mgm`,
whose tokens are in the tower's width; with any other host it mines what the projector gave.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import ConfigError
from chiasm.core.protocols import Fused
from chiasm.core.tokens import VisualTokens
from chiasm.fusion.streams import aligned_streams, only_real, stream_names
from chiasm.layers.mlp import zero_linear


class MiningFusionConfig(Config):
    """Patch info mining.

    Attributes:
        side: Fine features along each side of a host cell. The encoders give them unshuffled, that
            is side by side in one token: `oversample` of an encoder with `pooling: unshuffle`.
    """

    side: int = Field(default=8, ge=1)

    def build(self, *, host_width: int, encoder_widths: Mapping[str, int]) -> MiningFusion:
        """Build the fusion for the width of the host's tokens and those of its encoders by name.

        Raises:
            ConfigError: An encoder's token is no whole number of fine features, or there would be
                one feature to look at.
        """
        stream_names(tuple(encoder_widths))
        places = self.side**2
        faults = [
            f"encoder {name!r}: a token of {width} is no {self.side} x {self.side} features; set "
            "its oversample to the side, and its pooling to unshuffle"
            for name, width in encoder_widths.items()
            if width % places
        ]
        if faults:
            raise ConfigError(f"mining with side {self.side}", faults)
        if places == 1 and len(encoder_widths) == 1:
            raise ConfigError(
                "mining: side 1 with one encoder leaves one feature to look at, and nothing to "
                "choose; take a side of 2 or more, or the fusion 'concat'"
            )
        return MiningFusion(
            host_width=host_width,
            feature_widths={name: width // places for name, width in encoder_widths.items()},
            side=self.side,
        )


class MiningFusion(nn.Module):
    """Adds to each host token what it finds among the fine features of its own cell.

    Args:
        host_width: Width of the host's tokens, in and out, and of queries, keys and values.
        feature_widths: Width of a fine feature of each encoder by name.
        side: Fine features along each side of a cell.
    """

    def __init__(self, *, host_width: int, feature_widths: Mapping[str, int], side: int) -> None:
        super().__init__()
        self.names = stream_names(tuple(feature_widths))
        self.places = side**2

        def mapped(width: int, bias: bool = True) -> nn.Sequential:
            norm = nn.LayerNorm(width, bias=bias)
            return nn.Sequential(norm, nn.Linear(width, host_width, bias=bias))

        self.query = mapped(host_width)
        # A bias on keys shifts all scores of a query alike, which softmax does not see.
        self.keys = nn.ModuleDict({n: mapped(size, False) for n, size in feature_widths.items()})
        self.values = nn.ModuleDict({name: mapped(width) for name, width in feature_widths.items()})
        for value in self.values.values():
            zero_linear(value[1])  # type: ignore[index]

    def fuse(self, host: VisualTokens, extra: Mapping[str, VisualTokens]) -> Fused:
        """Fuse streams that share the host's cells; see `Fusion`."""
        dtype = self.query[1].weight.dtype
        assert isinstance(dtype, torch.dtype)
        features = aligned_streams(self.names, host, extra)[1:]
        keys, values = [], []
        for name, feature in zip(self.names[1:], features, strict=True):
            fine = feature.to(dtype).unflatten(-1, (self.places, -1))
            keys.append(self.keys[name](fine))
            values.append(self.values[name](fine))
        update = _look(
            self.query(host.features.to(dtype)), torch.cat(keys, 2), torch.cat(values, 2)
        )
        update = only_real(update, host.mask).to(host.features.dtype)
        return Fused(tokens=host.with_features(host.features + update), named={})


def _look(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from one token of each cell: (I, N, D) and twice (I, N, places, D) to (I, N, D)."""
    # Tokens take the place of the batch, and the one head that of all heads.
    seen = nn.functional.scaled_dot_product_attention(
        query.flatten(0, 1)[:, None, None],
        keys.flatten(0, 1)[:, None],
        values.flatten(0, 1)[:, None],
    )
    return seen.reshape(query.shape)
