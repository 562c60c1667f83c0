"""Approximate METEOR: by hand, and its alignment against trying everything."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.errors import InputError, UnknownNameError
from chiasm.metrics import meteor, meteor_approximate
from chiasm.metrics.meteor import BEAM, WordAlignment, align_words, meteor_approximate_scores

ORIGINAL = "2005"


def score(hypothesis: str, *references: str, parameters: str = ORIGINAL) -> float:
    return meteor_approximate([hypothesis], [list(references)], parameters)


def test_the_formula_of_2005_by_hand() -> None:
    # 6 matches of 7 words against 6, in two chunks ("the president", "spoke to the audience"):
    # P = 6/7, R = 1, penalty 0.5 (2/6)^3.
    got = score("the president then spoke to the audience", "the president spoke to the audience")
    precision, recall = 6 / 7, 1.0
    mean = 10 * precision * recall / (recall + 9 * precision)
    assert got == pytest.approx(mean * (1 - 0.5 * (2 / 6) ** 3))
    assert got == pytest.approx(0.9654, abs=5e-5)


def test_the_formula_of_1_5_by_hand() -> None:
    # "runs" meets "running" by its stem, for 0.6; two chunks of three matches.
    got = score("a dog runs home", "a dog is running", parameters="1.5")
    weight = 2 + 0.6
    precision, recall = weight / 4, weight / 4
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert got == pytest.approx(mean * (1 - 0.6 * (2 / 3) ** 0.2))


def test_the_whole_caption_again() -> None:
    text = "a red circle moves to the left"
    assert score(text, text, parameters="1.5") == 1.0
    assert score(text, text) == pytest.approx(1 - 0.5 / 7**3)
    # The same words elsewhere are no whole caption.
    assert score("to the left a red circle moves", text, parameters="1.5") < 0.7


def test_a_whole_caption_by_stems_costs_its_stems_alone() -> None:
    # As in the program of version 1.5, which asks whether all words of both sides meet.
    assert score("dogs run", "dog runs", parameters="1.5") == pytest.approx(0.6)
    assert score("a dog runs", "a dog running", parameters="1.5") == pytest.approx(2.6 / 3)


def test_a_run_that_is_not_the_whole_caption_costs_as_any_other() -> None:
    mean = 0.75 / (0.85 + 0.15 * 0.75)
    got = score("the red ball", "the red ball moves", parameters="1.5")
    assert got == pytest.approx(mean * (1 - 0.6 * (1 / 3) ** 0.2))


def test_known_stems() -> None:
    # Porter 1980: plurals, -ed, -ing; "happy" and "happiness" both end as "happi".
    for left, right in (("ponies", "poni"), ("hopping", "hop"), ("happiness", "happy")):
        assert align_words([left], [right]) == WordAlignment(1, 0, 1)
    assert align_words(["left"], ["right"]) == WordAlignment(0, 0, 0)


def test_recall_counts_more_than_precision() -> None:
    longer, shorter = "a red circle moves left slowly", "a red circle"
    assert score(longer, shorter) > score(shorter, longer)


def test_the_best_reference_counts_and_items_are_averaged() -> None:
    near, far = "a red circle moves", "nothing of the kind"
    assert score(near, far, near) == score(near, near)
    both = meteor_approximate([near, far], [[near], [near]], ORIGINAL)
    assert both == pytest.approx((score(near, near) + 0.0) / 2)
    assert meteor_approximate_scores(["", near], [[near], [near]])[0] == 0.0


def test_scattered_words_cost() -> None:
    reference = "one two three four five six"
    scores = [
        score("one two three four five six", reference),
        score("four five six one two three", reference),
        score("six five four three two one", reference),
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[2] == pytest.approx(0.5)


def every_alignment(words: list[str], reference: list[str]) -> tuple[int, int]:
    """Most matches, then fewest chunks, over all one-to-one alignments."""
    best = (0, 0)
    size = max(len(words), len(reference))
    for order in itertools.permutations(range(size), len(words)):
        pairs = [
            (place, index)
            for place, index in enumerate(order)
            if index < len(reference) and words[place] == reference[index]
        ]
        # Any part of the pairs is an alignment, too; the whole has most matches.
        chunks = sum(pair[0] == 0 or (pair[0] - 1, pair[1] - 1) not in pairs for pair in pairs)
        best = min(best, (-len(pairs), chunks))
    return -best[0], best[1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=0, max_size=6),
    st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=0, max_size=6),
)
def test_the_alignment_has_most_matches_and_fewest_chunks(
    words: list[str], reference: list[str]
) -> None:
    found = align_words(words, reference)
    assert (found.matches, found.chunks) == every_alignment(words, reference)


@pytest.mark.parametrize(
    ("words", "reference", "expected"),
    [
        # Fewer chunks come before exact words and before near ones.
        ("a run", "run a runs", WordAlignment(2, 1, 1)),
        ("a b", "a b c a b", WordAlignment(2, 2, 1)),
        ("x a run y", "run a z a runs", WordAlignment(2, 1, 1)),
        ("y y run", "y y y runs run", WordAlignment(3, 2, 1)),
        # Near words come before exact ones.
        ("run", "runs run", WordAlignment(1, 0, 1)),
        ("x run", "runs run", WordAlignment(1, 1, 1)),
        ("y z run", "a b runs c run", WordAlignment(1, 0, 1)),
        # Exact ones where both stand as near, on either side.
        ("x run", "runs y run", WordAlignment(1, 1, 1)),
        ("x run", "run y runs", WordAlignment(1, 1, 1)),
    ],
)
def test_what_decides_between_alignments(
    words: str, reference: str, expected: WordAlignment
) -> None:
    assert align_words(words.split(), reference.split()) == expected


def test_a_word_repeated_costs_no_more_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    partial = meteor._Partial

    def counted(*values: object, **named: object) -> object:
        made.append(named)
        return partial(*values, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(meteor, "_Partial", counted)
    # Thirty of sixty could meet in one run; the search, which keeps the best so far, finds three.
    for count, chunks in ((60, 1), (30, 3)):
        made.clear()
        found = align_words(["a"] * 60, ["a"] * count)
        assert found == WordAlignment(count, count, chunks)
        # Not every word of the reference is tried for every alignment that is kept.
        assert len(made) < 3 * BEAM * 60


def test_faults() -> None:
    with pytest.raises(UnknownNameError, match=r"METEOR's parameters '1\.4'; known: 1\.5, 2005"):
        meteor_approximate(["a"], [["a"]], "1.4")
    with pytest.raises(InputError, match="meteor_approximate: 2 predictions for 1 truths"):
        meteor_approximate(["a", "b"], [["a"]])
