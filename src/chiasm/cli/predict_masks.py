"""Masks written down: a PNG each, one file of run lengths, and the picture with all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from chiasm.core.spelling import spell

if TYPE_CHECKING:
    from PIL import Image

    from chiasm.inference.answers import Mask

OVERLAY = "overlay.png"
RUN_LENGTHS = "masks.json"

MOST_LETTERS = 40
"""Characters of a phrase in a file name."""


def mask_name(index: int, phrase: str) -> str:
    """Return the file name of a mask: its number, and what of the phrase any system can spell."""
    words = "-".join(re.findall(r"[a-z0-9]+", phrase.lower()))[:MOST_LETTERS].strip("-")
    return f"mask-{index + 1}{'-' if words else ''}{words}.png"


def write_masks(folder: Path, image: Image.Image, masks: Sequence[Mask]) -> list[Path]:
    """Write masks into a folder that exists.

    Args:
        folder: The folder.
        image: The picture.
        masks: Masks of it.

    Returns:
        The files: a grey PNG a mask (255 where it is), `masks.json` (a list with phrase, score,
        area, box and COCO run lengths), `overlay.png` (the picture with all masks and a legend).
    """
    from chiasm.inference.overlays import draw_masks, mask_image
    from chiasm.training.durable import write_text

    files = []
    for index, mask in enumerate(masks):
        files.append(folder / mask_name(index, mask.phrase))
        mask_image(mask).save(files[-1])
    text = spell([mask.document() for mask in masks], indent=1)
    write_text(folder / RUN_LENGTHS, f"{text}\n")
    draw_masks(image, masks).save(folder / OVERLAY)
    return [*files, folder / RUN_LENGTHS, folder / OVERLAY]


def show_masks(masks: Sequence[dict[str, Any]], target: Console) -> None:
    """Tell what was found, a line a phrase.

    Args:
        masks: Documents of masks; see `Mask.document`.
        target: Where to write.
    """
    for mask in masks:
        height, width = mask["rle"]["size"]
        share = mask["area"] / (height * width)
        where = (
            "nothing found"
            if mask["box"] is None
            else f"{mask['area']} pixels ({share:.1%}) in x {mask['box'][0]:.0f} to "
            f"{mask['box'][2]:.0f}, y {mask['box'][1]:.0f} to {mask['box'][3]:.0f}"
        )
        target.print(
            f"{mask['phrase']}: {where}, score {mask['score']:.3f}", markup=False, soft_wrap=True
        )
