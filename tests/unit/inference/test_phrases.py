"""Noun phrases by rules, what is left out, and faults of extractors."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.errors import InputError, UnknownNameError
from chiasm.inference.phrases import EXTRACTORS, check_spans, find_phrases, noun_phrases

SENTENCES = {
    "A man is riding a brown horse on the beach.": ["A man", "a brown horse", "the beach"],
    "The image shows a red circle, two small blue squares and a green triangle.": [
        "a red circle",
        "two small blue squares",
        "a green triangle",
    ],
    "There is a group of people standing in front of the building. They are looking at it.": [
        "a group of people",
        "the building",
    ],
    "The striped cat sits next to a smiling woman wearing a white shirt and a hat.": [
        "The striped cat",
        "a smiling woman",
        "a white shirt",
        "a hat",
    ],
    "In the background, a parked car can be seen near traffic lights.": [
        "a parked car",
        "traffic lights",
    ],
    "On the left side of the picture there's a kite.": ["a kite"],
    "It hides behind the large yellow striped star, left of the cross.": [
        "the large yellow striped star",
        "the cross",
    ],
    "3 cups of coffee are on the wooden table": ["3 cups of coffee", "the wooden table"],
    "A dog greets the boy": ["A dog", "the boy"],
    "Her mother's hand": ["Her mother's hand"],
    "the red circle": ["the red circle"],
    "Circle.": ["Circle"],
    "Yes, it is red.": [],
    "It shows this one and that.": [],
    "": [],
}


@pytest.mark.parametrize("text", SENTENCES)
def test_phrases_of_captions(text: str) -> None:
    assert [text[start:stop] for start, stop in find_phrases(text)] == SENTENCES[text]


def test_what_was_said_is_not_said_again() -> None:
    text = (
        "A brown dog sees a ball. The dog has the ball, and another brown dog runs to a red ball."
    )
    found = find_phrases(text)
    assert [text[start:stop] for start, stop in found] == ["A brown dog", "a red ball"]
    assert found[0] == (0, 11)
    twice = "The cat, the cat and the cats."
    assert [twice[a:b] for a, b in find_phrases(twice)] == ["The cat", "the cats"]


@given(st.text(max_size=60))
def test_any_text_gives_sound_spans(text: str) -> None:
    spans = find_phrases(text)
    assert check_spans(text, spans) == spans
    assert spans == sorted(spans)


@given(st.lists(st.sampled_from("the a red dog cat of and , . sees on image it walking".split())))
def test_phrases_hold_a_noun(words: list[str]) -> None:
    text = " ".join(words)
    for start, stop in noun_phrases(text):
        assert {"dog", "cat", "walking", "sees"} & set(text[start:stop].split())


def test_an_extractor_of_ones_own() -> None:
    text = "Zwei Hunde und ein Ball"
    spans = find_phrases(text, lambda said: [(said.index("ein"), len(said)), (0, 10)])
    assert spans == [(0, 10), (15, 23)]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(3, 3)], "a phrase from character 3 to 3 of a text of 9 characters"),
        ([(5, 12)], "from character 5 to 12"),
        ([(-1, 4)], "from character -1 to 4"),
        ([(1, 2)], "is not blank"),
        ([(0, 6), (2, 9)], "phrases 'a bird' and 'bird at' overlap"),
    ],
)
def test_faulty_spans_are_named(spans: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_phrases("a bird at", lambda text: spans)


def test_extractors_by_name() -> None:
    assert set(EXTRACTORS) == {"rules", "spacy"}
    with pytest.raises(UnknownNameError, match="unknown phrase extractor 'rule'; known: rules"):
        find_phrases("a dog", "rule")


def test_the_parser_where_it_is_installed() -> None:
    """Both ways are stated: what it finds, or what to install."""
    if importlib.util.find_spec("spacy") is None:
        with pytest.raises(InputError, match=r"python -m spacy download en_core_web_sm\), or use"):
            find_phrases("a dog", "spacy")
        return
    text = "She sees a brown dog in the image."
    found = [text[start:stop] for start, stop in find_phrases(text, "spacy")]
    assert found == ["a brown dog"]
