"""Some rows of softmax(Q K^T) without the rest: the arithmetic of the tap.

With Q chosen queries out of N and all K keys, the scores take B * heads * Q * K numbers where the
whole map takes B * heads * N * K; nothing of size N * N is ever made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Merge = Literal["mean", "max"]
"""How the rows of the tokens of one group become one row."""


@dataclass(frozen=True)
class Scoring:
    """What one attention layer does to its scores beside the product of query and key.

    Attributes:
        scale: Factor of the product.
        softcap: Scores become softcap * tanh(scores / softcap) before masking (Gemma 2,
            arXiv:2408.00118, section 2), or None.
        sinks: float (heads,), one further score a head that takes part in the softmax and has no
            column, or None.
        window: How many keys, its own included, a query reaches back, or None for all.
        causal: Whether a query sees no later key; with an explicit mask the mask alone decides.
    """

    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None
    window: int | None = None
    causal: bool = True


def attention_rows(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    *,
    queries: Tensor,
    scoring: Scoring,
    seen: int,
    offset: int,
) -> Tensor:
    """Return softmax rows of some queries over all keys, in float32.

    Args:
        query: float (B, heads, N, d), after rotation.
        key: float (B, key heads, K, d), after rotation and with what a cache holds; heads are
            grouped in order, as `repeat_kv` of transformers spreads them.
        mask: As the attention implementation receives it: None (causal, or nothing hidden), bool
            (B, 1 or heads, N, K or more) with True for what is seen, float of the same shape to be
            added, or int (B, K) with 1 for a real key.
        queries: int64 (B, Q) in [0, N).
        scoring: What the layer does to scores.
        seen: How many positions came before the first of the N.
        offset: Position, in the whole sequence, of the first key.

    Returns:
        float32 (B, heads, Q, K). A query that sees nothing has meaningless weights.
    """
    batch, heads, _, width = query.shape
    groups, keys = key.shape[1], key.shape[2]
    chosen = _at_queries(query, queries).reshape(batch, groups, -1, width)
    # The fused kernels accumulate scores in float32; half types would round them to 8 or 11 bits.
    with torch.autocast(query.device.type, enabled=False):
        scores = chosen.float() @ key.float().transpose(-1, -2)
    scores = (scores * scoring.scale).reshape(batch, heads, -1, keys)
    if scoring.softcap is not None:
        scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
    scores = _masked(scores, mask, queries=queries, scoring=scoring, seen=seen, offset=offset)
    if scoring.sinks is None:
        return scores.softmax(-1)
    sinks = scoring.sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]


def take_columns(rows: Tensor, keys: Tensor, offset: int) -> Tensor:
    """Return the columns of some keys.

    Args:
        rows: float (B, heads, Q, K).
        keys: int64 (B, k), positions in the whole sequence, -1 for padding.
        offset: Position of the first of the K keys. What lies before it was left by a sliding
            window and has weight zero.

    Returns:
        float (B, heads, Q, k), zero where `keys` is -1.
    """
    places = keys - offset
    index = places.clamp(min=0)[:, None, None].expand(-1, *rows.shape[1:3], -1)
    hidden = (keys < 0) | (places < 0)
    return rows.gather(-1, index).masked_fill(hidden[:, None, None], 0)


def merge_rows(rows: Tensor, members: Tensor, merge: Merge) -> Tensor:
    """Merge the rows of the tokens of each group.

    Args:
        rows: float (B, heads, Q, K), not negative.
        members: bool (B, G, Q), which tokens each group has.
        merge: `mean` or `max`, over the tokens of a group.

    Returns:
        float (B, heads, G, K), zero for a group without tokens.
    """
    if merge == "mean":
        weights = members.to(rows.dtype)
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
        return weights[:, None] @ rows
    one_by_one = [rows.masked_fill(~m[:, None, :, None], 0).amax(2) for m in members.unbind(1)]
    return torch.stack(one_by_one, dim=2)


def _at_queries(values: Tensor, queries: Tensor) -> Tensor:
    """Return (B, heads, Q, D) out of (B, heads, N, D)."""
    index = queries[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    return values.gather(2, index)


def _masked(
    scores: Tensor, mask: Any, *, queries: Tensor, scoring: Scoring, seen: int, offset: int
) -> Tensor:
    # The least number, not minus infinity: a row without anything to see must not become NaN.
    least = torch.finfo(scores.dtype).min
    keys = scores.shape[-1]
    if mask is not None and mask.ndim == 4:
        own = mask[..., :keys].expand(scores.shape[0], -1, -1, -1)
        own = _at_queries(own, queries)
        return scores.masked_fill(~own, least) if own.dtype == torch.bool else scores + own.float()
    at = (queries + seen)[:, None, :, None]
    places = torch.arange(keys, device=scores.device) + offset
    hidden = torch.zeros((), dtype=torch.bool, device=scores.device)
    if scoring.causal:
        hidden = hidden | (places > at)
    if scoring.window is not None:
        hidden = hidden | (places <= at - scoring.window)
    if mask is not None:
        hidden = hidden | (mask[:, None, None, -keys:] == 0)
    return scores.masked_fill(hidden, least)
