"""One picture of everything that a model made of a pair, with a caption under each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from chiasm.core.samples import Box
from chiasm.inference.answers import Answer
from chiasm.inference.overlays import COLOURS, INK, PAPER
from chiasm.inference.pair_sights import PairSight
from chiasm.inference.pictures import draw_map

TILE = 240
"""Side of the square that each picture is fitted into, in pixels."""

COLUMNS = 4
SIZE = 13
"""Height of letters."""

HIDDEN, BOX = COLOURS[3], COLOURS[1]

Panel = tuple[Image.Image, str]
"""A picture and what stands below it."""


def draw_sheet(
    image: Image.Image,
    reconstruction: Image.Image,
    answer: Answer,
    question: str = "",
    completed: Image.Image | None = None,
) -> Image.Image:
    """Draw what a model made of a pair: what it was given, each step, and what it drew.

    Args:
        image: The original.
        reconstruction: The reconstruction.
        answer: The answer, with what was made of the pair in `pair`.
        question: The question.
        completed: The completed picture, where one was drawn.

    Returns:
        RGB. Above, question and answer; below, in order: original and reconstruction with the box
        of the thing (and what is hidden), alpha, the aligned reconstruction, the blend, where the
        attention looked, and the completed picture.

    Raises:
        ValueError: The answer is of no pair.
    """
    sight = answer.pair
    if sight is None:
        raise ValueError("a sheet shows an answer about a pair; this one is of none")
    panels = [
        (_boxed(_marked(image, sight), sight.boxes["original"]), _original_words(sight)),
        (
            _boxed(reconstruction, sight.boxes["reconstruction"]),
            f"reconstruction; box: {sight.rules['reconstruction']}",
        ),
        (draw_map(image, sight.alpha.tolist(), (0, 0, *image.size)), _alpha_words(sight)),
        (
            _boxed(Image.fromarray(sight.aligned), sight.boxes["original"]),
            "reconstruction, aligned",
        ),
        (Image.fromarray(sight.blended), "blend: alpha original + (1 - alpha) reconstruction"),
    ]
    if sight.attention:
        panels.append(_attention(image, sight))
    if completed is not None:
        panels.append((completed, "completed"))
    said = [f"asked: {question}"] * bool(question) + [f"answered: {answer.text}"]
    return _page(panels, said)


def _original_words(sight: PairSight) -> str:
    words = f"original; box: {sight.rules['original']}"
    return words if sight.hidden is None else f"{words}; hidden: {sight.hidden.mean():.0%}"


def _alpha_words(sight: PairSight) -> str:
    shares = ", ".join(f"{name} {share:.2f}" for name, share in sight.shares.items())
    return f"alpha, the original's share (blue 0, orange 1): {shares}"


def _attention(image: Image.Image, sight: PairSight) -> Panel:
    """Show where the cells looked that know least: the hidden ones, else those of the thing."""
    name = next(name for name in ("hidden", "thing", "all") if name in sight.attention)
    weights = sight.attention[name]
    most = float(weights.max())
    drawn = draw_map(image, (weights / (most or 1.0)).tolist(), sight.view)
    who = {"hidden": "hidden cells", "thing": "the thing's cells", "all": "all cells"}[name]
    if not most:
        return drawn, f"attention of {who}: nothing of the reconstruction in sight"
    return drawn, f"attention of {who} (orange: {most:.1%}, even: {1 / weights.size:.1%})"


def _marked(image: Image.Image, sight: PairSight) -> Image.Image:
    """Tint what is hidden."""
    if sight.hidden is None:
        return image
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    tinted = np.where(sight.hidden[..., None], 0.5 * pixels + 0.5 * np.array(HIDDEN), pixels)
    return Image.fromarray(tinted.round().astype(np.uint8))


def _boxed(image: Image.Image, box: Box) -> Image.Image:
    """Scale a picture to its tile and draw a box on it."""
    drawn = _fitted(image)
    scale = drawn.width / image.width, drawn.height / image.height
    left, top, right, bottom = (side * scale[index % 2] for index, side in enumerate(box))
    right, bottom = max(left + 1, right - 1), max(top + 1, bottom - 1)
    ImageDraw.Draw(drawn).rectangle((left, top, right, bottom), outline=BOX, width=2)
    return drawn


def _fitted(image: Image.Image) -> Image.Image:
    """Scale a picture so that its longer side is that of a tile; small ones keep their pixels."""
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, way)


def _page(panels: Sequence[Panel], said: Sequence[str]) -> Image.Image:
    font = ImageFont.load_default(SIZE)
    step, pad = round(SIZE * 1.4), SIZE
    columns = min(COLUMNS, len(panels))
    width = columns * (TILE + pad) + pad
    head = [line for text in said for line in _wrapped(text, font, width - 2 * pad)]
    page_rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    drawn = [[(_fitted(p), _wrapped(c, font, TILE)) for p, c in row] for row in page_rows]
    heights = [max(picture.height for picture, _ in row) for row in drawn]
    below = [step * max(len(lines) for _, lines in row) for row in drawn]
    top = pad + step * len(head) + pad
    page = Image.new("RGB", (width, top + sum(heights) + sum(below) + pad * len(drawn)), PAPER)
    draw = ImageDraw.Draw(page)
    for line, text in enumerate(head):
        draw.text((pad, pad + line * step), text, fill=INK, font=font)
    for row, height, room in zip(drawn, heights, below, strict=True):
        for column, (picture, lines) in enumerate(row):
            left = pad + column * (TILE + pad)
            page.paste(picture, (left, top))
            for line, text in enumerate(lines):
                draw.text((left, top + height + line * step), text, fill=INK, font=font)
        top += height + room + pad
    return page


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float
) -> list[str]:
    """Break a text into lines that fit; a word that is too long is broken too."""
    lines = [""]
    for word in text.split():
        while word:
            line = f"{lines[-1]} {word}".strip()
            if font.getlength(line) <= room:
                lines[-1], word = line, ""
            elif lines[-1]:
                lines.append("")
            else:
                count = next(
                    n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= room
                )
                lines[-1], word = word[:count], word[count:]
                lines += [""] * bool(word)
    return lines
