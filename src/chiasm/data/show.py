"""One sample as the model will see it: images with the host's cells, and the text with its labels.

Runs of placeholders are shown as one mark with their count; supervised text is coloured. Phrases
that mean pixels are listed, each in the colour in which its mask lies over the image. Of a pair the
reconstruction and the target stand beside the image, with what is hidden and the boxes drawn. Of a
video some frames are shown, and below them what happens when.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from chiasm.core.batch import IGNORE
from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import ImagePreparer
from chiasm.core.samples import ImageSource, Sample
from chiasm.data.locating import phrase_name, phrase_text
from chiasm.data.masks import read_mask
from chiasm.data.media import load_image
from chiasm.data.pair_drawing import draw_pair
from chiasm.data.prompts import Prompt, Prompter
from chiasm.data.video_drawing import draw_video

Kind = Literal["given", "supervised", "image"]

COLORS: dict[Kind, str] = {"given": "#444444", "supervised": "#0a7d33", "image": "#8a3ffc"}
"""Colour of each kind of text."""

BACKGROUNDS: dict[Kind, str] = {"given": "#ffffff", "supervised": "#dff5e3", "image": "#efe5ff"}
GRID = (255, 60, 60)
MASKS = ("#0f62fe", "#f1c21b", "#24a148", "#ff7eb6", "#08bdba", "#fa4d56", "#8a3ffc", "#ba4e00")
"""Colours of masks, in turn."""

SHORTEST_SIDE, LONGEST_SIDE = 280, 900
MARGIN, LINE, COLUMNS, FONT_SIZE = 16, 20, 110, 14


@dataclass(frozen=True)
class Piece:
    """A run of tokens of one kind.

    Attributes:
        kind: Given to the model, supervised, or placeholders of an image.
        text: The text they stand for.
        tokens: How many there are.
    """

    kind: Kind
    text: str
    tokens: int


@dataclass(frozen=True)
class Pointed:
    """A phrase that means pixels.

    Attributes:
        text: Its words, and where it is not 0, its image.
        tokens: How many tokens say it; 0 where its turn is not rendered.
        share: Part of its image that its mask covers; None where no mask is known.
        color: Of its mask, as "#rrggbb".
    """

    text: str
    tokens: int
    share: float | None
    color: str

    @property
    def line(self) -> str:
        """The phrase in a line."""
        mask = "no mask" if self.share is None else f"{self.share:.1%} of the image"
        return f"{self.text}: {self.tokens} tokens, {mask}"


@dataclass(frozen=True)
class View:
    """What is shown of a sample: its text, its images with the host's cells drawn, its phrases.

    Captions are those of the images; by default they are numbered.
    """

    title: str
    pieces: tuple[Piece, ...]
    images: tuple[Image.Image, ...]
    tokens: int
    supervised: int
    phrases: tuple[Pointed, ...] = ()
    captions: tuple[str, ...] = ()

    @property
    def named_images(self) -> tuple[tuple[str, Image.Image], ...]:
        """The images, each with its caption."""
        captions = self.captions or _numbered(len(self.images))
        return tuple(zip(captions, self.images, strict=True))

    @property
    def summary(self) -> str:
        """Counts in a line."""
        visual = sum(piece.tokens for piece in self.pieces if piece.kind == "image")
        return f"{self.tokens} tokens: {visual} visual, {self.supervised} supervised"


def view(
    sample: Sample,
    prompter: Prompter,
    preparer: ImagePreparer,
    loader: Callable[[ImageSource], Image.Image] = load_image,
) -> View:
    """Render a sample for a host.

    Args:
        sample: The sample.
        prompter: The host's prompter.
        preparer: The host's image preparer.
        loader: Reads one image as RGB.

    Raises:
        DataError: The sample is malformed, or a mask is broken.
        MediaError: An image or a file of a mask cannot be read.
    """
    images = [loader(source) for source in sample.images]
    prepared = preparer.prepare(images)
    learns = bool(sample.phrases) or any(turn.supervised for turn in sample.turns)
    prompt = prompter.render(sample, prepared.token_counts, add_generation_prompt=not learns)
    covered, pointed = _cover(sample, images, prompt)
    captions: tuple[str, ...] = ()
    geometries = prepared.geometries
    if sample.pair is not None:
        beside = draw_pair(sample, covered[0], loader)
        captions, covered = tuple(beside), [*beside.values()]
        geometries = preparer.prepare(covered).geometries
    pictures = [*map(draw_cells, covered, geometries)]
    if sample.video is not None:
        told, sheet = draw_video(sample.video, sample.segments)
        captions = (*(captions or _numbered(len(pictures))), told)
        pictures.append(sheet)
    return View(
        title=f"{sample.identifier} ({sample.origin})" if sample.origin else sample.identifier,
        pieces=_pieces(prompt, prompter),
        images=tuple(pictures),
        tokens=len(prompt),
        supervised=prompt.supervised_tokens,
        phrases=pointed,
        captions=captions,
    )


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"image {index}" for index in range(count))


def _cover(
    sample: Sample, images: Sequence[Image.Image], prompt: Prompt
) -> tuple[list[Image.Image], tuple[Pointed, ...]]:
    """Lay the masks of phrases over copies of their images, half transparent, and list them."""
    pixels = [np.asarray(image, np.float32).copy() for image in images]
    pointed = []
    for index, phrase in enumerate(sample.phrases):
        color = MASKS[index % len(MASKS)]
        share = None
        if phrase.mask is not None:
            height, width, _ = pixels[phrase.image].shape
            mask = read_mask(phrase.mask, height, width, phrase_name(sample, index))
            tint = np.array(ImageColor.getrgb(color), np.float32)
            pixels[phrase.image][mask] = (pixels[phrase.image][mask] + tint) / 2
            share = float(mask.mean())
        text = phrase_text(sample.turns, phrase)
        if phrase.image:
            text += f" (image {phrase.image})"
        pointed.append(Pointed(text, len(prompt.phrases.get(index, ())), share, color))
    return [Image.fromarray(values.astype(np.uint8)) for values in pixels], tuple(pointed)


def write_view(shown: View, output: Path | str) -> None:
    """Write a view as a page or a picture, by the suffix of the file.

    Raises:
        InputError: The suffix is neither `.html` nor `.png`.
    """
    path = Path(output)
    suffix = path.suffix.lower()
    if suffix not in (".html", ".png"):
        raise InputError(f"output {path} has the suffix {suffix!r}; allowed: .html, .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".html":
        path.write_text(to_html(shown), encoding="utf-8")
    else:
        to_picture(shown).save(path)


def to_html(shown: View) -> str:
    """Return a view as one page without outside references."""
    figures = "\n".join(
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{_png(image)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, image in shown.named_images
    )
    text = "".join(
        f'<span class="{piece.kind}" title="{piece.tokens} tokens">{html.escape(piece.text)}</span>'
        for piece in shown.pieces
    )
    styles = "\n".join(
        f".{kind} {{ color: {color}; background: {BACKGROUNDS[kind]}; }}"
        for kind, color in COLORS.items()
    )
    legend = " ".join(f'<span class="{kind}">{kind}</span>' for kind in COLORS)
    phrases = "\n".join(
        f'<li style="border-left: 1em solid {phrase.color}">{html.escape(phrase.line)}</li>'
        for phrase in shown.phrases
    )
    listed = f"<ul>\n{phrases}\n</ul>\n" if phrases else ""
    title = html.escape(shown.title)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 2em; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.6; }}
figure {{ display: inline-block; margin: 0 1em 1em 0; }}
ul {{ list-style: none; padding: 0; }}
li {{ padding-left: 0.5em; margin: 0.2em 0; }}
{styles}
</style></head><body>
<h1>{title}</h1>
<p>{shown.summary}. {legend}</p>
{figures}
{listed}<pre>{text}</pre>
</body></html>
"""


def to_picture(shown: View) -> Image.Image:
    """Return a view as an RGB picture; characters that Pillow's font lacks appear as boxes."""
    font = ImageFont.load_default(FONT_SIZE)
    lines = _wrapped(shown.pieces)
    longest = max((sum(len(text) for _, text in line) for line in lines), default=0)
    advance = max(font.getlength("m"), 1.0)
    columns = [
        (caption, image, max(image.width, int(font.getlength(caption))))
        for caption, image in shown.named_images
    ]
    pictures_width = sum(column + MARGIN for _, _, column in columns)
    named = max((font.getlength(phrase.line) + 2 * LINE for phrase in shown.phrases), default=0)
    text_width = min(longest, COLUMNS) * advance
    width = int(max(pictures_width, text_width, named, 480)) + 2 * MARGIN
    below = 3 * LINE + max((image.height + MARGIN + LINE for image in shown.images), default=0)
    top = below + LINE * len(shown.phrases)
    canvas = Image.new("RGB", (width, top + LINE * len(lines) + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN // 2), shown.title, "black", font)
    draw.text((MARGIN, MARGIN // 2 + LINE), shown.summary, "black", font)
    left = MARGIN
    for caption, image, column in columns:
        draw.text((left, 3 * LINE), caption, "black", font)
        canvas.paste(image, (left, 4 * LINE))
        left += column + MARGIN
    for row, phrase in enumerate(shown.phrases):
        y = below + row * LINE
        draw.rectangle((MARGIN, y, MARGIN + LINE - 4, y + LINE - 4), phrase.color)
        draw.text((MARGIN + LINE, y), phrase.line, "black", font)
    for row, line in enumerate(lines):
        place = float(MARGIN)
        for kind, text in line:
            length = font.getlength(text)
            y = top + row * LINE
            draw.rectangle((place, y, place + length, y + LINE - 2), BACKGROUNDS[kind])
            draw.text((place, y), text, COLORS[kind], font)
            place += length
    return canvas


def draw_cells(image: Image.Image, geometry: ImageGeometry) -> Image.Image:
    """Draw the borders of a host's cells on an image; cells on padding extend the picture in grey.

    Args:
        image: RGB, in original pixels.
        geometry: The host's grid over it.
    """
    near_x, near_y, far_x, far_y = geometry.view_box()
    left, top = min(0.0, near_x), min(0.0, near_y)
    right, bottom = max(float(image.width), far_x), max(float(image.height), far_y)
    side = max(right - left, bottom - top)
    scale = min(max(1.0, SHORTEST_SIDE / side), LONGEST_SIDE / side)
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    canvas = Image.new("RGB", size, (128, 128, 128))
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    canvas.paste(image.resize(inner, resampling), (round(-left * scale), round(-top * scale)))
    draw = ImageDraw.Draw(canvas)
    for x0, y0, x1, y1 in geometry.cell_boxes().tolist():
        near = (round((x0 - left) * scale), round((y0 - top) * scale))
        far = (round((x1 - left) * scale), round((y1 - top) * scale))
        draw.rectangle((near, far), outline=GRID)
    return canvas


def _pieces(prompt: Prompt, prompter: Prompter) -> tuple[Piece, ...]:
    """Group neighbouring tokens of one kind."""
    kinds = ["given" if label == IGNORE else "supervised" for label in prompt.labels.tolist()]
    for index, (start, stop) in enumerate(prompt.image_spans):
        kinds[start:stop] = [f"image {index}"] * (stop - start)
    pieces: list[Piece] = []
    start = 0
    for stop in range(1, len(kinds) + 1):
        if stop < len(kinds) and kinds[stop] == kinds[start]:
            continue
        if kinds[start].startswith("image"):
            pieces.append(Piece("image", f"<image: {stop - start} tokens>", stop - start))
        else:
            pieces.append(_text_piece(prompt, prompter, start, stop))
        start = stop
    return tuple(pieces)


def _text_piece(prompt: Prompt, prompter: Prompter, start: int, stop: int) -> Piece:
    text = prompt.text[prompt.spans[start][0] : prompt.spans[stop - 1][1]]
    # Tokens that the template did not write: before the text, or after it.
    added = [
        (index, int(prompt.input_ids[index]))
        for index in range(start, stop)
        if prompt.spans[index][0] == prompt.spans[index][1]
    ]
    before = [token for index, token in added if index == 0 or prompt.spans[index][0] == 0]
    after = [token for index, token in added if prompt.spans[index][0] > 0]
    decode = prompter.tokenizer.decode
    text = (decode(before) if before else "") + text + (decode(after) if after else "")
    labelled = bool(prompt.labels[start] != IGNORE)
    return Piece("supervised" if labelled else "given", text, stop - start)


def _wrapped(pieces: tuple[Piece, ...]) -> list[list[tuple[Kind, str]]]:
    """Break the text into lines of at most `COLUMNS` characters."""
    lines: list[list[tuple[Kind, str]]] = [[]]
    room = COLUMNS
    for piece in pieces:
        for number, paragraph in enumerate(piece.text.split("\n")):
            if number:
                lines.append([])
                room = COLUMNS
            rest = paragraph
            while rest:
                if room == 0:
                    lines.append([])
                    room = COLUMNS
                lines[-1].append((piece.kind, rest[:room]))
                room, rest = room - len(rest[:room]), rest[room:]
    return lines


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
