"""The type that sums are kept in."""

from __future__ import annotations

import torch


def sums_in(kind: torch.dtype) -> torch.dtype:
    """Return float64 for float64 and float32 for every narrower type."""
    return torch.float64 if kind == torch.float64 else torch.float32
