"""The server around a model of pairs: two images in the first turn, original and reconstruction."""

from __future__ import annotations

from typing import Any

import pytest

from chiasm.inference.session import Session
from chiasm.serving.app import build_app
from tests.unit.inference.pair_models import IMAGE, build_pair_model, rendered
from tests.unit.serving.test_app import events, get, post, text_of
from tests.unit.serving.test_messages import asked, data_uri, image_part

QUESTION = "What is hidden?"
NEW = 5


@pytest.fixture(scope="module")
def app() -> Any:
    return build_app(build_pair_model(), "pair")


def about(*pictures: Any, **more: Any) -> dict[str, Any]:
    parts = [image_part(data_uri(picture)) for picture in pictures]
    return asked([*parts, {"type": "text", "text": QUESTION}], max_tokens=NEW, **more)


def test_answers_are_those_of_a_session(app: Any) -> None:
    session = Session(build_pair_model())
    session.set(image=IMAGE, reconstruction=rendered())
    answer = session.ask(QUESTION, max_new_tokens=NEW)
    document = post(app, about(IMAGE, rendered())).json()
    assert document["choices"][0]["message"]["content"] == answer.text
    assert document["usage"]["prompt_tokens"] == answer.prompt_tokens
    assert document["chiasm"]["pair"]["rules"] == dict(answer.pair.rules)  # type: ignore[union-attr]
    pieces = events(post(app, about(IMAGE, rendered(), stream=True)))
    assert text_of(pieces) == answer.text
    assert pieces[-1]["chiasm"]["pair"] == document["chiasm"]["pair"]


def test_one_image_is_not_enough(app: Any) -> None:
    response = post(app, about(IMAGE))
    assert response.status_code == 400
    assert "a pair is two: the image, and then its reconstruction" in response.text


def test_the_card_names_the_senses(app: Any) -> None:
    (card,) = get(app, "/v1/models").json()["data"]
    assert card["chiasm"]["senses"] == ["ask", "complete", "image", "reconstruction"]
    assert card["chiasm"]["encoders"] == []
