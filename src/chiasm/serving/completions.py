"""Answers in OpenAI's form, whole and in pieces."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chiasm.inference.answers import Answer


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """Return what stands before the first of the stop texts."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


class StopCutter:
    """Passes pieces of a text on up to the first stop text.

    The end of a piece that could begin a stop text is held back until more is known.

    Args:
        stops: The stop texts.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._stopped = False

    def take(self, piece: str) -> str:
        """Return what may be passed on now that a piece has come."""
        if self._stopped:
            return ""
        text = self._held + piece
        before = cut_at_stop(text, self._stops)
        if len(before) < len(text):
            self._stopped = True
            return before
        keep = max(
            (
                length
                for stop in self._stops
                for length in range(1, min(len(stop), len(text)) + 1)
                if text.endswith(stop[:length])
            ),
            default=0,
        )
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Return what was held back and turned out to be no stop text."""
        return "" if self._stopped else self._held


@dataclass(frozen=True)
class Ticket:
    """What all pieces of one answer have in common.

    Attributes:
        model: Name of the model.
        identifier: Of the answer.
        created: Seconds since 1970.
    """

    model: str
    identifier: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, answer: Answer, stops: Sequence[str]) -> dict[str, Any]:
        """Return a whole answer; the gate stands in the field `chiasm`."""
        message = {
            "role": "assistant",
            "content": cut_at_stop(answer.text, stops),
            "refusal": None,
        }
        choice = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": usage(answer),
            "chiasm": answer.family_document(),
        }

    def chunk(
        self,
        delta: Mapping[str, str] | None,
        finish: str | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Return a piece of an answer; without a delta, one that only carries `more`."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        choices = [] if delta is None else [choice]
        return {**self._head("chat.completion.chunk"), "choices": choices, **more}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.identifier,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }


def usage(answer: Answer) -> dict[str, int]:
    """Return the token counts of an answer."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.new_tokens,
        "total_tokens": answer.prompt_tokens + answer.new_tokens,
    }


def event(document: Mapping[str, Any] | str) -> str:
    """Return one server-sent event."""
    data = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
    return f"data: {data}\n\n"
