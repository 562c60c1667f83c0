"""What forms share in which a record alone is no sample: many records make the phrases of an image.

Images are looked for in `media_root` (by default the folder of the file) under the name the file
gives, and in its folders `IMAGE_FOLDERS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.core.samples import ImageSource, Phrase, Sample, Turn
from chiasm.data.conversation import Fault, shown
from chiasm.data.formats.reader import ReadOptions
from chiasm.data.phrases import Said, naming_turns
from chiasm.data.records import read_records

IMAGE_FOLDERS = ("images", "train2014", "val2014", "train2017", "val2017")
"""Folders in which the images of a known set lie."""

GROUP = "phrases"
"""The group of samples that point."""

Box = tuple[float, float, float, float]
"""XYXY in original pixels."""


@dataclass(frozen=True)
class Whole:
    """A file or folder as it was read.

    Attributes:
        samples: The samples without fault, in order.
        faults: Everything wrong.
        dropped: What was left out and how often, by reason.
        records: How many records there were.
    """

    samples: tuple[Sample, ...]
    faults: tuple[Fault, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    records: int = 0


@dataclass(frozen=True)
class WholeFormat:
    """A form that is read whole.

    Attributes:
        claims: Whether the first record of a file has this form; looks at keys only.
        finds: Whether a folder, or a file that is none of records, has this form.
        read: Reads it. Raises DataError where there is nothing to read.
        form: The form in a line, for messages.
        consumes: As for `Format`; empty where a record keeps no other fields.
    """

    claims: Callable[[Mapping[str, Any]], bool]
    finds: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], Whole]
    form: str
    consumes: tuple[str, ...] = ()


@dataclass
class Gathering:
    """Collects the samples, faults and omissions of one file.

    Attributes:
        file: The file, for messages.
        options: How it is read.
    """

    file: Path
    options: ReadOptions
    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def fault(self, origin: str, place: str, value: str, allowed: str) -> None:
        """Report one fault."""
        self.faults.append(Fault(origin, place, value, allowed))

    def drop(self, reason: str) -> None:
        """Count one thing that is left out on purpose."""
        self.dropped[reason] += 1

    def add(
        self,
        identifier: str,
        image: ImageSource,
        said: Sequence[Said],
        origin: str,
        *,
        boxes: Mapping[str, Box] | None = None,
        **truth: Any,
    ) -> None:
        """Add an image whose phrases are named one after the other.

        Args:
            identifier: Of the image.
            image: Where it lies.
            said: Its phrases, with identifiers that stand once.
            origin: File and record, for messages.
            boxes: Of phrases, by their identifier.
            truth: What else is known.
        """
        most = self.options.grounding.phrases_per_sample or max(1, len(said))
        parts = [said[first : first + most] for first in range(0, len(said), most)]
        for number, part in enumerate(parts):
            turns, phrases = naming_turns(
                part, self.options.caption_request, self.options.grounding.supervise
            )
            name = identifier if len(parts) == 1 else f"{identifier}-{number}"
            found = [(boxes or {}).get(piece.identifier) for piece in part]
            known = {} if None in found else {"boxes": [list(box) for box in found if box]}
            self._append(name, turns, phrases, image, origin, {**truth, **known})

    def add_text(
        self, identifier: str, image: ImageSource, said: Sequence[Said | str], origin: str
    ) -> None:
        """Add an image with a running text, of which some pieces are phrases.

        With fewer phrases a sample than the text has, it is told again for each part of them.
        """
        options = self.options
        turns, phrases = naming_turns(
            said, options.caption_request, options.grounding.supervise, " "
        )
        most = options.grounding.phrases_per_sample or max(1, len(phrases))
        parts = [phrases[first : first + most] for first in range(0, len(phrases), most)]
        for number, part in enumerate(parts):
            name = identifier if len(parts) == 1 else f"{identifier}-{number}"
            self._append(name, turns, part, image, origin, {})

    def _append(
        self,
        name: str,
        turns: tuple[Turn, ...],
        phrases: Sequence[Phrase],
        image: ImageSource,
        origin: str,
        truth: Mapping[str, Any],
    ) -> None:
        self.samples.append(
            Sample(
                identifier=name,
                turns=turns,
                images=(image,),
                group=self.options.group or GROUP,
                truth=dict(truth),
                origin=origin,
                phrases=tuple(phrases),
            )
        )

    def find_image(self, name: str) -> Path:
        """Return where an image lies; the first place looked at where it lies nowhere."""
        root = self.options.media_root
        places = [root / name, *(root / folder / name for folder in IMAGE_FOLDERS)]
        return next((place for place in places if place.is_file()), places[0])

    def whole(self, records: int) -> Whole:
        """Return what was gathered."""
        return Whole(tuple(self.samples), tuple(self.faults), dict(self.dropped), records)


def read_table(file: Path, keys: Sequence[str]) -> tuple[Mapping[str, Any], list[Fault]]:
    """Read a JSON file that holds one object with lists of objects.

    Args:
        file: The file.
        keys: The lists it must have.

    Returns:
        The lists by key, empty ones where something is wrong; and what is.

    Raises:
        DataError: There is no such file.
    """
    records, faults = read_records(file)
    fields: dict[str, Any] = dict(records[0].fields) if records else {}
    for key in keys:
        value = fields.get(key)
        if faults:
            fields[key] = []
        elif not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            found = "missing" if value is None else shown(value)
            faults.append(Fault(str(file), key, found, "a list of objects is needed"))
            fields[key] = []
    return fields, faults


def entry_of(table: Mapping[Any, Any], key: Any) -> Any:
    """Return what a table holds under a key from a file; None where the key can be none."""
    return table.get(key) if isinstance(key, int | str) else None


def box_of(value: Any) -> Box | None:
    """Return XYXY of a COCO box [left, top, width, height]; None when it is none."""
    numbers = _four(value)
    if numbers is None:
        return None
    left, top, width, height = numbers
    return left, top, round(left + width, 2), round(top + height, 2)


def corners_of(value: Any) -> Box | None:
    """Return XYXY of a box [left, top, right, bottom]; None when it is none."""
    numbers = _four(value)
    if numbers is None or numbers[0] > numbers[2] or numbers[1] > numbers[3]:
        return None
    left, top, right, bottom = (round(number, 2) for number in numbers)
    return left, top, right, bottom


def _four(value: Any) -> list[float] | None:
    sound = isinstance(value, list | tuple) and len(value) == 4
    if not sound or not all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in value
    ):
        return None
    return list(value)


def around(boxes: Sequence[Box | None]) -> Box | None:
    """Return the box around boxes; None when one is not known."""
    known = [box for box in boxes if box is not None]
    if len(known) < len(boxes) or not known:
        return None
    lefts, tops, rights, bottoms = zip(*known, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
