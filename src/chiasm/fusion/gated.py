"""Gated fusion: a learned share for each stream, for the image, for each token or each channel.

    stream s:  p_s = Linear_s(LayerNorm_s(x_s))                        (N, D)
    gate:      g   = softmax([Linear-ReLU-Linear-ReLU-Linear(mean p), 0])   one share a stream
    fused:     f   = sum over s of g_s * p_s
    output:    host + Linear_out(f), with Linear_out = 0 at the start

With one extra encoder the softmax over [logit, 0] is the sigmoid of the logit: the host's share is
alpha and the encoder's 1 - alpha. The linear mix before the adapter is the A-MoF of Tong et al.
(2024, arXiv:2401.06209) with a learned share.

Each stream is normalised before its projection. Towers differ in the size of their features by
orders of magnitude, and a share of two streams says nothing when one of them is a hundred times
the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.protocols import Fused
from chiasm.core.tokens import VisualTokens
from chiasm.fusion.streams import HOST, aligned_streams, masked_mean, only_real, stream_names
from chiasm.layers.mlp import zero_linear

Scope = Literal["global", "token", "channel"]


class GatedFusionConfig(Config):
    """Gated fusion.

    Attributes:
        width: Common width D that streams are projected to.
        scope: What has a share of its own: the image (`global`), each token, or each of the D
            channels of an image.
        dropout: Dropout inside the gate.
        initial_host_share: The host's share for an average image before training; the extra
            encoders divide the rest equally.
    """

    width: int = Field(default=1024, ge=2)
    scope: Scope = "global"
    dropout: float = Field(default=0.1, ge=0, lt=1)
    initial_host_share: float = Field(default=0.5, gt=0, lt=1)

    def build(self, *, host_width: int, encoder_widths: Mapping[str, int]) -> GatedFusion:
        """Build the fusion for a host's width and the widths of its encoders by name."""
        return GatedFusion(
            host_width=host_width,
            encoder_widths=encoder_widths,
            width=self.width,
            scope=self.scope,
            dropout=self.dropout,
            initial_host_share=self.initial_host_share,
        )


class GatedFusion(nn.Module):
    """Weighs the streams, adds them, and adds what comes out to the host's tokens.

    Its three submodules can be frozen apart: `projections`, `gate` and `output`.

    Args:
        host_width: Width of the host's tokens, in and out.
        encoder_widths: Width of each extra encoder by name; the order is the order of the shares.
        width: Common width D.
        scope: As in the configuration.
        dropout: As in the configuration.
        initial_host_share: As in the configuration.
    """

    def __init__(
        self,
        *,
        host_width: int,
        encoder_widths: Mapping[str, int],
        width: int,
        scope: Scope,
        dropout: float,
        initial_host_share: float,
    ) -> None:
        super().__init__()
        self.names = stream_names(tuple(encoder_widths))
        self.scope = scope
        self.width = width
        widths = {HOST: host_width, **encoder_widths}
        self.projections = nn.ModuleDict(
            {
                name: nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width))
                for name, size in widths.items()
            }
        )
        streams = len(self.names)
        shares = width if scope == "channel" else 1
        self.gate = nn.Sequential(
            nn.Linear(streams * width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width // 2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width // 2, (streams - 1) * shares),
        )
        self.output = nn.Linear(width, host_width)
        zero_linear(self.output)
        self._start(initial_host_share, shares)
        self._forced: Tensor | None = None

    def fuse(self, host: VisualTokens, extra: Mapping[str, VisualTokens]) -> Fused:
        """Fuse streams that share the host's cells.

        Args:
            host: The host's tokens, float (I, N, host width).
            extra: Tokens of the extra encoders by name, on the same cells.

        Returns:
            Tokens of the host's width and, in `named`, with S streams and the host first:
            `gate` float (I, S), the mean share over tokens and channels; `gate_map` float
            (I, N, S), the share at each token, zero on padding; `stream_norms` float (I, S), the
            mean norm of what each stream adds to the sum, without gradient.
        """
        dtype = self.output.weight.dtype
        features = aligned_streams(self.names, host, extra)
        projected = torch.stack(
            [
                self.projections[name](feature.to(dtype))
                for name, feature in zip(self.names, features, strict=True)
            ],
            dim=2,
        )
        shares = self._shares(projected, host.mask)
        parts = shares * projected
        update = only_real(self.output(parts.sum(dim=2)), host.mask)
        gate_map = only_real(shares.mean(-1).expand(parts.shape[:3]), host.mask)
        norms = parts.detach().float().norm(dim=-1)
        return Fused(
            tokens=host.with_features(host.features + update.to(host.features.dtype)),
            named={
                "gate": masked_mean(gate_map, host.mask),
                "gate_map": gate_map,
                "stream_norms": masked_mean(norms, host.mask),
            },
        )

    @contextmanager
    def forced(self, shares: Mapping[str, float]) -> Iterator[None]:
        """Use fixed shares inside the context, whatever the gate says; weights stay untouched.

        Args:
            shares: Share of each stream by name, `host` for the host; a name that is left out has
                share 0. They sum to 1.

        Raises:
            InputError: A name is unknown, a share is negative, or the sum is not 1.
        """
        unknown = sorted(set(shares) - set(self.names))
        values = [float(shares.get(name, 0.0)) for name in self.names]
        if unknown or min(values) < 0 or not math.isclose(sum(values), 1, abs_tol=1e-4):
            raise InputError(
                f"forced shares {dict(shares)} are not possible; give shares of "
                f"{', '.join(self.names)} from 0 to 1 that sum to 1"
            )
        before = self._forced
        self._forced = torch.tensor(values)
        try:
            yield
        finally:
            self._forced = before

    def _shares(self, projected: Tensor, mask: Tensor) -> Tensor:
        """Return shares that broadcast against (I, N, S, D), summing to one over S."""
        images, tokens, streams = projected.shape[:3]
        if self._forced is not None:
            return self._forced.to(projected).reshape(1, 1, streams, 1)
        if self.scope == "token":
            logits = self.gate(projected.flatten(2)).reshape(images, tokens, streams - 1, 1)
        else:
            pooled = masked_mean(projected, mask).flatten(1)
            logits = self.gate(pooled).reshape(images, 1, streams - 1, -1)
        # Softmax in float32: shares near 0 and 1 are what the analysis looks at.
        logits = nn.functional.pad(logits.float(), (0, 0, 0, 1))
        return logits.softmax(dim=2).to(projected.dtype)

    def _start(self, host_share: float, shares: int) -> None:
        """Set the last bias so that an image of zero evidence has the initial shares."""
        last = self.gate[-1]
        assert isinstance(last, nn.Linear)
        extras = len(self.names) - 1
        # The last encoder's logit is fixed at zero, so only the host's differs from the others.
        start = [math.log(host_share * extras / (1 - host_share)), *[0.0] * (extras - 1)]
        with torch.no_grad():
            last.bias.copy_(torch.tensor(start).repeat_interleave(shares))


def share_table(names: Sequence[str], gate: Tensor) -> list[dict[str, float]]:
    """Turn shares float (I, S) into one dictionary an image, name to share."""
    return [dict(zip(names, row, strict=True)) for row in gate.float().tolist()]
