"""Which tokens become one: bipartite matching by similarity less importance, in rounds.

The tokens of a row are dealt in turn into givers and takers. Every giver finds the taker it is most
like, and the givers with the highest

    score = cos(giver, taker) - penalty * importance(giver)

join theirs. Rounds repeat on what is left until the number asked for is reached exactly. One deal
and one choice are the bipartite soft matching of Bolya et al. (2023), "Token Merging: Your ViT But
Faster", arXiv:2210.09461, section 3; importance, rounds, frames, rows of unequal length and the
order of the result are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 1 << 24
"""Similarities held at once: 64 MiB in float32, whatever the number of tokens."""


def match_tokens(
    metric: Tensor,
    keep: Sequence[int],
    *,
    mask: Tensor | None = None,
    importance: Tensor | None = None,
    weights: Tensor | None = None,
    frames: Tensor | None = None,
    protected: Tensor | None = None,
    penalty: float = 1.0,
    step: float = 0.25,
) -> Tensor:
    """Group the tokens of each row into exactly as many groups as asked for.

    The caller has checked the numbers; see `chiasm.compression.merge.merge_tokens`.

    Args:
        metric: float (B, N, D), what is compared. Padding is never read.
        keep: For each row the number of groups, at least 1 and one more than the protected tokens
            when others are there, at most the real tokens.
        mask: bool (B, N), True for a real token, padding at the end; None when all are real.
        importance: float (B, N); higher is merged later. A group is as important as its most
            important token.
        weights: float (B, N), positive: what a token weighs in the mean that stands for its group
            in later rounds; None weighs all alike.
        frames: int64 (B, N), number of the frame of each token, ascending; None for one frame. A
            cell that gives in one frame takes in the next, so that still cells meet themselves.
        protected: bool (B, N), tokens that stay alone.
        penalty: Price of one unit of importance, in cosine similarity.
        step: Largest part of a row's tokens merged in one round, above 0. A round cannot merge
            more than its givers, so 0.5 is as much as there is.

    Returns:
        int64 (B, N), for each token its group; groups are numbered in the order of their first
        tokens. -1 for padding.
    """
    with torch.no_grad():
        batch, length = metric.shape[:2]
        places = torch.arange(length, device=metric.device).expand(batch, length)
        counts = [length] * batch
        if mask is not None:
            places = torch.where(mask, places, -1)
            counts = mask.sum(1).tolist()
        state = _Round(metric, mask, importance, weights, frames, protected)
        while any(count > wanted for count, wanted in zip(counts, keep, strict=True)):
            groups, counts = state.merge(counts, keep, penalty, step)
            places = torch.where(places < 0, -1, groups.gather(1, places.clamp(min=0)))
            if any(count > wanted for count, wanted in zip(counts, keep, strict=True)):
                state = state.joined(groups, max(counts))
        return places


def group_sums(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Sum values over groups.

    Args:
        values: (B, N) or (B, N, D).
        groups: int64 (B, N), the group of each token, -1 for tokens of none, which are not read.
        count: Number of groups in a row of the result.

    Returns:
        (B, count) or (B, count, D), zero for groups without tokens.
    """
    batch = groups.shape[0]
    flat = groups + count * torch.arange(batch, device=groups.device)[:, None]
    flat, values_flat = flat.flatten(), values.flatten(0, 1)
    if bool((groups < 0).any()):
        real = (groups >= 0).flatten()
        flat, values_flat = flat[real], values_flat[real]
    sums = values.new_zeros((batch * count, *values.shape[2:]))
    return sums.index_add(0, flat, values_flat).unflatten(0, (batch, count))


def group_means(values: Tensor, groups: Tensor, count: int, weights: Tensor) -> Tensor:
    """Average values over groups, in float32 or better; a group of one keeps its bits.

    Args:
        values: float (B, N, D).
        groups: As in `group_sums`.
        count: Number of groups in a row of the result.
        weights: float (B, N), positive where a token has a group.

    Returns:
        float (B, count, D) of the type of `values`; zero for groups without tokens.
    """
    exact = torch.promote_types(values.dtype, torch.float32)
    weights = weights.to(exact)
    totals = group_sums(weights, groups, count)
    # A token alone is divided by its own weight: a share of exactly 1.
    shares = weights / totals.gather(1, groups.clamp(min=0))
    return group_sums(values.to(exact) * shares[..., None], groups, count).to(values.dtype)


class _Round:
    """The tokens of one round; arguments as in `match_tokens`."""

    def __init__(
        self,
        metric: Tensor,
        mask: Tensor | None,
        importance: Tensor | None,
        weights: Tensor | None,
        frames: Tensor | None,
        protected: Tensor | None,
    ) -> None:
        self.metric = metric
        self.mask = mask
        self.importance = importance
        self.weights = weights
        self.frames = frames
        self.protected = protected

    def merge(
        self, counts: Sequence[int], keep: Sequence[int], penalty: float, step: float
    ) -> tuple[Tensor, list[int]]:
        """Return int64 (B, N), the group of each token (-1 padding), and the groups of each row."""
        giving, taking = self._deal()
        givers, from_here = _members(giving)
        takers, to_here = _members(taking)
        score, best = self._nearest(givers, takers, to_here)
        if self.importance is not None:
            score = score - penalty * self.importance.gather(1, givers)
        if from_here is not None:
            score = score.masked_fill(~from_here, -torch.inf)
        available = giving.sum(1).tolist()
        merged = [
            min(count - wanted, have, max(1, int(step * count)))
            for count, wanted, have in zip(counts, keep, available, strict=True)
        ]
        # A stable sort: of equal scores the earlier token goes first, on every machine.
        order = score.argsort(dim=1, descending=True, stable=True)
        rank = torch.arange(order.shape[1], device=order.device).expand_as(order)
        limit = torch.tensor(merged, device=order.device)[:, None]
        joins = torch.zeros_like(order, dtype=torch.bool).scatter(1, order, rank < limit)
        target = torch.where(joins, takers.gather(1, best), givers)
        left = [count - gone for count, gone in zip(counts, merged, strict=True)]
        return self._number(givers, target), left

    def joined(self, groups: Tensor, count: int) -> _Round:
        """Return the tokens of the next round."""
        weights = self.weights
        if weights is None:
            weights = torch.ones(groups.shape, device=groups.device)
        inside = group_sums((groups >= 0).long(), groups, count)
        return _Round(
            metric=group_means(self.metric, groups, count, weights),
            mask=inside > 0,
            importance=_extreme(self.importance, groups, count, "amax"),
            weights=group_sums(weights, groups, count),
            frames=_extreme(self.frames, groups, count, "amin"),
            protected=_extreme(self.protected, groups, count, "amax"),
        )

    def _deal(self) -> tuple[Tensor, Tensor]:
        """Return bool (B, N) twice: givers and takers, alternating along a frame and in time."""
        shape = self.metric.shape[:2]
        free = self.mask
        if free is None:
            free = torch.ones(shape, dtype=torch.bool, device=self.metric.device)
        if self.protected is not None:
            free = free & ~self.protected
        rank = free.cumsum(1) - 1
        turn = rank
        if self.frames is not None:
            seen = torch.where(free, self.frames, -1).cummax(1).values
            before = F.pad(seen[:, :-1], (1, 0), value=-1)
            starts = free & (self.frames > before)
            place = rank - torch.where(starts, rank, 0).cummax(1).values
            turn = place + starts.cumsum(1) - 1
        even = turn % 2 == 0
        return free & even, free & ~even

    def _nearest(
        self, givers: Tensor, takers: Tensor, to_here: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return for each giver its highest cosine (B, givers) and which taker has it."""
        exact = torch.promote_types(self.metric.dtype, torch.float32)
        unit = F.normalize(self.metric.to(exact), dim=-1)
        queries = unit.gather(1, givers[..., None].expand(-1, -1, unit.shape[-1]))
        keys = unit.gather(1, takers[..., None].expand(-1, -1, unit.shape[-1])).mT
        rows = max(1, _BLOCK // max(1, keys.shape[0] * keys.shape[2]))
        found = []
        for part in queries.split(rows, dim=1):
            likeness = part @ keys
            if to_here is not None:
                likeness.masked_fill_(~to_here[:, None], -torch.inf)
            found.append(likeness.max(dim=2))
        score = torch.cat([values for values, _ in found], dim=1)
        return score, torch.cat([indices for _, indices in found], dim=1)

    def _number(self, givers: Tensor, target: Tensor) -> Tensor:
        """Number the groups by their first tokens, given the token that each giver joins."""
        shape = self.metric.shape[:2]
        own = torch.arange(shape[1], device=target.device).expand(shape)
        holder = own.scatter(1, givers, target)
        first = own.scatter_reduce(1, holder, own, "amin").gather(1, holder)
        starts = first == own
        if self.mask is not None:
            starts = starts & self.mask
        groups = (starts.cumsum(1) - 1).gather(1, first)
        return groups if self.mask is None else torch.where(self.mask, groups, -1)


def _members(chosen: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return int64 (B, most), the places chosen in each row, first to last; and which are real.

    Where a row has fewer than the most, other places of it follow, each once. The second is None
    where every row has as many.
    """
    counts = chosen.sum(1)
    most = int(counts.max())
    places = chosen.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    real = torch.arange(most, device=chosen.device) < counts[:, None]
    return places, None if bool(real.all()) else real


def _extreme(values: Tensor | None, groups: Tensor, count: int, which: str) -> Tensor | None:
    """Return the largest ("amax") or smallest ("amin") value of each group; 0 for empty groups."""
    if values is None:
        return None
    numbers = values.long() if values.dtype == torch.bool else values
    found = numbers.new_zeros((groups.shape[0], count + 1))
    # What is in no group goes to a last column, which is cut off.
    found = found.scatter_reduce(
        1, torch.where(groups < 0, count, groups), numbers, which, include_self=False
    )
    return found[:, :count].to(values.dtype)
