"""Vision towers that a host does not have: each with its own preprocessing, on the host's grid."""

from chiasm.encoders.convnext import ConvNextConfig
from chiasm.encoders.image import (
    ClipConfig,
    Dinov2Config,
    Dinov2RegistersConfig,
    Dinov3Config,
    Siglip2Config,
    SiglipConfig,
    TransformersEncoderConfig,
)
from chiasm.encoders.timm import TimmEncoderConfig

EncoderConfig = TransformersEncoderConfig | TimmEncoderConfig | ConvNextConfig
"""Every configuration of the table."""

ENCODERS: dict[str, type[EncoderConfig]] = {
    "dinov2": Dinov2Config,
    "dinov2_registers": Dinov2RegistersConfig,
    "dinov3": Dinov3Config,
    "siglip": SiglipConfig,
    "siglip2": Siglip2Config,
    "clip": ClipConfig,
    "convnext": ConvNextConfig,
    "timm": TimmEncoderConfig,
}
"""Name to configuration; `ENCODERS[name](...).build()` is a `VisionEncoder`."""
