"""Scores of masks against an independent count, splits, ceilings, baselines and faults."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.core.run_length import decode_run_length
from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.grounding import GroundingOptions, evaluate_masks, numbers_of_masks
from chiasm.evaluation.mask_ceiling import through_cells
from chiasm.evaluation.mask_overlap import to_pixels
from chiasm.metrics import (
    average_recall,
    cumulative_iou,
    generalised_iou,
    mean_iou,
    precision_at,
)
from tests.unit.evaluation.painters import GEOMETRY, HEIGHT, WIDTH, Painter, moved, painted, read

SAMPLES = [painted(number) for number in range(11)]
TRUTHS = [read(phrase) for sample in SAMPLES for phrase in sample.phrases]
SHIFTS = {"coarse": (5, 7), "refined": (0, 2)}
FEW = Bootstrap(resamples=50)


def report_of(samples: Any = SAMPLES, model: Any = None, **options: Any) -> Any:
    return evaluate_masks(
        model or Painter(), samples, GroundingOptions(bootstrap=FEW, batch_size=3, **options)
    )


@pytest.fixture(scope="module")
def report() -> Any:
    return report_of()


@pytest.mark.parametrize("head", ["coarse", "refined"])
def test_numbers_equal_the_metrics(report: Any, head: str) -> None:
    import torch

    masks = [
        to_pixels(torch.from_numpy(moved(truth, *SHIFTS[head])).float() * 6 - 3, truth.shape)
        for truth in TRUTHS
    ]
    numbers = report.numbers()
    expected = {
        "mean_iou": mean_iou(masks, TRUTHS),
        "cumulative_iou": cumulative_iou(masks, TRUTHS),
        "generalised_iou": generalised_iou(masks, TRUTHS),
        "precision_at_0.5": precision_at(masks, TRUTHS, 0.5),
        "precision_at_0.7": precision_at(masks, TRUTHS, 0.7),
        "precision_at_0.9": precision_at(masks, TRUTHS, 0.9),
        "average_recall": average_recall(masks, TRUTHS),
        "pixel_accuracy": np.mean([(a == b).mean() for a, b in zip(masks, TRUTHS, strict=True)]),
    }
    for name, value in expected.items():
        assert numbers[f"{head}.{name}"] == pytest.approx(value), name
    things = [place for place in range(len(TRUTHS)) if place % 2 == 0]
    plural = [place for place in things if (place // 2) % 3 == 0]
    for split, places in (("things", things), ("plural", plural)):
        found = mean_iou([masks[i] for i in places], [TRUTHS[i] for i in places])
        assert numbers[f"{head}.mean_iou/{split}"] == pytest.approx(found)
    for score, mask in zip(report.scores, masks, strict=True):
        assert np.array_equal(decode_run_length(score.masks[head]), mask)


def test_the_best_head_gives_the_run_its_numbers(report: Any) -> None:
    numbers = report.numbers()
    assert report.summary.heads == ("coarse", "refined") and report.summary.best == "refined"
    assert numbers["mean_iou"] == numbers["refined.mean_iou"] > numbers["coarse.mean_iou"]
    assert numbers["mean_iou/stuff"] == numbers["refined.mean_iou/stuff"]
    counts = {split.name: split.count for split in report.summary.splits}
    assert counts == {"all": 22, "things": 11, "stuff": 11, "singular": 18, "plural": 4}
    assert [group.name for group in report.summary.groups] == ["left", "right"]
    interval = report.summary.splits[0].makers["refined"]["mean_iou"]
    ious = [score.overlaps["refined"].iou for score in report.scores]
    assert interval == FEW.mean(ious, [score.sample for score in report.scores])
    assert interval.clusters == 11
    pairs = [score.overlaps["refined"] for score in report.scores]
    cumulative = report.summary.splits[0].makers["refined"]["cumulative_iou"]
    assert cumulative.mean == sum(p.intersection for p in pairs) / sum(p.union for p in pairs)
    assert cumulative.low <= cumulative.mean <= cumulative.high


def test_the_ceiling_is_the_truth_through_the_cells_and_the_refiner() -> None:
    model = Painter()
    report = report_of(model=model)
    import torch

    expected, grown = [], []
    for truth in TRUTHS:
        logits = through_cells(torch.from_numpy(truth), GEOMETRY)
        expected.append(to_pixels(logits, truth.shape))
        grown.append(to_pixels(logits + 0.5, truth.shape))
    numbers = report.numbers()
    assert numbers["coarse ceiling.mean_iou"] == pytest.approx(mean_iou(expected, TRUTHS))
    assert numbers["refined ceiling.mean_iou"] == pytest.approx(mean_iou(grown, TRUTHS))
    assert numbers["coarse ceiling.mean_iou"] != numbers["refined ceiling.mean_iou"]
    assert len(model.refined) == len(TRUTHS)
    assert 0.7 < numbers["coarse ceiling.mean_iou"] < 1


def test_a_head_alone_has_its_ceiling_alone() -> None:
    report = report_of(model=Painter(heads=("coarse",)))
    makers = list(report.summary.splits[0].makers)
    assert makers == ["coarse", "coarse ceiling", "constant", "centre_box"]
    assert report.summary.best == "coarse"


def test_baselines_say_what_they_were_fitted_to(report: Any) -> None:
    training = [painted(number) for number in range(20, 25)]
    other = report_of(train_samples=training)
    assert "fitted to 22 evaluated phrases" in report.context["baselines"]
    assert "fitted to 10 training phrases" in other.context["baselines"]
    assert 0 < other.numbers()["constant.mean_iou"] < 1
    assert report.numbers()["constant.mean_iou"] != report.numbers()["centre_box.mean_iou"]


def test_samples_without_phrases_are_counted(report: Any) -> None:
    plain = dataclasses.replace(SAMPLES[0], identifier="plain", phrases=())
    found = report_of([plain, *SAMPLES])
    assert found.context["samples_without_phrases"] == 1
    assert found.context["samples"] == 11
    assert found.numbers() == report.numbers()


def test_batches_make_no_difference(report: Any) -> None:
    model = Painter()
    told: list[int] = []
    options = GroundingOptions(batch_size=11, bootstrap=FEW, progress=told.append)
    whole = evaluate_masks(model, SAMPLES, options)
    assert whole.numbers() == report.numbers()
    assert whole.scores == report.scores
    assert (told, model.seen) == ([11], [sample.identifier for sample in SAMPLES])


def test_numbers_for_a_trainer_are_those_of_the_report(report: Any) -> None:
    found = numbers_of_masks(Painter(), SAMPLES, 4)
    whole = report.numbers()
    assert found["mean_iou"] == whole["mean_iou"]
    assert set(found) < set(whole)
    assert not any("ceiling" in name or "constant" in name for name in found)


def test_the_report_is_written(report: Any, tmp_path: Path) -> None:
    path, predictions = report.save(tmp_path / "deep" / "masks.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["suite"] == "grounding"
    assert document["splits"][0]["makers"]["coarse"]["mean_iou"]["count"] == 22
    lines = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines[:2]] == ["scene-0#thing", "scene-0#stuff"]
    assert lines[0]["phrase"] == "the red block"
    assert lines[0]["masks"]["coarse"]["size"] == [HEIGHT, WIDTH]
    assert lines[0]["iou"]["refined"] == report.scores[0].overlaps["refined"].iou
    assert document["context"]["phrases"] == 22


def test_faults_are_named() -> None:
    with pytest.raises(InputError, match=r"none of 1 samples has a phrase; suite 'grounding'"):
        report_of([dataclasses.replace(SAMPLES[0], phrases=())])
    with pytest.raises(InputError, match=r"sample 'scene-0' stands twice in the data"):
        report_of([SAMPLES[0], SAMPLES[0]])
    bare = dataclasses.replace(SAMPLES[0].phrases[1], mask=None)
    lacking = dataclasses.replace(SAMPLES[0], phrases=(SAMPLES[0].phrases[0], bare))
    with pytest.raises(InputError, match=r"scenes.jsonl:1: phrase 1 has no mask to be scored"):
        report_of([lacking])
    with pytest.raises(InputError, match=r"'coarse': 5, .* for 6 phrases \(from 'scene-0'\)"):
        report_of(model=Painter(drop=1))
    with pytest.raises(InputError, match="batch size 0; allowed: 1 or more"):
        evaluate_masks(Painter(), SAMPLES, GroundingOptions(batch_size=0))
