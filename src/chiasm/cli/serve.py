"""`chiasm serve`: one model behind an OpenAI-compatible address, with a page to try it on."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chiasm.cli.loading import Device, load_on
from chiasm.cli.output import console
from chiasm.core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

QUEUE = 128
"""Connections that the system holds before they are taken."""


def serve(
    run: Annotated[str, typer.Argument(help="A run directory, or the name of a shipped model.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 takes any that is free.")
    ] = 8000,
    device: Device = "auto",
) -> None:
    """Serve a model: POST /v1/chat/completions, GET /v1/models, GET /health, and a page at /.

    Examples:
        chiasm serve tiny-dual
        chiasm serve runs/dual --host 0.0.0.0 --port 9000
    """
    uvicorn, application = _import_server()
    listening = _listen(host, port)
    try:
        model = load_on(run, device)
        # A folder's own name, and beside it whatever the user called it by.
        app = application.build_app(model, Path(run).resolve().name or run, aliases=[run])
        _announce(host, listening.getsockname()[1])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


def _import_server() -> tuple[Any, ModuleType]:
    """Import what the extra `serve` brings.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import uvicorn

        from chiasm.serving import app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("uvicorn", "fastapi", "starlette"):
            raise
        raise MissingExtraError(package, "serve", "chiasm serve") from None
    return uvicorn, app


def _listen(host: str, port: int) -> socket.socket:
    """Take the port, before a model is loaded for nothing.

    Raises:
        InputError: The address cannot be listened on.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=QUEUE)
    except OSError as error:
        step = (
            "another program uses it; give another --port, or 0 for any that is free"
            if error.errno == errno.EADDRINUSE
            else "give an address of this machine as --host, and a port you may use"
        )
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror}; {step}") from None


def _announce(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    console.print(f"page: http://{shown}:{port}/", markup=False, soft_wrap=True)
    console.print(f"OpenAI base URL: http://{shown}:{port}/v1", markup=False, soft_wrap=True)
    if not _is_local(host):
        console.print(
            f"note: {host} can be reached from other machines, and the server asks for no password",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
