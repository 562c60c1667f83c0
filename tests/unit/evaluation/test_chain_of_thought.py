"""Closer looks scored: answers by a judge, regions by overlap, groups and counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample, Turn
from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.chain_of_thought import (
    ThoughtOptions,
    box_iou,
    evaluate_thoughts,
    picture_of,
)
from chiasm.evaluation.grounding_model import ModelThinker
from chiasm.inference.chain_of_thought import think
from tests.unit.inference.duals import build_host_alone
from tests.unit.inference.pointers import Pointer, scene

FEW = Bootstrap(resamples=20)


def asked(number: int, question: str, region: Any = None, group: str = "") -> Sample:
    truth: dict[str, Any] = {"answers": ["blue"]}
    turns = (Turn("user", (0, question)), Turn("assistant", ("blue",), supervised=True))
    return Sample(
        f"q{number}", turns, (scene(),), group, truth | ({"region": region} if region else {})
    )


BLUE = [50.0, 37.0, 71.0, 53.0]
SAMPLES = [
    asked(0, "Which colour is the blue block?", BLUE, "near"),
    asked(1, "And the red bar?", [13.0, 11.0, 42.0, 30.0], "far"),
    asked(2, "And the green ball?", BLUE, "far"),
]


@pytest.fixture(scope="module")
def thinker() -> ModelThinker:
    return ModelThinker(Pointer(build_host_alone()), name="runs/pointer")


def judge(question: str, answer: str, references: Any) -> float:
    """Right for questions about blue; so scores do not hang on a random host."""
    return float("blue" in question) if list(references) == ["blue"] else 0.5


def report_of(thinker: Any, samples: Any = SAMPLES, **options: Any) -> Any:
    given = {"thought": "question", "judge": judge, "max_new_tokens": 3, **options}
    return evaluate_thoughts(thinker, samples, ThoughtOptions(bootstrap=FEW, **given))


COORDINATES = st.integers(0, 30)


@given(st.tuples(*[COORDINATES] * 4), st.tuples(*[COORDINATES] * 4))
def test_overlap_of_boxes_is_that_of_their_pixels(first: Any, second: Any) -> None:
    boxes = [(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d in (first, second)]
    masks = []
    for left, top, right, bottom in boxes:
        mask = np.zeros((32, 32), bool)
        mask[top:bottom, left:right] = True
        masks.append(mask)
    expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    assert box_iou(*boxes) == pytest.approx(expected)


def test_scores_regions_and_groups(thinker: ModelThinker) -> None:
    told: list[int] = []
    report = report_of(thinker, progress=told.append)
    assert [score.score for score in report.scores] == [1.0, 0.0, 0.0]
    # The region is a square of 21 around a block of 21 x 16; of 29 around a bar of 29 x 19.
    assert report.scores[0].region_iou == pytest.approx(16 / 21)
    assert [score.box_iou for score in report.scores] == [1.0, 1.0, 0.0]
    assert report.scores[2].region is None and report.scores[2].region_iou == 0.0
    numbers = report.numbers()
    assert numbers["score"] == pytest.approx(1 / 3)
    assert numbers["box_iou"] == pytest.approx(2 / 3)
    assert numbers["region_iou/far"] == pytest.approx((19 / 29 + 0) / 2)
    assert [group.name for group in report.by_group] == ["far", "near"]
    assert (report.overall.without_region, report.by_group[1].without_region) == (1, 0)
    assert told == [1, 1, 1]
    assert report.context["judge"] == "judge" and report.context["thought"] == "question"
    alone = think(thinker.model, scene(), SAMPLES[0].turns[0].text, "question", max_new_tokens=3)
    assert report.scores[0].text == alone.text


def test_without_a_thought_no_region_is_scored(thinker: ModelThinker) -> None:
    report = report_of(thinker, thought="none")
    assert set(report.overall.scores) == {"score"}
    assert report.overall.without_region == 3
    assert [score.phrase for score in report.scores] == ["", "", ""]


def test_records_without_boxes_are_scored_by_their_answers(thinker: ModelThinker) -> None:
    report = report_of(thinker, [SAMPLES[0], asked(5, "Where is blue?")])
    assert report.overall.scores["region_iou"].count == 1
    assert report.overall.scores["score"].count == 2


def test_the_report_is_written(thinker: ModelThinker, tmp_path: Path) -> None:
    path, predictions = report_of(thinker).save(tmp_path / "deep" / "thoughts.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["suite"] == "chain_of_thought"
    assert document["context"]["judge_replies_without_number"] == 0
    lines = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == ["q0", "q1", "q2"]
    assert lines[0]["region"] == [50, 34, 71, 55] and lines[2]["region"] is None


def test_faults_are_named(thinker: ModelThinker) -> None:
    with pytest.raises(InputError, match="evaluation of the data: no samples"):
        report_of(thinker, [])
    bare = Sample("bare", SAMPLES[0].turns, SAMPLES[0].images)
    with pytest.raises(InputError, match="bare: no accepted answers to score by"):
        report_of(thinker, [bare])
    with pytest.raises(InputError, match="two: 2 pictures; a closer look is taken at one"):
        picture_of(Sample("two", (), (scene(), scene())))
