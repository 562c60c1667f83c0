"""Conversations given by a program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chiasm.core.errors import DataError
from chiasm.core.samples import Turn
from chiasm.data.chat import read_messages
from tests.tiny import picture


def user(*content: object) -> dict[str, object]:
    return {"role": "user", "content": list(content)}


def test_plain_text() -> None:
    sample = read_messages([{"role": "user", "content": "What is it?"}])
    assert sample.turns == (Turn("user", ("What is it?",)),)
    assert sample.images == ()


@pytest.mark.parametrize("key", ["image", "path", "url"])
def test_images_of_every_kind_keep_their_order(key: str) -> None:
    image, array = picture(7, 11), np.asarray(picture(5, 3))
    message = user(
        {"type": "image", key: image},
        {"type": "image", key: "a/b.png"},
        {"type": "text", "text": "Same?"},
        {"type": "image", key: array},
        {"type": "image", key: Path("c.png")},
    )
    sample = read_messages([message])
    assert sample.images[0] is image
    assert sample.images[1] == Path("a/b.png")
    assert sample.images[2] is array
    assert sample.images[3] == Path("c.png")
    assert sample.turns[0].parts == (0, 1, "Same?", 2, 3)
    assert message["content"][0][key] is image  # type: ignore[index]


def test_the_openai_form() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert read_messages([user(part)]).images == ("data:image/png;base64,AAAA",)


def test_earlier_turns_stay() -> None:
    sample = read_messages(
        [user({"type": "text", "text": "a"}), {"role": "assistant", "content": "b"}, user("c")][:2]
    )
    assert [turn.role for turn in sample.turns] == ["user", "assistant"]


def test_all_faults_are_told() -> None:
    with pytest.raises(DataError) as caught:
        read_messages([{"role": "robot", "content": "a"}, user({"type": "sound"})])
    text = str(caught.value)
    assert "messages[0].role: 'robot'" in text
    assert "messages[1].content[0].type: 'sound'" in text


@pytest.mark.parametrize("given", ["What?", {"role": "user", "content": "What?"}])
def test_a_single_message_is_no_conversation(given: object) -> None:
    with pytest.raises(DataError, match=r"a list of messages, not a .*; give \[\{'role'"):
        read_messages(given)  # type: ignore[arg-type]
