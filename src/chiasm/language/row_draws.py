"""Draws of a row that no other row of its batch changes: each row has a generator of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from chiasm.core.errors import InputError

LARGEST_SEED = 2**63 - 1


def check_seed(seed: int | None) -> None:
    """Check a seed.

    Raises:
        InputError: It is no whole number, or out of range.
    """
    if seed is not None and not (isinstance(seed, int) and 0 <= seed <= LARGEST_SEED):
        raise InputError(f"seed is {seed!r}; it must be a whole number from 0 to {LARGEST_SEED}")


def row_generators(
    seed: int | None, rows: int, device: torch.device
) -> tuple[torch.Generator, ...] | None:
    """Return one generator a row, all at the same seed; None without one.

    Rows that are equal draw the same; a row draws in a batch what it draws alone.

    Raises:
        InputError: The seed is out of range.
    """
    check_seed(seed)
    if seed is None:
        return None
    return tuple(torch.Generator(device=device).manual_seed(seed) for _ in range(rows))


def draw_rows(scores: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Draw an entry by its probability, softmax of the scores.

    Args:
        scores: float (B, K) or (B, n, K), any of them -inf where it must not be drawn.
        generators: One a row; None draws all from torch's own.

    Returns:
        int64 (B,) or (B, n).
    """
    shares = scores.float().softmax(-1)
    if generators is None:
        return torch.multinomial(shares.flatten(0, -2), 1).view(scores.shape[:-1])
    drawn = [
        torch.multinomial(row.view(-1, row.shape[-1]), 1, generator=own)
        for row, own in zip(shares, generators, strict=True)
    ]
    return torch.stack(drawn).view(scores.shape[:-1])


class DrawByRow(LogitsProcessor):
    """Draws inside the library's greedy search, whose own sampling knows one generator alone.

    Args:
        generators: One a row.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores float (B, K) in which what was drawn is the likeliest by far."""
        drawn = draw_rows(scores, self._generators)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn[:, None], 0.0)
