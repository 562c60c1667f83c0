"""Completion: what a model draws behind an occluder, beside what copying would give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chiasm.core.batch import Batch
from chiasm.core.errors import InputError
from chiasm.core.samples import Sample
from chiasm.evaluation.completion_scores import (
    CompletionTruth,
    Drawn,
    completion_truth,
    psnr,
    score_drawn,
    silhouette,
)
from chiasm.fusion.pair_views import draw_on_image
from chiasm.models.occlusion import Occlusion
from chiasm.models.pair_results import Completed, PairView

MODEL, CEILING = "model", "ceiling"
COPIES = ("reconstruction", "aligned", "blend")
MAKERS = (MODEL, CEILING, *COPIES)
"""Who draws: the model; the truth passed through the tokenizer; copies: of the reconstruction as
it was given, of the reconstruction moved onto the thing by the boxes, and of half of each picture.
"""

DISPLACED, EXACT, WRONG = "displaced", "in place", "wrong object"


@dataclass(frozen=True)
class CompletionReport:
    """What was drawn, scored.

    Attributes:
        groups: By group of samples (`all`; by how the reconstruction errs; by how much is hidden)
            and maker: `iou` (mean over samples), `psnr` (of the mean squared error over samples),
            `count`.
        scores: One a sample, in order: `id`, `group`, `level`, `text`, and by maker `iou`, `error`.
    """

    groups: Mapping[str, Mapping[str, Mapping[str, float]]]
    scores: tuple[Mapping[str, Any], ...]


def evaluate_completion(
    model: Occlusion, samples: Sequence[Sample], *, batch_size: int = 16, **settings: Any
) -> CompletionReport:
    """Draw the complete picture of each sample and score it.

    Args:
        model: The model.
        samples: Of the world `occluded`.
        batch_size: Samples in one pass.
        **settings: As `Occlusion.complete` takes them; greedy unless said otherwise.

    Raises:
        InputError: The model draws nothing, or there is no sample.
        DataError: A sample lacks the truth of what is hidden.
    """
    if model.drawing is None:
        raise InputError("this model has no generation branch; completions cannot be evaluated")
    if not samples:
        raise InputError("no sample to draw; give at least one")
    settings = {"temperature": 0.0, "max_new_tokens": 16, **settings}
    scores: list[Mapping[str, Any]] = []
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        batch = model.collator.collate(part, generation=True).to(model.host.device)
        drawn = model.complete(batch, **settings)
        view = model.look(batch)
        for row, (sample, picture) in enumerate(zip(part, drawn, strict=True)):
            truth = completion_truth(sample)
            offered = _offered(model, batch, view, row, picture, truth)
            scores.append(
                {
                    "id": sample.identifier,
                    "group": _kind(sample),
                    "level": str(sample.truth.get("level", "")),
                    "text": picture.text,
                    **score_drawn(offered, truth),
                }
            )
    return CompletionReport(_summary(scores), tuple(scores))


def _offered(
    model: Occlusion,
    batch: Batch,
    view: PairView,
    row: int,
    picture: Completed,
    truth: CompletionTruth,
) -> dict[str, Drawn]:
    """Return what each maker draws for one row, and the silhouette it shows at its best."""
    assert batch.pairs is not None
    assert model.drawing is not None
    geometry, pairs, codebook = batch.geometries[row], batch.pairs, model.drawing.codebook
    round_trip = codebook.decode(model.drawing.codes_of(pairs.target[row : row + 1]))
    drawn = {MODEL: picture.image, CEILING: draw_on_image(round_trip[0], geometry)}
    found = {
        name: Drawn(pixels, silhouette(pixels, truth.background)) for name, pixels in drawn.items()
    }
    original = draw_on_image(pairs.original[row] * 2 - 1, geometry)
    for name, shown in (("reconstruction", pairs.reconstruction), ("aligned", view.aligned)):
        pixels = draw_on_image(shown[row] * 2 - 1, geometry)
        found[name] = Drawn(pixels, silhouette(pixels, np.zeros_like(pixels)))
    given = found["reconstruction"]
    half = ((original.astype(np.uint16) + given.picture) // 2).astype(np.uint8)
    # At its best: what is seen of the thing itself, and all of the reconstruction.
    found["blend"] = Drawn(half, given.silhouette | (truth.whole & ~truth.hidden))
    return found


def _kind(sample: Sample) -> str:
    """Say how the reconstruction errs, where that is known."""
    errors = sample.truth.get("errors")
    if errors is None:
        return "replaced"
    if errors["wrong_object"]:
        return WRONG
    moved = any(errors["shift"]) or errors["scale"] != 1 or errors["rotation"] != 0
    return DISPLACED if moved else EXACT


def _summary(
    scores: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, dict[str, float]]]:
    parts: dict[str, list[Mapping[str, Any]]] = {"all": list(scores)}
    for key in ("group", "level"):
        for name in sorted({score[key] for score in scores if score[key]}):
            parts[name] = [score for score in scores if score[key] == name]
    return {
        name: {maker: _numbers([score[maker] for score in part]) for maker in MAKERS}
        for name, part in parts.items()
    }


def _numbers(found: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    found = list(found)
    errors = [one["error"] for one in found if one["error"] is not None]
    numbers = {"iou": float(np.mean([one["iou"] for one in found])), "count": float(len(found))}
    return numbers | ({"psnr": psnr(float(np.mean(errors)))} if errors else {})
