"""Tokens that stand for several cells: where they stand in the text, and what each cell has.

A merged token stands where the first of its cells stood; the placeholders of its other cells go. So
text and positions stay those of the whole picture, with places left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.tokens import VisualTokens
from chiasm.language.hosts.protocol import CellGrid, Extras


def are_merged(tokens: VisualTokens) -> bool:
    """Return whether some token stands for more than one cell."""
    return bool((tokens.sizes > 1).any())


def check_mergeable(extras: Extras, tokens_per_cell: int, family: str) -> None:
    """Check that a family can read merged tokens.

    Raises:
        InputError: It writes more than the cells of a picture, or several tokens a cell.
    """
    if extras or tokens_per_cell != 1:
        more = ", ".join(sorted(extras)) or f"{tokens_per_cell} tokens a cell"
        raise InputError(
            f"merged tokens on a host of the family {family!r}, which also writes {more}; merge on "
            "a host and a fusion that write one token a cell and nothing else"
        )


def text_order(tokens: VisualTokens) -> tuple[list[Tensor], list[Tensor]]:
    """Return how merged tokens are written.

    Returns:
        For each image int64 (its tokens,), the tokens in the order of their first cells; and int64
        (its cells,), how many positions the placeholder of each cell becomes: 1 or 0.

    Raises:
        InputError: A token stands for no cell, or its size is not the number of its cells.
    """
    orders, repeats = [], []
    for image, (sources, real) in enumerate(zip(_sources(tokens), tokens.mask, strict=True)):
        count = int(real.sum())
        held = torch.bincount(sources, minlength=count)
        if len(held) != count or not torch.equal(held, tokens.sizes[image][real]) or not held.all():
            raise InputError(
                f"image {image}: {count} tokens of sizes {tokens.sizes[image][real].tolist()} hold "
                f"{held.tolist()} cells by their sources; a token's size is the number of cells "
                "that name it, at least 1"
            )
        places = torch.arange(len(sources), device=sources.device)
        first = places.new_full((count,), len(sources)).scatter_reduce(0, sources, places, "amin")
        orders.append(first.argsort())
        repeats.append((first[sources] == places).long())
    return orders, repeats


def merged_grids(tokens: VisualTokens) -> list[tuple[CellGrid, ...]]:
    """Return for each image its cells; each has an equal share of the token that holds it.

    Raises:
        InputError: As `text_order`.
    """
    orders, _ = text_order(tokens)
    found: list[tuple[CellGrid, ...]] = []
    for geometry, sources, order, sizes in zip(
        tokens.geometries, _sources(tokens), orders, tokens.sizes, strict=True
    ):
        place = order.argsort()[sources]
        found.append((CellGrid(geometry, place[:, None], 1 / sizes[sources]),))
    return found


def _sources(tokens: VisualTokens) -> Sequence[Tensor]:
    """Return for each image int64 (its cells,), the token that holds each cell."""
    return [row[row >= 0] for row in tokens.sources]
