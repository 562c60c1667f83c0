"""Which tokens of a rendered conversation say a phrase.

Where a template puts a text is not guessed by searching for it: a word may stand several times, and
be a word of the template too. The conversation is rendered a second time with a private character
at every border of a phrase; where these stand, is the border. Taking them out must give the first
text again, so a template that rewrites what it is given is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from chiasm.core.errors import DataError
from chiasm.core.samples import Phrase, Sample, Turn
from chiasm.data.conversation import Fault, name_of, shown

Span = tuple[int, int]

_PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
"""Unicode's private use areas: no template gives them a meaning, and none is white space."""


def phrase_text(turns: Sequence[Turn], phrase: Phrase) -> str:
    """Return the words of a phrase; its borders must lie in its turn."""
    return turns[phrase.turn].text[phrase.start : phrase.stop]


def phrase_name(sample: Sample, index: int) -> str:
    """Return how messages name a phrase: its sample, its identifier, its words where they stand."""
    phrase = sample.phrases[index]
    named = phrase.identifier or str(index)
    words = (
        f" {shown(phrase_text(sample.turns, phrase))}"
        if 0 <= phrase.turn < len(sample.turns)
        else ""
    )
    return f"{name_of(sample)}: phrase {named}{words}"


def phrase_faults(sample: Sample) -> list[Fault]:
    """Return everything wrong with the places of a sample's phrases; no mask is read."""
    faults: list[Fault] = []
    seen: dict[str, int] = {}
    for index, phrase in enumerate(sample.phrases):

        def fault(value: str, allowed: str, place: str = f"phrases[{index}]") -> None:
            faults.append(Fault(name_of(sample), place, value, allowed))

        if phrase.identifier and seen.setdefault(phrase.identifier, index) != index:
            first = f"phrases[{seen[phrase.identifier]}]"
            fault(f"identifier {shown(phrase.identifier)} is that of {first}", "names are unique")
        if not 0 <= phrase.image < len(sample.images):
            fault(f"means image {phrase.image}", f"the sample has {len(sample.images)} image(s)")
        if not 0 <= phrase.turn < len(sample.turns):
            fault(f"stands in turn {phrase.turn}", f"the sample has {len(sample.turns)} turn(s)")
            continue
        text = sample.turns[phrase.turn].text
        if not 0 <= phrase.start <= phrase.stop <= len(text):
            value = f"characters {phrase.start} to {phrase.stop}"
            fault(value, f"turn {phrase.turn} has the characters 0 to {len(text)}")
        elif not text[phrase.start : phrase.stop].strip():
            value = f"characters {phrase.start} to {phrase.stop} of turn {phrase.turn} are blank"
            fault(value, "a phrase holds at least one word; leave it out, or correct its place")
    return faults


def phrase_tokens(
    sample: Sample,
    turns: Sequence[Turn],
    text: str,
    spans: Sequence[Span],
    words: Sequence[bool],
    render: Callable[[Sequence[Turn]], str],
) -> dict[int, tuple[int, ...]]:
    """Find the tokens that say each phrase.

    A token belongs to a phrase when it covers any character of it: one that straddles the border,
    as byte-level tokens with a leading blank do, belongs to it, and may belong to two phrases.

    Args:
        sample: The sample, without `phrase_faults`.
        turns: Those of its turns that were rendered, from the first on.
        text: What they were rendered to; its end may have been cut off.
        spans: For each token [start, stop) in `text`; empty for one that the text does not hold.
        words: For each token whether it is of the text, and no placeholder of an image.
        render: Renders turns to text.

    Returns:
        For each phrase of a rendered turn, by its index in `sample.phrases`, the positions of its
        tokens, ascending.

    Raises:
        DataError: A phrase has no token, or the template does not write its text as it is given.
    """
    edges = np.array(spans, np.int64).reshape(-1, 2)
    real = np.array(words, bool) & (edges[:, 1] > edges[:, 0])
    found: dict[int, tuple[int, ...]] = {}
    for index, places in locate(sample, turns, text, render).items():
        said = np.zeros(len(edges), bool)
        for start, stop in places:
            said |= (edges[:, 0] < stop) & (edges[:, 1] > start)
        found[index] = tuple((said & real).nonzero()[0].tolist())
        if not found[index]:
            raise DataError(
                f"{phrase_name(sample, index)} has no token in the rendered text, so nothing "
                "attends for it; leave the phrase out, or use a tokenizer that knows its characters"
            )
    return found


def locate(
    sample: Sample, turns: Sequence[Turn], text: str, render: Callable[[Sequence[Turn]], str]
) -> dict[int, list[Span]]:
    """Find the characters of each phrase in a rendered text.

    Args:
        sample: The sample, without `phrase_faults`.
        turns: Those of its turns that were rendered, from the first on.
        text: What they were rendered to; its end may have been cut off.
        render: Renders turns to text.

    Returns:
        For each phrase of a rendered turn, by its index in `sample.phrases`, its places
        [start, stop) in `text` without white space at its ends: one place for each text piece of
        the turn that it touches, since an image may stand in the middle of it.

    Raises:
        DataError: The template does not write the text of a phrase as it is given.
    """
    pieces = {
        index: list(_pieces(turns[phrase.turn], phrase))
        for index, phrase in enumerate(sample.phrases)
        if phrase.turn < len(turns)
    }
    borders = [
        (sample.phrases[index].turn, part, place)
        for index, found in pieces.items()
        for part, *places in found
        for place in places
    ]
    marks = _marks("".join(turn.text for turn in turns) + text, len(borders))
    marked = render(_with_marks(turns, borders, marks))
    known = set(marks)
    plain = "".join(character for character in marked if character not in known)
    places: dict[str, int] = {}
    written = 0
    for character in marked:
        if character in known:
            places[character] = written
        else:
            written += 1
    if len(places) < len(marks) or not plain.startswith(text) or len(marked) - written > len(marks):
        raise DataError(
            f"{name_of(sample)}: the host's chat template rewrites the text in which phrases "
            f"stand ({shown(text)} against {shown(plain)}), so their tokens cannot be told; use a "
            "template that writes each text as it is"
        )
    found_at = iter([places[mark] for mark in marks])
    return {
        index: [(next(found_at), next(found_at)) for _ in found] for index, found in pieces.items()
    }


def _pieces(turn: Turn, phrase: Phrase) -> Iterator[tuple[int, int, int]]:
    """Yield (part, start, stop) for each text part a phrase has words in, blanks at ends left out.

    A template may trim the text it is given, and a mark beside a blank would keep it from that.
    """
    first = 0
    for part, said in enumerate(turn.parts):
        if not isinstance(said, str):
            continue
        start, stop = max(phrase.start - first, 0), min(phrase.stop - first, len(said))
        first += len(said)
        words = said[start:stop] if start < stop else ""
        if words.strip():
            start += len(words) - len(words.lstrip())
            yield part, start, start + len(words.strip())


def _marks(text: str, count: int) -> list[str]:
    used = set(text)
    free = (chr(code) for area in _PRIVATE for code in area if chr(code) not in used)
    return [mark for mark, _ in zip(free, range(count), strict=False)]


def _with_marks(
    turns: Sequence[Turn], borders: Sequence[tuple[int, int, int]], marks: Sequence[str]
) -> list[Turn]:
    """Return turns with each mark at its border (turn, part, character)."""
    parts = [list(turn.parts) for turn in turns]
    ordered = sorted(zip(borders, marks, strict=True), key=lambda pair: pair[0], reverse=True)
    for (turn, part, place), mark in ordered:
        said = parts[turn][part]
        assert isinstance(said, str)
        parts[turn][part] = said[:place] + mark + said[place:]
    return [replace(turn, parts=tuple(kept)) for turn, kept in zip(turns, parts, strict=True)]
