"""Visual chain of thought: what is looked at closer, and that the answer is of both pictures."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm import Session
from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Sample, Turn
from chiasm.inference.chain_of_thought import Closer, cut_region, think
from chiasm.inference.responding import Generation, respond_to
from tests.unit.inference.duals import build_host_alone
from tests.unit.inference.pointers import Pointer, scene

IMAGE = scene()


@pytest.fixture(scope="module")
def host() -> Any:
    return build_host_alone()


@pytest.fixture
def model(host: Any) -> Pointer:
    return Pointer(host)


SIDES = st.integers(5, 300)


@given(SIDES, SIDES, st.data(), st.floats(0.3, 4), st.integers(1, 120))
def test_a_region_is_a_square_inside_the_picture(
    width: int, height: int, data: Any, scale: float, least: int
) -> None:
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    box = (float(left), float(top), float(right), float(bottom))
    found = cut_region(box, (width, height), Closer(scale, least))
    half = max((right - left) / 2 * scale, (bottom - top) / 2 * scale, least)
    assert 0 <= found[0] < found[2] <= width and 0 <= found[1] < found[3] <= height
    assert found[2] - found[0] == min(round(2 * half), width)
    assert found[3] - found[1] == min(round(2 * half), height)
    if scale >= 1:
        assert found[0] <= left and found[1] <= top and found[2] >= right and found[3] >= bottom


def test_regions_by_hand() -> None:
    size = (100, 60)
    assert cut_region((40, 20, 60, 30), size, Closer()) == (40, 15, 60, 35)
    assert cut_region((40, 20, 60, 30), size, Closer(scale=2.0)) == (30, 5, 70, 45)
    assert cut_region((40, 20, 44, 22), size, Closer(least=10)) == (32, 11, 52, 31)
    assert cut_region((0, 0, 6, 6), size, Closer(least=10)) == (0, 0, 20, 20)
    assert cut_region((95, 55, 99, 59), size, Closer(least=10)) == (80, 40, 100, 60)
    assert cut_region((0, 0, 100, 10), size, Closer()) == (0, 0, 100, 60)
    for wrong in ({"scale": 0.0}, {"least": 0}):
        with pytest.raises(InputError, match="allowed: a scale above 0, a half side of at least 1"):
            Closer(**wrong)  # type: ignore[arg-type]


def test_the_question_is_pointed_at_and_answered_with_both_pictures(model: Pointer) -> None:
    question = "Where is the blue block?"
    found = think(model, IMAGE, question, "question", max_new_tokens=5)
    assert found.mask is not None and found.mask.phrase == question
    assert found.region == cut_region((50, 37, 71, 53), (83, 61), Closer()) == (50, 34, 71, 55)
    turns = (Turn("user", (0, 1, question)),)
    sample = Sample("q", turns, (IMAGE, IMAGE.crop(found.region)))
    (expected,) = respond_to(model, [sample], Generation(5))
    assert found.answer == expected
    assert found.document()["region"] == [50, 34, 71, 55]
    assert (found.text, found.document()["thought"]) == (expected.text, "question")


def test_nothing_is_looked_at_without_a_thought(model: Pointer) -> None:
    found = think(model, IMAGE, "Where is the blue block?", "none", max_new_tokens=5)
    (expected,) = respond_to(
        model,
        [Sample("q", (Turn("user", (0, "Where is the blue block?")),), (IMAGE,))],
        Generation(5),
    )
    assert (found.mask, found.region, found.answer) == (None, None, expected)
    assert (model.read, model.grounded) == ([], [])
    assert found.document()["mask"] is None


def test_where_nothing_is_found_the_whole_picture_answers(model: Pointer) -> None:
    found = think(model, IMAGE, "Where is the green ball?", "question", max_new_tokens=5)
    plain = think(model, IMAGE, "Where is the green ball?", "none", max_new_tokens=5)
    assert found.mask is not None and found.mask.area == 0
    assert (found.region, found.answer) == (None, plain.answer)


def named(monkeypatch: pytest.MonkeyPatch, text: str) -> list[Any]:
    """Let the host name an object in these words; later answers are its own."""
    import dataclasses

    import chiasm.inference.chain_of_thought as module

    asked: list[Any] = []

    def respond(model: Any, samples: Any, generation: Any) -> Any:
        asked.append((samples[0], generation))
        answers = respond_to(model, samples, generation)
        return [dataclasses.replace(answers[0], text=text)] if len(asked) == 1 else answers

    monkeypatch.setattr(module, "respond_to", respond)
    return asked


def test_the_object_that_the_model_names_is_pointed_at(
    model: Pointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = named(monkeypatch, " The red bar. ")
    found = think(model, IMAGE, "How long is it?", max_new_tokens=5)
    assert found.mask is not None
    assert (found.mask.phrase, found.mask.area) == ("The red bar", 551)
    assert found.region == (13, 6, 42, 35)
    (request, generation), (second, last) = asked
    assert "How long is it?" in request.turns[0].text
    assert generation == Generation(16, stop=(".",)) and last == Generation(5)
    assert second.turns[0].parts == (0, 1, "How long is it?")
    ((_, messages, text, spans, head),) = model.grounded
    assert (text, spans, head) == (" The red bar. ", ((1, 12),), "refined")
    assert messages[0]["content"][1]["text"] == request.turns[0].text


@pytest.mark.parametrize("said", ["", " . "])
def test_a_model_that_names_nothing(
    model: Pointer, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    named(monkeypatch, said)
    found = think(model, IMAGE, "How long is it?", max_new_tokens=5)
    assert (found.mask, found.region, model.grounded) == (None, None, [])


def test_a_session_thinks(model: Pointer) -> None:
    session = Session(model)
    session.set(image=IMAGE)
    found = session.think("Where is the blue block?", "question", max_new_tokens=5)
    alone = think(model, IMAGE, "Where is the blue block?", "question", max_new_tokens=5)
    assert found.document() == alone.document()
    wide = session.think(
        "Where is the blue block?", "question", mask="coarse", closer=Closer(2.0), max_new_tokens=2
    )
    assert wide.region is not None and wide.region[2] - wide.region[0] > 42
    with pytest.raises(InputError, match="chain of thought 'v1'; allowed: object, question, none"):
        session.think("What?", "v1")  # type: ignore[arg-type]
    with pytest.raises(DataError):
        session.think("<|image_pad|>", "none")


def test_thinking_needs_both_senses_and_a_picture(host: Any) -> None:
    session = Session(Pointer(host))
    session.set()
    with pytest.raises(InputError, match="no image to look at closer"):
        session.think("What?")
    mute = Session(Pointer())
    mute.set(image=IMAGE)
    with pytest.raises(InputError, match="no 'ask'"):
        mute.think("What?")
