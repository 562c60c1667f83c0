"""Set once, ask many times: the kept route and the whole route give one answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm import Session
from chiasm.core.errors import DataError, InputError, MediaError
from chiasm.core.samples import Turn
from chiasm.heads.cells import CellHead
from chiasm.inference.answers import Mask
from chiasm.inference.responding import splice
from chiasm.inference.showing import ShownImage
from chiasm.models.cell_classifier import CellClassifier
from tests.tiny import TINY_HOSTS, picture
from tests.tiny_eyes import tiny_encoder
from tests.unit.inference.duals import (
    IMAGE,
    QUESTIONS,
    asked,
    build_dual,
    build_host_alone,
    conversation,
)

NEW = 7


@pytest.fixture(scope="module")
def model() -> Any:
    return build_dual("qwen2_5_vl", "dinov2", "siglip")


@pytest.mark.parametrize(
    ("family", "fusion"), [*((name, "gated") for name in TINY_HOSTS), ("qwen3_vl", "interleave")]
)
def test_kept_and_whole_route_are_one(family: str, fusion: str) -> None:
    model = build_dual(family, fusion=fusion)
    session = Session(model)
    session.set(image=IMAGE)
    shown = session._exhibit.shown
    assert isinstance(shown, ShownImage)
    for question in QUESTIONS:
        answer = session.ask(question, max_new_tokens=NEW)
        assert answer.text == model.chat(conversation(question), max_new_tokens=NEW)
        batch, sight = shown.collate(session._exhibit.sample(question))
        assert sight is shown.sight
        whole = model.collator.collate([asked(question)], generation=True)
        with torch.no_grad():
            kept = model.host.read(splice(model, batch, sight))
            straight = model.host.read(model._look(whole)[0])
        assert torch.equal(model.host.logits(kept), model.host.logits(straight))


def test_encoders_run_once_a_set(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    see = type(model).see

    def counted(self: Any, batch: Any) -> Any:
        calls.append("see")
        return see(self, batch)

    monkeypatch.setattr(type(model), "see", counted)
    session = Session(model)
    session.set(image=IMAGE)
    assert calls == ["see"]
    for question in QUESTIONS:
        session.ask(question, max_new_tokens=2)
    assert calls == ["see"]
    session.set(image=picture(97, 43, 2))
    assert calls == ["see", "see"]


def test_what_is_set_replaces_what_was(model: Any) -> None:
    session = Session(model)
    other = picture(97, 43, 2)
    session.set(image=IMAGE)
    first = session.ask(QUESTIONS[0], max_new_tokens=NEW)
    session.set(image=other)
    second = session.ask(QUESTIONS[0], max_new_tokens=NEW)
    assert second.text == model.chat(conversation(QUESTIONS[0], other), max_new_tokens=NEW)
    assert second.gate != first.gate


def test_history_is_kept_on_request(model: Any) -> None:
    session = Session(model)
    session.set(image=IMAGE)
    first = session.ask(QUESTIONS[0], max_new_tokens=NEW)
    second = session.ask(QUESTIONS[1], keep_history=True, max_new_tokens=NEW)
    messages = [
        *conversation(QUESTIONS[0]),
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": QUESTIONS[1]},
    ]
    assert second.text == model.chat(messages, max_new_tokens=NEW)
    assert second.prompt_tokens > first.prompt_tokens
    alone = session.ask(QUESTIONS[1], max_new_tokens=NEW)
    assert alone.text == model.chat(conversation(QUESTIONS[1]), max_new_tokens=NEW)
    session.set(image=IMAGE)
    forgotten = session.ask(QUESTIONS[1], keep_history=True, max_new_tokens=NEW)
    assert forgotten == alone


def test_the_gate_of_an_answer_is_the_models(model: Any) -> None:
    session = Session(model)
    session.set(image=IMAGE)
    answer = session.ask(QUESTIONS[0], max_new_tokens=2)
    report = model.gate_report(conversation(QUESTIONS[0]))
    assert answer.report == report
    assert answer.gate == report.weights
    assert list(report.weights) == ["host", "dinov2", "siglip"]
    assert (answer.dominant, answer.confidence) == (report.dominant, report.confidence)
    assert answer.views == ((0.0, 0.0, 83.0, 61.0),)
    document = answer.document()
    assert sum(document["gate"].values()) == pytest.approx(1, abs=1e-3)
    assert len(document["images"][0]["maps"]["siglip"]) == len(report.images[0].maps["siglip"])
    assert "maps" not in answer.document(maps=False)["images"][0]


def test_no_gate_no_weights() -> None:
    for model in (build_dual(fusion="concat"), build_host_alone()):
        session = Session(model)
        session.set(image=IMAGE)
        answer = session.ask("What?", max_new_tokens=2)
        assert (answer.gate, answer.dominant, answer.confidence) == (None, None, None)
        assert answer.document()["gate"] is None


def test_text_alone_has_to_be_meant(model: Any) -> None:
    session = Session(model)
    with pytest.raises(InputError, match=r"nothing was set .* call set\(image=...\) first"):
        session.ask("Hello")
    session.set()
    answer = session.ask("Hello", max_new_tokens=NEW)
    messages = [{"role": "user", "content": "Hello"}]
    assert answer.text == model.chat(messages, max_new_tokens=NEW)
    assert answer.gate is None
    assert str(answer) == answer.text


def test_lengths_and_ends_are_told(model: Any) -> None:
    session = Session(model)
    session.set(image=IMAGE)
    answer = session.ask(QUESTIONS[0], max_new_tokens=NEW)
    # A random model never ends by itself within these few tokens.
    assert (answer.finish, answer.new_tokens) == ("length", NEW)
    batch = model.collator.collate([asked(QUESTIONS[0])], generation=True)
    assert answer.prompt_tokens == batch.input_ids.shape[1]
    stop = next(piece for piece in answer.text if piece.isascii() and piece.isprintable())
    stopped = session.ask(QUESTIONS[0], max_new_tokens=NEW, stop=[stop])
    assert stopped.finish == "stop"
    assert stopped.text == answer.text[: answer.text.index(stop) + 1]


def test_pieces_join_to_the_answer(model: Any) -> None:
    session = Session(model)
    session.set(image=IMAGE)
    pieces: list[str] = []
    answer = session.ask(QUESTIONS[0], max_new_tokens=23, on_text=pieces.append)
    assert "".join(pieces) == answer.text
    assert len(pieces) > 1


def test_following_can_end_the_writing(model: Any) -> None:
    class EnoughError(Exception):
        pass

    def refuse(piece: str) -> None:
        raise EnoughError

    session = Session(model)
    session.set(image=IMAGE)
    with pytest.raises(EnoughError):
        session.ask(QUESTIONS[0], max_new_tokens=NEW, on_text=refuse)
    again = session.ask(QUESTIONS[0], max_new_tokens=NEW)
    assert again.text == model.chat(conversation(QUESTIONS[0]), max_new_tokens=NEW)


@pytest.mark.parametrize("policy", ["shrink_image", "shorten_text"])
def test_long_questions_are_fitted_as_in_chat(policy: Any) -> None:
    model = build_dual(max_length=83, over_long=policy)
    session = Session(model)
    session.set(image=IMAGE)
    for question in ("Who?", "What is " + "very " * 6 + "large?"):
        answer = session.ask(question, max_new_tokens=NEW)
        assert answer.text == model.chat(conversation(question), max_new_tokens=NEW)
        assert answer.prompt_tokens <= 83
    fitted = model.collator.tally.totals()
    assert sum(fitted.values()) >= 1


def test_compare_asks_each_eye(model: Any) -> None:
    session = Session(model)
    session.set(image=IMAGE)
    answers = session.compare(QUESTIONS[0], max_new_tokens=NEW)
    texts = model.compare(conversation(QUESTIONS[0]), max_new_tokens=NEW)
    assert {name: answer.text for name, answer in answers.items()} == texts
    assert answers["siglip"].gate == {"host": 0.0, "dinov2": 0.0, "siglip": 1.0}
    assert answers["learned"].report == model.gate_report(conversation(QUESTIONS[0]))


def test_comparing_needs_eyes_and_an_image(model: Any) -> None:
    alone = Session(build_host_alone())
    alone.set(image=IMAGE)
    with pytest.raises(InputError, match="no extra encoders to compare"):
        alone.compare("What?")
    ungated = Session(build_dual(fusion="concat"))
    ungated.set(image=IMAGE)
    with pytest.raises(InputError, match="ConcatFusion, which has no gate"):
        ungated.compare("What?")
    session = Session(model)
    session.set()
    with pytest.raises(InputError, match=r"no image to compare encoders on; call set\(image"):
        session.compare("What?")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "image is of type int; allowed: a path, a PIL image, or an array uint8"),
        (b"bytes", "image is of type bytes"),
        (np.zeros((3, 5), np.uint8), r"image is an array uint8 \(3, 5\); allowed"),
        (np.zeros((3, 5, 4), np.uint8), r"uint8 \(3, 5, 4\)"),
        (np.zeros((3, 5, 3), np.float32), r"float32 \(3, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8 \(0, 5, 3\)"),
    ],
)
def test_wrong_images_name_what_is_allowed(model: Any, value: Any, words: str) -> None:
    session = Session(model)
    with pytest.raises(InputError, match=words):
        session.set(image=value)
    with pytest.raises(InputError, match="nothing was set"):
        session.ask("What?")


def test_images_in_all_forms_are_one(model: Any, tmp_path: Any) -> None:
    IMAGE.save(tmp_path / "image.png")
    forms = [IMAGE, np.asarray(IMAGE), tmp_path / "image.png", str(tmp_path / "image.png")]
    answers = []
    for form in forms:
        session = Session(model)
        session.set(image=form)
        answers.append(session.ask(QUESTIONS[0], max_new_tokens=3))
    assert all(answer == answers[0] for answer in answers)
    with pytest.raises(MediaError, match=r"gone\.png: does not exist"):
        session.set(image=tmp_path / "gone.png")


def test_a_failed_set_leaves_what_was(model: Any) -> None:
    session = Session(model)
    session.set(image=IMAGE)
    before = session.ask(QUESTIONS[0], max_new_tokens=3)
    with pytest.raises(InputError):
        session.set(image=7)  # type: ignore[arg-type]
    assert session.ask(QUESTIONS[0], max_new_tokens=3) == before


def test_lacking_senses_name_the_families(model: Any) -> None:
    session = Session(model)
    session.set(image=IMAGE)
    wanted = [
        (lambda: session.set(image=IMAGE, reconstruction=IMAGE), "reconstruction", "occlusion"),
        (lambda: session.set(video="a.mp4"), "video", "long_video or video_language"),
        (lambda: session.point(["a cup"]), "point", "grounding"),
        (lambda: session.complete("What?"), "complete", "occlusion"),
        (lambda: session.watch(), "watch", "long_video"),
    ]
    for call, sense, family in wanted:
        with pytest.raises(InputError) as raised:
            call()
        assert str(raised.value) == (
            f"this model has no {sense!r}; it has ask, image. Train or load a model of the family "
            f"{family}"
        )


def test_a_tower_answers_nothing(model: Any) -> None:
    tower = tiny_encoder("dinov2")
    head = CellHead(width=tower.width, attributes={"shape": 5})
    classifier = CellClassifier(tower=tower, name="eye", head=head, collator=model.collator)
    session = Session(classifier)
    with pytest.raises(InputError, match="no 'ask'; it has none"):
        session.ask("What?")
    with pytest.raises(InputError, match="no 'image'"):
        session.set(image=IMAGE)


def test_a_session_needs_a_model() -> None:
    with pytest.raises(InputError, match=r"needs a model, and was given str; load one first"):
        Session("runs/dual")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "  ", "<|image_pad|>"])
def test_questions_that_cannot_be_asked(model: Any, text: str) -> None:
    session = Session(model)
    session.set()
    with pytest.raises(DataError):
        session.ask(text)
    with pytest.raises(InputError, match="question is of type int; allowed: a text"):
        session.ask(3)  # type: ignore[arg-type]


class Counting:
    """A model that points and does not answer, from pixels it can count."""

    senses = frozenset({"image", "point"})

    mask_heads = ("coarse",)

    def read_picture(self, image: Image.Image, seen: Any = None) -> Any:
        return np.asarray(image)[..., 0] > 127

    def point_at(self, reading: Any, phrases: list[str], mask: str) -> list[Any]:
        return [(reading, 0.5) for _ in phrases]


def test_pointing_reaches_its_model() -> None:
    session = Session(Counting())
    with pytest.raises(InputError, match=r"call set\("):
        session.point(["x"])
    red = np.zeros((3, 5, 3), np.uint8)
    red[1, 2:4, 0] = 255
    session.set(image=red)
    (mask,) = session.point(["the red bar"])
    assert isinstance(mask, Mask)
    assert (mask.phrase, mask.score, int(mask.array.sum())) == ("the red bar", 0.5, 2)
    from chiasm.core.run_length import decode_run_length

    assert np.array_equal(decode_run_length(mask.rle), mask.array)
    with pytest.raises(InputError, match="give a list of at least one phrase"):
        session.point("the red bar")  # type: ignore[arg-type]


def test_turns_of_history_hold_one_image(model: Any) -> None:
    session = Session(model)
    session.set(image=IMAGE)
    session.ask("One?", max_new_tokens=3)
    sample = session._exhibit.sample("Two?", keep_history=True)
    assert [turn.role for turn in sample.turns] == ["user", "assistant", "user"]
    assert sample.turns[0].parts == (0, "One?")
    assert sample.turns[2] == Turn("user", ("Two?",))
