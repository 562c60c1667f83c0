"""The server as a client sees it: the ASGI application, no network."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.inference.session import Session
from chiasm.models.cell_classifier import CellClassifier
from chiasm.serving.app import Server, build_app
from chiasm.serving.limits import Limits
from tests.unit.inference.duals import IMAGE, build_dual, build_host_alone, conversation
from tests.unit.inference.duals import asked as question_sample
from tests.unit.serving.test_messages import asked, data_uri, image_part

NEW = 7
QUESTION = "What is it?"


@pytest.fixture(scope="module")
def model() -> Any:
    return build_dual("qwen2_5_vl", "dinov2")


@pytest.fixture(scope="module")
def app(model: Any) -> Any:
    return build_app(model, "tiny", aliases=["runs/tiny"])


def call(app: Any, use: Callable[[httpx.AsyncClient], Any]) -> Any:
    async def inside() -> Any:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await use(client)

    return asyncio.run(inside())


def get(app: Any, path: str) -> httpx.Response:
    return call(app, lambda client: client.get(path))


def post(app: Any, document: Any, **more: Any) -> httpx.Response:
    return call(app, lambda client: client.post("/v1/chat/completions", json=document, **more))


def about_the_picture(**more: Any) -> dict[str, Any]:
    parts = [image_part(data_uri(IMAGE)), {"type": "text", "text": QUESTION}]
    return asked(parts, max_tokens=NEW, **more)


def events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(pieces: list[Any]) -> str:
    return "".join(p["choices"][0]["delta"].get("content", "") for p in pieces if p["choices"])


def test_an_answer_is_that_of_chat_with_the_gate_beside_it(app: Any, model: Any) -> None:
    response = post(app, about_the_picture(model="tiny"))
    assert response.status_code == 200
    document = response.json()
    text = model.chat(conversation(QUESTION), max_new_tokens=NEW)
    assert document["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "finish_reason": "length",
            "logprobs": None,
        }
    ]
    assert document["object"] == "chat.completion"
    assert document["model"] == "tiny"
    usage = document["usage"]
    assert usage["completion_tokens"] == NEW
    assert usage["total_tokens"] == usage["prompt_tokens"] + NEW
    report = model.gate_report(conversation(QUESTION))
    assert document["chiasm"]["gate"] == pytest.approx(dict(report.weights), abs=1e-4)
    assert document["chiasm"]["dominant"] == report.dominant
    assert list(document["chiasm"]["images"][0]["maps"]) == ["host", "dinov2"]
    assert document["chiasm"]["images"][0]["view"] == [0, 0, 83, 61]


def test_a_stream_holds_the_same(app: Any) -> None:
    whole = post(app, about_the_picture()).json()
    response = post(app, about_the_picture(stream=True, stream_options={"include_usage": True}))
    assert response.headers["content-type"].startswith("text/event-stream")
    pieces = events(response)
    assert pieces[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(pieces) == whole["choices"][0]["message"]["content"]
    assert [p["choices"][0]["finish_reason"] for p in pieces[:-1]] == [
        *[None] * (len(pieces) - 2),
        "length",
    ]
    assert pieces[-2]["chiasm"] == whole["chiasm"]
    assert pieces[-1]["usage"] == whole["usage"]
    assert {p["object"] for p in pieces} == {"chat.completion.chunk"}
    assert len({p["id"] for p in pieces}) == 1
    assert len(pieces) > 4


def test_stop_texts_end_and_are_left_out(app: Any) -> None:
    text = post(app, about_the_picture()).json()["choices"][0]["message"]["content"]
    stop = next(letter for letter in text if letter.isascii() and letter.isprintable())
    document = about_the_picture(stop=[stop, "never"])
    choice = post(app, document).json()["choices"][0]
    assert choice["message"]["content"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    pieces = events(post(app, {**document, "stream": True}))
    assert text_of(pieces) == text[: text.index(stop)]


def test_several_turns_and_text_alone(app: Any, model: Any) -> None:
    history = about_the_picture()
    history["messages"] += [
        {"role": "assistant", "content": "A cup."},
        {"role": "user", "content": "Sure?"},
    ]
    expected = [
        *conversation(QUESTION),
        {"role": "assistant", "content": "A cup."},
        {"role": "user", "content": "Sure?"},
    ]
    answer = post(app, history).json()["choices"][0]["message"]["content"]
    assert answer == model.chat(expected, max_new_tokens=NEW)
    alone = post(app, asked("Hello", max_tokens=NEW)).json()
    text = model.chat([{"role": "user", "content": "Hello"}], max_new_tokens=NEW)
    assert alone["choices"][0]["message"]["content"] == text
    assert alone["chiasm"]["gate"] is None


def test_sampling_repeats_with_a_seed(app: Any) -> None:
    def text(seed: int) -> str:
        document = about_the_picture(temperature=1.5, top_p=0.9, seed=seed)
        return post(app, document).json()["choices"][0]["message"]["content"]

    state = torch.get_rng_state()
    assert text(3) == text(3)
    assert len({text(seed) for seed in range(4)}) > 1
    assert torch.equal(torch.get_rng_state(), state)


def test_models_and_health(app: Any) -> None:
    (card,) = get(app, "/v1/models").json()["data"]
    assert (card["id"], card["object"], card["owned_by"]) == ("tiny", "model", "chiasm")
    assert card["chiasm"]["encoders"] == ["dinov2"]
    assert card["chiasm"]["senses"] == ["ask", "image"]
    assert get(app, "/v1/models/tiny").json() == card
    assert get(app, "/v1/models/runs/tiny").json() == card
    missing = get(app, "/v1/models/gpt")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert get(app, "/health").json()["status"] == "ok"


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_faults_are_error_objects(app: Any) -> None:
    error = error_of(post(app, asked([image_part("http://localhost/a.png")])), 400)
    assert error["code"] == "image_url_not_allowed"
    assert error_of(post(app, asked("Hi", temperature=9)), 400)["param"] == "temperature"
    assert error_of(post(app, {**asked("Hi"), "stream": True, "n": 3}), 400)["param"] == "n"
    assert error_of(get(app, "/v2/models"), 404)["message"].startswith("there is no such path")
    assert "POST" in error_of(get(app, "/v1/chat/completions"), 405)["message"]
    special = error_of(post(app, asked("What is <|image_pad|>?", stream=True)), 400)
    assert "special token" in special["message"]
    plain = call(app, lambda c: c.post("/v1/chat/completions", content=b"{}"))
    assert error_of(plain, 415)["message"].startswith("the content type is missing")


def test_sizes_are_limited(model: Any) -> None:
    small = build_app(model, "tiny", limits=Limits(body_bytes=3000))
    error = error_of(post(small, asked("x" * 3000)), 413)
    assert error["code"] == "request_too_large"
    # The tiny hosts have 4099 positions, and a byte is a token.
    error = error_of(post(small, asked("x" * 2900, max_tokens=1500)), 400)
    assert error["code"] == "context_length_exceeded"
    assert "together at most 4099" in error["message"]


def test_bugs_are_500_and_logged(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Any, *args: Any) -> Any:
        raise ZeroDivisionError("secret of the machine")

    monkeypatch.setattr(Server, "_write", broken)
    app = build_app(model, "tiny")
    for document in (asked("Hi"), asked("Hi", stream=True)):
        response = post(app, document)
        assert "secret" not in response.text
        assert "secret of the machine" in caplog.text
        caplog.clear()
    assert error_of(post(app, asked("Hi")), 500)["type"] == "server_error"
    pieces = events(post(app, asked("Hi", stream=True)))
    assert pieces[-1]["error"]["code"] == "internal_error"


def slow(seconds: float, running: list[int], seen: list[int]) -> Any:
    write = Server._write

    def slowly(self: Any, *args: Any) -> Any:
        running.append(1)
        seen.append(len(running))
        time.sleep(seconds)
        try:
            return write(self, *args)
        finally:
            running.pop()

    return slowly


def test_one_request_at_a_time(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = []
    seen: list[int] = []
    monkeypatch.setattr(Server, "_write", slow(0.1, running, seen))
    app = build_app(model, "tiny")
    documents = [asked("Hi", max_tokens=2, stream=bool(i % 2)) for i in range(5)]

    async def together(client: httpx.AsyncClient) -> Any:
        posts = [client.post("/v1/chat/completions", json=d) for d in documents]
        return await asyncio.gather(*posts)

    responses = call(app, together)
    assert [r.status_code for r in responses] == [200] * 5
    assert seen == [1] * 5


def test_a_full_queue_is_told(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "_write", slow(0.5, [], []))
    app = build_app(model, "tiny", limits=Limits(waiting=1))

    async def together(client: httpx.AsyncClient) -> Any:
        posts = []
        for _ in range(4):
            post = client.post("/v1/chat/completions", json=asked("Hi", max_tokens=2))
            posts.append(asyncio.ensure_future(post))
            await asyncio.sleep(0.1)
        return await asyncio.gather(*posts)

    statuses = [r.status_code for r in call(app, together)]
    assert statuses[:2] == [200, 200]
    assert 503 in statuses[2:]
    assert post(app, asked("Hi", max_tokens=2)).status_code == 200


async def leave_early(app: Any, document: Any) -> None:
    """Send a request, read what comes until the answer begins, and hang up."""
    body = json.dumps(document).encode()
    begun = asyncio.Event()
    sent = False

    async def receive() -> Any:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        if document.get("stream"):
            await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and b"chunk" in message.get("body", b""):
            begun.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"content-type", b"application/json")],
        "client": ("test", 1),
        "server": ("test", 80),
    }
    await app(scope, receive, send)


@pytest.mark.parametrize("stream", [True, False])
def test_nobody_writes_for_a_client_that_left(
    model: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    told: list[bool] = []
    write = Server._write

    def watched(self: Any, prepared: Any, gone: threading.Event, tell: Any = None) -> Any:
        def slowly(piece: str) -> None:
            time.sleep(0.05)
            if tell is not None:
                tell(piece)

        try:
            return write(self, prepared, gone, slowly)
        finally:
            told.append(gone.is_set())

    monkeypatch.setattr(Server, "_write", watched)
    app = build_app(model, "tiny")
    start = time.perf_counter()
    asyncio.run(leave_early(app, asked("Hi", max_tokens=2000, stream=stream)))
    # Two thousand tokens would sleep for a hundred seconds.
    assert time.perf_counter() - start < 30
    # The one who writes notices at the next piece, on a thread of its own.
    while not told and time.perf_counter() - start < 10:
        time.sleep(0.05)
    # On a busy machine the client may be gone before the first word; then nobody writes at all.
    assert told in ([], [True])
    # The model is free for the next one.
    assert post(app, asked("Hi", max_tokens=2)).status_code == 200


def test_the_default_length_fits_the_context(model: Any) -> None:
    app = build_app(model, "tiny", limits=Limits(default_new_tokens=4090))
    server = Server(model, "tiny", (), Limits(default_new_tokens=4090))
    from chiasm.serving.messages import read_request

    request = read_request(json.dumps(asked("x" * 50)).encode(), ("tiny",), Limits())
    prepared = server._prepare(request)
    room = prepared.generation.max_new_tokens + prepared.length
    assert room == 4099
    assert get(app, "/health").status_code == 200


def test_tokens_that_a_fusion_adds_count() -> None:
    model = build_dual(fusion="interleave")
    used = post(build_app(model, "tiny"), about_the_picture()).json()["usage"]["prompt_tokens"]
    collated = model.collator.collate([question_sample(QUESTION)], generation=True)
    assert used == collated.input_ids.shape[1] + collated.geometries[0].count
    app = build_app(model, "tiny", limits=Limits(new_tokens=9999))
    fits = {**about_the_picture(), "max_tokens": 4099 - used + 1}
    assert error_of(post(app, fits), 400)["code"] == "context_length_exceeded"


def test_models_that_cannot_answer_are_not_served(model: Any) -> None:
    from chiasm.heads.cells import CellHead
    from tests.tiny_eyes import tiny_encoder

    tower = tiny_encoder("dinov2")
    head = CellHead(width=tower.width, attributes={"shape": 5})
    classifier = CellClassifier(tower=tower, name="eye", head=head, collator=model.collator)
    with pytest.raises(InputError, match="this model has no 'ask'"):
        build_app(classifier, "tower")


def test_a_host_alone_is_served() -> None:
    host = build_host_alone()
    document = post(build_app(host, "host"), about_the_picture()).json()
    session = Session(host)
    session.set(image=IMAGE)
    text = session.ask(QUESTION, max_new_tokens=NEW).text
    assert document["choices"][0]["message"]["content"] == text
    assert document["chiasm"]["gate"] is None
