"""Requests read strictly; images only from the request itself."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from chiasm.serving.faults import RequestFaultError
from chiasm.serving.limits import Limits
from chiasm.serving.messages import read_conversation, read_request
from tests.tiny import picture

LIMITS = Limits(images=2, image_bytes=40_000, image_pixels=7000, new_tokens=31)


def data_uri(image: Image.Image, kind: str = "png") -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def asked(*contents: Any, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]
    return {"messages": messages, **more}


def read(document: Any, limits: Limits = LIMITS) -> Any:
    request = read_request(json.dumps(document).encode(), ("tiny", "runs/tiny"), limits)
    return request, read_conversation(request, limits)


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def fault_of(document: Any) -> RequestFaultError:
    with pytest.raises(RequestFaultError) as raised:
        read(document)
    return raised.value


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "webp"])
def test_text_and_images_keep_their_order(kind: str) -> None:
    image = picture(61, 83, 1)
    parts = [
        {"type": "text", "text": "Left: "},
        image_part(data_uri(image, kind)),
        {"type": "text", "text": " What is it?"},
    ]
    system = {"role": "system", "content": "Be brief."}
    document = asked(parts, "A cup.", "And now?")
    document["messages"].insert(0, system)
    _, sample = read(document)
    assert [turn.role for turn in sample.turns] == ["system", "user", "assistant", "user"]
    assert sample.turns[1].parts == ("Left: ", 0, " What is it?")
    assert isinstance(sample.images[0], Image.Image)
    assert sample.images[0].size == (83, 61)
    if kind in ("png", "bmp"):
        assert sample.images[0].tobytes() == image.tobytes()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "https://example.com/a.png",
        "http://127.0.0.1:8000/health",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/a.png",
        "file:///etc/hostname",
        "/etc/hostname",
        "a.png",
        "../a.png",
        "ftp://example.com/a.png",
        "data:text/html;base64,PGI+",
        "data:image/png;base64",
        "",
    ],
)
def test_nothing_outside_the_request_is_read(url: str) -> None:
    fault = fault_of(asked([image_part(url)]))
    assert fault.code == "image_url_not_allowed"
    assert (fault.status, fault.kind) == (400, "invalid_request_error")
    assert "send the image itself, as data:image/png;base64,..." in fault.message
    assert fault.param == "messages[0].content[0]"


@pytest.mark.parametrize("part", [{"type": "image", "image": "a.png"}, {"type": "image"}])
def test_parts_that_would_name_files_are_no_parts(part: dict[str, Any]) -> None:
    fault = fault_of(asked([part, {"type": "text", "text": "What?"}]))
    assert fault.code == "invalid_value"
    assert "'text', 'image_url'" in fault.message


def test_images_that_are_none_say_so() -> None:
    large = data_uri(picture(97, 89, 0))
    wrong = {
        # A whole image in a format that is not let in.
        data_uri(picture(61, 83, 1), "tiff"): "not an image of the formats PNG, JPEG, WEBP, GIF",
        "data:image/png;base64,!!!": "Only base64 data is allowed",
        "data:image/png,abc": "the form is data:image/png;base64,...",
        "data:image/png;base64," + base64.b64encode(b"GIF?").decode(): "not an image",
        "data:image/png;base64,": "not an image",
        # A decoder that starts another program is never reached.
        "data:image/eps;base64," + base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n").decode(): (
            "not an image of the formats PNG, JPEG, WEBP, GIF, BMP"
        ),
        data_uri(picture(61, 83, 1))[:-400] + "AAAA": "cannot be decoded",
        large: "89 x 97 pixels are more than the 7000 allowed",
        "data:image/png;base64," + "A" * 60_000: "more than the 40000 bytes",
    }
    for url, words in wrong.items():
        fault = fault_of(asked([image_part(url)]))
        assert fault.code == "invalid_image"
        assert words in fault.message, url[:50]


def test_limits_are_told() -> None:
    small = image_part(data_uri(picture(13, 17, 1)))
    assert fault_of(asked([small] * 3)).code == "too_many_images"
    assert fault_of(asked("Hi", max_tokens=32)).code == "max_tokens_too_large"
    assert read(asked("Hi", max_completion_tokens=31))[0].new_tokens == 31
    assert read(asked("Hi", max_tokens=7))[0].new_tokens == 7


def test_all_faults_at_once() -> None:
    document = {
        "messages": [{"role": "judge", "content": "Hi"}, {"role": "user", "content": 7}],
        "temperature": 3,
        "top_p": 0,
    }
    fault = fault_of(document)
    for place in ("messages.0.role", "messages.1.content", "temperature", "top_p"):
        assert place in fault.message
    assert fault.param == "messages.0.role"


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function"}]},
        {"n": 2},
        {"frequency_penalty": 0.5},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"maxtokens": 5},
    ],
)
def test_what_cannot_be_honoured_is_refused(more: dict[str, Any]) -> None:
    fault = fault_of(asked("Hi", **more))
    assert next(iter(more)) in fault.message


def test_what_asks_for_nothing_is_let_pass() -> None:
    request, _ = read(
        asked(
            "Hi",
            n=1,
            tools=[],
            frequency_penalty=0.0,
            logprobs=False,
            user="me",
            stop=None,
            response_format={"type": "text"},
            logit_bias={},
        )
    )
    assert request.stop == ()
    assert read(asked("Hi", stop="."))[0].stop == (".",)
    assert read(asked("Hi", stop=[".", "!"]))[0].stop == (".", "!")


def test_names_of_the_model() -> None:
    for name in ("tiny", "runs/tiny", None):
        read(asked("Hi", model=name))
    fault = fault_of(asked("Hi", model="gpt"))
    assert (fault.status, fault.code) == (404, "model_not_found")
    assert fault.message == "the model 'gpt' is not served here; served: 'tiny'"


def test_conversations_have_an_order() -> None:
    assert "it must be of the user" in fault_of(asked("Hi", "Hello")).message
    two = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
    fault = fault_of(two)
    assert fault.code == "invalid_messages"
    assert "user and assistant alternate" in fault.message
    assert "messages" in fault_of({"messages": []}).message
    with pytest.raises(RequestFaultError, match="Invalid JSON"):
        read_request(b"{", ("tiny",), LIMITS)
