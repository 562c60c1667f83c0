"""A closed vocabulary of words: the tokenizer of models that have no language model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chiasm.core.errors import ConfigError, InputError

PADDING, UNKNOWN = 0, 1
"""Ids before those of the words."""

_WORD = re.compile(r"[^\W_]+")


class Vocabulary:
    """Words to numbers and back, in lower case, without punctuation.

    Args:
        words: The words that are told apart; every other one is `UNKNOWN`.

    Raises:
        ConfigError: A word is none, or is given twice.
    """

    def __init__(self, words: Sequence[str]) -> None:
        strange = [word for word in words if self.split(word) != [word]]
        if strange or len(set(words)) != len(words):
            raise ConfigError(
                f"vocabulary: {strange or 'some'} of {len(words)} entries are no single words in "
                "lower case, or stand there twice; give each word once"
            )
        self.words = tuple(words)
        self._ids = {word: UNKNOWN + 1 + place for place, word in enumerate(words)}

    def __len__(self) -> int:
        """Return how many ids there are."""
        return UNKNOWN + 1 + len(self.words)

    @staticmethod
    def split(text: str) -> list[str]:
        """Return the words of a text."""
        return _WORD.findall(text.lower())

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's words."""
        return [self._ids.get(word, UNKNOWN) for word in self.split(text)]

    def unknown(self, text: str) -> list[str]:
        """Return the words of a text that are not told apart from others."""
        return [word for word in self.split(text) if word not in self._ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words of ids, with a space between two.

        Raises:
            InputError: An id is none of a word.
        """
        strange = [one for one in ids if not UNKNOWN < one < len(self)]
        if strange:
            raise InputError(
                f"ids {strange} are no words; give ids from {UNKNOWN + 1} to {len(self) - 1}"
            )
        return " ".join(self.words[one - UNKNOWN - 1] for one in ids)
