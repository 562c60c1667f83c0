"""Strided attention: a query sees the keys of its residue class, and a window around it.

Sparse Transformer (Child et al. 2019, arXiv:1904.10509, section 4.3): of all tokens those whose
distance is a multiple of `stride`, and the near ones. With `window=0` tokens of different classes
never meet in this layer; with a window they do.

Cost: N^2 / stride products for the classes, which is `stride` times cheaper than dense and no more,
and 2 N window for the window. Classes are gathered; there is no mask over all pairs. The state of a
causal stream holds all keys and grows with the row.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from chiasm.layers.attention.dense import DenseState, empty_cache, softmax_attention
from chiasm.layers.attention.near_far import Far, Near, near_far_attention
from chiasm.layers.attention.residue import has_kernel, residue_attention
from chiasm.layers.attention.rows import (
    MASKED,
    AttentionConfig,
    Projections,
    log_weights,
    open_rows,
    open_step,
)


class StridedAttentionConfig(AttentionConfig):
    """Strided attention.

    Attributes:
        stride: Distance of the tokens a query sees; with 1 this is dense.
        window: How many tokens on either side (causal: before) it sees besides.
    """

    stride: int = Field(default=4, ge=1)
    window: int = Field(default=0, ge=0)

    def build(self) -> StridedAttention:
        """Build the module."""
        return StridedAttention(
            width=self.width,
            heads=self.heads,
            causal=self.causal,
            stride=self.stride,
            window=self.window,
        )


class StridedAttention(nn.Module):
    """Strided attention with its projections; a `Mixer`.

    Args:
        width: Width D of a token.
        heads: Attention heads.
        causal: Whether a token sees itself and earlier tokens only.
        stride: As in the configuration.
        window: As in the configuration.
    """

    def __init__(self, *, width: int, heads: int, causal: bool, stride: int, window: int) -> None:
        super().__init__()
        self.causal = causal
        self.stride = stride
        self.window = window
        self.projections = Projections(width=width, heads=heads)

    def forward(self, x: Tensor, mask: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """Mix float (B, N, D), as `Mixer` says."""
        weight, width = self.projections.out.weight, self.projections.width
        rows = open_rows(x, mask, sizes, weight=weight, width=width)
        queries, keys, values = self.projections(rows.x)
        y = strided_attention(
            queries,
            keys,
            values,
            stride=self.stride,
            window=self.window,
            causal=self.causal,
            bias=log_weights(rows.weights),
        )
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
        far = _classes(keys, values, bias, stride=self.stride, before=before, causal=True)
        near = None
        if self.window and self.stride > 1:
            near = Near(
                keys, values, bias, before=self.window, after=0, first=before, skip=self.stride
            )
        y = self.projections.join(near_far_attention(queries, near, far))
        return rows.close(y, x), DenseState(keys.detach(), values.detach(), bias)


def strided_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    stride: int,
    window: int = 0,
    causal: bool = False,
    bias: Tensor | None = None,
) -> Tensor:
    """Attend to the keys at multiples of `stride` from the query, and to a window around it.

    Args:
        queries: float (B, H, N, D).
        keys: float (B, H, N, D).
        values: float (B, H, N, D).
        stride: Distance of keys of one class.
        window: Tokens on either side that are seen besides.
        causal: Whether nothing sees what comes after it.
        bias: float32 (B, N), added to the scores of each key, or None.

    Returns:
        float (B, H, N, D).
    """
    count = queries.shape[2]
    if stride == 1:
        return softmax_attention(queries, keys, values, bias=bias, causal=causal)
    if window:
        far = _classes(keys, values, bias, stride=stride, before=0, causal=causal)
        after = 0 if causal else min(window, count)
        near = Near(keys, values, bias, before=min(window, count), after=after, skip=stride)
        return near_far_attention(queries, near, far)
    if has_kernel(queries) and (bias is None or not causal):
        return residue_attention(queries, keys, values, stride=stride, causal=causal, bias=bias)
    missing = -count % stride
    if missing and bias is None and not causal:
        bias = torch.zeros(queries.shape[0], count, device=queries.device)
    split = [_by_class(t, stride, missing) for t in (queries, keys, values)]
    shown = None
    if bias is not None:
        shown = pad(bias, (0, missing), value=MASKED).unflatten(1, (-1, stride))
        shown = shown.transpose(1, 2).flatten(0, 1)
    y = softmax_attention(*split, bias=shown, causal=causal)
    y = y.unflatten(0, (-1, stride)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    return y[:, :, :count]


def _by_class(x: Tensor, stride: int, missing: int) -> Tensor:
    """Return (B, H, N, D) as one row a class: (B * stride, H, N / stride, D)."""
    if missing:
        x = pad(x, (0, 0, 0, missing))
    return x.unflatten(2, (-1, stride)).permute(0, 3, 1, 2, 4).flatten(0, 1)


def _classes(
    keys: Tensor, values: Tensor, bias: Tensor | None, *, stride: int, before: int, causal: bool
) -> Far:
    """Return keys (B, H, K, D), `before` of them before the first query, as far keys by class."""
    count = keys.shape[2]
    front = -before % stride
    ends = (front, -(front + count) % stride)
    if any(ends) and bias is None:
        bias = torch.zeros(keys.shape[0], count, device=keys.device)
    keys, values = (
        # Laid out by class once, or every product over a block would copy them.
        pad(t, (0, 0, *ends)).unflatten(2, (-1, stride)).transpose(2, 3).contiguous()
        for t in (keys, values)
    )
    if bias is not None:
        bias = pad(bias, ends, value=MASKED).unflatten(1, (-1, stride)).transpose(1, 2)
    return Far(keys, values, bias, causal=causal, first=-(before + front))
