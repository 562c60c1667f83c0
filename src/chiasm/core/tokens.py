"""Visual tokens: features that know where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chiasm.core.errors import GeometryError
from chiasm.core.grid import ImageGeometry


@dataclass(frozen=True)
class VisualTokens:
    """A batch of token rows, one row an image (or clip), with the geometry of every token.

    Rows of unequal length are padded at the end; `mask` says which tokens are real. Padding has
    size 0 and is never read.

    Attributes:
        features: float (B, N, D).
        cells: float32 (B, N, 4), XYXY in original pixels: the box each token stands for.
        sizes: int64 (B, N), how many original tokens each token stands for; a row sums to the
            number of original tokens of that row.
        sources: int64 (B, M), for each of the M original tokens the token that now holds it, or
            -1 where the original position is padding.
        mask: bool (B, N), True for a real token.
        times: float32 (B, N), the time of each token's frame in seconds; zero for still images.
        geometries: One geometry a row, of the grid before any compression.
    """

    features: Tensor
    cells: Tensor
    sizes: Tensor
    sources: Tensor
    mask: Tensor
    times: Tensor
    geometries: tuple[ImageGeometry, ...]

    def __post_init__(self) -> None:
        batch, tokens = self.features.shape[:2]
        expected = {
            "cells": (batch, tokens, 4),
            "sizes": (batch, tokens),
            "mask": (batch, tokens),
            "times": (batch, tokens),
        }
        for name, shape in expected.items():
            found = tuple(self._field(name).shape)
            if found != shape:
                raise GeometryError(
                    f"visual tokens: {name} has shape {found}, features ask for {shape}"
                )
        if self.sources.shape[0] != batch or len(self.geometries) != batch:
            raise GeometryError(
                f"visual tokens: {batch} rows of features, {self.sources.shape[0]} source rows, "
                f"{len(self.geometries)} geometries; the three must agree"
            )

    def _field(self, name: str) -> Tensor:
        return {"cells": self.cells, "sizes": self.sizes, "mask": self.mask, "times": self.times}[
            name
        ]

    @classmethod
    def from_images(
        cls, features: Sequence[Tensor], geometries: Sequence[ImageGeometry]
    ) -> VisualTokens:
        """Gather one feature map an image into one padded batch.

        Args:
            features: For each image float (rows * columns, D), cells row by row.
            geometries: The geometry of each image.

        Raises:
            GeometryError: A feature map has not one token a cell.
        """
        for index, (feature, geometry) in enumerate(zip(features, geometries, strict=True)):
            if feature.shape[0] != geometry.count:
                raise GeometryError(
                    f"image {index}: {feature.shape[0]} tokens for a grid of {geometry.rows} x "
                    f"{geometry.columns} = {geometry.count} cells; an encoder must return one "
                    "token a cell, without class or register tokens"
                )
        longest = max(geometry.count for geometry in geometries)
        device = features[0].device
        counts = torch.tensor([geometry.count for geometry in geometries], device=device)
        places = torch.arange(longest, device=device).expand(len(features), longest)
        mask = places < counts[:, None]
        return cls(
            features=_pad_rows(features, longest),
            cells=_pad_rows([g.cell_boxes().to(device) for g in geometries], longest),
            sizes=mask.long(),
            sources=torch.where(mask, places, -1),
            mask=mask,
            times=torch.zeros(mask.shape, device=device),
            geometries=tuple(geometries),
        )

    @property
    def width(self) -> int:
        """Width D of a token."""
        return self.features.shape[-1]

    def with_features(self, features: Tensor) -> VisualTokens:
        """Return the same tokens with other features, float (B, N, any width)."""
        return replace(self, features=features)

    def chunk(self, count: int) -> tuple[VisualTokens, ...]:
        """Cut the rows into `count` batches of equal length.

        Raises:
            GeometryError: The rows cannot be cut so.
        """
        rows = len(self.geometries)
        if rows % count:
            raise GeometryError(f"{rows} rows of visual tokens cannot be cut into {count}")
        each = rows // count
        cuts = [slice(start, start + each) for start in range(0, rows, each or 1)]
        return tuple(self._rows(cut, self.geometries[cut]) for cut in cuts)

    def take(self, rows: Tensor) -> VisualTokens:
        """Return some rows, int64 (B,), of which the same may come several times."""
        return self._rows(rows, tuple(self.geometries[row] for row in rows.tolist()))

    def _rows(self, rows: Tensor | slice, geometries: tuple[ImageGeometry, ...]) -> VisualTokens:
        return VisualTokens(
            features=self.features[rows],
            cells=self.cells[rows],
            sizes=self.sizes[rows],
            sources=self.sources[rows],
            mask=self.mask[rows],
            times=self.times[rows],
            geometries=geometries,
        )

    def rows(self) -> list[Tensor]:
        """Return the real tokens of each row: B tensors float (tokens of that row, D)."""
        return [row[keep] for row, keep in zip(self.features, self.mask, strict=True)]


def _pad_rows(rows: Sequence[Tensor], length: int) -> Tensor:
    """Stack rows of unequal length with zeros at the end; equal rows are stacked as they are."""
    if all(row.shape[0] == length for row in rows):
        return torch.stack(list(rows))
    padded = rows[0].new_zeros((len(rows), length, *rows[0].shape[1:]))
    for index, row in enumerate(rows):
        padded[index, : row.shape[0]] = row
    return padded
