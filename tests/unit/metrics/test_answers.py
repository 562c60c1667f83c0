import pytest

from chiasm.core.errors import InputError
from chiasm.metrics import anls, exact_match, vqa_accuracy
from chiasm.metrics.normalisation import normalise_answer, normalise_vqa, tokenise_caption


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The red circle.", "red circle"),
        ("  RED\tcircle ", "red circle"),
        ("non-empty", "non empty"),
        ("a", "a"),
        ("The A an", "the a an"),
        ("...", "..."),
        ("", ""),
        ("no", "no"),
        ("two", "two"),
    ],
)
def test_normalise_answer(text, normal):
    assert normalise_answer(text) == normal


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Two dogs.", "2 dogs"),
        ("None", "0"),
        ("the dont", "don't"),
        ("shouldnt've", "shouldn't've"),
        ("yall'd've", "y'all'd've"),
        ("1,000 (about)", "1000 about"),
        ("x-ray", "x ray"),
        ("x -ray", "x ray"),
        ("3.5", "3.5"),
        ("3. 5.", "3 5"),
        ("a/b", "b"),
        ("it's\na cat!", "it's cat"),
    ],
)
def test_normalise_vqa(text, normal):
    assert normalise_vqa(text) == normal


def test_tokenise_caption_keeps_words_and_drops_marks():
    assert tokenise_caption("A man's T-shirt, red & blue_3.") == "a man's t-shirt red blue 3"


def test_exact_match_is_the_share_of_any_reference():
    got = exact_match(["The cat.", "dog", "bird"], [["a cat", "kitten"], ["a wolf"], ["Bird!"]])
    assert got == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_vqa_accuracy_of_ten_annotators(matches, score):
    references = [["Two"] * matches + ["red"] * (10 - matches)]
    assert vqa_accuracy(["2"], references) == pytest.approx(score)


def test_vqa_accuracy_leaves_nothing_with_one_reference():
    with pytest.raises(InputError, match=r"item 1: 1 reference.*at least 2"):
        vqa_accuracy(["yes", "no"], [["yes", "yes"], ["no"]])


def test_anls_by_hand():
    # "hello"/"hallo": distance 1 of 5. "abcd"/"xyzd": 3 of 4, above the threshold.
    assert anls(["Hello"], [["hallo"]]) == pytest.approx(0.8)
    assert anls(["abcd"], [["xyzd"]]) == 0.0
    assert anls(["abcd"], [["xyzd"]], threshold=0.8) == pytest.approx(0.25)
    assert anls(["hello", "x"], [["no", "hallo"], ["y"]]) == pytest.approx(0.4)
    # A distance of exactly the threshold counts as wrong.
    assert anls(["ab"], [["ax"]]) == 0.0
    assert anls([""], [[""]]) == 1.0


def test_anls_edit_distance_needs_insertions_and_deletions():
    assert anls(["kitten"], [["sitting"]]) == pytest.approx(1 - 3 / 7)


def test_anls_threshold_out_of_range():
    with pytest.raises(InputError, match=r"threshold 0; allowed: above 0"):
        anls(["a"], [["a"]], threshold=0)


@pytest.mark.parametrize("metric", [exact_match, vqa_accuracy, anls])
def test_faults_name_the_item(metric):
    with pytest.raises(InputError, match="2 predictions for 1 truths"):
        metric(["a", "b"], [["a", "b"]])
    with pytest.raises(InputError, match="no items"):
        metric([], [])
    with pytest.raises(InputError, match="item 1: no reference"):
        metric(["a", "b"], [["a", "b"], []])
    with pytest.raises(InputError, match="item 0: references are the one text 'a'"):
        metric(["a"], ["a"])
    with pytest.raises(InputError, match="item 0: hypothesis None"):
        metric([None], [["a", "b"]])
    with pytest.raises(InputError, match="item 0: reference 3 is no text"):
        metric(["a"], [["a", 3]])
