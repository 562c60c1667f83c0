"""A dense head: attributes of what each cell shows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import GeometryError
from chiasm.core.tokens import VisualTokens


class CellHeadConfig(Config):
    """Dense attribute head.

    Attributes:
        attributes: Number of classes of each attribute by name.
    """

    attributes: dict[str, int]

    def build(self, *, width: int) -> CellHead:
        """Build the head for tokens of a width."""
        return CellHead(width=width, attributes=self.attributes)


class CellHead(nn.Module):
    """Layer norm, then one linear classifier an attribute, on every cell.

    Args:
        width: Width of the tokens.
        attributes: Number of classes of each attribute by name.
    """

    def __init__(self, *, width: int, attributes: Mapping[str, int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classifiers = nn.ModuleDict(
            {name: nn.Linear(width, classes) for name, classes in attributes.items()}
        )

    def predict(self, tokens: VisualTokens) -> dict[str, Tensor]:
        """Score the classes of each cell.

        Args:
            tokens: One token a cell of each image's grid, float (I, N, width).

        Returns:
            By attribute float (I, rows, columns, classes), rows and columns of the largest grids;
            zeros where an image has no such cell.

        Raises:
            GeometryError: Tokens were compressed, so that cells have no token of their own.
        """
        scores = self.score(tokens.features)
        return {name: to_grids(found, tokens) for name, found in scores.items()}

    def score(self, features: Tensor) -> dict[str, Tensor]:
        """Score float (..., width): by attribute float (..., classes)."""
        normed = self.norm(features.float())
        return {f"cells.{name}": part(normed) for name, part in self.classifiers.items()}


def to_grids(scores: Tensor, tokens: VisualTokens) -> Tensor:
    """Lay scores float (I, N, classes) on the grids of their images; see `CellHead.predict`.

    Raises:
        GeometryError: Tokens were compressed, so that cells have no token of their own.
    """
    counts = tokens.mask.sum(1).tolist()
    cells = [geometry.count for geometry in tokens.geometries]
    if counts != cells:
        raise GeometryError(
            f"images have {counts} tokens for {cells} cells; a dense head reads tokens before any "
            "compression"
        )
    rows = max(geometry.rows for geometry in tokens.geometries)
    columns = max(geometry.columns for geometry in tokens.geometries)
    grids = []
    for row, geometry in zip(scores, tokens.geometries, strict=True):
        grid = row[: geometry.count].unflatten(0, (geometry.rows, geometry.columns))
        margin = (0, 0, 0, columns - geometry.columns, 0, rows - geometry.rows)
        grids.append(nn.functional.pad(grid, margin))
    return torch.stack(grids)
