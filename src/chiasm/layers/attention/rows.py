"""What every attention type does at its borders: check the input, project, and close the rows."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError

MASKED = -1e30
"""Added to a score that must not count: finite, so that a row of such scores is not NaN."""


class AttentionConfig(Config):
    """What every attention type is told.

    Attributes:
        width: Width D of a token.
        heads: Attention heads; they divide the width.
        causal: Whether a token sees itself and earlier tokens only.
    """

    width: int = Field(default=768, ge=1)
    heads: int = Field(default=12, ge=1)
    causal: bool = False

    @model_validator(mode="after")
    def _divides(self) -> AttentionConfig:
        if self.width % self.heads:
            raise ValueError(
                f"{self.heads} heads do not divide the width {self.width}; give a number of heads "
                "that does"
            )
        return self


class Mixer(Protocol):
    """The one interface of the attention types."""

    @property
    def causal(self) -> bool:
        """Whether a token sees itself and earlier tokens only."""
        ...

    def __call__(
        self, x: Tensor, mask: Tensor | None = None, sizes: Tensor | None = None
    ) -> Tensor:
        """Mix the tokens of each row.

        Args:
            x: float (B, N, D).
            mask: bool (B, N), True for a real token; None where all are. Padding is never read,
                and a row's answer does not depend on it when it stands at the end.
            sizes: float or int (B, N), how many original tokens each token stands for, as merging
                leaves them; None for one each.

        Returns:
            float (B, N, D) of the type of `x`, zero at padding.
        """
        ...

    def initial_state(self, batch: int) -> tuple[Any, ...]:
        """Return the state before the first token of `batch` streams: named tensors."""
        ...

    def step(
        self, x: Tensor, state: Any, sizes: Tensor | None = None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Go on with float (B, n, D): any number of further tokens, none of them padding.

        Feeding a row piece by piece gives what the whole row gives. No gradient flows through the
        state to earlier pieces.

        Returns:
            float (B, n, D), and the state after the last token.
        """
        ...


class Rows(NamedTuple):
    """Checked input.

    Attributes:
        x: float (B, N, D) in the type of the weights, zero at padding.
        weights: float32 (B, N), the size of each token and zero at padding, or None where every
            token is real and stands for itself.
        mask: bool (B, N), or None where every token is real.
    """

    x: Tensor
    weights: Tensor | None
    mask: Tensor | None

    def close(self, y: Tensor, given: Tensor) -> Tensor:
        """Return y (B, N, D) in the type of `given`, zero at padding."""
        if self.mask is not None:
            y = y.masked_fill(~self.mask[..., None], 0.0)
        return y.to(given.dtype)


def open_rows(
    x: Tensor, mask: Tensor | None, sizes: Tensor | None, *, weight: Tensor, width: int
) -> Rows:
    """Check what a module was called with.

    Args:
        x: As for `Mixer`.
        mask: As for `Mixer`.
        sizes: As for `Mixer`.
        weight: A weight of the module, whose type is computed in.
        width: The module's width.

    Raises:
        InputError: A shape or a type does not fit.
    """
    if x.dim() != 3 or x.shape[-1] != width or not x.is_floating_point():
        raise InputError(
            f"attention of width {width} was given {x.dtype} of shape {tuple(x.shape)}; give "
            f"floating-point tokens (batch, tokens, {width})"
        )
    for name, tensor in (("mask", mask), ("sizes", sizes)):
        if tensor is not None and tensor.shape != x.shape[:2]:
            raise InputError(
                f"attention: {name} of shape {tuple(tensor.shape)} for tokens of shape "
                f"{tuple(x.shape)}; give one entry a token, {tuple(x.shape[:2])}"
            )
    if mask is not None and mask.dtype != torch.bool:
        raise InputError(
            f"attention: a mask of type {mask.dtype}; give bool, True for a real token"
        )
    if mask is not None and mask.device.type == "cpu" and bool(mask.all()):
        # Nothing is padding, and the ways without a mask are faster. Asking a GPU would stall it.
        mask = None
    x = x.to(weight.dtype)
    if mask is not None:
        x = x.masked_fill(~mask[..., None], 0.0)
    weights = None if sizes is None else sizes.float()
    if mask is not None:
        weights = mask.float() if weights is None else weights.masked_fill(~mask, 0.0)
    return Rows(x, weights, mask)


def log_weights(weights: Tensor | None) -> Tensor | None:
    """Return what is added to the scores of keys: log(size), `MASKED` where the weight is zero.

    Proportional attention (Bolya et al. 2023, arXiv:2210.09461, eq. 1).
    """
    if weights is None:
        return None
    return torch.where(weights > 0, weights.clamp(min=1e-30).log(), MASKED)


def open_step(
    x: Tensor, sizes: Tensor | None, *, weight: Tensor, width: int, causal: bool
) -> tuple[Rows, Tensor]:
    """Check a piece of a stream.

    Returns:
        The rows, and their weights float32 (B, n), one where there are no sizes.

    Raises:
        InputError: The module is not causal, or a shape does not fit.
    """
    if not causal:
        raise InputError(
            "this attention is not causal: its first token waits for the last, so it cannot read "
            "a stream; build it with causal=True"
        )
    rows = open_rows(x, None, sizes, weight=weight, width=width)
    return rows, torch.ones_like(x[..., 0], dtype=torch.float32) if sizes is None else sizes.float()


class Projections(nn.Module):
    """The linear maps to queries, keys and values, and from the heads back.

    Args:
        width: Width D of a token.
        heads: Attention heads.
    """

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, heads, N, D / heads)."""
        return self.queries(x), *self.memory(x)

    def queries(self, x: Tensor) -> Tensor:
        """Return the queries of float (B, N, D)."""
        return self._split(self.query(x))

    def memory(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of float (B, N, D)."""
        return self._split(self.key(x)), self._split(self.value(x))

    def join(self, y: Tensor) -> Tensor:
        """Return float (B, N, D) out of (B, heads, N, D / heads)."""
        return self.out(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.width // self.heads)).transpose(1, 2)
