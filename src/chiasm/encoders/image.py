"""Extra vision encoders through transformers: one token a host cell, on the encoder's own terms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.encoders.families import (
    CLIP,
    DINOV2,
    DINOV2_REGISTERS,
    DINOV3,
    SIGLIP,
    SIGLIP2,
    Family,
    Tower,
)
from chiasm.encoders.grids import pool_cells, to_patches
from chiasm.encoders.loading import build_tower, load_tower, save_tower
from chiasm.encoders.precision import PRECISIONS, Precision
from chiasm.encoders.tower import GridTower
from chiasm.encoders.transform import GridTransform


class TransformersEncoderConfig(Config):
    """An encoder from a checkpoint (`path`) or with random weights (`architecture`).

    Attributes:
        path: Local directory or hub name of a checkpoint in the form of transformers.
        revision: Branch, tag or commit on the hub.
        architecture: Values of the library's configuration class, for random weights. A
            `model_type` in it chooses among the family's towers.
        layer: Which block's output to read, counted from the end: -1 is the model's own last
            output, -2 the second last block's, before any final norm.
        oversample: Patches along each side of a host cell. 2 doubles the resolution the encoder
            sees and pools four patches into one token.
        pooling: How patches of a cell become one token: `mean`, or `unshuffle`, which keeps them
            side by side in a token of `oversample ** 2` times the width.
        dtype: Type of the weights.
    """

    family: ClassVar[Family]

    path: str | None = None
    revision: str | None = None
    architecture: dict[str, Any] | None = None
    layer: int = Field(default=-1, le=-1)
    oversample: int = Field(default=1, ge=1, le=4)
    pooling: Literal["mean", "unshuffle"] = "mean"
    dtype: Precision = "float32"

    @model_validator(mode="after")
    def _one_source(self) -> TransformersEncoderConfig:
        if (self.path is None) == (self.architecture is None):
            raise ValueError(
                "give either `path` (a checkpoint) or `architecture` (random weights), not both "
                "and not neither"
            )
        return self

    def build(self) -> TransformersEncoder:
        """Load or initialise the encoder.

        Raises:
            CheckpointError: The checkpoint cannot be read or is of another family.
            ConfigError: The architecture names an unknown value or tower.
        """
        dtype = PRECISIONS[self.dtype]
        if self.path is not None:
            loaded = load_tower(self.family, self.path, dtype, self.revision)
        else:
            loaded = build_tower(self.family, self.architecture or {}, dtype)
        return TransformersEncoder(
            model=loaded.model,
            tower=loaded.tower,
            transform=GridTransform(
                patch=loaded.patch,
                oversample=self.oversample,
                mean=loaded.mean,
                deviation=loaded.deviation,
                resampling=loaded.resampling,
            ),
            layer=self.layer,
            pooling=self.pooling,
            source=loaded.source,
        )


class Dinov2Config(TransformersEncoderConfig):
    """DINOv2 (Oquab et al., 2023, arXiv:2304.07193)."""

    family = DINOV2


class Dinov2RegistersConfig(TransformersEncoderConfig):
    """DINOv2 with register tokens (Darcet et al., 2023, arXiv:2309.16588)."""

    family = DINOV2_REGISTERS


class Dinov3Config(TransformersEncoderConfig):
    """DINOv3, its vision transformers (Simeoni et al., 2025, arXiv:2508.10104)."""

    family = DINOV3


class SiglipConfig(TransformersEncoderConfig):
    """SigLIP (Zhai et al., 2023, arXiv:2303.15343)."""

    family = SIGLIP


class Siglip2Config(TransformersEncoderConfig):
    """SigLIP 2, fixed resolution and NaFlex (Tschannen et al., 2025, arXiv:2502.14786)."""

    family = SIGLIP2


class ClipConfig(TransformersEncoderConfig):
    """CLIP (Radford et al., 2021, arXiv:2103.00020)."""

    family = CLIP


class TransformersEncoder(GridTower):
    """A vision tower of transformers as an extra encoder.

    The image arrives resized so that the tower's patch grid is the host's grid (or `oversample`
    times it along each side). Class and register tokens are dropped, position embeddings are
    interpolated by the model's own code, and no token is ever padding.

    The module sets no `requires_grad`: freezing belongs to the trainer. Each call looks anew
    whether a gradient can flow; where none can, nothing is stored for the backward pass and the
    tower runs in evaluation mode (a frozen tower has nothing to regularise).

    Args:
        model: The tower.
        tower: What `model` is.
        transform: Its preprocessing.
        layer: As in the configuration; blocks behind it are taken out.
        pooling: As in the configuration.
        source: Where the weights come from: `name`, and for a checkpoint `path` and `revision`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        tower: Tower,
        transform: GridTransform,
        layer: int,
        pooling: Literal["mean", "unshuffle"],
        source: Mapping[str, str],
    ) -> None:
        if layer < -1:
            _cut(model, tower, layer)
        super().__init__(model=model, transform=transform, source=source)
        self._tower = tower
        self._layer = layer
        self._pooling = pooling

    @property
    def width(self) -> int:
        """Width of a token."""
        width = int(self.model.config.hidden_size)
        return width * self._transform.oversample**2 if self._pooling == "unshuffle" else width

    @property
    def description(self) -> str:
        """What decides the tokens besides weights and image."""
        return f"{self.source['name']} {self._transform} {self._layer} {self._pooling}"

    def save(self, directory: Path) -> None:
        """Write the tower as a checkpoint that `path` can name, preprocessing included.

        Raises:
            InputError: The tower was cut at an inner layer.
        """
        if self._layer != -1:
            raise InputError(
                f"an encoder cut at layer {self._layer} cannot be saved as a checkpoint of its "
                "own; save one built with layer -1"
            )
        save_tower(self.model, self._transform, directory)

    def _run(self, pixels: Tensor) -> Tensor:
        """Run the tower: (B, 3, height, width) to (B, rows * columns, width)."""
        patch = self._transform.patch
        rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        pixels = pixels.to(next(self.model.parameters()).dtype)
        if self._tower.patches:
            grid = torch.tensor([[rows, columns]], device=pixels.device).expand(len(pixels), 2)
            flat = to_patches(pixels, patch)
            present = torch.ones(flat.shape[:2], dtype=torch.long, device=pixels.device)
            output = self.model(
                pixel_values=flat, pixel_attention_mask=present, spatial_shapes=grid
            )
        else:
            output = self.model(pixel_values=pixels, **self._tower.arguments)
        # Class and register tokens stand before the patches in every one of these towers.
        tokens = output.last_hidden_state[:, -rows * columns :]
        return pool_cells(tokens, (rows, columns), self._transform.oversample, self._pooling)


def _cut(model: nn.Module, tower: Tower, layer: int) -> None:
    """Take out the blocks behind one, and what normalises the last one's output.

    Raises:
        InputError: There are not so many blocks.
    """
    blocks = model.get_submodule(tower.layers)
    assert isinstance(blocks, nn.ModuleList)
    keep = len(blocks) + 1 + layer
    if keep < 1:
        raise InputError(
            f"layer {layer} asked of a tower with {len(blocks)} blocks; choose -1 to {-len(blocks)}"
        )
    model.set_submodule(tower.layers, blocks[:keep])
    if tower.norm:
        model.set_submodule(tower.norm, nn.Identity())
