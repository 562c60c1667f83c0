"""Masks that never look: fitted as well as they can be, and the same for every phrase."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.evaluation.mask_baselines import fit_baselines, masks_of
from chiasm.evaluation.mask_overlap import overlap
from tests.unit.evaluation.painters import painted, read


def test_one_mask_for_all_is_that_mask() -> None:
    mask = np.zeros((128, 192), bool)
    mask[32:64, 48:144] = True
    found = fit_baselines([mask] * 3, "training phrases")
    assert (found.count, found.source) == (3, "training phrases")
    assert np.array_equal(found.masks(128, 192)["constant"], mask)
    assert np.array_equal(found.masks(64, 96)["constant"], mask[::2, ::2])


def test_the_box_is_the_best_centred_one() -> None:
    mask = np.zeros((128, 192), bool)
    mask[32:96, 48:144] = True
    found = fit_baselines([mask], "training phrases")
    assert found.box == 0.5
    assert np.array_equal(found.masks(128, 192)["centre_box"], mask)


def test_no_other_threshold_or_box_is_better() -> None:
    generator = np.random.default_rng(5)
    masks = []
    for _ in range(23):
        top, left = generator.integers(0, 30, 2)
        mask = np.zeros((64, 64), bool)
        mask[top : top + generator.integers(5, 34), left : left + generator.integers(5, 34)] = True
        masks.append(mask)
    found = fit_baselines(masks, "training phrases")

    def mean_iou(candidate: np.ndarray) -> float:
        return float(np.mean([overlap(candidate, mask).iou for mask in masks]))

    mean = np.mean(masks, axis=0)
    best = max(mean_iou(mean >= level) for level in np.unique(mean))
    # Of some hundred levels every one is tried where there are that few, else close ones.
    assert mean_iou(found.masks(64, 64)["constant"]) >= best - 0.005
    middles = np.abs((np.arange(64) + 0.5) / 64 - 0.5)
    boxes = [np.outer(middles < s / 128, middles < s / 128) for s in range(2, 65, 2)]
    assert mean_iou(found.masks(64, 64)["centre_box"]) == max(map(mean_iou, boxes))


def test_masks_of_samples_are_read_in_order_and_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [painted(number) for number in range(5)]
    everything = [read(phrase) for sample in samples for phrase in sample.phrases]
    assert all(map(np.array_equal, masks_of(samples), everything))
    monkeypatch.setattr("chiasm.evaluation.mask_baselines.MOST_MASKS", 4)
    thinned = list(masks_of(samples))
    assert len(thinned) == 4
    assert all(map(np.array_equal, thinned, [everything[place] for place in (0, 2, 5, 7)]))


def test_nothing_to_fit_to() -> None:
    with pytest.raises(InputError, match="no training phrases; give data with masks"):
        fit_baselines([], "training phrases")
