"""A tiny model of pairs with random weights, and pairs to ask it about."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from chiasm.data.collate import Collator
from chiasm.data.prompts import Prompter
from chiasm.fusion.aligned_attention import AlignedAttentionConfig
from chiasm.fusion.pixel_blend import PixelBlendConfig
from chiasm.language.code_segment import Place
from chiasm.language.late import with_late_projector
from chiasm.models.drawing import Drawing
from chiasm.models.occlusion import Occlusion
from chiasm.recipes.collating import frame_pairs
from tests.tiny import picture
from tests.tiny_hosts import tiny_janus

IMAGE = picture(41, 53, 1)
"""The original, 41 pixels high and 53 wide; noise, so that no rule finds a background in it."""

QUESTIONS = ("What is hidden?", "What colour is the thing behind the bar?")


def rendered(height: int = 47, width: int = 31) -> Image.Image:
    """A reconstruction: a bright thing before black, in rows 9 to 29 and columns 5 to 22."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[9:29, 5:22] = np.random.default_rng(3).integers(90, 255, (20, 17, 3))
    return Image.fromarray(pixels)


def hidden() -> np.ndarray[Any, np.dtype[np.bool_]]:
    """bool (41, 53): rows 11 to 30, columns 20 to 33."""
    mask = np.zeros((41, 53), bool)
    mask[11:30, 20:33] = True
    return mask


@cache
def build_pair_model(
    place: Place | None = "after_text", attention: bool = True, alpha: str = "content"
) -> Occlusion:
    """Janus of 35 pixels and 7 x 7 cells, with every added part shaken from its neutral start."""
    torch.manual_seed(5)
    host = with_late_projector(tiny_janus())
    drawing = None if place is None else Drawing.of(host, place)
    side = 1 if drawing is None else drawing.codebook.side
    config = AlignedAttentionConfig(heads=2)
    model = Occlusion(
        host=host,
        blend=PixelBlendConfig(alpha=alpha, size=35, width=5).build(),  # type: ignore[arg-type]
        attention=config.build(width=host.token_width) if attention else None,
        drawing=drawing,
        collator=Collator(
            Prompter(host.tokenizer, host.image_token, host.image_text),
            host.preparer,
            pairs=frame_pairs(host, side),
        ),
    )
    with torch.no_grad():
        for name in ("pixel_blend", "aligned_attention"):
            for parameter in model.parts[name].parameters() if name in model.parts else ():
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return model.eval()
