"""How files of phrases and masks become samples."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from chiasm.core.config import Config


class GroundingOptions(Config):
    """How files of phrases and masks become samples; each option says which forms it concerns.

    Attributes:
        supervise: Whether training scores the words of the phrases. All forms.
        phrases_per_sample: Most phrases of one sample; 1 gives each expression a forward pass of
            its own, None puts all phrases of an image into one sample. All forms.
        phrase_per: Whether a category's name is one phrase for all its pixels, or one phrase for
            each instance (segment). COCO instances and panoptic.
        sentences: Which of an object's expressions are said: the `first`, one drawn at `random` by
            seed, or `all`, each once, in as many samples as needed; `auto` draws for the split
            `train` and takes the first otherwise. RefCOCO.
        seed: Of the draws.
        panoptic: The panoptic JSON beside which the folder of PNGs lies; by default it is looked
            for beside the narratives. Panoptic narratives.
    """

    supervise: bool = False
    phrases_per_sample: int | None = Field(default=None, ge=1)
    phrase_per: Literal["category", "instance"] = "category"
    sentences: Literal["auto", "first", "random", "all"] = "auto"
    seed: int = Field(default=0, ge=0)
    panoptic: Path | None = None
