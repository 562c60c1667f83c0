import pytest

from chiasm.core.errors import DataError
from chiasm.core.samples import Sample, Turn
from chiasm.evaluation.questions import split_questions

CONVERSATION = Sample(
    identifier="talk",
    turns=(
        Turn("system", ("Be brief.",)),
        Turn("user", (0, "first?")),
        Turn("assistant", ("one",), supervised=True),
        Turn("user", ("unscored?",)),
        Turn("assistant", ("never",)),
        Turn("user", ("second ", 1, "?")),
        Turn("assistant", ("two",), supervised=True),
    ),
    images=("a.png", "b.png"),
    group="mixed",
    truth={"answers": [["one", "1"], ["two"]], "kinds": ["count", "colour"]},
)


def test_each_supervised_turn_becomes_a_question_by_itself():
    first, second = split_questions([CONVERSATION])
    assert (first.identifier, second.identifier) == ("talk#0", "talk#1")
    assert (first.answers, second.answers) == (("one", "1"), ("two",))
    assert (first.kind, second.kind) == ("count", "colour")
    assert (first.group, second.group) == ("count", "colour")
    assert [turn.role for turn in first.sample.turns] == ["system", "user"]
    assert first.sample.images == ("a.png",)
    # The earlier image comes along, earlier words do not.
    assert second.sample.turns == (
        Turn("system", ("Be brief.",)),
        Turn("user", (0, "second ", 1, "?")),
    )
    assert second.sample.images == ("a.png", "b.png")
    assert second.text == "second ?"
    assert (second.source, second.turn) == ("talk", 1)


def test_nothing_of_the_truth_reaches_the_model():
    for question in split_questions([CONVERSATION]):
        assert question.sample.truth == {}
        assert all(turn.role != "assistant" for turn in question.sample.turns)


def test_history_keeps_true_earlier_turns():
    first, second = split_questions([CONVERSATION], keep_history=True)
    assert first.sample.turns == CONVERSATION.turns[:2]
    assert [turn.text for turn in second.sample.turns] == [
        "Be brief.",
        "first?",
        "one",
        "unscored?",
        "never",
        "second ?",
    ]
    assert not any(turn.supervised for turn in second.sample.turns)


def make(**values):
    turns = (Turn("user", ("q",)), Turn("assistant", ("yes",), supervised=True))
    return Sample(**{"identifier": "x", "turns": turns, **values})


def test_answers_groups_and_kinds_where_little_is_given():
    plain = split_questions([make()])[0]
    assert (plain.answers, plain.group, plain.kind) == (("yes",), "", "")
    assert plain.identifier == "x"
    listed = split_questions([make(truth={"answers": ["yes", "yeah"]}, group="farm")])[0]
    assert (listed.answers, listed.group, listed.kind) == (("yes", "yeah"), "farm", "farm")
    kind = split_questions([make(truth={"kind": "polar"}, group="farm")])[0]
    assert (kind.group, kind.kind) == ("farm", "polar")


def test_a_caption_without_user_turn_still_shows_its_image():
    sample = Sample(
        identifier="c",
        turns=(
            Turn("system", (0, "Describe.")),
            Turn("assistant", ("a cat",), supervised=True),
        ),
        images=("a.png",),
    )
    question = split_questions([sample])[0]
    assert question.sample.images == ("a.png",)
    assert question.sample.turns[-1].role == "user"


def test_all_faults_at_once():
    faulty = [
        make(identifier="a", turns=(Turn("user", ("q",)),), origin="f:1"),
        make(identifier="b", truth={"answers": [["x"], ["y"]]}, origin="f:2"),
        make(identifier="c", truth={"kinds": ["x", "y"]}, origin="f:3"),
        make(identifier="d", truth={"answers": []}, origin="f:4"),
        make(identifier="e", origin="f:5"),
        make(identifier="e", origin="f:6"),
    ]
    with pytest.raises(DataError) as caught:
        split_questions(faulty)
    text = str(caught.value)
    assert len(caught.value.faults) == 5
    assert "f:1: no supervised assistant turn" in text
    assert "f:2: answers [['x'], ['y']] for 1 question(s)" in text
    assert "f:3: kinds ['x', 'y'] for 1 question(s)" in text
    assert "f:4: answers [] for 1" in text
    assert "f:6: identifier 'e' already stands in f:5" in text


def test_flat_answers_of_several_questions_are_ambiguous():
    flat = Sample(
        identifier="f",
        turns=CONVERSATION.turns,
        images=CONVERSATION.images,
        truth={"answers": ["one", "two"]},
    )
    with pytest.raises(DataError, match="give one non-empty list a question"):
        split_questions([flat])
