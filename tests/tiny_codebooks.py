"""A codebook of prime sizes; channels alone must be multiples of 32."""

from __future__ import annotations

from typing import Any

import torch

from chiasm.encoders.codebook import Codebook, CodebookConfig

ARCHITECTURE: dict[str, Any] = {
    "in_channels": 12,
    "out_channels": 12,
    "base_channels": 32,
    "channel_multiplier": [1, 2],
    "num_res_blocks": 1,
    "latent_channels": 11,
    "embed_dim": 7,
    "num_embeddings": 53,
    "num_patches": 3,
    "initializer_range": 0.1,
}
"""Squares of 2 x 2 pixels enter, one level halves them: cells of 4 pixels, 3 x 3 of them."""

SIDE = 12

ONE_LEVEL: dict[str, Any] = {
    "in_channels": 27,
    "out_channels": 27,
    "base_channels": 64,
    "channel_multiplier": [1],
    "num_res_blocks": 1,
    "latent_channels": 11,
    "embed_dim": 7,
    "num_embeddings": 53,
    "num_patches": 5,
}
"""Squares of 3 x 3 pixels are cells, 5 x 5 of them."""


def tiny_codebook(seed: int = 0, **values: Any) -> Codebook:
    """Build the codebook in evaluation mode."""
    torch.manual_seed(seed)
    return CodebookConfig(architecture={**ARCHITECTURE, **values}).build().eval()


def tiny_pixels(count: int = 2, seed: int = 0) -> torch.Tensor:
    """Return pixels float32 (count, 3, SIDE, SIDE) in [-1, 1]."""
    made = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3, SIDE, SIDE), generator=made) * 2 - 1
