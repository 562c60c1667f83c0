"""Grounded conversation: what the model said is pointed at, and the page shows it safely."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiasm import Session
from chiasm.core.errors import InputError
from chiasm.core.samples import Turn
from chiasm.inference.answers import Answer
from chiasm.inference.grounded import GroundedAnswer, ground_answer
from chiasm.inference.grounded_page import render_grounded, save_grounded
from chiasm.inference.overlays import COLOURS
from tests.unit.inference.duals import build_host_alone
from tests.unit.inference.pointers import Pointer, build_pointer, scene

IMAGE = scene()
TURNS = (Turn("user", (0, "What is <there> & where?")),)
TEXT = "There is a red bar above <b>the blue block</b> & no green ball."


def grounded(text: str = TEXT, **options: Any) -> GroundedAnswer:
    return ground_answer(Pointer(), IMAGE, TURNS, Answer(text), "refined", **options)


def test_phrases_of_the_answer_are_pointed_at() -> None:
    found = grounded()
    said = [found.text[phrase.start : phrase.stop] for phrase in found.phrases]
    assert said == ["a red bar", "the blue block", "no green ball"]
    assert [mask.phrase for mask in found.masks] == said
    assert [mask.area for mask in found.masks] == [551, 336, 0]
    document = found.document()
    assert document["question"] == "What is <there> & where?"
    assert document["masks"][1]["start"] == TEXT.index("the blue block")
    assert str(found) == TEXT


def test_the_model_is_given_the_conversation_and_its_own_words() -> None:
    model = Pointer()
    turns = (
        Turn("user", (0, "What?")),
        Turn("assistant", ("A bar.",)),
        Turn("user", ("Which colour?",)),
    )
    ground_answer(model, IMAGE, turns, Answer(TEXT), "coarse")
    ((image, messages, text, spans, head),) = model.grounded
    assert (image, text, head) == (IMAGE, TEXT, "coarse")
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[0]["content"] == [
        {"type": "image", "image": IMAGE},
        {"type": "text", "text": "What?"},
    ]
    assert [text[start:stop] for start, stop in spans[:1]] == ["a red bar"]


def test_an_answer_without_phrases_asks_for_no_mask() -> None:
    model = Pointer()
    assert ground_answer(model, IMAGE, TURNS, Answer("Yes."), "coarse").phrases == ()
    assert model.grounded == []


def first_word(text: str) -> list[tuple[int, int]]:
    """The first run of letters in what a random host says."""
    return [found.span() for found in re.finditer(r"[a-zA-Z]+", text)][:1]


def test_conversing_is_asking_and_pointing() -> None:
    model = build_pointer()
    session = Session(model)
    session.set(image=IMAGE)
    first = session.converse("What?", extractor=first_word, max_new_tokens=23)
    plain = Session(build_host_alone())
    plain.set(image=IMAGE)
    assert first.answer == plain.ask("What?", max_new_tokens=23)
    assert len(first.phrases) == 1 and first.question == "What?"
    session.converse("And?", extractor=first_word, keep_history=True, max_new_tokens=23)
    roles = [message["role"] for message in model.grounded[-1][1]]
    assert roles == ["user", "assistant", "user"]
    assert model.grounded[-1][4] == "refined"


def test_conversing_needs_an_answering_model_and_a_picture() -> None:
    only = Session(Pointer())
    only.set(image=IMAGE)
    with pytest.raises(InputError, match="this model has no 'ask'"):
        only.converse("What?")
    session = Session(build_pointer())
    session.set()
    with pytest.raises(InputError, match="no image to ground an answer in"):
        session.converse("What?")
    mute = Session(build_host_alone())
    mute.set(image=IMAGE)
    with pytest.raises(InputError, match="this model has no 'point'"):
        mute.converse("What?")


class Page(HTMLParser):
    """What stands where on the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.said: dict[str, str] = {}

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(dict(attributes).get("class") or tag)

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.said[self.open[-1]] = self.said.get(self.open[-1], "") + data


def read(page: str) -> Page:
    parser = Page()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_page_is_safe_whole_and_has_no_script() -> None:
    nasty = 'A red <script>alert(1)</script> bar" onload="x and the blue {{block}}'
    page = render_grounded([grounded(nasty), grounded()])
    assert "<script" not in page and "http" not in page and "javascript" not in page
    parser = read(page)
    sources = [found["src"] for tag, found in parser.tags if "src" in found]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any(name.startswith("on") for _, found in parser.tags for name in found)


def test_the_answer_stands_on_the_page_to_the_letter() -> None:
    found = grounded()
    parser = read(render_grounded([found]))
    paragraphs = "".join(
        text for name, text in parser.said.items() if name == "answer" or name.startswith("phrase")
    )
    assert sorted(paragraphs) == sorted(TEXT)
    assert parser.said["phrase p0-1"] == "the blue block"
    assert parser.said["question"] == found.question


def test_each_phrase_has_its_layer_and_rule() -> None:
    page = render_grounded([grounded(), grounded("Only the red bar")])
    parser = read(page)
    layers = {
        found["class"].split()[-1]: found["src"]
        for tag, found in parser.tags
        if tag == "img" and "class" in found
    }
    assert list(layers) == ["p0-0", "p0-1", "p0-2", "p1-0"]
    for name in layers:
        assert f"article:has(a.{name}:hover, a.{name}:focus) img.mask:not(.{name})" in page
    layer = np.asarray(Image.open(io.BytesIO(base64.b64decode(layers["p0-1"].split(",")[1]))))
    assert layer.shape == (61, 83, 4)
    assert tuple(layer[45, 60, :3]) == COLOURS[1]
    assert np.array_equal(layer[..., 3] > 0, grounded().masks[1].array)
    assert "nothing found" in page


def test_large_pictures_are_shrunk_with_their_masks(tmp_path: Path) -> None:
    found = dataclasses.replace(grounded(), image=IMAGE.resize((2600, 1300)))
    page = save_grounded([found], tmp_path / "deep" / "said.html").read_text(encoding="utf-8")
    assert 'width="1280" height="640"' in page
    sizes = {
        Image.open(io.BytesIO(base64.b64decode(uri))).size
        for uri in re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    }
    assert sizes == {(1280, 640)}


def test_an_answer_without_phrases_says_so() -> None:
    page = render_grounded([grounded("Yes.")])
    assert "No phrase of this answer names something to point at." in page
