import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from chiasm.core.errors import InputError
from chiasm.core.run_length import decode_run_length
from chiasm.metrics import (
    average_recall,
    cumulative_iou,
    generalised_iou,
    mask_iou,
    mean_iou,
    precision_at,
)

HEIGHT, WIDTH = 7, 11


def box(top, left, height, width):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


# Overlap 2 x 3 = 6, union 12 + 12 - 6 = 18; then 10 of 10; then 0 of 5; then both empty.
PREDICTIONS = [box(0, 0, 3, 4), box(2, 2, 2, 5), box(0, 0, 1, 2), box(0, 0, 0, 0)]
TRUTHS = [box(1, 1, 3, 4), box(2, 2, 2, 5), box(5, 5, 1, 3), box(0, 0, 0, 0)]
IOUS = [1 / 3, 1.0, 0.0, 1.0]


def test_each_measure_by_hand():
    assert [mask_iou(*pair) for pair in zip(PREDICTIONS, TRUTHS, strict=True)] == IOUS
    assert mean_iou(PREDICTIONS, TRUTHS) == pytest.approx(np.mean(IOUS))
    assert generalised_iou(PREDICTIONS, TRUTHS) == pytest.approx(np.mean(IOUS))
    assert cumulative_iou(PREDICTIONS, TRUTHS) == pytest.approx((6 + 10) / (18 + 10 + 5))
    assert precision_at(PREDICTIONS, TRUTHS) == 0.5
    assert precision_at(PREDICTIONS, TRUTHS, threshold=1 / 3) == 0.75
    assert precision_at(PREDICTIONS, TRUTHS, threshold=0) == 1.0


def test_average_recall_is_the_area_under_recall():
    steps = np.linspace(0, 1, 20_001)
    curve = np.mean(np.array(IOUS)[:, None] >= steps[None], axis=0)
    area = np.sum((curve[1:] + curve[:-1]) / 2) / (len(steps) - 1)
    assert average_recall(PREDICTIONS, TRUTHS) == pytest.approx(area, abs=1e-4)
    assert average_recall(PREDICTIONS, TRUTHS, thresholds=[0.2, 0.5]) == (0.75 + 0.5) / 2


def test_an_unasked_mask_scores_nothing():
    assert generalised_iou([box(0, 0, 1, 1)], [box(0, 0, 0, 0)]) == 0.0
    assert mask_iou(box(0, 0, 0, 0), box(0, 0, 1, 1)) == 0.0


masks = st.integers(1, 13).flatmap(
    lambda height: st.integers(1, 17).flatmap(
        lambda width: st.lists(st.booleans(), min_size=height * width, max_size=height * width).map(
            lambda bits: np.array(bits).reshape(height, width)
        )
    )
)


@settings(max_examples=100, deadline=None)
@given(masks)
def test_run_lengths_decode_as_the_coco_api_does(mask):
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(decode_run_length(encoded), mask)
    as_text = {**encoded, "counts": encoded["counts"].decode()}
    assert np.array_equal(decode_run_length(as_text), mask)
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    plain = {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}
    assert np.array_equal(decode_run_length(plain), mask)


def test_long_runs_need_several_characters_and_decode_too():
    mask = np.zeros((401, 503), dtype=bool)
    mask[100:300, 3:500] = True
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert mask_iou(encoded, mask) == 1.0


def test_arrays_and_run_lengths_mix():
    encoded = coco.encode(np.asfortranarray(PREDICTIONS[0].astype(np.uint8)))
    assert mask_iou(encoded, TRUTHS[0]) == pytest.approx(1 / 3)


MEASURES = [mean_iou, cumulative_iou, generalised_iou, precision_at, average_recall]


@pytest.mark.parametrize("measure", MEASURES)
def test_faults_name_the_item(measure):
    with pytest.raises(InputError, match="4 predictions for 3 truths"):
        measure(PREDICTIONS, TRUTHS[:3])
    with pytest.raises(InputError, match="no items"):
        measure([], [])
    with pytest.raises(InputError, match=r"item 1: prediction of 11 x 7 pixels, truth of 7 x 11"):
        measure([PREDICTIONS[0], PREDICTIONS[1].T], TRUTHS[:2])
    with pytest.raises(InputError, match=r"item 0: prediction: array of float64"):
        measure([PREDICTIONS[0] * 0.5], TRUTHS[:1])


def test_broken_run_lengths_are_refused():
    short = {"size": [HEIGHT, WIDTH], "counts": [5, 6]}
    with pytest.raises(InputError, match=r"truth: run lengths add up to 11 .* asks for 77"):
        mask_iou(PREDICTIONS[0], short)
    with pytest.raises(InputError, match=r"item 1: truth: run lengths add up to 11"):
        mean_iou(PREDICTIONS[:2], [TRUTHS[0], short])
    with pytest.raises(InputError, match=r"shortest -1"):
        decode_run_length({"size": [1, 2], "counts": [3, -1]})
    with pytest.raises(InputError, match=r"keys \['size'\]"):
        decode_run_length({"size": [1, 2]})
    with pytest.raises(InputError, match="ends inside a number"):
        decode_run_length({"size": [1, 2], "counts": "P"})
    with pytest.raises(InputError, match="character '!'"):
        decode_run_length({"size": [1, 2], "counts": "!"})


def test_thresholds_out_of_range():
    with pytest.raises(InputError, match=r"threshold 1.5; allowed: 0 to 1"):
        precision_at(PREDICTIONS, TRUTHS, threshold=1.5)
    with pytest.raises(InputError, match=r"threshold -1"):
        average_recall(PREDICTIONS, TRUTHS, thresholds=[0.5, -1])
    with pytest.raises(InputError, match=r"no thresholds"):
        average_recall(PREDICTIONS, TRUTHS, thresholds=[])
