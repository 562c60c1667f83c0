"""Noun phrases of a text, as spans of characters: by rules, or by a parser that is installed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from chiasm.core.config import lookup
from chiasm.core.errors import InputError
from chiasm.inference.noun_words import (
    ADJECTIVES,
    DETERMINERS,
    ING_NOUNS,
    PICTURE_WORDS,
    PRONOUNS,
    QUANTITIES,
    STOPS,
    VERBS,
)

Span = tuple[int, int]

Extractor = Callable[[str], Sequence[Span]]
"""Finds phrases in a text: [start, stop) of each, in any order."""

SPACY_MODEL = "en_core_web_sm"

_WORD = re.compile(r"[^\W_]+(?:[-'\N{RIGHT SINGLE QUOTATION MARK}][^\W_]+)*")

_EMPTY = DETERMINERS | PRONOUNS | ADJECTIVES


def noun_phrases(text: str) -> list[Span]:
    """Find noun phrases in English by rules, without a model.

    A phrase is a run of words that no punctuation, conjunction, preposition, auxiliary or common
    verb cuts; it begins anew at each determiner, and needs a word that is neither determiner,
    pronoun nor adjective. Phrases about the picture itself ("the image", "the left side") are left
    out. Words the lists do not know count as nouns, so a rare verb may stay in a phrase.
    """
    words = [(found.group().lower(), found.start(), found.end()) for found in _WORD.finditer(text)]
    phrases: list[Span] = []
    run: list[tuple[str, int, int]] = []
    for index, word in enumerate(words):
        gap = bool(index) and not text[words[index - 1][2] : word[1]].isspace()
        follows = words[index + 1][0] if index + 1 < len(words) else ""
        if run and (gap or _begins(word[0], run)):
            phrases += _close(run if gap else _without_verb(run))
            run = []
        if word[0] == "of" and run and run[-1][0] in QUANTITIES and follows:
            run.append(word)
        elif _ends(word[0], run, follows):
            phrases += _close(run)
            run = []
        else:
            run.append(word)
    return phrases + _close(run)


def spacy_phrases(text: str) -> list[Span]:
    """Find the noun chunks that spaCy's small English model sees, without pronouns.

    Raises:
        InputError: spaCy or its model is not installed.
    """
    chunks = _load_spacy()(text).noun_chunks
    return [
        (chunk.start_char, chunk.end_char)
        for chunk in chunks
        if chunk.root.pos_ != "PRON" and chunk.root.text.lower() not in PICTURE_WORDS
    ]


EXTRACTORS: dict[str, Extractor] = {"rules": noun_phrases, "spacy": spacy_phrases}
"""Name -> extractor."""


def find_phrases(text: str, extractor: str | Extractor = "rules") -> list[Span]:
    """Find the phrases of a text that are worth pointing at.

    Of phrases that say the same, determiners aside, or are part of another one's words, the first
    and fullest stays.

    Args:
        text: The text.
        extractor: A name in `EXTRACTORS`, or a function.

    Returns:
        [start, stop) of each, ascending, none over another.

    Raises:
        UnknownNameError: No such extractor.
        InputError: The extractor gave a span outside of the text, an empty one, or two that
            overlap.
    """
    find = (
        lookup(EXTRACTORS, extractor, "phrase extractor")
        if isinstance(extractor, str)
        else extractor
    )
    spans = check_spans(text, sorted(find(text)))
    said = [_meant(text[start:stop]) for start, stop in spans]
    kept = [
        span
        for place, span in enumerate(spans)
        if said[place]
        and not any(
            _inside(said[place], other) and (said[place] != other or at < place)
            for at, other in enumerate(said)
            if at != place
        )
    ]
    return kept


def check_spans(text: str, spans: Sequence[Span]) -> list[Span]:
    """Return spans, which must lie in a text, ascending, and none over another.

    Raises:
        InputError: They do not; the message names the span.
    """
    for start, stop in spans:
        if not 0 <= start < stop <= len(text) or not text[start:stop].strip():
            raise InputError(
                f"a phrase from character {start} to {stop} of a text of {len(text)} characters; "
                "a phrase lies inside, and is not blank"
            )
    for first, second in pairwise(spans):
        if second[0] < first[1]:
            raise InputError(
                f"phrases {text[slice(*first)]!r} and {text[slice(*second)]!r} overlap; give them "
                "in order, none over another"
            )
    return list(spans)


def _begins(word: str, run: Sequence[tuple[str, int, int]]) -> bool:
    """Whether a determiner opens a new phrase: after anything but determiners and "of"."""
    return word in DETERMINERS and run[-1][0] not in DETERMINERS and run[-1][0] != "of"


def _ends(word: str, run: Sequence[tuple[str, int, int]], follows: str) -> bool:
    """Whether a word ends a phrase and belongs to none."""
    opened = bool(run) and run[-1][0] in DETERMINERS | ADJECTIVES
    if word in STOPS and word not in DETERMINERS:
        return True
    if word in PRONOUNS and word not in DETERMINERS:
        return True
    if word in VERBS:
        # After a determiner or an adjective it is a noun ("the place"), or one before a noun.
        return not opened or word in ("is", "are")
    if word.endswith("ing") and word not in ING_NOUNS:
        joins = bool(follows) and follows not in STOPS | DETERMINERS | PRONOUNS | VERBS
        return not (opened and joins)
    return False


def _without_verb(run: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Take off a last word that stands between a noun and a determiner ("the dog greets a cat")."""
    names = [word for word, _, _ in run if word not in _EMPTY]
    return run[:-1] if len(names) > 1 and names[-1].endswith(("s", "ed")) else run


def _close(run: list[tuple[str, int, int]]) -> list[Span]:
    """Return the span of a run that names something, else nothing."""
    while run and run[-1][0] in DETERMINERS | {"of"}:
        run = run[:-1]
    # A single letter is a label or a remnant of mark-up.
    names = [word for word, _, _ in run if word not in _EMPTY and len(word) > 1]
    if not names or names[-1] in PICTURE_WORDS:
        return []
    return [(run[0][1], run[-1][2])]


def _meant(phrase: str) -> tuple[str, ...]:
    """Return the words of a phrase without its leading determiners, lower case."""
    words = [found.group().lower() for found in _WORD.finditer(phrase)]
    while words and words[0] in DETERMINERS:
        words = words[1:]
    return tuple(words)


def _inside(words: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether words stand in a row in others."""
    length = len(words)
    return any(other[at : at + length] == words for at in range(len(other) - length + 1))


def _load_spacy() -> Any:
    try:
        import spacy

        return spacy.load(SPACY_MODEL)
    except (ImportError, OSError) as error:
        raise InputError(
            f"phrases by spaCy need the package 'spacy' and its model {SPACY_MODEL!r}: {error}. "
            f"Install both (pip install spacy; python -m spacy download {SPACY_MODEL}), or use "
            "the extractor 'rules'"
        ) from None
