"""Extra vision encoders through timm, for towers that transformers does not carry."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import ConfigError, MissingExtraError
from chiasm.encoders.grids import pool_cells
from chiasm.encoders.precision import PRECISIONS, Precision
from chiasm.encoders.tower import GridTower
from chiasm.encoders.transform import RESAMPLING, GridTransform


class TimmEncoderConfig(Config):
    """A vision transformer of timm.

    Attributes:
        model: timm's name of the model, for example `vit_small_patch14_reg4_dinov2.lvd142m`.
        pretrained: Whether to load timm's weights for it from the hub.
        path: Local safetensors file with the weights instead.
        architecture: Further values for timm's `create_model`.
        layer: Which block's output to read, counted from the end; see `TransformersEncoderConfig`.
        oversample: Patches along each side of a host cell.
        pooling: How patches of a cell become one token.
        dtype: Type of the weights.
    """

    model: str
    pretrained: bool = False
    path: str | None = None
    architecture: dict[str, Any] = Field(default_factory=dict)
    layer: int = Field(default=-1, le=-1)
    oversample: int = Field(default=1, ge=1, le=4)
    pooling: Literal["mean", "unshuffle"] = "mean"
    dtype: Precision = "float32"

    def build(self) -> TimmEncoder:
        """Load or initialise the encoder.

        Raises:
            MissingExtraError: timm is not installed.
            ConfigError: timm does not know the model, or it is no vision transformer with square
                patches and interpolated positions.
        """
        timm = _import_timm()
        try:
            model = timm.create_model(
                self.model,
                pretrained=self.pretrained,
                checkpoint_path=self.path or "",
                num_classes=0,
                dynamic_img_size=True,
                **self.architecture,
            )
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            raise ConfigError(
                f"timm cannot build the model {self.model!r}: {error}; name a vision transformer "
                "of timm.list_models('vit_*') and values that it takes"
            ) from error
        if not isinstance(model, timm.models.vision_transformer.VisionTransformer):
            raise ConfigError(
                f"timm's {self.model!r} is a {type(model).__name__}; only its VisionTransformer "
                "has one token a patch at any size"
            )
        # Blocks behind the layer and the classifier's norm would be weights that never move.
        model.prune_intermediate_layers([self.layer], prune_norm=self.layer < -1, prune_head=True)
        source = {"name": f"timm/{self.model}"}
        if self.pretrained or self.path:
            source["path"] = self.path or f"timm/{self.model}"
        return TimmEncoder(
            model=model.to(PRECISIONS[self.dtype]),
            transform=_transform(model, self.oversample),
            layer=self.layer,
            pooling=self.pooling,
            source=source,
        )


class TimmEncoder(GridTower):
    """A vision transformer of timm as an extra encoder; otherwise as `TransformersEncoder`.

    Args:
        model: The tower, already cut at the layer.
        transform: Its preprocessing.
        layer: As in the configuration.
        pooling: As in the configuration.
        source: `name`, and `path` where the weights come from a checkpoint.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        transform: GridTransform,
        layer: int,
        pooling: Literal["mean", "unshuffle"],
        source: Mapping[str, str],
    ) -> None:
        super().__init__(model=model, transform=transform, source=source)
        self._layer = layer
        self._pooling = pooling

    @property
    def width(self) -> int:
        """Width of a token."""
        side = self._transform.oversample if self._pooling == "unshuffle" else 1
        return int(self.model.embed_dim) * side**2

    @property
    def description(self) -> str:
        """What decides the tokens besides weights and image."""
        return f"{self.source['name']} {self._transform} {self._layer} {self._pooling}"

    def _run(self, pixels: Tensor) -> Tensor:
        patch = self._transform.patch
        grid = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        features = self.model.forward_features(pixels.to(next(self.model.parameters()).dtype))
        tokens = features[:, self.model.num_prefix_tokens :]
        return pool_cells(tokens, grid, self._transform.oversample, self._pooling)


def _import_timm() -> Any:
    try:
        timm = importlib.import_module("timm")
        importlib.import_module("timm.models.vision_transformer")
    except ImportError as error:
        raise MissingExtraError("timm", "timm", "an encoder of timm") from error
    return timm


def _transform(model: Any, oversample: int) -> GridTransform:
    height, width = model.patch_embed.patch_size
    values = model.pretrained_cfg
    if height != width or values["interpolation"] not in RESAMPLING:
        raise ConfigError(
            f"timm's model has patches of {height} x {width} and resampling "
            f"{values['interpolation']!r}; square patches and {', '.join(RESAMPLING)} are supported"
        )
    return GridTransform(
        patch=int(height),
        oversample=oversample,
        mean=tuple(values["mean"]),
        deviation=tuple(values["std"]),
        resampling=values["interpolation"],
    )
