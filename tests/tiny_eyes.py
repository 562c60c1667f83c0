"""Tiny random encoders from the real configuration classes, and geometries to feed them."""

from __future__ import annotations

from typing import Any

import torch

from chiasm.core.grid import ImageGeometry
from chiasm.encoders import ENCODERS

_BLOCKS = {"num_hidden_layers": 3, "intermediate_size": 53}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "dinov2": {
        "hidden_size": 46,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "mlp_ratio": 2,
        "image_size": 35,
        "patch_size": 7,
        "initializer_range": 0.2,
    },
    "dinov2_registers": {
        "hidden_size": 58,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "mlp_ratio": 2,
        "image_size": 35,
        "patch_size": 7,
        "num_register_tokens": 3,
        "initializer_range": 0.2,
    },
    # Rotary positions in two dimensions need heads of a multiple of four.
    "dinov3": {
        "hidden_size": 44,
        "num_attention_heads": 1,
        "image_size": 55,
        "patch_size": 11,
        "num_register_tokens": 3,
        "initializer_range": 0.2,
        **_BLOCKS,
    },
    "siglip": {
        "hidden_size": 62,
        "num_attention_heads": 2,
        "image_size": 35,
        "patch_size": 7,
        **_BLOCKS,
    },
    "siglip2": {
        "hidden_size": 74,
        "num_attention_heads": 2,
        "num_patches": 25,
        "patch_size": 7,
        **_BLOCKS,
    },
    "clip": {
        "hidden_size": 38,
        "num_attention_heads": 2,
        "image_size": 35,
        "patch_size": 7,
        "initializer_factor": 3.0,
        **_BLOCKS,
    },
}
"""One architecture a family of transformers, three blocks each."""


def tiny_encoder(name: str, seed: int = 0, **settings: Any) -> Any:
    """A random encoder of a family, in evaluation mode."""
    torch.manual_seed(seed)
    return ENCODERS[name](architecture=ARCHITECTURES[name], **settings).build().eval()


def stretched(height: int, width: int, rows: int, columns: int, cell: int = 13) -> ImageGeometry:
    """The geometry of an image stretched to a grid."""
    return ImageGeometry.from_resize((height, width), (rows * cell, columns * cell), (cell, cell))
