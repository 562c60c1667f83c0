"""Stop texts, whole and in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chiasm.inference.answers import Answer
from chiasm.serving.completions import StopCutter, Ticket, cut_at_stop, event

LETTERS = st.text("abé", max_size=12)


@given(
    pieces=st.lists(LETTERS, max_size=6),
    stops=st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
)
def test_pieces_are_cut_as_the_whole_is(pieces: list[str], stops: list[str]) -> None:
    cutter = StopCutter(stops)
    passed = [cutter.take(piece) for piece in pieces]
    assert "".join([*passed, cutter.finish()]) == cut_at_stop("".join(pieces), stops)


def test_what_may_be_a_stop_is_held_back_and_no_more() -> None:
    cutter = StopCutter(["STOP"])
    assert cutter.take("one ST") == "one "
    assert cutter.take("ART STO") == "START "
    assert cutter.take("P two") == ""
    assert cutter.take("three") == ""
    assert cutter.finish() == ""


def test_a_completion_without_gate() -> None:
    ticket = Ticket("tiny")
    answer = Answer("red. Yes", "stop", prompt_tokens=11, new_tokens=3)
    document = ticket.completion(answer, ["."])
    assert document["choices"][0]["message"]["content"] == "red"
    assert document["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    assert document["chiasm"]["gate"] is None
    assert document["id"].startswith("chatcmpl-")
    assert ticket.chunk(None, usage={})["choices"] == []
    assert event({"a": "é"}) == 'data: {"a": "é"}\n\n'
    assert event("[DONE]") == "data: [DONE]\n\n"
