"""Average recall by kind of phrase, and pixel accuracy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.errors import InputError
from chiasm.metrics import average_recall_by_split, pixel_accuracy

# (IoU, things, plural): a thing, a stuff, plural things, plural of unknown kind, unknown kind.
PHRASES = [
    (0.9, True, False),
    (0.5, False, False),
    (0.3, True, True),
    (0.1, None, True),
    (0.7, None, False),
]


def test_each_split_by_hand():
    found = average_recall_by_split(PHRASES)
    assert found == pytest.approx(
        {
            "all": 2.5 / 5,
            "things": (0.9 + 0.3 + 0.1) / 3,
            "stuff": 0.5,
            "singular": (0.9 + 0.5 + 0.7) / 3,
            "plural": (0.3 + 0.1) / 2,
        }
    )


def test_a_split_without_phrases_has_no_number():
    assert set(average_recall_by_split([(0.4, True, False)])) == {"all", "things", "singular"}


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from([True, False, None]), st.booleans()), min_size=1
    )
)
def test_it_is_the_area_under_the_recall_curve(phrases):
    """The authors' script sums recall over thresholds in steps of 1e-5; here in steps of 1e-4."""
    ious = np.array([phrase[0] for phrase in phrases])
    thresholds = np.arange(0, 1, 1e-4)
    area = (ious[None, :] >= thresholds[:, None]).mean(axis=1).sum() * 1e-4
    assert average_recall_by_split(phrases)["all"] == pytest.approx(area, abs=2e-4)


@pytest.mark.parametrize("iou", [-0.1, 1.01, float("nan")])
def test_what_is_no_overlap_is_refused(iou):
    with pytest.raises(InputError, match="phrase 1 has the IoU"):
        average_recall_by_split([(0.5, True, False), (iou, True, False)])


def test_no_phrases_are_refused():
    with pytest.raises(InputError, match="no phrases"):
        average_recall_by_split([])


def test_pixel_accuracy_by_hand():
    truth = np.zeros((3, 5), bool)
    truth[0] = True
    prediction = truth.copy()
    prediction[0, 0] = False
    prediction[2, :2] = True
    # 3 of 15 pixels wrong, then none of 14.
    other = np.ones((2, 7), bool)
    assert pixel_accuracy([prediction], [truth]) == pytest.approx(12 / 15)
    assert pixel_accuracy([prediction, other], [truth, other]) == pytest.approx((12 / 15 + 1) / 2)


def test_pixel_accuracy_refuses_other_sizes():
    with pytest.raises(InputError, match=r"pixel_accuracy: item 0: prediction of 2 x 7"):
        pixel_accuracy([np.ones((2, 7), bool)], [np.ones((7, 2), bool)])
