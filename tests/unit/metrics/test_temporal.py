import json
import math

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.metrics import temporal_average_precision, temporal_iou


@pytest.fixture(scope="module")
def golden(shared_data):
    path = shared_data / "goldens" / "temporal_detection.json"
    if not path.is_file():
        pytest.skip(f"no {path.name} among the real data")
    return json.loads(path.read_text(encoding="utf-8"))


def test_golden_is_met_to_rounding(golden):
    result = temporal_average_precision(
        golden["predictions"], golden["ground_truth"], golden["tiou_thresholds"]
    )
    # Sums run in another order than in the reference: a few units in the last place.
    assert result.per_threshold == pytest.approx(golden["expected"]["mAP"], abs=1e-15)
    assert result.mean == pytest.approx(golden["expected"]["average_mAP"], abs=1e-15)
    assert result.ignored == 0


def test_temporal_iou_by_hand():
    assert temporal_iou([0, 10], [5, 20]) == 0.25
    assert temporal_iou([0, 1], [2, 3]) == 0.0


def entry(start, end, score=None, label="jump"):
    item = {"label": label, "segment": [start, end]}
    return item if score is None else {**item, "score": score}


def test_doubles_are_wrong_and_a_taken_segment_leaves_the_next_best():
    truth = {"one": [entry(0, 10), entry(4, 14)]}
    predictions = {"one": [entry(0, 10, 0.9), entry(0, 11, 0.8), entry(0, 10, 0.7)]}
    # At 0.4 the second takes the other segment (7 of 14), the third finds none left.
    at_low = temporal_average_precision(predictions, truth, [0.4])
    assert at_low.per_threshold == (1.0,)
    # At 0.6 only the first counts: precision 1 over half the recall.
    at_high = temporal_average_precision(predictions, truth, [0.6])
    assert at_high.per_threshold == (0.5,)


def test_precision_is_interpolated_over_recall():
    truth = {"one": [entry(0, 1), entry(10, 11)], "two": [entry(0, 1)]}
    predictions = {
        "one": [entry(0, 1, 0.9), entry(5, 6, 0.8), entry(10, 11, 0.7)],
        "three": [entry(0, 1, 0.95)],
    }
    # Ranked: wrong (video without truth), right, wrong, right: precision 1/2 and 2/4, recall 2/3.
    assert temporal_average_precision(predictions, truth, [0.5]).mean == pytest.approx(1 / 3)


def test_labels_are_averaged_and_unknown_ones_counted():
    truth = {"one": [entry(0, 1), entry(2, 3, label="run")]}
    predictions = {"one": [entry(0, 1, 0.9), entry(0, 1, 0.8, label="swim")]}
    result = temporal_average_precision(predictions, truth, [0.5, 0.9])
    assert result.per_label == {"jump": (1.0, 1.0), "run": (0.0, 0.0)}
    assert result.mean == 0.5
    assert result.ignored == 1


def test_faults_name_video_and_item():
    truth = {"one": {"annotations": [entry(0, 1)]}}
    good = {"one": [entry(0, 1, 0.5)]}
    with pytest.raises(InputError, match=r"video 'one' are a mapping.*Predictions come first"):
        temporal_average_precision(truth, good)
    with pytest.raises(InputError, match=r"video 'one', item 0: no 'score'"):
        temporal_average_precision({"one": [entry(0, 1)]}, truth)
    with pytest.raises(InputError, match=r"video 'one', item 1: segment \[3, 2\]"):
        temporal_average_precision({"one": [entry(0, 1, 0.5), entry(3, 2, 0.4)]}, truth)
    with pytest.raises(InputError, match="truth holds no segment"):
        temporal_average_precision(good, {"one": []})
    with pytest.raises(InputError, match=r"no 'annotations' in \['duration'\]"):
        temporal_average_precision(good, {"one": {"duration": 3}})
    with pytest.raises(InputError, match="thresholds"):
        temporal_average_precision(good, truth, [])
    with pytest.raises(InputError, match="start < end"):
        temporal_iou([0, math.inf], [0, 1])


@pytest.mark.parametrize(
    "wrong",
    [
        *({"score": score} for score in (math.nan, "high", None, True, 10**400)),
        *({"segment": segment} for segment in (None, "ab", ["0", "1"], [0, None], [0, 10**400])),
    ],
)
def test_what_is_no_number_is_named(wrong):
    truth = {"one": [entry(0, 1)]}
    with pytest.raises(InputError, match=f"video 'one', item 0: {next(iter(wrong))} .*; allowed"):
        temporal_average_precision({"one": [{**entry(0, 1, 0.5), **wrong}]}, truth)


def test_numbers_of_arrays_are_numbers():
    segment = np.array([0.0, 1.0], np.float32)
    found = {"one": [{"label": "jump", "score": np.float32(0.5), "segment": segment}]}
    assert temporal_average_precision(found, {"one": [entry(0, 1)]}).mean == 1.0
