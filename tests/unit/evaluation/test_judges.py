"""Judges: matching by words, plain functions, and a real server on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from chiasm.core.errors import InputError
from chiasm.evaluation.judges import ChatJudge, FunctionJudge, as_judge, contains_match, read_score


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("The red circle.", ["red circle"], 1.0),
        ("It is a red circle, I think", ["blue", "Red circle!"], 1.0),
        ("redcircle", ["red circle"], 0.0),
        ("circle red", ["red circle"], 0.0),
        ("catalogue", ["cat"], 0.0),
        ("", ["cat"], 0.0),
        ("3", ["3"], 1.0),
        ("It is A", ["A"], 0.0),
        ("a", ["A"], 1.0),
    ],
)
def test_matching_by_whole_words(answer: str, references: list[str], score: float) -> None:
    assert contains_match("?", answer, references) == score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("0.7", 0.7),
        ("Score: .25 of 1", 0.25),
        ("1.", 1.0),
        ("7", 1.0),
        ("-3", 0.0),
        ("no number", None),
        ("", None),
    ],
)
def test_the_first_number_counts(reply: str, score: float | None) -> None:
    assert read_score(reply) == score


def test_functions_are_judges() -> None:
    judge = as_judge(contains_match)
    assert (judge.name, judge("?", "cat", ["cat"]), judge.unreadable) == ("contains_match", 1.0, 0)
    assert as_judge(judge) is judge
    with pytest.raises(InputError, match=r"judge 'wild' gave 3.0; a score lies in \[0, 1\]"):
        FunctionJudge(lambda *said: 3.0, "wild")("?", "a", ["b"])


class Server(HTTPServer):
    """Replies what it is told, and keeps what it was sent."""

    reply = "0.5"
    status = 200
    body: bytes | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.sent: list[tuple[str, dict[str, str], Any]] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.sent.append((self.path, dict(self.headers), sent))
        choice = {"choices": [{"message": {"content": server.reply}}]}
        self.send_response(server.status)
        self.end_headers()
        self.wfile.write(json.dumps(choice).encode() if server.body is None else server.body)

    def log_message(self, *said: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_model_behind_a_url(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge = ChatJudge(f"http://127.0.0.1:{server.server_port}/v1/", "judge-1")
    assert judge("What?", "a cat", ["cat", "kitten"]) == 0.5
    ((path, headers, body),) = server.sent
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    assert (body["model"], body["temperature"]) == ("judge-1", 0.2)
    (message,) = body["messages"]
    for part in ("What?", "a cat", "cat / kitten"):
        assert part in message["content"]
    server.reply = "I cannot say."
    assert (judge("What?", "a cat", ["cat"]), judge.unreadable) == (0.0, 1)
    server.reply = "8 of 10"
    assert (judge("What?", "a cat", ["cat"]), judge.unreadable) == (1.0, 1)
    monkeypatch.setenv("OWN_KEY", "secret")
    keyed = ChatJudge(judge.url, "judge-1", key_variable="OWN_KEY")
    keyed("What?", "a cat", ["cat"])
    assert server.sent[-1][1]["Authorization"] == "Bearer secret"
    assert "secret" not in keyed.name and "secret" not in repr(keyed)


def test_servers_that_fail_are_named(server: Server) -> None:
    judge = ChatJudge(f"http://127.0.0.1:{server.server_port}", "judge-1")
    server.status = 401
    with pytest.raises(InputError, match=r"judge-1 at .* HTTP Error 401.* the key in OPENAI_API"):
        judge("?", "a", ["b"])
    server.status, server.body = 200, b'{"error": "none"}'
    with pytest.raises(InputError, match="KeyError: 'choices'"):
        judge("?", "a", ["b"])
    server.body = b"<html>"
    with pytest.raises(InputError, match="JSONDecodeError"):
        judge("?", "a", ["b"])
    with pytest.raises(InputError, match="judge at 'file:///etc'; give the address"):
        ChatJudge("file:///etc", "judge-1")
