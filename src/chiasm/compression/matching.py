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
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

ValueT = TypeVar("ValueT", Tensor, Tensor | None)

_BLOCK = 1 << 24
"""Similarities held at once: 64 MiB in float32, whatever the number of tokens."""

_STEPS = {torch.float32: 1 << 17, torch.float64: 1 << 40}
"""Similarities and scores are whole numbers of such parts of 1. Tokens that are alike, as those of
a still video, have one similarity but for rounding, and that depends on how many are multiplied at
once and on the machine; what is merged must not."""


def match_tokens(
    metric: Tensor,
    keep: Sequence[int],
    *,
    mask: Tensor | None = None,
    importance: Tensor | None = None,
    weights: Tensor | None = None,
    frames: Tensor | None = None,
    protected: int | Tensor = 0,
    penalty: float = 1.0,
    step: float = 0.25,
) -> Grouping:
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
        protected: Tokens that stay alone: so many at the start of each row, or bool (B, N).
        penalty: Price of one unit of importance, in cosine similarity.
        step: Largest part of a row's tokens merged in one round, above 0. A round cannot merge
            more than its givers, so 0.5 is as much as there is.

    Returns:
        The groups, numbered in the order of their first tokens.
    """
    with torch.no_grad():
        batch, length = metric.shape[:2]
        counts = [length] * batch if mask is None else mask.sum(1).tolist()
        state = _Round(metric, mask, importance, weights, frames, protected)
        places = None
        while places is None or counts != list(keep):
            groups, counts = state.merge(counts, keep, penalty, step)
            places = groups if places is None else _follow(places, groups)
            if counts != list(keep):
                state = state.joined(Grouping(groups, counts, state.mask is None), counts)
        return Grouping(places, counts, mask is None)


class Grouping:
    """Which group each token belongs to.

    Args:
        groups: int64 (B, N), numbered from 0 in each row; -1 for padding.
        counts: The number of groups of each row.
        full: Whether there is no padding.
    """

    def __init__(self, groups: Tensor, counts: Sequence[int], full: bool) -> None:
        self.groups = groups
        self.counts = tuple(counts)
        self.count = max(counts)
        starts = torch.arange(0, len(counts) * self.count, self.count, device=groups.device)
        self._places = (groups + starts[:, None]).flatten()
        self._real = None if full else (groups >= 0).flatten()
        if self._real is not None:
            self._places = self._places[self._real]

    @property
    def mask(self) -> Tensor:
        """Return bool (B, most groups), True for a group that is there."""
        counts = torch.tensor(self.counts, device=self.groups.device)
        return torch.arange(self.count, device=counts.device) < counts[:, None]

    def sums(self, values: Tensor) -> Tensor:
        """Sum values over groups.

        Args:
            values: (B, N) or (B, N, D). Padding is not read.

        Returns:
            (B, most groups) or (B, most groups, D), zero for groups that are not there.
        """
        flat = values.flatten(0, 1)
        if self._real is not None:
            flat = flat[self._real]
        batch = len(self.counts)
        sums = values.new_zeros((batch * self.count, *values.shape[2:]))
        return sums.index_add(0, self._places, flat).unflatten(0, (batch, self.count))

    def shares(self, weights: Tensor) -> Tensor:
        """Return the share of each token in the mean of its group, of the type of `weights`.

        Args:
            weights: float (B, N), positive on real tokens.
        """
        totals = self.sums(weights)
        # A token alone is divided by its own weight: a share of exactly 1.
        groups = self.groups if self._real is None else self.groups.clamp(min=0)
        return weights / totals.gather(1, groups)

    def means(self, values: Tensor, shares: Tensor) -> Tensor:
        """Average values over groups, in float32 or better; a group of one keeps its bits.

        Args:
            values: float (B, N, D).
            shares: float (B, N), as `shares` returns them.

        Returns:
            float (B, most groups, D) of the type of `values`; zero for groups that are not there.
        """
        exact = torch.promote_types(values.dtype, torch.float32)
        return self.sums(values.to(exact) * shares.to(exact)[..., None]).to(values.dtype)


class _Round:
    """The tokens of one round; arguments as in `match_tokens`."""

    def __init__(
        self,
        metric: Tensor,
        mask: Tensor | None,
        importance: Tensor | None,
        weights: Tensor | None,
        frames: Tensor | None,
        protected: int | Tensor,
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
        givers, takers = self._deal()
        score, best = self._nearest(givers, takers)
        if self.importance is not None:
            price = penalty * self.importance.gather(1, givers.places)
            score = (score - _STEPS[score.dtype] * price).round_()
        if givers.real is not None:
            score = score.masked_fill(~givers.real, -torch.inf)
        merged = [
            min(count - wanted, have, max(1, int(step * count)))
            for count, wanted, have in zip(counts, keep, givers.counts, strict=True)
        ]
        # A stable sort: of equal scores the earlier token goes first.
        order = score.argsort(dim=1, descending=True, stable=True)[:, : max(merged)]
        source = givers.places.gather(1, order)
        target = takers.places.gather(1, best.gather(1, order))
        if min(merged) < max(merged):
            limit = torch.tensor(merged, device=order.device)[:, None]
            joins = torch.arange(order.shape[1], device=order.device) < limit
            target = torch.where(joins, target, source)
        left = [count - gone for count, gone in zip(counts, merged, strict=True)]
        return self._number(source, target), left

    def joined(self, grouping: Grouping, counts: Sequence[int]) -> _Round:
        """Return the tokens of the next round."""
        weights = self.weights
        if weights is None:
            exact = torch.promote_types(self.metric.dtype, torch.float32)
            weights = self.metric.new_ones(self.metric.shape[:2], dtype=exact)
        even = min(counts) == max(counts)
        return _Round(
            metric=grouping.means(self.metric, grouping.shares(weights)),
            mask=None if even else grouping.mask,
            importance=_extreme(self.importance, grouping, "amax"),
            weights=grouping.sums(weights),
            frames=_extreme(self.frames, grouping, "amin"),
            # Protected tokens at the start are groups at the start.
            protected=self.protected
            if isinstance(self.protected, int)
            else _extreme(self.protected, grouping, "amax"),
        )

    def _deal(self) -> tuple[_Kind, _Kind]:
        """Return givers and takers, which alternate along a frame, and from frame to frame."""
        batch, length = self.metric.shape[:2]
        device = self.metric.device
        if self.mask is None and self.frames is None and isinstance(self.protected, int):
            dealt = [
                torch.arange(start, length, 2, device=device).expand(batch, -1)
                for start in (self.protected, self.protected + 1)
            ]
            givers, takers = (_Kind(places, [places.shape[1]] * batch) for places in dealt)
            return givers, takers
        free = torch.ones((batch, length), dtype=torch.bool, device=device)
        if self.mask is not None:
            free = free & self.mask
        if isinstance(self.protected, Tensor):
            free = free & ~self.protected
        else:
            free[:, : self.protected] = False
        rank = free.cumsum(1) - 1
        turn = rank
        if self.frames is not None:
            seen = torch.where(free, self.frames, -1).cummax(1).values
            before = F.pad(seen[:, :-1], (1, 0), value=-1)
            starts = free & (self.frames > before)
            place = rank - torch.where(starts, rank, 0).cummax(1).values
            turn = place + starts.cumsum(1) - 1
        even = turn % 2 == 0
        return _Kind.of(free & even), _Kind.of(free & ~even)

    def _nearest(self, givers: _Kind, takers: _Kind) -> tuple[Tensor, Tensor]:
        """Return for each giver its highest cosine, in `_STEPS` (B, givers), and whose it is."""
        exact = torch.promote_types(self.metric.dtype, torch.float32)
        unit = F.normalize(self.metric.to(exact), dim=-1)
        queries, keys = givers.take(unit) * _STEPS[exact], takers.take(unit).mT
        rows = max(1, _BLOCK // max(1, keys.shape[0] * keys.shape[2]))
        found = []
        for part in queries.split(rows, dim=1):
            likeness = (part @ keys).round_()
            if takers.real is not None:
                likeness.masked_fill_(~takers.real[:, None], -torch.inf)
            found.append(likeness.max(dim=2))
        if len(found) == 1:
            return found[0].values, found[0].indices
        score = torch.cat([values for values, _ in found], dim=1)
        return score, torch.cat([indices for _, indices in found], dim=1)

    def _number(self, source: Tensor, target: Tensor) -> Tensor:
        """Number the groups by their first tokens, given which tokens join which others."""
        shape = self.metric.shape[:2]
        own = torch.arange(shape[1], device=target.device).expand(shape)
        holder = own.scatter(1, source, target)
        first = own.scatter_reduce(1, holder, own, "amin").gather(1, holder)
        starts = first == own
        # Padding stands behind all others, so that its groups do not count.
        groups = (starts.cumsum(1) - 1).gather(1, first)
        return groups if self.mask is None else torch.where(self.mask, groups, -1)


class _Kind(NamedTuple):
    """The givers or the takers.

    Attributes:
        places: int64 (B, most), their places in each row, first to last. Where a row has fewer than
            the most, other places of it follow, each once.
        counts: How many each row has.
        real: bool (B, most), which places count; None where all do.
    """

    places: Tensor
    counts: list[int]
    real: Tensor | None = None

    @classmethod
    def of(cls, chosen: Tensor) -> _Kind:
        """Find those that bool (B, N) chooses."""
        counts = chosen.sum(1)
        told = counts.tolist()
        places = chosen.byte().argsort(dim=1, descending=True, stable=True)[:, : max(told)]
        if min(told) == max(told):
            return cls(places, told)
        real = torch.arange(max(told), device=chosen.device) < counts[:, None]
        return cls(places, told, real)

    def take(self, values: Tensor) -> Tensor:
        """Return float (B, most, D), the values of float (B, N, D) at the places."""
        return values.gather(1, self.places[..., None].expand(-1, -1, values.shape[-1]))


def _follow(places: Tensor, groups: Tensor) -> Tensor:
    """Return the group of the group of each token; -1 stays."""
    return torch.where(places < 0, -1, groups.gather(1, places.clamp(min=0)))


def _extreme(values: ValueT, grouping: Grouping, which: str) -> ValueT:
    """Return the largest ("amax") or smallest ("amin") value of each group; 0 for empty groups."""
    if values is None:
        return values
    numbers = values.long() if values.dtype == torch.bool else values
    found = numbers.new_zeros((len(grouping.counts), grouping.count + 1))
    # What is in no group goes to a last column, which is cut off.
    places = torch.where(grouping.groups < 0, grouping.count, grouping.groups)
    found = found.scatter_reduce(1, places, numbers, which, include_self=False)
    return found[:, :-1].to(values.dtype)
