"""A memory of fixed size: states of all that was seen, merged again and again.

Only the most alike become one, so that what happened once, and looks like nothing else, stays for
itself however much follows. Sizes still say how many tokens stand behind each; where each token
went is not kept, since that would grow with the video.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from chiasm.compression.merge import merge_tokens
from chiasm.core.tokens import VisualTokens


def consolidate(
    memory: VisualTokens | None, states: VisualTokens, keep: int | None, step: float = 0.05
) -> VisualTokens:
    """Add states to a memory and bring it down to its size.

    Args:
        memory: What is remembered, with as many rows; None for nothing.
        states: What was seen.
        keep: Most tokens of each row; None keeps all.
        step: Largest part of a row's tokens merged in one round. Small, since each round knows only
            half of all pairs: what is alone in its half must be able to wait for the next.

    Returns:
        The memory, with sources of its own tokens alone. A row that has fewer keeps them all.
    """
    joined = _own(states) if memory is None else _joined(memory, _own(states))
    counts = joined.mask.sum(1).tolist()
    if keep is None or max(counts) <= keep:
        return joined
    return _own(merge_tokens(joined, [min(keep, count) for count in counts], step=step))


def _own(tokens: VisualTokens) -> VisualTokens:
    """Return tokens whose sources are themselves."""
    places = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
    return replace(tokens, sources=torch.where(tokens.mask, places, -1))


def _joined(memory: VisualTokens, states: VisualTokens) -> VisualTokens:
    """Return rows of remembered and new tokens; real ones stand first in each row."""
    mask = torch.cat([memory.mask, states.mask], 1)
    order = (~mask).long().argsort(dim=1, stable=True)

    def take(old: Tensor, new: Tensor) -> Tensor:
        both = torch.cat([old, new], 1)
        index = order if both.dim() == 2 else order[..., None].expand(-1, -1, both.shape[2])
        return both.gather(1, index)

    return _trimmed(
        VisualTokens(
            features=take(memory.features, states.features),
            cells=take(memory.cells, states.cells),
            sizes=take(memory.sizes, states.sizes),
            sources=take(memory.sources, states.sources),
            mask=take(memory.mask, states.mask),
            times=take(memory.times, states.times),
            geometries=states.geometries,
        )
    )


def _trimmed(tokens: VisualTokens) -> VisualTokens:
    """Return tokens without the padding that no row needs, with sources of their own."""
    longest = int(tokens.mask.sum(1).max())
    return _own(
        replace(
            tokens,
            features=tokens.features[:, :longest],
            cells=tokens.cells[:, :longest],
            sizes=tokens.sizes[:, :longest],
            mask=tokens.mask[:, :longest],
            times=tokens.times[:, :longest],
        )
    )
