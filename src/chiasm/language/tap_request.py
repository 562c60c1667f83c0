"""What a tap was asked for, checked against each pass before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.language.attention_rows import Merge


@dataclass(frozen=True)
class Reading:
    """One pass of the decoder.

    Attributes:
        batch: Rows B.
        length: Positions N that are read.
        seen: Positions a cache held before.
        real: bool (B, seen + N), False where padding stands, or None where nobody said.
        offsets: For each layer, the position of its first key: above 0 where a sliding window has
            dropped keys from the cache.
        device: Where the pass runs.
    """

    batch: int
    length: int
    seen: int
    real: Tensor | None
    offsets: tuple[int, ...]
    device: torch.device


@dataclass(frozen=True)
class Request:
    """Queries, keys and groups as they were asked for.

    Attributes:
        queries: int64 (B, Q), -1 for padding; None for the tokens being decoded.
        keys: int64 (B, K) or (K,), -1 for padding.
        members: bool (B, G, Q), or None without groups.
        merge: How the rows of a group become one; None without groups.
    """

    queries: Tensor | None
    keys: Tensor
    members: Tensor | None = None
    merge: Merge | None = None

    def on(self, reading: Reading) -> Request:
        """Return the request with one row of keys for each of the pass, on its device.

        Raises:
            InputError: Rows, positions or padding do not fit the pass.
        """
        queries, keys = self.queries, self.keys
        if keys.ndim == 1:
            keys = keys.expand(reading.batch, -1)
        if queries is None:
            queries = torch.arange(reading.length).expand(reading.batch, -1)
        else:
            _check(queries, reading, reading.length, reading.seen, "query", "being read")
        _check(keys, reading, reading.seen + reading.length, 0, "key", "of the whole sequence")
        members = None if self.members is None else self.members.to(reading.device)
        return Request(queries.to(reading.device), keys.to(reading.device), members, self.merge)


def build_request(queries: Any, keys: Any, groups: Any, merge: Any) -> Request:
    """Check what needs no pass to be checked.

    Args:
        queries: See `language.tap.tap`.
        keys: See there.
        groups: See there.
        merge: See there.

    Raises:
        InputError: A shape, a type or a group is wrong.
    """
    _check_integers(keys, "keys", (1, 2))
    if merge not in (None, "mean", "max"):
        raise InputError(f"merge is {merge!r}; it must be 'mean', 'max' or None")
    if (groups is None) != (merge is None):
        raise InputError(
            f"groups {'are' if groups is not None else 'are not'} given and merge is {merge!r}; "
            "the two go together: groups say which rows to merge, merge says how"
        )
    if isinstance(queries, str):
        if queries != "decoded":
            raise InputError(f"queries is {queries!r}; it must be a tensor or 'decoded'")
        if groups is not None:
            raise InputError(
                "groups with queries='decoded': the tokens are not known yet; merge them "
                "afterwards with `language.attention_rows.merge_rows`"
            )
        return Request(None, keys)
    _check_integers(queries, "queries", (2,))
    members = None if groups is None else _members(groups, queries)
    return Request(queries, keys, members, merge)


def _members(groups: Tensor, queries: Tensor) -> Tensor:
    """Return bool (B, G, Q)."""
    batch, count = queries.shape
    if groups.dtype == torch.bool:
        if groups.ndim != 3 or (groups.shape[0], groups.shape[2]) != (batch, count):
            raise InputError(
                f"groups has shape {tuple(groups.shape)}; bool groups of queries "
                f"({batch}, {count}) have shape ({batch}, groups, {count})"
            )
        members = groups
    else:
        _check_integers(groups, "groups", (2,))
        if groups.shape != queries.shape:
            raise InputError(
                f"groups has shape {tuple(groups.shape)}, queries {tuple(queries.shape)}; "
                "give one group a query"
            )
        if bool((groups < -1).any()):
            raise InputError(f"group {int(groups.min())} is negative; -1 means none")
        names = torch.arange(max(int(groups.max()) + 1, 0) if groups.numel() else 0)
        members = groups[:, None] == names.to(groups.device)[None, :, None]
    padded = (members & (queries < 0).to(members.device)[:, None]).nonzero().tolist()
    if padded:
        row, group, place = padded[0]
        raise InputError(
            f"row {row}: query {place} is padding and belongs to group {group}; padded queries "
            "belong to none"
        )
    filled = members.any(-1)
    # Ragged rows end in groups without tokens; one in between is a phrase that lost its tokens.
    later = filled.flip(-1).cummax(-1).values.flip(-1)
    empty = (later & ~filled).nonzero().tolist()
    if empty:
        row, group = empty[0]
        raise InputError(
            f"row {row}: group {group} of {int(filled[row].sum()) + len(empty)} has no query; "
            "give each phrase at least one token"
        )
    return members


def _check_integers(values: Any, name: str, axes: tuple[int, ...]) -> None:
    wanted = " or ".join("(batch, count)" if axis == 2 else "(count,)" for axis in axes)
    if not isinstance(values, Tensor) or values.dtype != torch.long or values.ndim not in axes:
        found = (
            f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values)
        )
        raise InputError(f"{name} is {found}; it must be an int64 tensor {wanted}")


def _check(
    positions: Tensor, reading: Reading, limit: int, shift: int, name: str, where: str
) -> None:
    if positions.shape[0] != reading.batch:
        raise InputError(
            f"{positions.shape[0]} rows of {name} positions for a pass of {reading.batch} rows; "
            "give one a row (and expand them where generation writes several texts for a row)"
        )
    wrong = ((positions < -1) | (positions >= limit)).nonzero().tolist()
    if wrong:
        row, place = wrong[0]
        raise InputError(
            f"row {row}: {name} position {int(positions[row, place])} is outside the {limit} "
            f"positions {where} ({len(wrong)} such); positions start at 0, and -1 is padding"
        )
    if reading.real is None:
        return
    real = reading.real.to(positions.device).gather(1, (positions + shift).clamp(min=0))
    wrong = ((positions >= 0) & ~real).nonzero().tolist()
    if wrong:
        row, place = wrong[0]
        raise InputError(
            f"row {row}: {name} position {int(positions[row, place])} is padding in the text "
            f"({len(wrong)} such); take positions after padding was added"
        )
