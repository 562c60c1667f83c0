import json
import math

import pytest

from chiasm.core.errors import InputError
from chiasm.metrics import bleu, cider, cider_d, rouge_l


@pytest.fixture(scope="module")
def golden(shared_data):
    path = shared_data / "goldens" / "captioning.json"
    if not path.is_file():
        pytest.skip(f"no {path.name} among the real data")
    data = json.loads(path.read_text(encoding="utf-8"))
    # The file lists one list a reference file; the interface asks for one list an item.
    data["references"] = [list(item) for item in zip(*data["references"], strict=True)]
    return data


def test_bleu_golden(golden):
    scores = bleu(golden["hypotheses"], golden["references"])
    expected = [golden["expected"][f"Bleu_{order}"] for order in (1, 2, 3, 4)]
    assert scores == pytest.approx(expected, abs=1e-4)


def test_rouge_and_cider_golden(golden):
    pair = golden["hypotheses"], golden["references"]
    assert rouge_l(*pair) == pytest.approx(golden["expected"]["ROUGE_L"], abs=1e-4)
    assert cider_d(*pair) == pytest.approx(golden["expected"]["CIDEr"], abs=1e-4)


HYPOTHESES = [
    "a red circle is left of the small blue square on a grey floor",
    "two green green triangles",
    "the the the cat sat on a mat",
    "nothing to see here at all",
]
REFERENCES = [
    ["the red circle is left of a blue square", "a red circle is beside the small blue square"],
    ["two green triangles overlap", "there are two green triangles"],
    ["the cat sat on the mat", "a cat is on the mat today as always"],
    ["there is nothing to see here", "nothing at all to see"],
]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_equals_sacrebleu(order):
    sacrebleu = pytest.importorskip("sacrebleu", reason="the extra 'eval' is not installed")
    theirs = sacrebleu.BLEU(
        max_ngram_order=order, tokenize="none", smooth_method="none", force=True
    ).corpus_score(HYPOTHESES, [list(column) for column in zip(*REFERENCES, strict=True)])
    assert bleu(HYPOTHESES, REFERENCES)[order - 1] == pytest.approx(theirs.score / 100, abs=1e-9)


def test_bleu_by_hand():
    # 7 words, 2 clipped unigram matches (Papineni's example); one reference of 6, one of 7 words.
    got = bleu(
        ["the the the the the the the"],
        [["the cat is on the mat", "there is a cat on the mat"]],
        order=2,
    )
    assert got == (pytest.approx(2 / 7), 0.0)


def test_bleu_brevity_takes_the_closest_reference_and_the_shorter_of_two():
    # 3 words; lengths 2 and 4 are equally close: 2 wins, so no penalty.
    assert bleu(["a b c"], [["a b", "a b c d"]], order=1)[0] == pytest.approx(1.0)
    assert bleu(["a b"], [["a b c", "a b c d e"]], order=1)[0] == pytest.approx(math.exp(1 - 3 / 2))


def test_bleu_of_empty_hypotheses_is_zero():
    assert bleu(["", ""], [["a"], ["b"]]) == (0.0,) * 4
    with pytest.raises(InputError, match="order 0"):
        bleu(["a"], [["a"]], order=0)


def test_rouge_by_hand():
    # Subsequence "a c": precision 2/3, recall 2/4; the second reference gives recall 1/2 as well.
    precision, recall, square = 2 / 3, 1 / 2, 1.44
    expected = (1 + square) * precision * recall / (recall + square * precision)
    assert rouge_l(["a b c"], [["a x c y", "b q"]]) == pytest.approx(expected)
    assert rouge_l(["", "a"], [["a"], ["b"]]) == 0.0


def test_cider_by_hand():
    # Two items; n-grams of one item only weigh log 2, shared ones nothing. The first hypothesis is
    # its reference: cosine 1 for n = 1 and 2, no longer n-grams. The second shares one of 2 words.
    hypotheses, references = ["p q", "r z"], [["p q"], ["r s"]]
    second = (1 / 2 + 0) / 4
    assert cider(hypotheses, references) == pytest.approx(10 * (2 / 4 + second) / 2)
    assert cider_d(hypotheses, references) == pytest.approx(10 * (2 / 4 + second) / 2)


def test_cider_d_clips_and_penalises_and_cider_does_not():
    references = [["p q"], ["r s"]]
    repeated = ["p p p q", "r s"]
    # Unigrams of the first: (3, 1) against (1, 1); no bigram but "p q" of three kinds.
    norm = math.sqrt(10 * 2)
    bigram = {"plain": 1 / math.sqrt(5), "clipped": 1 / math.sqrt(5)}
    plain = ((3 + 1) / norm + bigram["plain"]) / 4
    clipped = ((1 + 1) / norm + bigram["clipped"]) / 4 * math.exp(-4 / 72)
    assert cider(repeated, references) == pytest.approx(10 * (plain + 2 / 4) / 2)
    assert cider_d(repeated, references) == pytest.approx(10 * (clipped + 2 / 4) / 2)


@pytest.mark.parametrize("metric", [cider, cider_d])
def test_cider_of_one_document_is_refused_with_the_reason(metric):
    with pytest.raises(InputError, match=r"1 item.*log\(1 / 1\) = 0.*at least 2 items"):
        metric(["a b"], [["a b"]])


@pytest.mark.parametrize("metric", [bleu, rouge_l, cider, cider_d])
def test_faults_name_the_item(metric):
    with pytest.raises(InputError, match="3 predictions for 2 truths"):
        metric(["a", "b", "c"], [["a"], ["b"]])
    with pytest.raises(InputError, match="item 1: no reference"):
        metric(["a", "b"], [["a"], []])
