"""`chiasm serve`: what it says, what it refuses, and one real answer over the loopback."""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from chiasm.cli.main import app
from tests.unit.inference.duals import build_dual


@pytest.fixture
def dual(monkeypatch: pytest.MonkeyPatch) -> Any:
    model = build_dual()
    monkeypatch.setattr("chiasm.recipes.loading.load_run", lambda run: model)
    return model


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["serve", *map(str, arguments), "--device", "cpu"])


def test_it_answers_over_a_socket(dual: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    servers: list[Any] = []
    start = uvicorn.Server.run

    def remembered(self: Any, sockets: Any) -> None:
        self.config.log_level = None
        servers.append((self, sockets[0].getsockname()[1]))
        # Signals belong to the main thread, where the tests run.
        start(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "run", remembered)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(run("runs/mine", "--port", 0)))
    thread.start()
    deadline = time.monotonic() + 60
    while not (servers and servers[0][0].started):
        assert time.monotonic() < deadline and thread.is_alive()
        time.sleep(0.02)
    server, port = servers[0]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert client.get("/health").json()["model"] == "mine"
            page = client.get("/")
            assert page.headers["content-type"].startswith("text/html")
            assert "default-src 'none'" in page.headers["content-security-policy"]
            messages = [{"role": "user", "content": "Hello"}]
            body = {"model": "runs/mine", "messages": messages, "max_tokens": 5}
            answer = client.post("/v1/chat/completions", json=body).json()
    finally:
        server.should_exit = True
        thread.join(30)
    text = dual.chat(messages, max_new_tokens=5)
    assert answer["choices"][0]["message"]["content"] == text
    (done,) = found
    assert done.exit_code == 0, done.output
    assert f"page: http://127.0.0.1:{port}/" in done.stderr
    assert re.search(rf"OpenAI base URL: http://127\.0\.0\.1:{port}/v1\n", done.stderr)
    assert "no password" not in done.stderr


def test_a_taken_port_is_told_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(run: str) -> None:
        raise AssertionError("a model was loaded for nothing")

    monkeypatch.setattr("chiasm.recipes.loading.load_run", never)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("runs/mine", "--port", port)
    assert done.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "give another --port" in done.stderr


def test_an_address_of_another_machine() -> None:
    done = run("runs/mine", "--host", "192.0.2.1")
    assert done.exit_code == 1
    assert "cannot listen on 192.0.2.1" in done.stderr
    assert "give an address of this machine" in done.stderr


def test_open_doors_are_told(dual: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    done = run("runs/mine", "--host", "0.0.0.0", "--port", 0)
    assert done.exit_code == 0, done.output
    assert "note: 0.0.0.0 can be reached from other machines" in done.stderr


@pytest.mark.parametrize("package", ["uvicorn", "fastapi"])
def test_a_missing_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("chiasm.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("chiasm.serving.app", None, raising=False)
    monkeypatch.delattr("chiasm.serving.app")
    monkeypatch.setitem(sys.modules, package, None)
    done = run("runs/mine")
    assert done.exit_code == 1
    assert f"needs the package '{package}', which is not installed" in done.stderr
    assert "pip install 'chiasm[serve]'" in done.stderr


def test_help_has_an_example() -> None:
    done = CliRunner().invoke(app, ["serve", "--help"])
    assert done.exit_code == 0
    assert "chiasm serve tiny-dual" in done.stdout
