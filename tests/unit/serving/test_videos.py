"""Videos over the server: answered as a session answers, and refused with a reason."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from chiasm.core.errors import InputError
from chiasm.data.video_writing import write_video
from chiasm.inference.session import Session
from chiasm.serving.app import build_app
from chiasm.serving.limits import Limits
from tests.tiny import picture
from tests.tiny_tellers import tiny_teller
from tests.tiny_watchers import FRAMES, RATE, moving_square, tiny_watcher, write_square
from tests.unit.inference.duals import build_dual
from tests.unit.serving.test_app import events, get, post, text_of
from tests.unit.serving.test_messages import asked, data_uri, image_part

QUESTION = "What color is the thing that moves?"
LIMITS = Limits(video_bytes=50_000, video_frames=FRAMES, video_pixels=28 * 42)


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_square(tmp_path_factory.mktemp("videos") / "square.mp4")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_watcher()


@pytest.fixture(scope="module")
def app(model: Any) -> Any:
    return build_app(model, "tiny", limits=LIMITS)


def video_part(content: bytes, kind: str = "mp4") -> dict[str, Any]:
    url = f"data:video/{kind};base64,{base64.b64encode(content).decode()}"
    return {"type": "video_url", "video_url": {"url": url}}


def question(content: bytes, **more: Any) -> dict[str, Any]:
    return asked([video_part(content), {"type": "text", "text": QUESTION}], **more)


def test_an_answer_is_that_of_a_session_with_what_happens_beside_it(
    app: Any, model: Any, square: Path
) -> None:
    session = Session(model)
    session.set(video=square)
    answer = session.ask(QUESTION)
    response = post(app, question(square.read_bytes()))
    assert response.status_code == 200, response.text
    document = response.json()
    assert document["choices"][0]["message"]["content"] == answer.text
    found = document["chiasm"]
    assert answer.choice is not None
    assert found["likeliest"] == answer.choice.document()["likeliest"]
    assert found["segments"] == [one.document() for one in session.watch()]
    assert document["usage"]["prompt_tokens"] == answer.prompt_tokens
    pieces = events(post(app, question(square.read_bytes(), stream=True)))
    assert text_of(pieces) == answer.text
    assert pieces[-1]["chiasm"] == found


def test_the_card_says_what_the_model_does(app: Any) -> None:
    (card,) = get(app, "/v1/models").json()["data"]
    assert card["chiasm"]["senses"] == ["ask", "video", "watch"]
    assert card["chiasm"]["encoders"] == []


def test_a_model_without_actions_says_none(square: Path) -> None:
    app = build_app(tiny_watcher(action_head=None), "tiny")
    document = post(app, question(square.read_bytes())).json()
    assert "segments" not in document["chiasm"]
    with pytest.raises(InputError, match="no 'ask'"):
        build_app(tiny_watcher(answer_head=None), "tiny")


def refused(app: Any, document: Any) -> tuple[str, str]:
    response = post(app, document)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    return error["code"], error["message"]


def test_what_is_refused(app: Any, square: Path, tmp_path: Path) -> None:
    content = square.read_bytes()
    text = {"type": "text", "text": QUESTION}
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"
    longer = write_square(tmp_path / "longer.mp4", FRAMES + 1).read_bytes()
    cases = {
        "invalid_video": {
            "not a video of the forms MP4": question(playlist),
            "the video cannot be read: the video": question(content[:900]),
            "24 frames are more than the 23": question(longer),
            "more than the 50000 bytes": question(content + bytes(60_000)),
        },
        "video_url_not_allowed": {
            "opens no file": asked(
                [{"type": "video_url", "video_url": {"url": "https://a.example/b.mp4"}}, text]
            ),
        },
        "invalid_messages": {
            "0 video(s) in 1 part": asked([text]),
            "2 video(s) in 3 part": asked([video_part(content)] * 2 + [text]),
            "3 message(s)": asked([video_part(content), text], "Red.", [text]),
            "1 video(s) in 3 part": asked(
                [video_part(content), image_part(data_uri(picture(9, 9, 1))), text]
            ),
        },
        "invalid_request": {
            "has no word": asked([video_part(content)]),
            "leave out keep_history, temperature": question(content, temperature=0.5),
        },
    }
    for code, documents in cases.items():
        for told, document in documents.items():
            found, message = refused(app, document)
            assert (found, told in message) == (code, True), message
            assert "/tmp" not in message


def test_large_frames_are_refused(square: Path) -> None:
    app = build_app(tiny_watcher(), "tiny", limits=Limits(video_pixels=28 * 42 - 1))
    code, message = refused(app, question(square.read_bytes()))
    assert code == "invalid_video" and "frames of 42 x 28 pixels" in message


def test_a_model_of_pictures_reads_no_videos(square: Path) -> None:
    code, message = refused(build_app(build_dual(), "tiny"), question(square.read_bytes()))
    assert code == "invalid_messages" and "this model reads no videos" in message


def test_few_frames_that_last_long_are_refused(tmp_path: Path) -> None:
    """The first would be looked at four times a second, for as long as it stays."""
    path = tmp_path / "long.mp4"
    write_video(path, moving_square(2), RATE, times=[0, 30])
    model = tiny_watcher(sampling={"kind": "rate", "rate": 4})
    code, message = refused(build_app(model, "tiny", limits=LIMITS), question(path.read_bytes()))
    assert code == "invalid_video" and "at most 23 are allowed" in message


def test_a_host_answers_in_its_own_words(square: Path) -> None:
    teller = tiny_teller()
    session = Session(teller)
    session.set(video=square)
    answer = session.ask(QUESTION, max_new_tokens=5)
    app = build_app(teller, "tiny", limits=LIMITS)
    response = post(app, question(square.read_bytes(), max_tokens=5))
    assert response.status_code == 200, response.text
    document = response.json()
    assert document["choices"][0]["message"]["content"] == answer.text
    assert document["usage"]["prompt_tokens"] == answer.prompt_tokens
    silent = post(app, asked([video_part(square.read_bytes())]))
    assert silent.status_code == 400 and "no text; ask something" in silent.text
