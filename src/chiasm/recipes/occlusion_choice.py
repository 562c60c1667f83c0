"""The part of a recipe that says how pairs are read, and what is drawn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chiasm.core.config import Config
from chiasm.fusion.aligned_attention import AlignedAttentionConfig
from chiasm.fusion.pair_views import Drawn
from chiasm.fusion.pixel_blend import PixelBlendConfig


class DrawingChoice(Config):
    """The generation branch: codes of pictures in the decoder that reads text."""

    order: Literal["before_text", "after_text"] = "before_text"
    """`before_text`: [understanding, generation, text], the codes of the blend, each predicting the
    next code of the picture. `after_text`: [understanding, text, generation], the picture's own
    codes, drawn one after another once the answer is written."""
    drawn: Drawn = "picture"
    """What is drawn: the complete picture where the data have it, else the reconstruction; or the
    blend that was read."""
    drop: float = Field(default=0.0, ge=0, lt=1)
    """Share of rows that learn to draw from nothing, for classifier-free guidance."""


class OcclusionChoice(Config):
    """The three levels of the family `occlusion`."""

    blend: PixelBlendConfig = PixelBlendConfig()
    """Level 1: original and reconstruction, pixel by pixel."""
    attention: AlignedAttentionConfig | None = AlignedAttentionConfig()
    """Level 2: the original's tokens attend to the aligned reconstruction; null leaves it out, and
    the decoder reads the blend's tokens."""
    drawing: DrawingChoice | None = DrawingChoice()
    """Level 3: the generation branch; null leaves it out, as a host that draws nothing must."""
