"""Writes an evaluation of masks as one HTML page with examples, without outside resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from chiasm.core.run_length import decode_run_length
from chiasm.core.samples import Sample
from chiasm.data.media import load_image
from chiasm.evaluation.bootstrap import Interval
from chiasm.evaluation.gallery import data_uri
from chiasm.evaluation.grounding_report import GroundingReport, PhraseScore
from chiasm.evaluation.html import page_facts
from chiasm.evaluation.mask_overlap import MEAN_IOU
from chiasm.evaluation.saving import write_page
from chiasm.inference.overlays import INK, PAPER, colour_of, grow, shrink

SIDE = 288
"""Longer side of a picture on the page in pixels."""

AT_RANDOM, WEAKEST = 12, 6
"""Examples drawn at random, and those with the lowest IoU."""

BINS = 20
"""Of the histogram of IoUs."""

OPACITY = 0.5

COLUMNS = {
    MEAN_IOU: "mean IoU",
    "cumulative_iou": "cumulative IoU",
    "generalised_iou": "generalised IoU",
    "precision_at_0.5": "IoU at least 0.5",
    "precision_at_0.7": "at least 0.7",
    "precision_at_0.9": "at least 0.9",
    "pixel_accuracy": "pixels right",
}
"""Numbers in the first table, and what the page calls them."""


@dataclass(frozen=True)
class Example:
    """One phrase to show.

    Attributes:
        score: The phrase with its masks.
        pictures: (caption, data URI of a PNG) pairs: the picture, then one a head.
    """

    score: PhraseScore
    pictures: tuple[tuple[str, str], ...]


def save_page(
    report: GroundingReport, samples: Sequence[Sample], path: Path, seed: int = 0
) -> Path:
    """Write the page.

    Args:
        report: What was found.
        samples: The evaluated samples, for their pictures.
        path: The file; its folder is made where it does not exist.
        seed: Of the examples drawn.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(path, render_page(report, samples, seed))
    return path


def render_page(report: GroundingReport, samples: Sequence[Sample], seed: int = 0) -> str:
    """Return the page as text; all texts from data and model are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.filters["told"] = _told
    by_name = {sample.identifier: sample for sample in samples}
    drawn, weak = _choose(report, seed)
    best = report.summary.best
    ious = [score.overlaps[best].iou for score in report.scores]
    return environment.get_template("grounding_report.html.j2").render(
        title=f"Masks of {report.context['model'] or 'model'}",
        headline=_headline(report),
        best=best,
        columns=COLUMNS,
        whole=report.summary.splits[0],
        splits=report.summary.splits,
        groups=report.summary.groups,
        histogram=np.histogram(ious, bins=BINS, range=(0, 1))[0].tolist(),
        sections=(
            ("Drawn at random", [_example(score, by_name[score.sample]) for score in drawn]),
            ("Lowest IoU", [_example(score, by_name[score.sample]) for score in weak]),
        ),
        context=report.context,
        facts=page_facts(report.context),
        seed=seed,
    )


def _headline(report: GroundingReport) -> str:
    makers, best = report.summary.splits[0].makers, report.summary.best
    parts = [f"Mean IoU {makers[best][MEAN_IOU].mean:.3f} ({best})"]
    ceiling = makers.get(f"{best} ceiling")
    if ceiling is not None:
        parts.append(f"its cells allow {ceiling[MEAN_IOU].mean:.3f}")
    blind = [makers[name][MEAN_IOU].mean for name in ("constant", "centre_box") if name in makers]
    if blind:
        parts.append(f"without looking {max(blind):.3f}")
    return "; ".join(parts)


def _choose(report: GroundingReport, seed: int) -> tuple[list[PhraseScore], list[PhraseScore]]:
    count = min(AT_RANDOM, len(report.scores))
    places = np.random.default_rng(seed).choice(len(report.scores), count, replace=False)
    best = report.summary.best
    weak = sorted(report.scores, key=lambda score: score.overlaps[best].iou)[:WEAKEST]
    return [report.scores[place] for place in sorted(places.tolist())], weak


def _example(score: PhraseScore, sample: Sample) -> Example:
    image = load_image(sample.images[score.image])
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    truth = _resized(decode_run_length(score.truth), size)
    pictures = [("picture", data_uri(small))]
    for place, (head, mask) in enumerate(score.masks.items()):
        drawn = _draw(small, _resized(decode_run_length(mask), size), truth, place)
        pictures.append((f"{head}: IoU {score.overlaps[head].iou:.2f}", data_uri(drawn)))
    return Example(score, tuple(pictures))


def _draw(
    image: Image.Image, mask: NDArray[np.bool_], truth: NDArray[np.bool_], place: int
) -> Image.Image:
    """Colour a mask in, and draw the true border as a white line with a dark one around it."""
    pixels = np.asarray(image, dtype=np.float64)
    tint = np.array(colour_of(place), dtype=np.float64)
    pixels = np.where(mask[..., None], pixels * (1 - OPACITY) + tint * OPACITY, pixels)
    pixels[truth & ~shrink(truth, 1)] = PAPER
    pixels[grow(truth, 1) & ~truth] = INK
    return Image.fromarray(pixels.round().astype(np.uint8))


def _resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize(size, Image.Resampling.BILINEAR)) > 127


def _told(found: Interval) -> str:
    return f"{found.mean:.3f}"
