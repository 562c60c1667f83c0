"""Completions scored: silhouettes, hidden pixels, and who is compared with whom."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import DataError, InputError
from chiasm.data.masks import ArrayMask
from chiasm.data.world.render import render
from chiasm.data.world.scene import scene_from_plain
from chiasm.evaluation.completion import MAKERS, evaluate_completion
from chiasm.evaluation.completion_scores import (
    CompletionTruth,
    Drawn,
    Outline,
    completion_truth,
    psnr,
    score_drawn,
    silhouette,
)
from tests.tiny_pairs import pair_samples, tiny_pair_model


def truth() -> CompletionTruth:
    background = np.full((10, 10, 3), 100, np.uint8)
    whole = np.zeros((10, 10), np.bool_)
    whole[2:8, 2:8] = True
    hidden = whole & (np.arange(10) < 5)
    target = background.copy()
    target[whole] = 200
    return CompletionTruth(target, hidden, Outline(background, whole))


def background(known: CompletionTruth) -> np.ndarray:
    assert known.outline is not None
    return known.outline.background


def test_the_truth_of_a_sample_is_its_scene_without_what_hides() -> None:
    (sample,) = pair_samples(1, "test")
    found = completion_truth(sample)
    assert sample.pair is not None
    assert np.array_equal(found.target, np.asarray(sample.pair.target))
    scene = scene_from_plain(sample.truth["scene"])
    assert scene.to_plain() == sample.truth["scene"]
    again = render(scene)
    assert np.array_equal(again.image, np.asarray(sample.images[0]))
    # Where the thing is not, the target is background, but for its soft edge of one pixel.
    assert found.outline is not None
    whole = found.outline.whole
    apart = silhouette(found.target, found.outline.background)
    edge = np.zeros_like(apart)
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        edge |= np.roll(whole, step, axis)
    assert not (apart & ~whole & ~edge).any()
    assert (apart & whole).sum() / whole.sum() > 0.8


def test_a_perfect_picture_scores_perfectly() -> None:
    known = truth()
    drawn = {"perfect": Drawn(known.target, silhouette(known.target, background(known)))}
    assert score_drawn(drawn, known) == {"perfect": {"iou": 1.0, "error": 0.0}}


def test_what_is_missing_and_what_is_too_much_costs() -> None:
    known = truth()
    half = known.target.copy()
    half[known.hidden] = 100
    moved = np.roll(known.target, 2, axis=1)
    found = score_drawn(
        {
            "half": Drawn(half, silhouette(half, background(known))),
            "moved": Drawn(moved, silhouette(moved, background(known))),
        },
        known,
    )
    assert found["half"]["iou"] == pytest.approx(0.5)
    assert found["half"]["error"] == pytest.approx((100 / 255) ** 2)
    assert found["moved"]["iou"] == pytest.approx(4 / 8)
    # Two of the three hidden columns are background in the moved picture.
    assert found["moved"]["error"] == pytest.approx((100 / 255) ** 2 * 2 / 3)


def test_nothing_hidden_has_no_error() -> None:
    known = replace(truth(), hidden=np.zeros((10, 10), np.bool_))
    drawn = {"one": Drawn(known.target, np.ones((10, 10), np.bool_))}
    assert score_drawn(drawn, known)["one"]["error"] is None


def test_decibels() -> None:
    assert psnr(0.01) == pytest.approx(20.0)
    assert psnr(0.0) == pytest.approx(100.0)


def test_a_report_compares_the_model_with_copies() -> None:
    model = tiny_pair_model()
    samples = pair_samples(6, "test")
    report = evaluate_completion(model, samples, batch_size=4)
    assert len(report.scores) == 6
    assert set(report.groups["all"]) == set(MAKERS)
    assert sum(group["model"]["count"] for name, group in report.groups.items() if "%" in name) == 6
    copied = report.groups["all"]["aligned"]["iou"]
    # A random model draws noise; a copy in the right place shows the thing.
    assert copied > report.groups["all"]["model"]["iou"]
    again = evaluate_completion(model, samples, batch_size=3)
    assert again.groups == report.groups


def test_faults_are_named() -> None:
    model = tiny_pair_model()
    (sample,) = pair_samples(1, "test")
    with pytest.raises(InputError, match="no sample to draw"):
        evaluate_completion(model, [])
    assert sample.pair is not None
    aimless = replace(sample, pair=replace(sample.pair, target=None))
    with pytest.raises(DataError, match="no target picture; a completion is scored against"):
        completion_truth(aimless)
    open_ = replace(sample, truth={}, pair=replace(sample.pair, hidden=None))
    with pytest.raises(DataError, match="no hidden pixels; a completion is scored against"):
        completion_truth(open_)
    small = replace(sample, truth={"hidden": np.ones((7, 5), np.bool_)})
    with pytest.raises(DataError, match="64 x 64 pixels, the hidden pixels are a mask of 7 x 5"):
        completion_truth(small)
    thing = replace(sample, truth={**sample.truth, "whole": np.ones((7, 5), np.bool_)})
    with pytest.raises(DataError, match=r"64 x 64 pixels, the pixels of the whole thing .* 7 x 5"):
        completion_truth(thing)
    larger = replace(
        sample, truth={**sample.truth, "scene": {**sample.truth["scene"], "width": 67}}
    )
    with pytest.raises(DataError, match=r"64 x 64 pixels, the pixels of truth\.scene .* 64 x 67"):
        completion_truth(larger)
    for scene in ({"a": 1}, "a kitchen", 3, {**sample.truth["scene"], "hour": 4}):
        foreign = replace(sample, truth={**sample.truth, "scene": scene})
        with pytest.raises(DataError, match=r"truth\.scene is no scene of a world .*leave it out"):
            completion_truth(foreign)
    silent = tiny_pair_model("occlusion.drawing=null", "objective={tokens: 1.0}")
    with pytest.raises(InputError, match="no generation branch"):
        evaluate_completion(silent, [sample])


def test_pictures_of_a_user_are_scored_by_their_pixels() -> None:
    (sample,) = pair_samples(1, "test")
    assert sample.pair is not None
    hidden = ArrayMask(sample.truth["hidden"])
    target = Image.fromarray(np.asarray(sample.pair.target))
    own = replace(sample, truth={}, pair=replace(sample.pair, hidden=hidden, target=target))
    known, given = completion_truth(sample), completion_truth(own)
    assert given.outline is None
    assert np.array_equal(given.target, known.target)
    assert np.array_equal(given.hidden, known.hidden)
    report = evaluate_completion(tiny_pair_model(), [own, sample], batch_size=2)
    mine, worlds = report.scores
    for maker in MAKERS:
        assert mine[maker]["iou"] is None and worlds[maker]["iou"] is not None
        assert mine[maker]["error"] == pytest.approx(worlds[maker]["error"])
    alone = evaluate_completion(tiny_pair_model(), [own]).groups["all"]["model"]
    assert set(alone) == {"count", "psnr"}


@pytest.mark.parametrize(
    "told", [{}, {"errors": {"shift": 3}}, {"errors": "none"}, {"errors": {"wrong_object": False}}]
)
def test_what_a_user_calls_errors_makes_no_group(told: dict[str, Any]) -> None:
    (sample,) = pair_samples(1, "test")
    own = replace(sample, truth={"hidden": sample.truth["hidden"], **told})
    report = evaluate_completion(tiny_pair_model(), [own])
    assert set(report.groups) == {"all"} and report.scores[0]["group"] == ""
    replaced = replace(own, truth={"hidden": own.truth["hidden"], "control": "shuffled"})
    assert evaluate_completion(tiny_pair_model(), [replaced]).scores[0]["group"] == "replaced"


def test_a_report_is_written_with_a_line_for_each_sample(tmp_path: Path) -> None:
    samples = pair_samples(3, "test")
    report = evaluate_completion(tiny_pair_model(), samples, name="tiny", data="world")
    paths = report.save(tmp_path / "seen" / "report.json")
    written = json.loads(paths[0].read_text())
    assert written["groups"] == report.groups and written["model"] == "tiny"
    assert written["samples"] == 3 and written["settings"]["temperature"] == 0.0
    lines = [json.loads(line) for line in paths[1].read_text().splitlines()]
    assert [line["id"] for line in lines] == [sample.identifier for sample in samples]
