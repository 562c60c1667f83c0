"""Merging: exactly as many tokens as asked for, each the mean of those it stands for.

Sizes say how many original tokens stand behind each, sources where each original token went; a row
of sizes always sums to the row's original tokens. Attention over merged tokens adds log(size) to
the scores of its keys, so that a token counts as often as what it stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from chiasm.compression.matching import Grouping, match_tokens
from chiasm.core.errors import CompressionError, InputError
from chiasm.core.tokens import VisualTokens

_LEAST_WEIGHT = 1e-3
"""Added to importance used as a weight, so that a group without importance has a mean."""


def merge_tokens(
    tokens: VisualTokens,
    keep: int | Sequence[int],
    importance: Tensor | None = None,
    *,
    metric: Tensor | None = None,
    protect: int | Tensor = 0,
    penalty: float = 1.0,
    weigh: Literal["size", "importance"] = "size",
    step: float = 0.25,
) -> VisualTokens:
    """Merge the most alike and least important tokens of each row.

    Args:
        tokens: The tokens; they may be merged already.
        keep: How many tokens each row keeps: one number for all, or one a row. Exactly so many
            come back; shorter rows are padded to the longest.
        importance: float (B, N), finite, usually in [0, 1]: how much a token is worth keeping for
            itself. Values on padding are not read.
        metric: float (B, N, any), what is compared instead of the features (an encoder's keys).
        protect: Tokens that are never merged: so many at the start of each row (class and register
            tokens), or bool (B, N).
        penalty: Price of one unit of importance, in cosine similarity.
        weigh: What a token weighs in the mean: its size, or its size times its importance (not
            negative then).
        step: Largest part of a row's tokens merged in one round, in (0, 0.5]. Small steps merge
            better pairs and heed importance more; 0.5 is fastest, but a row brought to half in one
            such step leaves nothing to choose.

    Returns:
        The merged tokens, in the order of their first tokens. A cell box of a merged token is the
        mean of the boxes of its cells: its middle is their centroid. Its time is their mean. A row
        that keeps all its tokens is returned bit for bit.

    Raises:
        CompressionError: A row has fewer tokens than asked for, or fewer are asked for than 1 or
            than are protected.
        InputError: Importance, metric or protection have another shape, importance is not finite,
            or a setting is out of its range.
    """
    shape = tuple(tokens.mask.shape)
    protected = _protected(protect, tokens)
    wanted = check_keep(keep, tokens.mask, protected)
    _check_step(step)
    if metric is not None and tuple(metric.shape[:2]) != shape:
        raise InputError(
            f"metric of shape {tuple(metric.shape)} for {shape[0]} rows of {shape[1]} tokens; give "
            "float (rows, tokens, any width)"
        )
    if importance is not None:
        importance = _checked_importance(importance, tokens.mask, weigh)
    elif weigh == "importance":
        raise InputError("weigh='importance' without importance; give it, or weigh by 'size'")
    counts = tokens.mask.sum(1).tolist()
    if wanted == counts:
        return tokens
    weights = tokens.sizes.to(torch.promote_types(tokens.features.dtype, torch.float32))
    if importance is not None and weigh == "importance":
        weights = weights * (importance + _LEAST_WEIGHT)
    grouping = match_tokens(
        tokens.features if metric is None else metric,
        wanted,
        mask=None if min(counts) == shape[1] else tokens.mask,
        importance=importance,
        weights=weights,
        frames=_frames(tokens.times),
        protected=protect if isinstance(protect, int) else protect & tokens.mask,
        penalty=penalty,
        step=step,
    )
    return gather_groups(tokens, grouping, weights)


def unmerge_tokens(merged: VisualTokens) -> Tensor:
    """Give every original token the features of the token that holds it now.

    Returns:
        float (B, M, D), M the original tokens of the longest row; zero on original padding.
    """
    held = merged.sources >= 0
    index = merged.sources.clamp(min=0)[..., None].expand(-1, -1, merged.width)
    return torch.where(held[..., None], merged.features.gather(1, index), 0)


def gather_groups(tokens: VisualTokens, grouping: Grouping, weights: Tensor) -> VisualTokens:
    """Make one token of each group; sizes and sources follow.

    Args:
        tokens: The tokens, merged already or not.
        grouping: The group of each real token.
        weights: float (B, N), positive on real tokens: what each weighs in its group's features.
            Cells and times are means by size.
    """
    sizes = tokens.sizes.float()
    shares = grouping.shares(weights)
    where = torch.cat([tokens.cells, tokens.times[..., None]], dim=-1)
    middle = grouping.means(where, grouping.shares(sizes))
    held = grouping.groups.gather(1, tokens.sources.clamp(min=0))
    return replace(
        tokens,
        features=grouping.means(tokens.features, shares),
        cells=middle[..., :4],
        sizes=grouping.sums(tokens.sizes),
        sources=torch.where(tokens.sources < 0, -1, held),
        mask=grouping.mask,
        times=middle[..., 4],
    )


def check_keep(
    keep: int | Sequence[int], mask: Tensor, protected: Tensor | None = None
) -> list[int]:
    """Return how many tokens each row keeps.

    Args:
        keep: One number for all rows, or one a row.
        mask: bool (B, N), True for a real token.
        protected: bool (B, N), tokens that cannot become fewer.

    Raises:
        CompressionError: A row has fewer tokens than asked for, or fewer are asked for than 1 or
            than are protected.
        InputError: There are not as many numbers as rows.
    """
    counts = mask.sum(1).tolist()
    wanted = [keep] * len(counts) if isinstance(keep, int) else [int(number) for number in keep]
    if len(wanted) != len(counts):
        raise InputError(
            f"keep has {len(wanted)} numbers for {len(counts)} rows; give one number, or one a row"
        )
    alone = [0] * len(counts) if protected is None else protected.sum(1).tolist()
    for row, (count, number, fixed) in enumerate(zip(counts, wanted, alone, strict=True)):
        least = max(1, fixed + (count > fixed))
        if not least <= number <= count:
            why = f", {fixed} of them protected" if fixed else ""
            raise CompressionError(
                f"row {row} has {count} tokens{why}, and {number} are to be kept; keep at least "
                f"{least} and at most {count}"
            )
    return wanted


def _frames(times: Tensor) -> Tensor | None:
    """Number the frames of tokens by their times; None where every row is one frame."""
    changes = times[:, 1:] != times[:, :-1]
    if not bool(changes.any()):
        return None
    return torch.nn.functional.pad(changes.long().cumsum(1), (1, 0))


def _protected(protect: int | Tensor, tokens: VisualTokens) -> Tensor | None:
    if isinstance(protect, Tensor):
        if protect.shape != tokens.mask.shape or protect.dtype != torch.bool:
            raise InputError(
                f"protect of shape {tuple(protect.shape)} and type {protect.dtype}; give bool "
                f"{tuple(tokens.mask.shape)}, or a number of tokens at the start of each row"
            )
        return protect & tokens.mask
    if protect < 0:
        raise InputError(f"protect is {protect}; give a number of tokens, 0 or more")
    if protect == 0:
        return None
    places = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
    return (places < protect) & tokens.mask


def _checked_importance(importance: Tensor, mask: Tensor, weigh: str) -> Tensor:
    if importance.shape != mask.shape:
        raise InputError(
            f"importance of shape {tuple(importance.shape)}; the tokens ask for "
            f"{tuple(mask.shape)}, one value a token"
        )
    importance = importance.to(torch.promote_types(importance.dtype, torch.float32))
    importance = importance.masked_fill(~mask, 0)
    broken = ~importance.isfinite()
    if bool(broken.any()):
        row, token = broken.nonzero()[0].tolist()
        raise InputError(
            f"importance of row {row}, token {token} is {importance[row, token].item()} "
            f"({int(broken.sum())} such in all); give finite values"
        )
    if weigh == "importance" and bool((importance < 0).any()):
        raise InputError(
            f"importance is as low as {importance.min().item():.3g}; as a weight it must not be "
            "negative: give values in [0, 1], or weigh by 'size'"
        )
    return importance


def _check_step(step: float) -> None:
    if not 0 < step <= 0.5:
        raise InputError(
            f"step is {step}; a round merges more than none and at most half of the tokens: give a "
            "number in (0, 0.5]"
        )
