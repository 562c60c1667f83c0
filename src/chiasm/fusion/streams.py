"""What every fusion does with its streams: check that they are aligned, pool them, measure them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from chiasm.core.errors import ConfigError, GeometryError, InputError
from chiasm.core.tokens import VisualTokens

HOST = "host"
"""Name of the host's own stream among the streams."""


def stream_names(encoders: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all streams, the host first.

    Raises:
        ConfigError: There is no extra encoder, or one has a name that cannot be used.
    """
    if not encoders:
        raise ConfigError("a fusion needs at least one extra encoder; none is given")
    faults = [
        f"encoder {name!r}: not a usable name; take letters, digits and _, and not {HOST!r}"
        for name in encoders
        if name == HOST or not name.replace("-", "_").isidentifier()
    ]
    if faults:
        raise ConfigError("names of encoders", faults)
    return (HOST, *encoders)


def aligned_streams(
    names: Sequence[str], host: VisualTokens, extra: Mapping[str, VisualTokens]
) -> list[Tensor]:
    """Return the features of all streams in the order of `names`.

    Args:
        names: Names of the streams, the host first.
        host: The host's tokens.
        extra: The extra encoders' tokens by name, on the host's cells.

    Returns:
        One float (B, N, width of the stream) a stream.

    Raises:
        InputError: Streams are missing or unknown.
        GeometryError: A stream does not share the host's tokens.
    """
    if set(extra) != set(names[1:]):
        raise InputError(
            f"the fusion was built for the encoders {', '.join(names[1:])} and received "
            f"{', '.join(extra) or 'none'}; give exactly these"
        )
    features = [host.features]
    for name in names[1:]:
        tokens = extra[name]
        if tokens.mask.shape != host.mask.shape or not torch.equal(tokens.mask, host.mask):
            raise GeometryError(
                f"encoder {name!r} gives {tokens.mask.sum(1).tolist()} tokens an image, the host "
                f"{host.mask.sum(1).tolist()}; streams are fused cell by cell, so prepare the "
                "images with the host's geometry"
            )
        features.append(tokens.features)
    return features


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average over real tokens: float (B, N, ...) and bool (B, N) to float (B, ...)."""
    weights = mask.to(values.dtype).reshape(*mask.shape, *[1] * (values.dim() - 2))
    return (values * weights).sum(1) / weights.sum(1)


def only_real(values: Tensor, mask: Tensor) -> Tensor:
    """Set padding to zero: float (B, N, ...) and bool (B, N)."""
    return values * mask.to(values.dtype).reshape(*mask.shape, *[1] * (values.dim() - 2))
