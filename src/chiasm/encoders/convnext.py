"""ConvNeXt as a fine eye: all stages at the finest one's resolution, many features a host cell."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import ConfigError
from chiasm.encoders.families import CONVNEXT
from chiasm.encoders.grids import pool_cells
from chiasm.encoders.loading import build_tower, load_tower
from chiasm.encoders.precision import PRECISIONS, Precision
from chiasm.encoders.tower import GridTower
from chiasm.encoders.transform import GridTransform


class ConvNextConfig(Config):
    """ConvNeXt (Liu et al., 2022, arXiv:2201.03545), read as Mini-Gemini reads it.

    Attributes:
        path: Local directory or hub name of a checkpoint in the form of transformers.
        revision: Branch, tag or commit on the hub.
        architecture: Values of the library's configuration class, for random weights.
        oversample: Features of the first stage along each side of a host cell. With the usual stem
            of 4 pixels, 8 makes a host of 24 x 24 cells see 768 x 768 pixels.
        dtype: Type of the weights.
    """

    path: str | None = None
    revision: str | None = None
    architecture: dict[str, Any] | None = None
    oversample: int = Field(default=8, ge=1, le=16)
    dtype: Precision = "float32"

    @model_validator(mode="after")
    def _one_source(self) -> ConvNextConfig:
        if (self.path is None) == (self.architecture is None):
            raise ValueError(
                "give either `path` (a checkpoint) or `architecture` (random weights), not both "
                "and not neither"
            )
        return self

    def build(self) -> ConvNextEncoder:
        """Load or initialise the encoder.

        Raises:
            CheckpointError: The checkpoint cannot be read or is of another family.
            ConfigError: A value is unknown, or cells are no whole number of the coarsest features.
        """
        dtype = PRECISIONS[self.dtype]
        if self.path is not None:
            loaded = load_tower(CONVNEXT, self.path, dtype, self.revision)
        else:
            loaded = build_tower(CONVNEXT, self.architecture or {}, dtype)
        model: Any = loaded.model
        halvings = 2 ** (len(model.encoder.stages) - 1)
        if self.oversample % halvings:
            raise ConfigError(
                f"oversample {self.oversample}: the last stage has one feature for {halvings} x "
                f"{halvings} of the first, so a cell would hold no whole number of them; take a "
                f"multiple of {halvings}"
            )
        transform = GridTransform(
            patch=loaded.patch,
            oversample=self.oversample,
            mean=loaded.mean,
            deviation=loaded.deviation,
            resampling=loaded.resampling,
        )
        return ConvNextEncoder(model=model, transform=transform, source=loaded.source)


class ConvNextEncoder(GridTower):
    """A ConvNeXt of transformers whose tokens hold all fine features of a host cell, unshuffled.

    Each stage's output is brought to the resolution of the first (bilinear, as
    `torch.nn.functional.interpolate` without aligned corners), and all are concatenated. A token is
    `oversample ** 2` such features, row by row. Running, freezing and saving are as for
    `TransformersEncoder`.

    Args:
        model: The tower.
        transform: Its preprocessing.
        source: `name`, and for a checkpoint `path` and `revision`.
    """

    @property
    def width(self) -> int:
        """Width of a token: that of a feature, times the features of a cell."""
        return sum(self.model.config.hidden_sizes) * self._transform.oversample**2

    @property
    def description(self) -> str:
        """What decides the tokens besides weights and image."""
        return f"{self.source['name']} {self._transform}"

    def _run(self, pixels: Tensor) -> Tensor:
        """Run the tower: (B, 3, height, width) to (B, rows * columns, width)."""
        x = self.model.embeddings(pixels.to(next(self.model.parameters()).dtype))
        grid = (x.shape[-2], x.shape[-1])
        maps = []
        for stage in self.model.encoder.stages:
            x = stage(x)
            whole = (
                x if x.shape[-2:] == grid else nn.functional.interpolate(x, grid, mode="bilinear")
            )
            maps.append(whole)
        tokens = torch.cat(maps, dim=1).flatten(2).transpose(1, 2)
        return pool_cells(tokens, grid, self._transform.oversample, "unshuffle")
