"""Masks drawn on their picture, with a legend that hides none of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from chiasm.inference.answers import Mask

Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
    (122, 94, 168),
)
"""Colours that people with any colour vision tell apart (Okabe and Ito 2008, and a violet)."""

OPACITY = 0.45
"""Of a mask's colour over the picture."""

INK: Colour = (28, 26, 24)
PAPER: Colour = (255, 255, 255)

MOST_LETTERS = 60
"""Characters of a phrase that a legend shows."""


def colour_of(index: int) -> Colour:
    """Return the colour of phrase `index`; colours come round again."""
    return COLOURS[index % len(COLOURS)]


def draw_masks(image: Image.Image, masks: Sequence[Mask]) -> Image.Image:
    """Lay masks over a picture and write a legend below it.

    Each mask gets its colour, a border of that colour with a white and a dark line around it, which
    shows on any background, and its number in its middle.

    Args:
        image: The picture.
        masks: Masks of the picture's size, drawn in order.

    Returns:
        RGB, as wide as the picture and taller by the legend.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    thick = max(1, round(min(image.size) / 200))
    for index, mask in enumerate(masks):
        colour = np.array(colour_of(index), dtype=np.float64)
        pixels = np.where(mask.array[..., None], pixels * (1 - OPACITY) + colour * OPACITY, pixels)
    for index, mask in enumerate(masks):
        inner = mask.array & ~shrink(mask.array, thick)
        outer = grow(mask.array, thick) & ~mask.array
        pixels[inner] = colour_of(index)
        pixels[outer] = PAPER
        pixels[grow(mask.array, 2 * thick) & ~grow(mask.array, thick)] = INK
    drawn = Image.fromarray(pixels.round().astype(np.uint8))
    size = max(11, round(min(image.size) / 28))
    for index, mask in enumerate(masks):
        if mask.area:
            _write_number(drawn, index, middle_of(mask.array), size)
    return _with_legend(drawn, masks, size)


def cut_out(mask: Mask, index: int, opacity: float = OPACITY) -> Image.Image:
    """Return a mask as a layer: RGBA of the mask's size, its colour where it is, else clear."""
    layer = np.zeros((*mask.array.shape, 4), dtype=np.uint8)
    layer[mask.array] = (*colour_of(index), round(255 * opacity))
    layer[mask.array & ~shrink(mask.array, max(1, round(min(mask.array.shape) / 150)))] = (
        *colour_of(index),
        255,
    )
    return Image.fromarray(layer)


def mask_image(mask: Mask) -> Image.Image:
    """Return a mask as a grey picture: 255 where it is, 0 elsewhere."""
    return Image.fromarray(mask.array.astype(np.uint8) * 255)


def grow(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Return a bool mask (H, W) with all pixels at most `steps` away along rows and columns."""
    grown = mask
    for _ in range(steps):
        padded = np.pad(grown, 1)
        grown = (
            padded[1:-1, 1:-1]
            | padded[:-2, 1:-1]
            | padded[2:, 1:-1]
            | padded[1:-1, :-2]
            | padded[1:-1, 2:]
        )
    return grown


def shrink(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Return a bool mask (H, W) without the pixels at most `steps` from where it is not."""
    return ~grow(~mask, steps)


def middle_of(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the (column, row) of the mask's pixel that lies nearest to its centre of mass."""
    rows, columns = mask.nonzero()
    nearest = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
    return int(columns[nearest]), int(rows[nearest])


def _write_number(drawn: Image.Image, index: int, place: tuple[int, int], size: int) -> None:
    ImageDraw.Draw(drawn).text(
        place,
        str(index + 1),
        fill=PAPER,
        font=ImageFont.load_default(size),
        anchor="mm",
        stroke_width=max(1, size // 7),
        stroke_fill=INK,
    )


def _with_legend(drawn: Image.Image, masks: Sequence[Mask], size: int) -> Image.Image:
    """Put a line for each mask below the picture, in letters that fit its width."""
    lines = [f"{index + 1}  {_told(mask)}" for index, mask in enumerate(masks)]
    pad = max(3, size // 3)
    room = drawn.width - 3 * pad - size
    font = ImageFont.load_default(size)
    while size > 6 and max((font.getlength(line) for line in lines), default=0) > room:
        size -= 1
        font = ImageFont.load_default(size)
    lines = [_fitted(line, font, room) for line in lines]
    step = round(size * 1.5)
    page = Image.new(
        "RGB", (drawn.width, drawn.height + (step * len(lines) + pad if lines else 0)), PAPER
    )
    page.paste(drawn)
    draw = ImageDraw.Draw(page)
    for index, line in enumerate(lines):
        top = drawn.height + pad + index * step
        draw.rectangle((pad, top, pad + size - 1, top + size - 1), fill=colour_of(index))
        draw.text((2 * pad + size, top + size / 2), line, fill=INK, font=font, anchor="lm")
    return page


def _told(mask: Mask) -> str:
    phrase = " ".join(mask.phrase.split())
    if len(phrase) > MOST_LETTERS:
        phrase = f"{phrase[: MOST_LETTERS - 3]}..."
    found = f"{mask.score:.2f}" if mask.area else "nothing found"
    return f"{phrase}  ({found})"


def _fitted(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    if font.getlength(line) <= room:
        return line
    while line and font.getlength(f"{line}...") > room:
        line = line[:-1]
    return f"{line}..."
