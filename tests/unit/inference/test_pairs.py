"""Asking about pairs: kept and whole route are one, batch and single are one, faults are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from chiasm import Session
from chiasm.core.errors import DataError, InputError, MediaError
from chiasm.core.samples import Sample, Turn
from chiasm.inference.answers import Answer, Completion
from chiasm.inference.pair_requests import PairRequest
from chiasm.inference.pair_sights import PairSight
from chiasm.inference.pairs import Painting, batch
from chiasm.inference.responding import Generation
from chiasm.models.occlusion import Occlusion
from tests.tiny import picture
from tests.unit.inference.duals import build_host_alone
from tests.unit.inference.pair_models import (
    IMAGE,
    QUESTIONS,
    build_pair_model,
    hidden,
    rendered,
)

NEW = 5


@pytest.fixture(scope="module")
def model() -> Occlusion:
    return build_pair_model()


@pytest.fixture(scope="module")
def session(model: Occlusion) -> Session:
    session = Session(model)
    session.set(image=IMAGE, reconstruction=rendered(), mask=hidden())
    return session


def conversation(question: str) -> list[dict[str, Any]]:
    """Messages about the pair."""
    content = [
        {"type": "image", "image": IMAGE},
        {"type": "image", "image": rendered()},
        {"type": "text", "text": question},
    ]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize("place", ["after_text", "before_text", None])
@pytest.mark.parametrize("attention", [False, True])
def test_a_session_says_what_the_model_says(place: Any, attention: bool) -> None:
    model = build_pair_model(place, attention)
    session = Session(model)
    session.set(image=IMAGE, reconstruction=rendered())
    for question in QUESTIONS:
        answer = session.ask(question, max_new_tokens=NEW)
        assert answer.text == model.chat(conversation(question), max_new_tokens=NEW)
    assert (answer.new_tokens, answer.gate) == (NEW, None)


def test_history_goes_before_the_question(model: Occlusion) -> None:
    session = Session(model)
    session.set(image=IMAGE, reconstruction=rendered(), mask=hidden())
    first = session.ask(QUESTIONS[0], max_new_tokens=NEW)
    second = session.ask(QUESTIONS[1], keep_history=True, max_new_tokens=NEW)
    sample = PairRequest(IMAGE, rendered(), QUESTIONS[0], hidden()).sample()
    turns = (*sample.turns, Turn("assistant", (first.text,)), Turn("user", (QUESTIONS[1],)))
    collated = model.collator.collate([replace(sample, turns=turns)], generation=True)
    assert [second.text] == model.generate(collated, max_new_tokens=NEW)
    assert second.prompt_tokens > first.prompt_tokens + len(QUESTIONS[1]) // 4


def test_what_is_seen_is_seen_once(model: Occlusion, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    see = Occlusion.see

    def counted(self: Any, *given: Any, **named: Any) -> Any:
        calls.append(1)
        return see(self, *given, **named)

    monkeypatch.setattr(Occlusion, "see", counted)
    session = Session(model)
    session.set(image=IMAGE, reconstruction=rendered())
    for question in QUESTIONS:
        session.ask(question, max_new_tokens=2)
    session.complete(QUESTIONS[0], max_new_tokens=2, temperature=0)
    assert len(calls) == 1


def test_an_answer_is_followed_as_it_is_written(session: Session) -> None:
    pieces: list[str] = []
    answer = session.ask(QUESTIONS[0], max_new_tokens=NEW, on_text=pieces.append)
    assert "".join(pieces) == answer.text and answer.text


def test_a_sight_is_in_pixels_of_the_pictures(model: Occlusion, session: Session) -> None:
    sight = session.look()
    assert isinstance(sight, PairSight)
    assert sight.alpha.shape == (41, 53) and sight.alpha.dtype == np.float32
    assert sight.blended.shape == sight.aligned.shape == (41, 53, 3)
    assert sight.rules == {"original": "mask", "reconstruction": "background"}
    # A view's pixel is 1.5 pixels of the original and 1.3 of the reconstruction.
    np.testing.assert_allclose(sight.boxes["reconstruction"], (5, 9, 22, 29), atol=1.4)
    left, top, right, bottom = sight.boxes["original"]
    assert left <= 21 and right >= 32 and top <= 12 and bottom >= 29
    assert sight.hidden is not None
    # Measured: 37 of 2173 pixels, on the border of the mask in a view of 35 pixels.
    assert float((sight.hidden != hidden()).mean()) < 0.03
    # Alpha is bound by the mask: at most one half inside, at least one half outside.
    inner, outer = hidden(), ~hidden()
    inner[:, :22] = inner[:, 31:] = inner[:13] = inner[28:] = False
    outer[9:32, 18:35] = False
    assert float(sight.alpha[inner].max()) <= 0.5 <= float(sight.alpha[outer].min())
    shares = sight.shares
    assert shares["hidden"] < shares["whole"] and set(shares) == {"whole", "thing", "hidden"}
    assert set(sight.attention) == {"all", "thing", "hidden"}
    for name, weights in sight.attention.items():
        assert weights.shape == (7, 7), name
        assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(sight.attention["all"], sight.attention["hidden"])


def test_boxes_given_come_back(model: Occlusion) -> None:
    session = Session(model)
    boxes = {"image_box": (10, 5, 30, 25), "reconstruction_box": [3.0, 4.0, 20.0, 40.0]}
    session.set(image=IMAGE, reconstruction=rendered(), **boxes)  # type: ignore[arg-type]
    sight = session.look()
    assert sight.rules == {"original": "given", "reconstruction": "given"}
    np.testing.assert_allclose(sight.boxes["original"], (10, 5, 30, 25), atol=1e-3)
    np.testing.assert_allclose(sight.boxes["reconstruction"], (3, 4, 20, 40), atol=1e-3)
    assert sight.hidden is None and set(sight.shares) == {"whole", "thing"}


def test_without_the_second_level_there_is_no_attention() -> None:
    session = Session(build_pair_model(attention=False))
    session.set(image=IMAGE, reconstruction=rendered())
    assert session.look().attention == {}


def test_a_completion_is_that_of_the_model(model: Occlusion, session: Session) -> None:
    settings: dict[str, Any] = {"temperature": 1.0, "top_k": 7, "guidance": 1.5, "seed": 3}
    found = session.complete(QUESTIONS[0], max_new_tokens=NEW, **settings)
    assert isinstance(found, Completion)
    request = PairRequest(IMAGE, rendered(), QUESTIONS[0], hidden())
    collated = model.collator.collate([request.sample()], generation=True)
    (straight,) = model.complete(collated, max_new_tokens=NEW, **settings)
    assert found.text == straight.text
    assert found.codes == tuple(straight.codes.tolist()) and len(set(found.codes)) > 3
    assert np.array_equal(np.asarray(found.image), straight.image)
    assert found.image.size == IMAGE.size
    assert found.alpha is session.look().alpha
    assert found.boxes == session.look().boxes and found.attention is session.look().attention
    other = session.complete(QUESTIONS[0], max_new_tokens=NEW, **{**settings, "seed": 4})
    assert other.codes != found.codes and other.text == found.text


def requests() -> list[dict[str, Any]]:
    return [
        {"image": IMAGE, "reconstruction": rendered(), "question": QUESTIONS[0], "mask": hidden()},
        {"image": picture(29, 61, 4), "reconstruction": rendered(), "question": QUESTIONS[1]},
        {
            "image": IMAGE,
            "reconstruction": picture(37, 31, 5),
            "question": QUESTIONS[0],
            "image_box": [10, 5, 30, 25],
            "reconstruction_box": [3, 4, 20, 30],
            "id": "third",
        },
    ]


@pytest.mark.parametrize("complete", [False, True])
def test_batch_and_single_are_one(model: Occlusion, complete: bool) -> None:
    settings: dict[str, Any] = {
        "complete": complete,
        "detail": True,
        "generation": Generation(NEW),
        "painting": Painting(temperature=0),
    }
    done: list[int] = []
    together = batch(model, requests(), batch_size=2, on_done=done.append, **settings)
    assert done == [2, 1]
    for request, found in zip(requests(), together, strict=True):
        session = Session(model)
        question = request.pop("question")
        request.pop("id", None)
        session.set(**request)
        single: Any = session.ask(question, max_new_tokens=NEW)
        if complete:
            single = session.complete(question, max_new_tokens=NEW, temperature=0)
            assert isinstance(found, Completion) and found.codes == single.codes
            assert found.pair is not None
        else:
            assert isinstance(found, Answer)
        assert found.text == single.text
        assert found.pair is not None
        # Measured: 2e-7, convolutions and products of another batch size.
        np.testing.assert_allclose(found.pair.alpha, single.pair.alpha, atol=1e-5)
        assert found.pair.boxes == single.pair.boxes and found.pair.rules == single.pair.rules
        for name, weights in found.pair.attention.items():
            np.testing.assert_allclose(weights, single.pair.attention[name], atol=1e-5)


@pytest.mark.parametrize("place", ["after_text", "before_text"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_what_is_sampled_with_a_seed_is_the_same_alone_and_in_a_batch(
    place: Any, temperature: float
) -> None:
    model = build_pair_model(place)
    settings: dict[str, Any] = {
        "complete": True,
        "generation": Generation(NEW, temperature, 0.9, seed=11),
        "painting": Painting(temperature=1.0, top_k=9, seed=11),
    }
    together = batch(model, requests(), **settings)
    turned = batch(model, requests()[::-1], **settings)[::-1]
    alone = [batch(model, [request], **settings)[0] for request in requests()]
    for others in (turned, alone):
        assert [one.text for one in others] == [one.text for one in together]
        assert [one.codes for one in others] == [one.codes for one in together]
    assert len({one.codes for one in together}) == 3
    if not temperature:
        session = Session(model)
        session.set(**{k: v for k, v in requests()[0].items() if k != "question"})
        single = session.complete(QUESTIONS[0], max_new_tokens=NEW, top_k=9, seed=11)
        assert single.codes == together[0].codes


def test_without_a_seed_sampling_goes_on_with_the_numbers_of_torch(model: Occlusion) -> None:
    settings: dict[str, Any] = {"complete": True, "generation": Generation(2, 1.5)}

    def drawn() -> list[Any]:
        found = batch(model, requests()[:1], painting=Painting(), **settings)
        return [(one.text, one.codes) for one in found]

    torch.manual_seed(5)
    first, second = drawn(), drawn()
    torch.manual_seed(5)
    assert drawn() == first != second


def test_maps_of_a_batch_are_made_on_request(model: Occlusion) -> None:
    (found,) = batch(model, requests()[:1], generation=Generation(2))
    assert found.pair is not None and found.pair.attention == {}
    assert batch(model, []) == []


def test_documents_are_plain(session: Session) -> None:
    import json

    document = session.ask(QUESTIONS[0], max_new_tokens=2).document()
    pair = json.loads(json.dumps(document))["pair"]
    assert set(pair) == {"boxes", "rules", "alpha"}
    assert pair["rules"] == {"original": "mask", "reconstruction": "background"}
    assert set(pair["alpha"]) == {"whole", "thing", "hidden"}


FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"image": IMAGE}, InputError, "together with a reconstruction.*give the reconstruction"),
    ({"reconstruction": IMAGE}, InputError, "is of an image; give the image as well"),
    ({"mask": hidden()}, InputError, "mask: told of an image and its rec.*give both"),
    ({"image": IMAGE, "image_box": [1, 2, 3, 4]}, InputError, "image_box: told of an image"),
    (
        {"image": IMAGE, "reconstruction": IMAGE, "mask": hidden().T},
        DataError,
        r"mask: mask of 53 x 41 pixels \(height x width\), its image has 41 x 53",
    ),
    (
        {"image": IMAGE, "reconstruction": IMAGE, "mask": hidden().astype(float)},
        InputError,
        r"mask is an array float64 \(41, 53\); give bool \(height, width\)",
    ),
    (
        {"image": IMAGE, "reconstruction": IMAGE, "mask": "nowhere.png"},
        MediaError,
        "nowhere.png",
    ),
    ({"image": IMAGE, "reconstruction": "nowhere.jpg"}, MediaError, "nowhere.jpg"),
    ({"image": IMAGE, "reconstruction": 7}, InputError, "reconstruction is of type int"),
    (
        {"image": IMAGE, "reconstruction": IMAGE, "image_box": [1, 2, 3]},
        InputError,
        r"image_box \[1, 2, 3\]; give \[left, top, right, bottom\]",
    ),
    (
        {"image": IMAGE, "reconstruction": IMAGE, "reconstruction_box": [1, 2, "x", 4]},
        InputError,
        "reconstruction_box",
    ),
    (
        {"image": IMAGE, "reconstruction": IMAGE, "image_box": [60, 2, 70, 9]},
        DataError,
        r"image_box: the box \[60.0, 2.0, 70.0, 9.0\] shows nothing",
    ),
    (
        {"image": IMAGE, "reconstruction": IMAGE, "image_box": [-20, -2, 500, 20]},
        DataError,
        r"image_box: the box \[-20.0, -2.0, 500.0, 20.0\] lies outside; give .* of 53 x 41",
    ),
]


@pytest.mark.parametrize(("given", "kind", "told"), FAULTS)
def test_faults_of_what_is_set(
    model: Occlusion, given: dict[str, Any], kind: type[Exception], told: str
) -> None:
    session = Session(model)
    session.set(image=IMAGE, reconstruction=rendered())
    before = session.ask(QUESTIONS[0], max_new_tokens=2)
    with pytest.raises(kind, match=told):
        session.set(**given)
    assert session.ask(QUESTIONS[0], max_new_tokens=2) == before


def test_a_model_that_lacks_a_sense() -> None:
    silent = Session(build_pair_model(None))
    silent.set(image=IMAGE, reconstruction=rendered())
    with pytest.raises(InputError, match=r"no 'complete'; it has ask, image, reconstruction\."):
        silent.complete("What?")
    with pytest.raises(InputError, match="no 'complete'"):
        batch(silent.model, requests(), complete=True)
    other = Session(build_host_alone("qwen2_5_vl"))
    with pytest.raises(InputError, match=r"no 'reconstruction'.*family occlusion"):
        other.set(image=IMAGE, reconstruction=rendered())
    with pytest.raises(InputError, match="no 'reconstruction'"):
        other.look()
    with pytest.raises(InputError, match="no 'reconstruction'"):
        batch(other.model, requests())


def test_a_pair_is_needed(model: Occlusion) -> None:
    session = Session(model)
    session.set()
    for call, purpose in ((session.look, "look at"), (lambda: session.complete("?"), "complete")):
        with pytest.raises(InputError, match=rf"no pair to {purpose}; call set\(image=..., rec"):
            call()
    with pytest.raises(InputError, match="answers about an image and its reconstruction; call set"):
        session.ask("What?")
    session.set(image=IMAGE, reconstruction=rendered())
    with pytest.raises(InputError, match="no extra encoders to compare"):
        session.compare("What?")


def test_requests_are_checked(model: Occlusion) -> None:
    with pytest.raises(InputError, match=r"pair 1 has the unknown 'masks' and lacks 'question'; g"):
        batch(model, [requests()[0], {"image": 1, "reconstruction": 2, "masks": 3}])
    with pytest.raises(InputError, match="pair 0: question ' '; give a text, not blank"):
        batch(model, [{**requests()[0], "question": " "}])
    with pytest.raises(InputError, match="pair 0 is of type str; give a dictionary with image, re"):
        batch(model, ["scene.png"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="batch_size 0; give 1 or more"):
        batch(model, requests(), batch_size=0)


def test_a_blank_question_is_none(session: Session) -> None:
    for ask in (session.ask, session.complete, session.self_check):
        with pytest.raises(DataError, match="the question is ' '; give a text, not blank"):
            ask(" ")


def test_codes_that_stand_before_the_text_are_not_guided() -> None:
    """The codes are drawn at once, so that guidance would be left aside."""
    session = Session(build_pair_model("before_text"))
    session.set(image=IMAGE, reconstruction=rendered())
    with pytest.raises(InputError, match=r"guidance is 3.0, and this model draws all codes at onc"):
        session.complete(QUESTIONS[0], guidance=3.0)


def test_long_questions_are_not_dropped_in_silence(model: Occlusion) -> None:
    strict = model.collator.max_length, model.collator.over_long
    model.collator.max_length, model.collator.over_long = 90, "drop"
    try:
        with pytest.raises(InputError, match="1 of 2 questions are longer than 90 tokens"):
            batch(model, [requests()[0], {**requests()[1], "question": "Why? " * 40}])
    finally:
        model.collator.max_length, model.collator.over_long = strict


def test_a_pair_is_read_like_a_sample_of_its_own(model: Occlusion) -> None:
    """What a request becomes is what the formats make: one image, the rest in the pair."""
    sample = PairRequest(IMAGE, rendered(), "What?").sample()
    assert isinstance(sample, Sample)
    assert sample.turns == (Turn("user", (0, "What?")),) and len(sample.images) == 1
    with torch.no_grad():
        view = model.look(model.collator.collate([sample], generation=True))
    assert view.attention is None and view.rules == (("identity", "identity"),)
