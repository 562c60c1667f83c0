"""Text from tokens as they come, whole characters only."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no character, or not yet one."""


class TextStream:
    """Turns the tokens of one answer into pieces of text that join to the whole answer.

    A token may end inside a character, and a decoder may treat a token at the start of a text
    differently from one inside it. So the new text of a token is what decoding with it has more
    than decoding without it, both from a place a little before.

    Args:
        tokenizer: Decodes; special tokens are left out.
        ends: Tokens after which nothing follows.
        tell: Receives each piece, never an empty one.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int], tell: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._ends = frozenset(ends)
        self._tell = tell
        self._tokens: list[int] = []
        self._start = 0
        self._told = 0
        self._open = True

    def __call__(self, row: list[int]) -> None:
        """Take the next token: a list of one id, as `Host.generate` gives it for one row."""
        (token,) = row
        self._open = self._open and token not in self._ends
        if not self._open:
            return
        self._tokens.append(token)
        piece = self._piece()
        if piece and not piece.endswith(UNFINISHED):
            self._tell(piece)
            self._start, self._told = self._told, len(self._tokens)

    def finish(self) -> None:
        """Tell what was held back."""
        if piece := self._piece():
            self._tell(piece)
        self._told = len(self._tokens)

    def _piece(self) -> str:
        known = self._decode(self._tokens[self._start : self._told])
        return self._decode(self._tokens[self._start :])[len(known) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
