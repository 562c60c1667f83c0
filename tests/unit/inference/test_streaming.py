"""Pieces are whole characters and join to the answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.inference.streaming import UNFINISHED, TextStream
from tests.tiny import VOCABULARY, tiny_tokenizer, token_id

TOKENIZER = tiny_tokenizer()
END = token_id("<|im_end|>")


def pieces_of(tokens: list[int]) -> list[str]:
    pieces: list[str] = []
    stream = TextStream(TOKENIZER, {END}, pieces.append)
    for token in tokens:
        stream([token])
    stream.finish()
    return pieces


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, VOCABULARY - 6), max_size=20))
def test_pieces_join_to_the_whole(tokens: list[int]) -> None:
    kept = tokens[: tokens.index(END)] if END in tokens else tokens
    whole = TOKENIZER.decode(kept, skip_special_tokens=True)
    assert "".join(pieces_of(tokens)) == whole


@given(st.text(max_size=12))
@settings(deadline=None)
def test_no_piece_ends_inside_a_character(text: str) -> None:
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    pieces = pieces_of(tokens)
    assert "".join(pieces) == TOKENIZER.decode(tokens, skip_special_tokens=True)
    assert all(UNFINISHED not in piece for piece in pieces) or UNFINISHED in text


def test_a_character_of_four_bytes_comes_at_once() -> None:
    tokens = TOKENIZER("a🙂b", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 6
    assert pieces_of(tokens) == ["a", "🙂", "b"]


def test_nothing_follows_the_end() -> None:
    (a,) = TOKENIZER("a", add_special_tokens=False)["input_ids"]
    assert pieces_of([a, END, a, a]) == ["a"]


def test_one_row_at_a_time() -> None:
    stream = TextStream(TOKENIZER, {END}, print)
    with pytest.raises(ValueError, match="too many values"):
        stream([1, 2])
