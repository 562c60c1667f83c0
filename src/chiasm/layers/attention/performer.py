"""Performer: softmax attention estimated with positive orthogonal random features (FAVOR+).

Choromanski et al. (2021, arXiv:2009.14794), lemma 1 and section 2.4. With x scaled by D^-1/4,

    phi(x)_f = exp(w_f . x - |x|^2 / 2),    w_f ~ N(0, I), orthogonal within blocks of D,

gives E[phi(q) . phi(k)] = exp(q . k / sqrt(D)). The estimate's error falls with the square root of
the number of features and its variance grows with exp(|q|^2 + |k|^2): a layer must be trained with
it, and is no drop-in for a pretrained softmax layer.

Cost: N times features. The state of a causal stream is one matrix a head, flat in length.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.layers.attention.kernel import KernelState, empty_state, kernel_attention
from chiasm.layers.attention.rows import (
    AttentionConfig,
    Projections,
    log_weights,
    open_rows,
    open_step,
)
from chiasm.layers.precision import sums_in

_FLOOR = 1e-6
"""Added to features, relative to the largest of a token, so that no sum of them vanishes."""


class PerformerAttentionConfig(AttentionConfig):
    """FAVOR+ attention.

    Attributes:
        features: Random features; the error falls with their square root.
        redraw_every: Draw new features after so many training passes; None keeps them for good.
    """

    features: int = Field(default=256, ge=1)
    redraw_every: int | None = Field(default=None, ge=1)

    def build(self) -> PerformerAttention:
        """Build the module, drawing its features from the global random generator."""
        return PerformerAttention(
            width=self.width,
            heads=self.heads,
            causal=self.causal,
            features=self.features,
            redraw_every=self.redraw_every,
        )


class PositiveFeatures:
    """The map phi; a `FeatureMap`.

    Args:
        directions: float (M, D), the random directions w.
    """

    def __init__(self, directions: Tensor) -> None:
        width = directions.shape[1]
        self.count = directions.shape[0]
        self._turned = (directions * width**-0.25).T.contiguous()
        self._half = 0.5 * width**-0.5

    def of_queries(self, x: Tensor) -> Tensor:
        """Return (..., n, M). A factor common to a query's features cancels, and is left out."""
        raw = x @ self._turned
        return raw.sub_(raw.amax(-1, keepdim=True)).exp_().add_(_FLOOR)

    def of_keys(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (..., n, M), the largest of each key near 1, and the logarithm of its scale."""
        raw = x @ self._turned
        peak = raw.amax(-1, keepdim=True)
        raw.sub_(peak).exp_().add_(_FLOOR)
        return raw, peak.sub_((x * x).sum(-1, keepdim=True).mul_(self._half))

    def to_queries(self, x: Tensor, features: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of queries."""
        return gradient.mul_(features - _FLOOR) @ self._turned.T

    def to_keys(self, x: Tensor, features: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of keys, that of |x|^2 included."""
        gradient.mul_(features - _FLOOR)
        along = gradient.sum(-1, keepdim=True).mul_(2 * self._half)
        return (gradient @ self._turned.T).sub_(x * along)


def draw_directions(count: int, width: int) -> Tensor:
    """Draw block-orthogonal Gaussian directions.

    Returns:
        float32 (count, width): rows of a block of `width` are orthogonal, and each has the length
        of a Gaussian vector of its own, so that each row alone is Gaussian.
    """
    blocks = []
    for _ in range(-(-count // width)):
        turn, triangle = torch.linalg.qr(torch.randn(width, width))
        # The decomposition chooses signs by a rule of its own, and directions would lean to one
        # side; with a positive diagonal they are uniform (Mezzadri 2007, arXiv:math-ph/0609050).
        blocks.append((turn * triangle.diagonal().sign()).T)
    lengths = torch.randn(count, width).norm(dim=1, keepdim=True)
    return torch.cat(blocks)[:count] * lengths


class PerformerAttention(nn.Module):
    """FAVOR+ attention with its projections; a `Mixer`.

    The directions are a buffer, saved with the weights: a model trained with some directions needs
    these.

    Args:
        width: Width D of a token.
        heads: Attention heads; they share the directions.
        causal: Whether a token sees itself and earlier tokens only.
        features: As in the configuration.
        redraw_every: As in the configuration.
    """

    directions: Tensor
    passes: Tensor

    def __init__(
        self, *, width: int, heads: int, causal: bool, features: int, redraw_every: int | None
    ) -> None:
        super().__init__()
        self.causal = causal
        self.redraw_every = redraw_every
        self.projections = Projections(width=width, heads=heads)
        self.register_buffer("directions", draw_directions(features, width // heads))
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, mask: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """Mix float (B, N, D), as `Mixer` says; features of keys are multiplied by sizes."""
        weight, width = self.projections.out.weight, self.projections.width
        rows = open_rows(x, mask, sizes, weight=weight, width=width)
        if self.training and self.redraw_every is not None:
            self._count_pass(self.redraw_every)
        queries, keys, values = self.projections(rows.x)
        y, _ = kernel_attention(
            queries,
            keys,
            values,
            self._features(queries),
            bias=log_weights(rows.weights),
            causal=self.causal,
        )
        return rows.close(self.projections.join(y), x)

    def initial_state(self, batch: int) -> KernelState:
        """Return the state before the first token."""
        heads, weight = self.projections.heads, self.projections.out.weight
        width = self.projections.width // heads
        return empty_state(batch, heads, self.directions.shape[0], width, weight)

    def step(
        self, x: Tensor, state: KernelState, sizes: Tensor | None = None
    ) -> tuple[Tensor, KernelState]:
        """Go on with float (B, n, D), as `Mixer` says."""
        weight, width = self.projections.out.weight, self.projections.width
        rows, weights = open_step(x, sizes, weight=weight, width=width, causal=self.causal)
        queries, keys, values = self.projections(rows.x)
        y, state = kernel_attention(
            queries,
            keys,
            values,
            self._features(queries),
            bias=log_weights(weights),
            causal=True,
            state=state,
        )
        return rows.close(self.projections.join(y), x), state

    @torch.no_grad()
    def redraw(self) -> None:
        """Draw new directions from the global random generator."""
        count, width = self.directions.shape
        self.directions.copy_(draw_directions(count, width))

    def _count_pass(self, every: int) -> None:
        if int(self.passes) == every:
            self.redraw()
            self.passes.zero_()
        self.passes += 1

    def _features(self, like: Tensor) -> PositiveFeatures:
        return PositiveFeatures(self.directions.to(sums_in(like.dtype)))
