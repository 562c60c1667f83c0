"""Examples for the page: which questions to show, and small pictures with the gate on top."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiasm.core.grid import ImageGeometry
from chiasm.core.samples import ImageSource
from chiasm.data.media import load_image
from chiasm.evaluation.gate_analysis import GateAnalysis
from chiasm.evaluation.protocols import HOST

SIDE = 224
"""Longer side of a picture on the page in pixels."""

EXAMPLES_PER_CASE = 3

OVERLAY = 0.62
"""Opacity of the gate map over a greyed picture."""

# From share 0 to share 1: the host's colour, near white, the extra eye's colour.
_SCALE = np.array([[49, 99, 149], [238, 234, 226], [196, 98, 16]], dtype=np.float64)


@dataclass(frozen=True)
class Example:
    """One question to show.

    Attributes:
        case: Which case it stands for.
        question: Its place among the questions.
        pictures: (caption, data URI of a PNG) pairs: the image, then one map an extra stream.
    """

    case: str
    question: int
    pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Case:
    """A case and how many questions fall in it."""

    name: str
    members: tuple[int, ...]


def sort_into_cases(analysis: GateAnalysis) -> tuple[Case, ...]:
    """Sort all questions by whether they are right as trained and with the host alone."""
    learned = analysis.settings[0].correct
    alone = analysis.setting(f"{HOST} only")
    assert alone is not None, "analyse always measures the host alone"
    pairs = list(zip(learned, alone.correct, strict=True))
    names = {
        (True, False): "right as trained, wrong with the host alone",
        (False, True): "wrong as trained, right with the host alone",
        (True, True): "right both ways",
        (False, False): "wrong both ways",
    }
    return tuple(
        Case(name, tuple(at for at, pair in enumerate(pairs) if pair == key))
        for key, name in names.items()
    )


def choose_examples(analysis: GateAnalysis, seed: int = 0) -> tuple[Example, ...]:
    """Draw examples of each case at random; nothing is picked by hand.

    Questions without an image are passed over.
    """
    random = np.random.default_rng(seed)
    first_image: dict[str, int] = {}
    for place, identifier in enumerate(analysis.image_samples):
        first_image.setdefault(identifier, place)
    examples = []
    for case in sort_into_cases(analysis):
        seen = [at for at in case.members if analysis.questions[at].sample.images]
        count = min(EXAMPLES_PER_CASE, len(seen))
        for place in sorted(random.choice(len(seen), count, replace=False)) if seen else ():
            at = seen[int(place)]
            question = analysis.questions[at]
            pictures = _pictures(
                analysis, question.sample.images[0], first_image.get(question.source)
            )
            examples.append(Example(case.name, at, pictures))
    return tuple(examples)


def _pictures(
    analysis: GateAnalysis, source: ImageSource, place: int | None
) -> tuple[tuple[str, str], ...]:
    image = load_image(source)
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    small = image.resize(size, smooth)
    pictures = [("image", data_uri(small))]
    if analysis.reading is not None and place is not None:
        cells = analysis.reading.maps[place]
        for stream, name in enumerate(analysis.streams[1:], 1):
            overlay = overlay_map(small, cells[..., stream], analysis.reading.geometries[place])
            mean = analysis.reading.weights[place, stream]
            pictures.append((f"share of {name}: {mean:.2f}", data_uri(overlay)))
    return tuple(pictures)


def overlay_map(
    image: Image.Image, shares: NDArray[np.float64], geometry: ImageGeometry
) -> Image.Image:
    """Lay a map of shares over a picture.

    Args:
        image: The picture, at any size, showing the whole original image.
        shares: float (rows, columns) in [0, 1], one a cell of `geometry`.
        geometry: Where the cells lie in the original image. Parts of the picture that no cell
            covers stay grey.

    Returns:
        RGB, of the picture's size.
    """
    width, height = image.size
    x = (np.arange(width) + 0.5) * geometry.original_width / width
    y = (np.arange(height) + 0.5) * geometry.original_height / height
    column = np.floor((x * geometry.scale_x + geometry.offset_x) / geometry.cell_width).astype(int)
    row = np.floor((y * geometry.scale_y + geometry.offset_y) / geometry.cell_height).astype(int)
    inside_x = (column >= 0) & (column < geometry.columns)
    inside_y = (row >= 0) & (row < geometry.rows)
    picked = shares[np.where(inside_y, row, 0)[:, None], np.where(inside_x, column, 0)[None, :]]
    grey = np.repeat(np.asarray(image.convert("L"), dtype=np.float64)[..., None], 3, axis=2)
    opacity = OVERLAY * (inside_y[:, None] & inside_x[None, :])[..., None]
    mixed = grey * (1 - opacity) + colours(picked) * opacity
    return Image.fromarray(mixed.round().astype(np.uint8))


def colours(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the colour of each share in [0, 1]: float (..., 3) in [0, 255]."""
    stops = np.linspace(0, 1, len(_SCALE))
    return np.stack([np.interp(shares, stops, channel) for channel in _SCALE.T], axis=-1)


def data_uri(image: Image.Image) -> str:
    """Return a PNG of the image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def scale_uri(steps: int = 128) -> str:
    """Return the colour scale from share 0 (left) to 1 (right) as a data URI."""
    bar = colours(np.linspace(0, 1, steps))[None].repeat(8, axis=0)
    return data_uri(Image.fromarray(_with_overlay(bar)))


def _with_overlay(bar: NDArray[np.float64]) -> NDArray[np.uint8]:
    # The bar shows colours as they look over mid-grey, which is how the maps show them.
    return (bar * OVERLAY + 128 * (1 - OVERLAY)).round().astype(np.uint8)


def said_by_setting(analysis: GateAnalysis, question: int) -> Sequence[tuple[str, str, bool]]:
    """Return (setting, text, whether it is right) of one question."""
    return [
        (setting.name, setting.answers[question], setting.correct[question])
        for setting in analysis.settings
    ]
