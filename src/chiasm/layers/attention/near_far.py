"""Softmax attention to a window of near keys and a set of far keys, block by block.

Query i of a row may see

- near keys: those from `before` places before its own place to `after` places behind it;
- far keys: the same for all queries of its class, i modulo S. With S = 1 all queries share them
  (global tokens); with S = stride they are the residue class of strided attention.

Both enter one softmax. Scores exist for one group of blocks at a time and are computed again in the
backward pass from the saved log-sum-exp (Dao et al. 2022, arXiv:2205.14135, section 3.1), so that
memory grows with the number of tokens only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from chiasm.layers.attention.rows import MASKED
from chiasm.layers.precision import sums_in

_BLOCK = 64
_LOWEST = -80.0
"""Scores so far below the largest weigh 2e-35, which no sum notices; exponentials that underflow
take ten times as long on CPU."""
_SCORES_CPU, _SCORES_DEVICE = 1 << 19, 1 << 26
"""Scores held at a time: what stays in a core's cache, and what fills a GPU."""


@dataclass(frozen=True)
class Near:
    """The near keys of every query.

    Attributes:
        keys: float (B, H, K, D).
        values: float (B, H, K, D).
        bias: float32 (B, K), added to scores, or None.
        before: How many places before its own a query sees.
        after: How many places behind its own.
        first: The place in `keys` of the first query's own key.
        skip: Leave out keys whose distance is a multiple of this; 0 leaves out none.
        hidden: Leave out so many keys at the start.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None
    before: int
    after: int
    first: int = 0
    skip: int = 0
    hidden: int = 0


@dataclass(frozen=True)
class Far:
    """The far keys of every query.

    Attributes:
        keys: float (B, H, S, F, D): F keys of each of S classes.
        values: float (B, H, S, F, D).
        bias: float32 (B, S, F), added to scores, or None.
        causal: Whether a query sees only far keys that do not come after it.
        first: Place of far key (0, 0) counted from the first query, a multiple of S, at most 0;
            key (s, f) stands at first + s + S f.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None
    causal: bool = False
    first: int = 0


def near_far_attention(queries: Tensor, near: Near | None, far: Far | None) -> Tensor:
    """Attend to near and far keys in one softmax.

    Sums are in float32 (float64 for float64), whatever the type of the input.

    Args:
        queries: float (B, H, N, D).
        near: The near keys, or None.
        far: The far keys, or None. A key must not be both near and far of a query.

    Returns:
        float (B, H, N, D) of the type of `queries`.
    """
    kind = sums_in(queries.dtype)
    tensors: list[Tensor | None] = [queries.to(kind)]
    for part in (near, far):
        if part is None:
            tensors += [None, None, None]
        else:
            bias = None if part.bias is None else part.bias.detach().to(kind)
            tensors += [part.keys.to(kind), part.values.to(kind), bias]
    with torch.autocast(queries.device.type, enabled=False):
        out = _NearFar.apply(*tensors, _plan(queries, near, far))
    return out.to(queries.dtype)


@dataclass(frozen=True)
class _Plan:
    """Sizes: queries, classes, block, blocks, blocks in a group, window, and where it starts."""

    queries: int
    classes: int
    block: int
    blocks: int
    group: int
    window: int
    before: int
    after: int
    left: int
    skip: int
    hidden: int
    causal: bool
    first: int

    @property
    def right(self) -> int:
        """Length of the padded near keys."""
        return (self.blocks - 1) * self.block + -(-self.window // self.block) * self.block


def _plan(queries: Tensor, near: Near | None, far: Far | None) -> _Plan:
    batch, heads, count = queries.shape[:3]
    classes = far.keys.shape[2] if far is not None else 1
    reach = max(near.before, near.after) if near is not None else 0
    # Blocks as long as the window waste least; more than 128 queries no longer fit the cache. Far
    # keys of a class are read once a block, so each class gets its share of queries.
    block = min(max(_BLOCK * classes, min(reach, 128)), max(count, 1))
    block = -(-block // classes) * classes
    window = 0
    if near is not None:
        window = block + near.before + near.after
    blocks = -(-count // block)
    held = batch * heads * block * (window + (far.keys.shape[3] if far is not None else 0))
    budget = _SCORES_CPU if queries.device.type == "cpu" else _SCORES_DEVICE
    return _Plan(
        queries=count,
        classes=classes,
        block=block,
        blocks=blocks,
        group=min(max(1, budget // max(held, 1)), max(blocks, 1)),
        window=window,
        before=near.before if near is not None else 0,
        after=near.after if near is not None else 0,
        left=near.before - near.first if near is not None else 0,
        skip=near.skip if near is not None else 0,
        hidden=near.hidden if near is not None else 0,
        causal=far is not None and far.causal,
        first=far.first if far is not None else 0,
    )


class _Work:
    """The tensors of one call, cut and padded to whole blocks, and scores of a group of blocks."""

    def __init__(
        self,
        plan: _Plan,
        queries: Tensor,
        near: tuple[Tensor | None, Tensor | None, Tensor | None],
        far: tuple[Tensor | None, Tensor | None, Tensor | None],
    ) -> None:
        self.plan = plan
        self.queries = self.whole_blocks(queries)
        self.scale = queries.shape[-1] ** -0.5
        self.keys = self.values = self.bias = self.band = None
        if near[0] is not None and near[1] is not None:
            self.length = near[0].shape[2]
            ends = (plan.left, plan.right - plan.left - self.length)
            self.keys, self.values = (pad(t, (0, 0, *ends)) for t in near[:2] if t is not None)
            bias = near[2] if near[2] is not None else queries.new_zeros(1, self.length)
            hidden = plan.hidden
            self.bias = pad(bias[:, hidden:], (ends[0] + hidden, ends[1]), value=MASKED)
            self.plain = near[2] is None
            self.band = _band(plan, queries)
        self.far_keys, self.far_values, self.far_bias = far

    def whole_blocks(self, x: Tensor) -> Tensor:
        """Pad (B, H, N, D) to whole blocks."""
        missing = self.plan.blocks * self.plan.block - self.plan.queries
        return pad(x, (0, 0, 0, missing)) if missing else x

    def blocks(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return blocks start to stop of (B, H, padded N, D) as (B, H, g, block, D)."""
        size = self.plan.block
        return x[:, :, start * size : stop * size].unflatten(2, (stop - start, size))

    def windows(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return the windows of these blocks, a view (B, H, g, D, window) of padded keys."""
        size, window = self.plan.block, self.plan.window
        piece = x[:, :, start * size : (stop - 1) * size + window]
        return piece.unfold(2, window, size)

    def by_class(self, x: Tensor) -> Tensor:
        """Sort the queries of (B, H, g, block, X) by class: (B, H, S, queries, X)."""
        return x.flatten(2, 3).unflatten(2, (-1, self.plan.classes)).transpose(2, 3)

    def by_place(self, x: Tensor) -> Tensor:
        """Undo `by_class`."""
        return x.transpose(2, 3).flatten(2, 3).unflatten(2, (-1, self.plan.block))

    def near_scores(self, scaled: Tensor, start: int, stop: int) -> Tensor | None:
        """Return (B, H, g, block, window) for scaled queries (B, H, g, block, D)."""
        if self.keys is None or self.bias is None or self.band is None:
            return None
        scores = scaled @ self.windows(self.keys, start, stop)
        size, window = self.plan.block, self.plan.window
        begin, end = start * size, (stop - 1) * size + window
        inside = begin >= self.plan.left + self.plan.hidden and end <= self.plan.left + self.length
        if self.plain and inside:
            return scores.add_(self.band)
        keys = self.bias[:, begin:end].unfold(1, window, size)
        return scores.add_((keys[:, :, None] + self.band)[:, None])

    def far_count(self, start: int, stop: int) -> int:
        """Return how many far keys of a class any of these blocks may see."""
        if self.far_keys is None:
            return 0
        count = self.far_keys.shape[3]
        if not self.plan.causal:
            return count
        return min(count, (stop * self.plan.block - self.plan.first) // self.plan.classes)

    def far_scores(self, scaled: Tensor, start: int, stop: int) -> Tensor | None:
        """Return (B, H, S, queries, F) for scaled queries (B, H, S, queries, D) by class."""
        count = self.far_count(start, stop)
        if self.far_keys is None:
            return None
        scores = scaled @ self.far_keys[:, :, :, :count].transpose(-1, -2)
        if self.far_bias is not None:
            scores += self.far_bias[:, None, :, None, :count]
        if self.plan.causal:
            # Query u of a class sees far keys up to u + sure; those up to `sure` need no test.
            sure = (start * self.plan.block - self.plan.first) // self.plan.classes
            rows = torch.arange(scores.shape[3], device=scores.device)
            columns = torch.arange(min(sure + 1, count), count, device=scores.device)
            late = columns[None, :] > rows[:, None] + sure
            scores[..., min(sure + 1, count) :].masked_fill_(late, MASKED)
        return scores


def _band(plan: _Plan, like: Tensor) -> Tensor:
    """Return what is added to the scores of a block (block, window): 0 inside, else MASKED."""
    rows = torch.arange(plan.block, device=like.device)[:, None]
    distance = torch.arange(plan.window, device=like.device)[None, :] - rows - plan.before
    seen = (distance >= -plan.before) & (distance <= plan.after)
    if plan.skip:
        seen &= distance % plan.skip != 0
    return torch.zeros(seen.shape, device=like.device, dtype=like.dtype).masked_fill_(~seen, MASKED)


class _NearFar(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        queries, near, far, plan = inputs[0], inputs[1:4], inputs[4:7], inputs[7]
        work = _Work(plan, queries, near, far)
        out = torch.empty_like(work.queries)
        total = work.queries.new_empty((*work.queries.shape[:3], 1))
        for start in range(0, plan.blocks, plan.group):
            stop = min(start + plan.group, plan.blocks)
            scaled = work.blocks(work.queries, start, stop) * work.scale
            near_scores = work.near_scores(scaled, start, stop)
            far_scores = work.far_scores(work.by_class(scaled), start, stop)
            result, sums = _mix(work, near_scores, far_scores, start, stop)
            work.blocks(out, start, stop).copy_(result)
            work.blocks(total, start, stop).copy_(sums)
        out = out[:, :, : plan.queries]
        total = total[:, :, : plan.queries]
        ctx.plan = plan
        ctx.save_for_backward(*inputs[:7], out, total)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        queries, *rest = ctx.saved_tensors
        near, far, (out, total) = tuple(rest[:3]), tuple(rest[3:6]), rest[6:]
        with torch.autocast(queries.device.type, enabled=False):
            return (*_gradients(ctx.plan, queries, near, far, out, total, grads[0]), None)


def _mix(
    work: _Work, near: Tensor | None, far: Tensor | None, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Return the values mixed by softmax (B, H, g, block, D), and log-sum-exp (..., 1)."""
    peaks = []
    if near is not None:
        peaks.append(near.amax(-1, keepdim=True))
    if far is not None:
        peaks.append(work.by_place(far.amax(-1, keepdim=True)))
    peak = peaks[0] if len(peaks) == 1 else torch.maximum(*peaks)
    mixed, sums = [], []
    if near is not None and work.values is not None:
        near.sub_(peak).clamp_(min=_LOWEST).exp_()
        sums.append(near.sum(-1, keepdim=True))
        mixed.append(near @ work.windows(work.values, start, stop).transpose(-1, -2))
    if far is not None and work.far_values is not None:
        far.sub_(work.by_class(peak)).clamp_(min=_LOWEST).exp_()
        sums.append(work.by_place(far.sum(-1, keepdim=True)))
        mixed.append(work.by_place(far @ work.far_values[:, :, :, : far.shape[-1]]))
    total = sums[0] if len(sums) == 1 else sums[0] + sums[1]
    result = mixed[0] if len(mixed) == 1 else mixed[0] + mixed[1]
    return result / total, peak + total.log()


def _gradients(
    plan: _Plan,
    queries: Tensor,
    near: tuple[Tensor | None, Tensor | None, Tensor | None],
    far: tuple[Tensor | None, Tensor | None, Tensor | None],
    out: Tensor,
    total: Tensor,
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of queries, near keys, values, bias, far keys, values, bias."""
    work = _Work(plan, queries, near, far)
    delta = work.whole_blocks((grad * out).sum(-1, keepdim=True))
    grad, total = work.whole_blocks(grad), work.whole_blocks(total)
    to_queries = torch.empty_like(work.queries)
    found = [None if t is None else torch.zeros_like(t) for t in (work.keys, work.values)]
    far_found = [None if t is None else torch.zeros_like(t) for t in far[:2]]
    for start in range(0, plan.blocks, plan.group):
        stop = min(start + plan.group, plan.blocks)
        query, given, sums, inner = (
            work.blocks(t, start, stop) for t in (work.queries, grad, total, delta)
        )
        scaled = query * work.scale
        into = torch.zeros_like(query)
        weights = work.near_scores(scaled, start, stop)
        if weights is not None and work.keys is not None and work.values is not None:
            weights.sub_(sums).clamp_(min=_LOWEST).exp_()
            _add_windows(found[1], plan, weights.transpose(-1, -2) @ given, start)
            pull = given @ work.windows(work.values, start, stop)
            pull.sub_(inner).mul_(weights)
            _add_windows(found[0], plan, pull.transpose(-1, -2) @ scaled, start)
            into += pull @ work.windows(work.keys, start, stop).transpose(-1, -2)
        scaled, given, sums, inner = (work.by_class(t) for t in (scaled, given, sums, inner))
        weights = work.far_scores(scaled, start, stop)
        if weights is not None and far_found[0] is not None and far_found[1] is not None:
            count = weights.shape[-1]
            weights.sub_(sums).clamp_(min=_LOWEST).exp_()
            far_found[1][:, :, :, :count] += weights.transpose(-1, -2) @ given
            pull = given @ far[1][:, :, :, :count].transpose(-1, -2)  # type: ignore[index]
            pull.sub_(inner).mul_(weights)
            far_found[0][:, :, :, :count] += pull.transpose(-1, -2) @ scaled
            into += work.by_place(pull @ far[0][:, :, :, :count])  # type: ignore[index]
        work.blocks(to_queries, start, stop).copy_(into.mul_(work.scale))
    if near[0] is not None:
        found = [_cut(t, plan.left, near[0].shape[2]) for t in found]
    return to_queries[:, :, : plan.queries], *found, None, *far_found, None


def _add_windows(whole: Tensor | None, plan: _Plan, windows: Tensor, start: int) -> None:
    """Add windows (B, H, g, window, D), which overlap, to padded keys (B, H, K, D)."""
    assert whole is not None
    size, count = plan.block, windows.shape[2]
    for piece in range(-(-plan.window // size)):
        begin, width = (start + piece) * size, min(size, plan.window - piece * size)
        part = whole[:, :, begin : begin + count * size].unflatten(2, (count, size))
        part[:, :, :, :width] += windows[:, :, :, piece * size : piece * size + width]


def _cut(padded: Tensor | None, left: int, length: int) -> Tensor | None:
    """Undo the padding of the near keys; places that were cut off get no gradient."""
    return None if padded is None else pad(padded, (0, 0, -left, left + length - padded.shape[2]))
