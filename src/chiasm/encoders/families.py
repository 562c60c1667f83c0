"""What differs between the vision towers of transformers, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers

Colour = tuple[float, float, float]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Tower:
    """One class of vision tower and where its pieces lie.

    Attributes:
        config: Configuration class of the tower alone.
        model: Model class of the tower alone; it also loads from a text-and-image checkpoint.
        layers: Dotted name of its list of blocks.
        norm: Dotted name of the norm that ends `last_hidden_state`; empty where there is none.
        unused: Dotted names of modules and parameters that patch tokens never depend on. They are
            taken out: a part that is declared to train must have no weight that cannot move.
        settings: Configuration values that build the tower without such pieces.
        arguments: Keyword arguments of every forward.
        patches: Whether the tower reads flat patches and their grid (NaFlex) instead of pixels.
    """

    config: type[Any]
    model: type[Any]
    layers: str
    norm: str
    unused: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    patches: bool = False


@dataclass(frozen=True)
class Family:
    """A kind of pretrained encoder.

    Attributes:
        name: The key in `ENCODERS`.
        towers: By `model_type` of a checkpoint's configuration; the first is built from an
            `architecture` that names none.
        mean: Mean of each channel in [0, 1], where the checkpoint brings no preprocessing.
        deviation: Standard deviation of each channel, likewise.
        resampling: Filter, likewise.
    """

    name: str
    towers: Mapping[str, Tower]
    mean: Colour
    deviation: Colour
    resampling: str


_DINOV2 = Tower(
    config=transformers.Dinov2Config,
    model=transformers.Dinov2Model,
    layers="encoder.layer",
    norm="layernorm",
    unused=("embeddings.mask_token",),
    settings={"use_mask_token": False},
)
_DINOV2_REGISTERS = Tower(
    config=transformers.Dinov2WithRegistersConfig,
    model=transformers.Dinov2WithRegistersModel,
    layers="encoder.layer",
    norm="layernorm",
    unused=("embeddings.mask_token",),
)
_DINOV3 = Tower(
    config=transformers.DINOv3ViTConfig,
    model=transformers.DINOv3ViTModel,
    layers="model.layer",
    norm="norm",
    unused=("embeddings.mask_token",),
)
_SIGLIP = Tower(
    config=transformers.SiglipVisionConfig,
    model=transformers.SiglipVisionModel,
    layers="encoder.layers",
    norm="post_layernorm",
    unused=("head",),
    settings={"vision_use_head": False},
    arguments={"interpolate_pos_encoding": True},
)
_SIGLIP_NAFLEX = Tower(
    config=transformers.Siglip2VisionConfig,
    model=transformers.Siglip2VisionModel,
    layers="encoder.layers",
    norm="post_layernorm",
    unused=("head",),
    settings={"vision_use_head": False},
    patches=True,
)
_CLIP_TOWER = Tower(
    config=transformers.CLIPVisionConfig,
    model=transformers.CLIPVisionModel,
    layers="encoder.layers",
    norm="",
    # CLIP normalises only its pooled class token, which no one reads here.
    unused=("post_layernorm",),
    arguments={"interpolate_pos_encoding": True},
)

_CONVNEXT = Tower(
    config=transformers.ConvNextConfig,
    model=transformers.ConvNextModel,
    layers="encoder.stages",
    norm="",
    # Normalises only the mean over the picture, which no one reads here.
    unused=("layernorm",),
)

_FIXED = {"siglip_vision_model": _SIGLIP, "siglip": _SIGLIP}
_NAFLEX = {"siglip2_vision_model": _SIGLIP_NAFLEX, "siglip2": _SIGLIP_NAFLEX}

DINOV2 = Family("dinov2", {"dinov2": _DINOV2}, *_IMAGENET, "bicubic")
DINOV2_REGISTERS = Family(
    "dinov2_registers", {"dinov2_with_registers": _DINOV2_REGISTERS}, *_IMAGENET, "bicubic"
)
DINOV3 = Family("dinov3", {"dinov3_vit": _DINOV3}, *_IMAGENET, "bilinear")
SIGLIP = Family("siglip", _FIXED, *_HALF, "bicubic")
# Checkpoints of SigLIP 2 with a fixed resolution are of the class of SigLIP.
SIGLIP2 = Family("siglip2", {**_NAFLEX, **_FIXED}, *_HALF, "bilinear")
CLIP = Family("clip", {"clip_vision_model": _CLIP_TOWER, "clip": _CLIP_TOWER}, *_CLIP, "bicubic")
CONVNEXT = Family("convnext", {"convnext": _CONVNEXT}, *_CLIP, "bicubic")
