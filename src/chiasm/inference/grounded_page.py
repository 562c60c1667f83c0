"""Writes grounded answers as one HTML page, without outside resources and without scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from chiasm.core.spelling import ESCAPE
from chiasm.inference.answers import Mask
from chiasm.inference.grounded import GroundedAnswer
from chiasm.inference.overlays import colour_of, cut_out

MOST_PIXELS = 1280
"""Longer side of a picture on the page; larger ones are shrunk, their masks with them."""


def save_grounded(answers: Sequence[GroundedAnswer], path: Path | str) -> Path:
    """Write the page.

    Args:
        answers: At least one answer.
        path: The file; its folder is made where it does not exist.

    Returns:
        The path.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render_grounded(answers), encoding="utf-8", errors=ESCAPE)
    return file


def render_grounded(answers: Sequence[GroundedAnswer]) -> str:
    """Return the page as text: each picture with its masks in colours, under it the answer.

    A phrase that is pointed at shows its own pixels alone. All texts are escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    entries = [_entry(number, answer) for number, answer in enumerate(answers)]
    rules = [
        {"name": mask["name"], "colour": ", ".join(map(str, mask["colour"]))}
        for entry in entries
        for mask in entry["masks"]
    ]
    return environment.get_template("grounded.html.j2").render(
        title=answers[0].question, answers=entries, rules=rules
    )


def _entry(number: int, answer: GroundedAnswer) -> dict[str, Any]:
    """Return what the page draws of an answer; names of phrases are unique on the page."""
    scale = min(1.0, MOST_PIXELS / max(answer.image.size))
    size = (
        max(1, round(answer.image.width * scale)),
        max(1, round(answer.image.height * scale)),
    )
    masks = [
        {
            "name": f"{number}-{index}",
            "phrase": phrase.mask.phrase,
            "colour": colour_of(index),
            "told": _told(phrase.mask),
            "layer": _uri(cut_out(phrase.mask, index).resize(size, Image.Resampling.BILINEAR)),
        }
        for index, phrase in enumerate(answer.phrases)
    ]
    return {
        "question": answer.question,
        "picture": _uri(answer.image.convert("RGB").resize(size, Image.Resampling.LANCZOS)),
        "width": size[0],
        "height": size[1],
        "masks": masks,
        "pieces": _pieces(number, answer),
    }


def _pieces(number: int, answer: GroundedAnswer) -> list[dict[str, str]]:
    """Cut the answer at its phrases; what is no phrase has no name."""
    pieces, done = [], 0
    for index, phrase in enumerate(answer.phrases):
        pieces.append({"text": answer.text[done : phrase.start], "name": ""})
        pieces.append(
            {"text": answer.text[phrase.start : phrase.stop], "name": f"{number}-{index}"}
        )
        done = phrase.stop
    return [*pieces, {"text": answer.text[done:], "name": ""}]


def _told(mask: Mask) -> str:
    return f"{mask.score:.2f}" if mask.area else "nothing found"


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
