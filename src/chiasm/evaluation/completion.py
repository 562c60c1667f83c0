"""Completion: what a model draws behind an occluder, beside what copying would give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object

from chiasm.core.batch import Batch
from chiasm.core.errors import InputError
from chiasm.core.samples import Sample
from chiasm.evaluation.answering import describe_host
from chiasm.evaluation.completion_scores import (
    CompletionTruth,
    Drawn,
    completion_truth,
    psnr,
    score_drawn,
    silhouette,
)
from chiasm.evaluation.provenance import code_commit, installed_versions
from chiasm.evaluation.saving import save_report
from chiasm.fusion.pair_views import draw_on_image
from chiasm.models.occlusion import Occlusion
from chiasm.models.pair_results import Completed, PairView

MODEL, CEILING = "model", "ceiling"
COPIES = ("reconstruction", "aligned", "blend")
MAKERS = (MODEL, CEILING, *COPIES)
"""Who draws: the model; the truth passed through the tokenizer; copies: of the reconstruction as
it was given, of the reconstruction moved onto the thing by the boxes, and of half of each picture.
"""

DISPLACED, EXACT, WRONG, REPLACED = "displaced", "in place", "wrong object", "replaced"

IN_PLACE = 1.0
"""Pixels by which the sides of both boxes may differ where a reconstruction is in place."""


@dataclass(frozen=True)
class CompletionReport:
    """What was drawn, scored.

    Attributes:
        groups: By group of samples (`all`; by how the reconstruction errs; by how much is hidden)
            and maker: `iou` (mean over samples, where silhouettes are known), `psnr` (of the mean
            squared error over samples, where something is hidden), `count`.
        scores: One a sample, in order: `id`, `group`, `level`, `text`, and by maker `iou`, `error`.
        context: The model, the data, settings and versions.
    """

    groups: Mapping[str, Mapping[str, Mapping[str, float]]]
    scores: tuple[Mapping[str, Any], ...]
    context: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the single scores as plain values."""
        return {"suite": "completion", "groups": self.groups, **self.context}

    def save(self, path: Path | str) -> tuple[Path, Path]:
        """Write the report as JSON, and the scores beside it; returns both paths."""
        return save_report(path, self.to_json(), self.scores)


def evaluate_completion(
    model: Occlusion,
    samples: Sequence[Sample],
    *,
    batch_size: int = 16,
    name: str = "",
    data: str = "",
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> CompletionReport:
    """Draw the complete picture of each sample and score it.

    Under several processes (`accelerate launch`, `torchrun`) each takes every n-th sample and all
    get the whole report.

    Args:
        model: The model.
        samples: Pairs with a target; see `completion_truth`.
        batch_size: Samples in one pass.
        name: Name or directory of the run, for the report.
        data: Name of the data, for the report.
        progress: Called after each batch with the number of samples drawn.
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
    state = PartialState()
    mine = list(range(state.process_index, len(samples), state.num_processes))
    scored: dict[int, Mapping[str, Any]] = {}
    for start in range(0, len(mine), batch_size):
        places = mine[start : start + batch_size]
        found = _score(model, [samples[place] for place in places], settings)
        scored.update(zip(places, found, strict=True))
        if progress is not None:
            progress(len(places))
    if state.num_processes > 1:
        scored = dict(gather_object(list(scored.items())))
    scores = tuple(scored[place] for place in range(len(samples)))
    context = {
        **describe_host(model.host, model.collator, name),
        "data": data,
        "samples": len(scores),
        "settings": settings,
        "versions": installed_versions(),
        "commit": code_commit(),
    }
    return CompletionReport(_summary(scores), scores, context)


def _score(
    model: Occlusion, part: Sequence[Sample], settings: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Draw and score the samples of one pass."""
    truths = [completion_truth(sample) for sample in part]
    batch = model.collator.collate(part, generation=True).to(model.host.device)
    drawn = model.complete(batch, **settings)
    view = model.look(batch)
    return [
        {
            "id": sample.identifier,
            "group": _kind(sample),
            "level": str(sample.truth.get("level", "")),
            "text": picture.text,
            **score_drawn(_offered(model, batch, view, row, picture, truth), truth),
        }
        for row, (sample, picture, truth) in enumerate(zip(part, drawn, truths, strict=True))
    ]


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
    outline = truth.outline
    found = {
        name: Drawn(pixels, None if outline is None else silhouette(pixels, outline.background))
        for name, pixels in drawn.items()
    }
    original = draw_on_image(pairs.original[row] * 2 - 1, geometry)
    for name, shown in (("reconstruction", pairs.reconstruction), ("aligned", view.aligned)):
        pixels = draw_on_image(shown[row] * 2 - 1, geometry)
        found[name] = Drawn(pixels, silhouette(pixels, np.zeros_like(pixels)))
    given = found["reconstruction"]
    half = ((original.astype(np.uint16) + given.picture) // 2).astype(np.uint8)
    # At its best: what is seen of the thing itself, and all of the reconstruction.
    seen = None if outline is None else outline.whole & ~truth.hidden
    both = None if seen is None or given.silhouette is None else given.silhouette | seen
    found["blend"] = Drawn(half, both)
    return found


def _kind(sample: Sample) -> str:
    """Say how the reconstruction errs; nothing where that is not known."""
    truth = sample.truth
    if "errors" not in truth and "control" in truth:
        return REPLACED
    # What else a file of a user's own says under these names is not ours to read.
    errors = truth.get("errors")
    if not isinstance(errors, Mapping) or not {"wrong_object", "rotation"} <= set(errors):
        return ""
    if errors["wrong_object"]:
        return WRONG
    ours, theirs = truth.get("whole_box"), truth.get("reconstruction_box")
    if ours is None or theirs is None:
        return ""
    apart = max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
    return DISPLACED if apart > IN_PLACE or errors["rotation"] != 0 else EXACT


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
    overlaps = [one["iou"] for one in found if one["iou"] is not None]
    numbers = {"count": float(len(found))}
    numbers |= {"iou": float(np.mean(overlaps))} if overlaps else {}
    return numbers | ({"psnr": psnr(float(np.mean(errors)))} if errors else {})
