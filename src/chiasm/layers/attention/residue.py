"""Softmax attention within the residue classes of a row's places, in the layout of the row.

Queries, keys and values of a class are read where they stand, and its answers and gradients are
written where they belong, a piece at a time. Autograd alone would sort whole gradients by class
first and copy them back. The CPU kernels of `scaled_dot_product_attention` are called by name for
it, since only they give the log-sum-exp that a backward pass of one's own needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_PIECES = 24
"""Into how many pieces the gradients of a row are cut at least, where that leaves every thread a
head."""


def has_kernel(x: Tensor) -> bool:
    """Return whether `residue_attention` can read queries like `x`, float (B, H, N, D)."""
    known = torch._C._dispatch_has_kernel("aten::_scaled_dot_product_flash_attention_for_cpu")
    return bool(known) and x.device.type == "cpu" and x.numel() > 0


def residue_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    stride: int,
    causal: bool = False,
    bias: Tensor | None = None,
) -> Tensor:
    """Attend to the keys whose distance is a multiple of `stride`.

    Args:
        queries: float (B, H, N, D) for which `has_kernel` holds.
        keys: float (B, H, N, D).
        values: float (B, H, N, D).
        stride: Distance of keys of one class.
        causal: Whether a query sees only keys up to its own place; not together with a bias.
        bias: float (B, N), added to the scores of each key, or None.

    Returns:
        float (B, H, N, D), laid out like the queries.
    """
    if bias is not None:
        bias = bias.detach().to(queries.dtype)
    return _Residue.apply(queries, keys, values, bias, stride, causal)


def _parts(count: int, stride: int) -> Iterator[tuple[int, int]]:
    """Yield (first class, classes) of one length each: those of the last, cut round are longer."""
    longer = count % stride
    if longer:
        yield 0, longer
    if count >= stride:
        yield longer, stride - longer


def _classes(x: Tensor, part: tuple[int, int], stride: int) -> Tensor:
    """Return the classes of a part of (B, H, N, D), a view (B, classes, H, n, D)."""
    first, classes = part
    return x[:, :, first:].unfold(2, classes, stride).permute(0, 4, 1, 2, 3)


def _scores_of_keys(bias: Tensor | None, part: tuple[int, int], stride: int) -> Tensor | None:
    """Return the bias of the classes of a part, (B, classes, n) of (B, N)."""
    if bias is None:
        return None
    first, classes = part
    return bias[:, first:].unfold(1, classes, stride).transpose(1, 2)


def _same_in_rows(bias: Tensor | None) -> Tensor | None:
    """Return (rows, 1, n, n) of (rows, n), a view."""
    return None if bias is None else bias[:, None, None].expand(-1, -1, bias.shape[1], -1)


class _Residue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k, v, bias, stride, causal = inputs
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        parts = list(_parts(q.shape[2], stride))
        out = q.new_empty(0) if len(parts) == 1 else torch.empty_like(q)
        sums = []
        for part in parts:
            query, key, value = (_classes(t, part, stride).flatten(0, 1) for t in (q, k, v))
            shown = _scores_of_keys(bias, part, stride)
            mask = _same_in_rows(None if shown is None else shown.flatten(0, 1))
            found, own = attend(query, key, value, 0.0, causal, attn_mask=mask)
            sums.append(own)
            found = found.unflatten(0, (q.shape[0], part[1]))
            if len(parts) == 1:
                # The kernel lays out answers like queries: a view, not a copy.
                out = found.permute(0, 2, 3, 1, 4).flatten(2, 3)
            else:
                _classes(out, part, stride).copy_(found)
        ctx.stride, ctx.causal = stride, causal
        ctx.save_for_backward(q, k, v, bias, out, *sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, bias, out, *sums = ctx.saved_tensors
        back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        found = tuple(torch.empty_like(t) for t in (q, k, v))
        heads = _heads_at_once(q.shape[1], ctx.stride)
        for part, own in zip(_parts(q.shape[2], ctx.stride), sums, strict=True):
            shown = _scores_of_keys(bias, part, ctx.stride)
            own = own.unflatten(0, (q.shape[0], part[1]))
            given = [_classes(t, part, ctx.stride) for t in (grads[0], q, k, v, out)]
            into = [_classes(t, part, ctx.stride) for t in found]
            for index in range(part[1]):
                mask = _same_in_rows(None if shown is None else shown[:, index])
                for first in range(0, q.shape[1], heads):
                    piece = (slice(None), index, slice(first, first + heads))
                    read = [t[piece] for t in (*given, own)]
                    made = back(*read, 0.0, ctx.causal, attn_mask=mask)
                    for target, gradient in zip(into, made, strict=True):
                        target[piece].copy_(gradient)
        return *found, None, None, None


def _heads_at_once(heads: int, stride: int) -> int:
    """Return how many heads of a class the backward pass reads at once."""
    pieces = -(-_PIECES // stride)
    # The kernel shares out heads among threads.
    return min(heads, max(-(-heads // pieces), torch.get_num_threads()))
