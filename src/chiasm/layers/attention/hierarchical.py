"""Hierarchical attention: one row seen at several resolutions, and the answers added.

As in feature pyramids of windows (Liu et al. 2021, arXiv:2103.14030): level l averages queries,
keys and values over pieces of 2^l tokens (for `pool` 2: ratios 1, 1/2, 1/4), attends among the
pieces, and gives each token the answer of its piece. A learned softmax, one a head, weighs the
levels; with one level this is dense attention.

Lower levels attend within `window` pieces on either side, so that what is near is seen in detail;
the highest sees the whole row (`top="full"`) or a window as well. A piece counts as many tokens as
it averages: log(size) is added to its scores.

Causal: a level's answer for a token is that of the newest piece that ends at or before it. Before
the first piece has ended, the other levels share its weight.

Cost: N window for each lower level and (N / 2^l)^2 for a full top. The state of a causal stream is
flat in length with `top="window"`; a full top keeps one key for each of its pieces.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from chiasm.layers.attention.dense import empty_cache, softmax_attention
from chiasm.layers.attention.local_global import local_global_attention
from chiasm.layers.attention.near_far import Far, Near, near_far_attention
from chiasm.layers.attention.rows import (
    AttentionConfig,
    Projections,
    log_weights,
    open_rows,
    open_step,
)
from chiasm.layers.precision import sums_in

Top = Literal["full", "window"]


class HierarchicalAttentionConfig(AttentionConfig):
    """Hierarchical attention.

    Attributes:
        levels: Resolutions; with 1 and a full top this is dense.
        pool: Pieces of a level that one piece of the next averages.
        window: Pieces on either side that a level attends to.
        top: Whether the highest level attends to all its pieces, or to a window.
    """

    levels: int = Field(default=3, ge=1)
    pool: int = Field(default=2, ge=2)
    window: int = Field(default=64, ge=1)
    top: Top = "full"

    @property
    def ratios(self) -> tuple[float, ...]:
        """Pieces a token, level by level: 1, 1/2, 1/4 by default."""
        return tuple(float(self.pool) ** -level for level in range(self.levels))

    def build(self) -> HierarchicalAttention:
        """Build the module."""
        return HierarchicalAttention(
            width=self.width,
            heads=self.heads,
            causal=self.causal,
            levels=self.levels,
            pool=self.pool,
            window=self.window,
            top=self.top,
        )


class LevelState(NamedTuple):
    """What one level of a causal stream keeps.

    Attributes:
        keys: float (B, H, n, D / H), of finished pieces: the latest `window`, or all.
        values: As `keys`.
        bias: float32 (B, n), log of their sizes.
        open_tokens: float (3, B, H, less than a piece, D / H): queries, keys and values of the
            unfinished piece.
        open_weights: float32 (B, less than a piece), their sizes.
        answer: float (B, H, 1, D / H), of the newest finished piece.
        valid: bool (B, 1), whether there is one with a real token.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    open_tokens: Tensor
    open_weights: Tensor
    answer: Tensor
    valid: Tensor


class HierarchicalAttention(nn.Module):
    """Attention at several resolutions with its projections; a `Mixer`.

    Args:
        width: Width D of a token.
        heads: Attention heads.
        causal: Whether a token sees itself and earlier tokens only.
        levels: As in the configuration.
        pool: As in the configuration.
        window: As in the configuration.
        top: As in the configuration.
    """

    def __init__(
        self, *, width: int, heads: int, causal: bool, levels: int, pool: int, window: int, top: Top
    ) -> None:
        super().__init__()
        self.causal = causal
        self.pieces = tuple(pool**level for level in range(levels))
        # None: to all pieces.
        self.windows = (*[window] * (levels - 1), None if top == "full" else window)
        self.projections = Projections(width=width, heads=heads)
        self.level_logits = nn.Parameter(torch.zeros(heads, levels))

    def forward(self, x: Tensor, mask: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """Mix float (B, N, D), as `Mixer` says."""
        weight, width = self.projections.out.weight, self.projections.width
        rows = open_rows(x, mask, sizes, weight=weight, width=width)
        if self.causal:
            weights = rows.weights
            if weights is None:
                weights = torch.ones_like(x[..., 0], dtype=torch.float32)
            y, _ = self._stream(rows.x, weights, self.initial_state(x.shape[0]))
            return rows.close(self.projections.join(y), x)
        queries, keys, values = self.projections(rows.x)
        y = hierarchical_attention(
            queries,
            keys,
            values,
            self.level_logits,
            pieces=self.pieces,
            windows=self.windows,
            weights=rows.weights,
        )
        return rows.close(self.projections.join(y), x)

    def initial_state(self, batch: int) -> tuple[LevelState, ...]:
        """Return the state before the first token, one a level."""
        keys, values, bias = empty_cache(self.projections, batch)
        answer = keys.new_zeros(batch, keys.shape[1], 1, keys.shape[3])
        valid = torch.zeros(batch, 1, dtype=torch.bool, device=keys.device)
        level = LevelState(keys, values, bias, torch.stack([keys] * 3), bias, answer, valid)
        return (level,) * len(self.pieces)

    def step(
        self, x: Tensor, state: tuple[LevelState, ...], sizes: Tensor | None = None
    ) -> tuple[Tensor, tuple[LevelState, ...]]:
        """Go on with float (B, n, D), as `Mixer` says."""
        weight, width = self.projections.out.weight, self.projections.width
        rows, weights = open_step(x, sizes, weight=weight, width=width, causal=self.causal)
        y, following = self._stream(rows.x, weights, state)
        return rows.close(self.projections.join(y), x), following

    def _stream(
        self, x: Tensor, weights: Tensor, state: tuple[LevelState, ...]
    ) -> tuple[Tensor, tuple[LevelState, ...]]:
        """Read some tokens of a stream: (B, H, n, D / H) before the last projection."""
        tokens = torch.stack(self.projections(x))
        answers, valid, following = [], [], []
        for piece, window, level in zip(self.pieces, self.windows, state, strict=True):
            answer, there, after = _read_level(tokens, weights, level, piece, window)
            answers.append(answer)
            valid.append(there)
            following.append(after)
        logits = self.level_logits.to(sums_in(x.dtype))
        shares = logits[None, :, None, :].expand(len(x), -1, x.shape[1], -1)
        seen = torch.stack(valid, -1)[:, None]
        # Level 0 has an answer for every real token, so that no real token is left without.
        shares = shares.masked_fill(~seen, -1e30).softmax(-1).to(x.dtype)
        y = torch.zeros_like(answers[0])
        for share, answer in zip(shares.unbind(-1), answers, strict=True):
            y = y + share[..., None] * answer
        return y, tuple(following)


def hierarchical_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    level_logits: Tensor,
    *,
    pieces: tuple[int, ...],
    windows: tuple[int | None, ...],
    weights: Tensor | None = None,
) -> Tensor:
    """Attend at several resolutions, not causally, and add the answers.

    Args:
        queries: float (B, H, N, D).
        keys: float (B, H, N, D).
        values: float (B, H, N, D).
        level_logits: float (H, levels), softmaxed to the share of each level.
        pieces: Tokens of a piece, level by level.
        windows: Pieces on either side that are seen, level by level; None for all.
        weights: float32 (B, N), the size of each token, zero for padding; None for one each.

    Returns:
        float (B, H, N, D).
    """
    count = queries.shape[2]
    shares = level_logits.to(sums_in(queries.dtype)).softmax(-1).to(queries.dtype)
    found: Tensor | None = None
    for share, piece, window in zip(shares.unbind(-1), pieces, windows, strict=True):
        level, bias = [queries, keys, values], log_weights(weights)
        if piece > 1:
            known = weights
            if known is None and count % piece:
                known = torch.ones(len(queries), count, device=queries.device)
            level = [_pooled(t, known, piece) for t in level]
            bias = None
            if known is not None:
                bias = log_weights(_pieces(known, piece).sum(2))
        if window is None:
            answer = softmax_attention(level[0], level[1], level[2], bias=bias)
        else:
            answer = local_global_attention(
                level[0], level[1], level[2], window=window, global_tokens=0, bias=bias
            )
        if piece > 1:
            answer = answer.repeat_interleave(piece, 2)[:, :, :count]
        answer = answer * share[None, :, None, None]
        found = answer if found is None else found + answer
    assert found is not None
    return found


def _pieces(weights: Tensor, piece: int) -> Tensor:
    """Return weights (B, N) as (B, pieces, piece), zeros at the end."""
    return pad(weights, (0, -weights.shape[1] % piece)).unflatten(1, (-1, piece))


def _pooled(x: Tensor, weights: Tensor | None, piece: int) -> Tensor:
    """Average (B, H, N, D) over pieces: (B, H, pieces, D); empty ones are zero."""
    x = pad(x, (0, 0, 0, -x.shape[2] % piece)).unflatten(2, (-1, piece))
    if weights is None:
        return x.mean(3)
    share = _pieces(weights, piece).to(sums_in(x.dtype))
    share = (share / share.sum(2, keepdim=True).clamp(min=1e-6)).to(x.dtype)
    return (share[:, None, :, None] @ x).squeeze(3)


def _read_level(
    tokens: Tensor, weights: Tensor, state: LevelState, piece: int, window: int | None
) -> tuple[Tensor, Tensor, LevelState]:
    """Read (3, B, H, n, D) queries, keys and values of a stream at one level.

    Returns:
        The level's answers (B, H, n, D), where there is one bool (B, n), and the state after.
    """
    count, begun = tokens.shape[3], state.open_tokens.shape[3]
    tokens = torch.cat([state.open_tokens, tokens], 3)
    weights = torch.cat([state.open_weights, weights], 1)
    finished = tokens.shape[3] // piece
    stop = finished * piece
    valid, answers = state.valid, state.answer
    keys, values, bias = state.keys, state.values, state.bias
    if finished:
        held = weights[:, :stop]
        queries, new_keys, new_values = (
            t if piece == 1 else _pooled(t, held, piece) for t in tokens[:, :, :, :stop].unbind(0)
        )
        sums = _pieces(held, piece).sum(2)
        logs = log_weights(sums)
        assert logs is not None
        before = keys.shape[2]
        keys = torch.cat([keys, new_keys], 2)
        values = torch.cat([values, new_values], 2)
        bias = torch.cat([bias, logs], 1)
        near = far = None
        if window is None:
            far = Far(keys[:, :, None], values[:, :, None], bias[:, None], True, -before)
        else:
            near = Near(keys, values, bias, before=window, after=0, first=before)
        answers = torch.cat([answers, near_far_attention(queries, near, far)], 2)
        valid = torch.cat([valid, sums > 0], 1)
    newest = (torch.arange(count, device=tokens.device) + begun + 1) // piece
    kept = [keys, values, bias]
    if window is not None:
        kept = [keys[:, :, -window:], values[:, :, -window:], bias[:, -window:]]
    rest = [*kept, tokens[:, :, :, stop:], weights[:, stop:], answers[:, :, -1:], valid[:, -1:]]
    after = LevelState(*(t.detach().clone() for t in rest))
    return answers.index_select(2, newest), valid.index_select(1, newest), after
