"""Spans of a clip as rows of their own, and back.

Matching compares half of a row's tokens with the other half. In spans of a few frames a long clip
costs as much as its length, not as its square, and a token never mixes moments far apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chiasm.core.errors import CompressionError, InputError
from chiasm.core.tokens import VisualTokens


def split_spans(tokens: VisualTokens, frames: int) -> tuple[VisualTokens, list[int]]:
    """Cut every row into spans of consecutive frames, the last of a row as short as it falls.

    Args:
        tokens: Unmerged tokens, one a cell of each frame, frame after frame.
        frames: Frames in a span, at least 1.

    Returns:
        One row a span, sources within the span; and the number of spans of each row.

    Raises:
        CompressionError: Tokens are merged already.
        InputError: There are no frames in a span, or a row is no whole number of frames.
    """
    if frames < 1:
        raise InputError(f"spans of {frames} frames; give 1 or more")
    places = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
    if not torch.equal(tokens.sources, torch.where(tokens.mask, places, -1)):
        raise CompressionError(
            "merged tokens cannot be cut into spans, a token may lie in two; merge in spans first, "
            "or whole rows"
        )
    parts: list[tuple[int, int, int]] = []
    spans = []
    for row, (geometry, count) in enumerate(
        zip(tokens.geometries, tokens.mask.sum(1).tolist(), strict=True)
    ):
        if count % geometry.count:
            raise InputError(
                f"row {row} has {count} tokens, no whole number of frames of {geometry.count} "
                "cells; give one token a cell of each frame"
            )
        starts = range(0, count, frames * geometry.count)
        parts += [(row, start, min(start + starts.step, count)) for start in starts]
        spans.append(len(starts))
    longest = max(stop - start for _, start, stop in parts)
    lengths = torch.tensor([stop - start for _, start, stop in parts], device=places.device)
    mask = places[:longest] < lengths[:, None]

    def cut(values: Tensor) -> Tensor:
        out = values.new_zeros((len(parts), longest, *values.shape[2:]))
        for index, (row, start, stop) in enumerate(parts):
            out[index, : stop - start] = values[row, start:stop]
        return out

    cutting = VisualTokens(
        features=cut(tokens.features),
        cells=cut(tokens.cells),
        sizes=cut(tokens.sizes),
        sources=torch.where(mask, places[:longest], -1),
        mask=mask,
        times=cut(tokens.times),
        geometries=tuple(tokens.geometries[row] for row, _, _ in parts),
    )
    return cutting, spans


def join_spans(tokens: VisualTokens, spans: Sequence[int]) -> VisualTokens:
    """Put spans, merged or not, together again.

    Args:
        tokens: One row a span, as `split_spans` made them.
        spans: The number of spans of each row.

    Raises:
        InputError: The numbers do not sum to the rows.
    """
    if sum(spans) != len(tokens.geometries) or min(spans, default=0) < 1:
        raise InputError(
            f"{len(tokens.geometries)} spans for rows of {list(spans)}; give the numbers that the "
            "cut returned"
        )
    counts, originals = tokens.mask.sum(1), (tokens.sources >= 0).sum(1)
    first = (counts.cumsum(0) - counts).split(list(spans))
    # Where a span's tokens begin in its row.
    starts = torch.cat([part - part[0] for part in first])
    sources = torch.where(tokens.sources < 0, -1, tokens.sources + starts[:, None])
    length = max(int(part.sum()) for part in counts.split(list(spans)))
    original = max(int(part.sum()) for part in originals.split(list(spans)))
    ends = torch.tensor(list(spans)).cumsum(0).tolist()

    def join(values: Tensor, real: Tensor, size: int, fill: int = 0) -> Tensor:
        out = values.new_full((len(spans), size, *values.shape[2:]), fill)
        for row, (end, number) in enumerate(zip(ends, spans, strict=True)):
            kept = values[end - number : end][real[end - number : end]]
            out[row, : len(kept)] = kept
        return out

    return VisualTokens(
        features=join(tokens.features, tokens.mask, length),
        cells=join(tokens.cells, tokens.mask, length),
        sizes=join(tokens.sizes, tokens.mask, length),
        sources=join(sources, sources >= 0, original, fill=-1),
        mask=join(tokens.mask, tokens.mask, length),
        times=join(tokens.times, tokens.mask, length),
        geometries=tuple(tokens.geometries[end - 1] for end in ends),
    )


def stack_rows(parts: Sequence[VisualTokens]) -> VisualTokens:
    """Return the rows of several batches of tokens as one batch, padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    length = max(part.mask.shape[1] for part in parts)
    originals = max(part.sources.shape[1] for part in parts)

    def stack(values: Sequence[Tensor], size: int, fill: float = 0) -> Tensor:
        return torch.cat([_extended(value, size, fill) for value in values])

    return VisualTokens(
        features=stack([part.features for part in parts], length),
        cells=stack([part.cells for part in parts], length),
        sizes=stack([part.sizes for part in parts], length),
        sources=stack([part.sources for part in parts], originals, -1),
        mask=stack([part.mask for part in parts], length),
        times=stack([part.times for part in parts], length),
        geometries=tuple(geometry for part in parts for geometry in part.geometries),
    )


def _extended(values: Tensor, length: int, fill: float) -> Tensor:
    """Return (B, length, ...), filled up at the end of each row."""
    missing = length - values.shape[1]
    if not missing:
        return values
    more = values.new_full((values.shape[0], missing, *values.shape[2:]), fill)
    return torch.cat([values, more], 1)
