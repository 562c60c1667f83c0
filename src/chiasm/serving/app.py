"""An OpenAI-compatible server around one model, with a small page to try it on."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from chiasm import __version__
from chiasm.core.errors import ChiasmError
from chiasm.core.samples import Sample
from chiasm.data.pairs import as_pair
from chiasm.inference.answers import Answer
from chiasm.inference.pairs import answer_pairs, as_pairing, collate_pairs, prompt_length
from chiasm.inference.responding import (
    Answering,
    Generation,
    look,
    respond,
    seeded,
    splice,
)
from chiasm.inference.senses import Sensing, check_sense
from chiasm.models.long_video import LongVideo
from chiasm.serving.completions import StopCutter, Ticket, event, usage
from chiasm.serving.faults import SERVER, RequestFaultError
from chiasm.serving.limits import Limits
from chiasm.serving.messages import ChatRequest, read_conversation, read_request
from chiasm.serving.page import PAGE, PAGE_POLICY
from chiasm.serving.turns import Turns, settle, to_its_end
from chiasm.serving.videos import look_at_video

CLIENT_GONE = 499
"""Status of an answer that nobody waits for any more, as web servers log it."""

SECONDS_BETWEEN_LOOKS = 0.25

log = logging.getLogger("chiasm.serving")


class GoneError(Exception):
    """The client went away; ends the writing."""


@dataclass(frozen=True)
class Prepared:
    """A request that can be answered.

    Attributes:
        request: The request.
        write: Answers its conversation, whose images the model has seen.
        length: Tokens of the conversation.
        generation: How to write.
    """

    request: ChatRequest
    write: Callable[[Generation, Callable[[str], None]], list[Answer]]
    length: int
    generation: Generation


class Server:
    """Answers requests with one model.

    Args:
        model: A model with the sense `ask`.
        name: What the model is called.
        aliases: Other names that requests may use.
        limits: Bounds of a request.

    Raises:
        InputError: The model answers no questions.
    """

    def __init__(self, model: Sensing, name: str, aliases: Collection[str], limits: Limits) -> None:
        check_sense(model, "ask")
        self.model = cast("Answering", model)
        self.names = (name, *(alias for alias in aliases if alias != name))
        self.limits = limits
        self.started = int(time.time())
        self._turns = Turns(limits.waiting)

    async def health(self) -> dict[str, Any]:
        """Say that the server is there."""
        return {"status": "ok", "model": self.names[0], "version": __version__}

    async def models(self) -> dict[str, Any]:
        """List the one model."""
        return {"object": "list", "data": [self._card()]}

    async def model_card(self, name: str) -> dict[str, Any]:
        """Describe the model.

        Raises:
            RequestFaultError: Another one is asked for.
        """
        if name not in self.names:
            raise RequestFaultError(
                f"the model {name!r} is not served here; served: {self.names[0]!r}",
                "model_not_found",
                404,
                "model",
            )
        return self._card()

    async def chat(self, request: Request) -> Response:
        """Answer a conversation.

        Raises:
            RequestFaultError: The request is wrong, too large, or there are too many.
        """
        body = await _read_body(request, self.limits.body_bytes)
        asked = read_request(body, self.names, self.limits)
        async with self._turns.turn():
            prepared = await to_its_end(partial(self._prepare, asked))
        ticket = Ticket(self.names[0])
        if asked.stream:
            return StreamingResponse(
                self._events(prepared, ticket),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            )
        gone = threading.Event()
        watch = asyncio.create_task(_watch(request, gone))
        try:
            async with self._turns.turn(admitted=True):
                answer = await to_its_end(partial(self._write, prepared, gone))
        except GoneError:
            return Response(status_code=CLIENT_GONE)
        finally:
            watch.cancel()
        return JSONResponse(ticket.completion(answer, asked.stop))

    async def _events(self, prepared: Prepared, ticket: Ticket) -> AsyncIterator[str]:
        """Write an answer as server-sent events."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        gone = threading.Event()

        def tell(piece: str | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def write() -> Answer:
            try:
                return self._write(prepared, gone, tell)
            finally:
                tell(None)

        yield event(ticket.chunk({"role": "assistant", "content": ""}))
        cutter = StopCutter(prepared.request.stop)
        async with self._turns.turn(admitted=True):
            task = asyncio.create_task(to_its_end(write))
            try:
                while (piece := await pieces.get()) is not None:
                    if passed := cutter.take(piece):
                        yield event(ticket.chunk({"content": passed}))
                answer = await task
            except Exception as error:
                yield event(_as_fault(error).document())
                yield event("[DONE]")
                return
            finally:
                gone.set()
                await settle(task)
        if rest := cutter.finish():
            yield event(ticket.chunk({"content": rest}))
        yield event(ticket.chunk({}, answer.finish, chiasm=answer.family_document()))
        if prepared.request.stream_options.include_usage:
            yield event(ticket.chunk(None, usage=usage(answer)))
        yield event("[DONE]")

    def _prepare(self, request: ChatRequest) -> Prepared:
        """Decode, collate and look: all that can go wrong before the first word."""
        if "video" in self.model.senses:
            write, length = look_at_video(self.model, request, self.limits)
        else:
            write, length = self._look(read_conversation(request, self.limits))
        if isinstance(self.model, LongVideo):
            one = Generation(1, request.temperature, request.top_p, request.stop)
            return Prepared(request, write, length, one)
        host = self.model.host
        most = int(host.model.config.get_text_config().max_position_embeddings)
        room = most - length
        wanted = request.new_tokens or min(self.limits.default_new_tokens, max(room, 1))
        if wanted > room:
            raise RequestFaultError(
                f"the conversation has {length} tokens and the answer may have {wanted}; together "
                f"at most {most}. Shorten the conversation, or ask for fewer tokens",
                "context_length_exceeded",
                param="messages",
            )
        generation = Generation(wanted, request.temperature, request.top_p, request.stop)
        return Prepared(request, write, length, generation)

    def _look(self, sample: Sample) -> tuple[Callable[..., list[Answer]], int]:
        """Look at what a conversation shows; return what answers it, and its tokens."""
        if "reconstruction" in self.model.senses:
            pairing = as_pairing(self.model)
            pairs = collate_pairs(pairing, [as_pair(sample)])
            view = pairing.look(pairs)
            length = prompt_length(pairing, pairs, view)
            return partial(answer_pairs, pairing, pairs, view), length
        batch = self.model.collator.collate([sample], generation=True).to(self.model.host.device)
        sight = look(self.model, batch)
        # A fusion may write several tokens for a cell, so the collated length is not the whole.
        length = splice(self.model, batch, sight).input_ids.shape[1]
        return partial(respond, self.model, batch, sight), length

    def _write(
        self,
        prepared: Prepared,
        gone: threading.Event,
        tell: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer; ends early when the client is gone."""

        def follow(piece: str) -> None:
            if gone.is_set():
                raise GoneError
            if tell is not None:
                tell(piece)

        seed = prepared.request.seed
        with nullcontext() if seed is None else seeded(seed):
            return prepared.write(prepared.generation, follow)[0]

    def _card(self) -> dict[str, Any]:
        others = {"reconstruction", "video"} & self.model.senses
        return {
            "id": self.names[0],
            "object": "model",
            "created": self.started,
            "owned_by": "chiasm",
            "chiasm": {
                "senses": sorted(self.model.senses),
                "encoders": [] if others else list(self.model.encoders),
                "max_tokens": self.limits.new_tokens,
            },
        }


def build_app(
    model: Sensing, name: str, *, aliases: Collection[str] = (), limits: Limits | None = None
) -> FastAPI:
    """Build the application.

    Args:
        model: A loaded model.
        name: What it is called.
        aliases: Other names that requests may use.
        limits: Bounds of a request; the defaults of `Limits` when None.

    Raises:
        InputError: The model answers no questions.
    """
    server = Server(model, name, aliases, limits or Limits())
    # The library's own pages of documentation fetch scripts from a network.
    app = FastAPI(title="chiasm", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/", _page, response_model=None)
    app.add_api_route("/health", server.health, response_model=None)
    app.add_api_route("/v1/models", server.models, response_model=None)
    app.add_api_route("/v1/models/{name:path}", server.model_card, response_model=None)
    app.add_api_route("/v1/chat/completions", server.chat, methods=["POST"], response_model=None)
    for kind in (RequestFaultError, ChiasmError, HTTPException, Exception):
        app.add_exception_handler(kind, _tell_fault)
    return app


async def _page() -> HTMLResponse:
    """Return the page."""
    headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(PAGE, headers=headers)


async def _tell_fault(request: Request, error: Exception) -> JSONResponse:
    fault = _as_fault(error)
    return JSONResponse(fault.document(), status_code=fault.status)


def _as_fault(error: Exception) -> RequestFaultError:
    if isinstance(error, RequestFaultError):
        return error
    if isinstance(error, ChiasmError):
        return RequestFaultError(str(error), "invalid_request")
    if isinstance(error, HTTPException):
        words = {
            404: "there is no such path; see /v1/models, /v1/chat/completions, /health and /",
            405: "this path does not know the method; chat completions are asked for with POST",
        }
        message = words.get(error.status_code, str(error.detail))
        return RequestFaultError(message, "not_found", error.status_code)
    log.exception("a request failed", exc_info=error)
    return RequestFaultError(
        "the server failed; its log says why", "internal_error", 500, kind=SERVER
    )


async def _read_body(request: Request, most: int) -> bytes:
    """Read the body of a request, and stop reading where it is too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also keeps foreign web pages out: browsers ask before they send this type elsewhere.
        raise RequestFaultError(
            f"the content type is {kind or 'missing'}; it must be application/json",
            "unsupported_media_type",
            415,
        )
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise RequestFaultError(
                f"the request has more than {most} bytes; send fewer or smaller images",
                "request_too_large",
                413,
            )
    return bytes(body)


async def _watch(request: Request, gone: threading.Event) -> None:
    """Set `gone` when the client goes away."""
    while not await request.is_disconnected():
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
    gone.set()
