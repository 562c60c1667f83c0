"""Streams of tokens for tests of fusion: two images of unequal grids, one host, named encoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chiasm.core.tokens import VisualTokens
from chiasm.fusion import FUSIONS
from tests.tiny_eyes import stretched

GEOMETRIES = (stretched(61, 83, 3, 5), stretched(97, 43, 7, 2))
WIDTHS = {"dinov2": 19, "siglip": 23}
HOST_WIDTH = 17


def tokens(width: int, seed: int, scale: float = 1.0) -> VisualTokens:
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(g.count, width, generator=generator) * scale for g in GEOMETRIES]
    return VisualTokens.from_images(features, GEOMETRIES)


def host(seed: int = 1) -> VisualTokens:
    return tokens(HOST_WIDTH, seed)


def extra(*names: str) -> dict[str, VisualTokens]:
    return {name: tokens(WIDTHS[name], 10 + len(name)) for name in names}


def one_image(streams: VisualTokens, index: int) -> VisualTokens:
    return VisualTokens.from_images([streams.rows()[index]], [streams.geometries[index]])


def build(name: str, *encoders: str, seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    config = FUSIONS[name](**settings)
    widths = {encoder: WIDTHS[encoder] for encoder in encoders}
    return config.build(host_width=HOST_WIDTH, encoder_widths=widths).eval()


def shaken(fusion: Any, seed: int = 3) -> Any:
    """The fusion with random weights everywhere, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return fusion


def norm(values: Tensor) -> Tensor:
    return values.norm(dim=-1)
