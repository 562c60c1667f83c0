"""Dense softmax attention: every token sees every token. The reference of all the others.

Vaswani et al. (2017, arXiv:1706.03762), eq. 1, computed by PyTorch's scaled dot product attention.
Cost: N^2 products of a row of N tokens, memory in O(N).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from chiasm.layers.attention.near_far import Far, near_far_attention
from chiasm.layers.attention.rows import (
    AttentionConfig,
    Projections,
    log_weights,
    open_rows,
    open_step,
)


class DenseAttentionConfig(AttentionConfig):
    """Dense attention; nothing to choose but width, heads and direction."""

    def build(self) -> DenseAttention:
        """Build the module."""
        return DenseAttention(width=self.width, heads=self.heads, causal=self.causal)


class DenseState(NamedTuple):
    """All keys, values (B, H, n, D / H) and score biases (B, n) so far: it grows with the row."""

    keys: Tensor
    values: Tensor
    bias: Tensor


class DenseAttention(nn.Module):
    """Dense attention with its projections; a `Mixer`.

    Args:
        width: Width D of a token.
        heads: Attention heads.
        causal: Whether a token sees itself and earlier tokens only.
    """

    def __init__(self, *, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.projections = Projections(width=width, heads=heads)

    def forward(self, x: Tensor, mask: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """Mix float (B, N, D), as `Mixer` says."""
        weight, width = self.projections.out.weight, self.projections.width
        rows = open_rows(x, mask, sizes, weight=weight, width=width)
        queries, keys, values = self.projections(rows.x)
        bias = log_weights(rows.weights)
        y = softmax_attention(queries, keys, values, bias=bias, causal=self.causal)
        return rows.close(self.projections.join(y), x)

    def initial_state(self, batch: int) -> DenseState:
        """Return the state before the first token."""
        return DenseState(*empty_cache(self.projections, batch))

    def step(
        self, x: Tensor, state: DenseState, sizes: Tensor | None = None
    ) -> tuple[Tensor, DenseState]:
        """Go on with float (B, n, D), as `Mixer` says."""
        weight, width = self.projections.out.weight, self.projections.width
        rows, weights = open_step(x, sizes, weight=weight, width=width, causal=self.causal)
        queries, keys, values = self.projections(rows.x)
        bias = log_weights(weights)
        assert bias is not None
        before = state.keys.shape[2]
        keys = torch.cat([state.keys, keys], 2)
        values = torch.cat([state.values, values], 2)
        bias = torch.cat([state.bias, bias], 1)
        far = Far(keys[:, :, None], values[:, :, None], bias[:, None], causal=True, first=-before)
        y = self.projections.join(near_far_attention(queries, None, far))
        return rows.close(y, x), DenseState(keys.detach(), values.detach(), bias)


def empty_cache(projections: Projections, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and values of no tokens (B, H, 0, D / H), and their biases float32 (B, 0)."""
    heads, width = projections.heads, projections.width
    weight = projections.out.weight
    empty = weight.new_zeros(batch, heads, 0, width // heads)
    return empty, empty, torch.zeros(batch, 0, device=weight.device)


def softmax_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    bias: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Attend to all keys, or to all that do not come after the query.

    Args:
        queries: float (B, H, N, D).
        keys: float (B, H, K, D); K = N where `causal`.
        values: float (B, H, K, D).
        bias: float32 (B, K), added to the scores of each key, or None.
        causal: Whether a query sees only keys up to its own place.

    Returns:
        float (B, H, N, D).
    """
    if bias is None:
        return scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    if causal:
        # A mask of N x N would be needed to say both to the kernel.
        far = Far(keys[:, :, None], values[:, :, None], bias[:, None], causal=True)
        return near_far_attention(queries, None, far)
    shown = bias.to(queries.dtype)[:, None, None, :].expand(-1, -1, queries.shape[2], -1)
    return scaled_dot_product_attention(queries, keys, values, attn_mask=shown)
