"""What all formats share: turns and images of one record, with its faults collected."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from chiasm.core.errors import MediaError
from chiasm.core.samples import ImageSource, Pair, Role, Sample, Turn
from chiasm.data.conversation import Fault, content_faults, role_faults, shown
from chiasm.data.formats.extras import label, other_fields, read_truth
from chiasm.data.formats.grounding import GroundingOptions
from chiasm.data.media import local_path
from chiasm.data.records import Record

MARKER = "<image>"
"""Stands in a text for the next image of the record."""

CAPTION_REQUEST = "Describe this image."
"""What a caption without a user turn is taken to answer."""

IMAGE_FIELDS = ("image", "images", "image_path", "image_paths")

Supervise = Literal["all", "last"]
Parts = list[str | int]


@dataclass(frozen=True)
class ReadOptions:
    """How records are read.

    Attributes:
        media_root: Folder that relative media paths start from.
        supervise: Whether training scores all assistant turns, or the last one only.
        caption_request: The user turn written before a caption that has none.
        group: Group of records that name none.
        grounding: How files of phrases and masks are read.
        prediction: The file is to be answered: a record may name media and ask nothing.
    """

    media_root: Path
    supervise: Supervise = "all"
    caption_request: str = CAPTION_REQUEST
    group: str = ""
    grounding: GroundingOptions = field(default_factory=GroundingOptions)
    prediction: bool = False


@dataclass(frozen=True)
class Format:
    """One way to write conversations down.

    Attributes:
        claims: Whether a record has this form; looks at keys only, and never fails.
        read: Reads the turns of a record, reporting faults to the reader.
        form: The form in a line, for messages.
        consumes: Fields it reads, besides the extra and image fields.
    """

    claims: Callable[[Mapping[str, Any]], bool]
    read: Callable[[RecordReader], None]
    form: str
    consumes: tuple[str, ...]


@dataclass(frozen=True)
class Media:
    """An image named by a record: the field it stands in, and the source."""

    field: str
    source: ImageSource


class RecordReader:
    """Reads one record into a sample and collects everything wrong with it.

    Args:
        record: The record.
        options: How records are read.
        consumed: Fields that the format itself reads.
    """

    def __init__(self, record: Record, options: ReadOptions, consumed: Sequence[str]) -> None:
        self.consumed = consumed
        self.record = record
        self.fields = record.fields
        self.options = options
        self.faults: list[Fault] = []
        self.media: list[Media] = []
        self.beside: list[Media] = []
        self.pair: Pair | None = None
        self.truth: dict[str, Any] = {}
        self.placeholders = 0
        self.identifier = ""
        self._turns: list[Turn] = []
        self._places: list[str] = []
        self._roles_known = True

    def fault(self, field: str, value: str, allowed: str) -> None:
        """Report one fault."""
        self.faults.append(Fault(self.record.origin, field, value, allowed))

    def text(self, value: Any, field: str) -> str:
        """Return a text, or report what stands in its place and return an empty one."""
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                self.fault(field, f"half a character at {error.start}", "write whole characters")
                return ""
            return value
        self.fault(field, "missing" if value is None else shown(value), "a text is needed")
        return ""

    def role(self, value: Any, field: str, names: Mapping[str, Role]) -> Role:
        """Return the role that a name stands for, or report it."""
        if isinstance(value, str) and value in names:
            return names[value]
        self._roles_known = False
        self.fault(
            field,
            "missing" if value is None else f"{shown(value)} is not a role",
            f"allowed: {', '.join(names)}",
        )
        return "user"

    def turn(self, role: Role, parts: Sequence[str | int], place: str) -> None:
        """Add a turn; `place` names it in messages."""
        self._turns.append(Turn(role, joined(parts), role == "assistant"))
        self._places.append(place)

    def entries(self, field: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the objects of a list field with their places, reporting what is no object."""
        value = self.fields.get(field)
        if not isinstance(value, list) or not value:
            self.fault(
                field,
                "missing" if value is None else shown(value),
                "a list with at least one message is needed",
            )
            return []
        found: list[tuple[str, Mapping[str, Any]]] = []
        for index, entry in enumerate(value):
            if isinstance(entry, dict):
                found.append((f"{field}[{index}]", entry))
            else:
                self._roles_known = False
                self.fault(f"{field}[{index}]", shown(entry), "a message is an object {...}")
        return found

    def declared_images(self, names: Sequence[str] = IMAGE_FIELDS) -> bool:
        """Take the images of the record's image fields; return whether there is such a field."""
        present = [name for name in names if self.fields.get(name) is not None]
        if len(present) > 1:
            self.fault(" and ".join(present), "both given", "name the images in one field")
        for name in present[:1]:
            value = self.fields[name]
            several = value if isinstance(value, list) else [value]
            for index, source in enumerate(several):
                self.add_image(source, f"{name}[{index}]" if isinstance(value, list) else name)
        return bool(present)

    def add_image(self, value: Any, field: str) -> None:
        """Add an image: a path, a URI, bytes, or an object with `bytes`, `path` or `url`."""
        self.media.append(Media(field, self._source(value, field)))

    def add_beside(self, value: Any, field: str) -> ImageSource:
        """Add an image that the text does not refer to, and return it."""
        self.beside.append(Media(field, self._source(value, field)))
        return self.beside[-1].source

    def _source(self, value: Any, field: str) -> ImageSource:
        """Return the source that a value stands for; empty bytes where it was reported."""
        if isinstance(value, dict):
            value = next(
                (value[key] for key in ("bytes", "path", "url") if value.get(key) is not None), None
            )
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            self.fault(field, shown(value), "an image is a path, a data: URI or bytes")
            return b""
        try:
            inline = value[:5].lower() == "data:"
            return value if inline else self.options.media_root / local_path(value)
        except MediaError as error:
            self.fault(field, str(error).rstrip("."), "allowed: paths and data: URIs")
            return b""

    def take_image(self) -> int:
        """Return the index of the image that the next placeholder stands for."""
        self.placeholders += 1
        return self.placeholders - 1

    def marked(self, text: str) -> Parts:
        """Split a text at its `<image>` markers; one line break beside a marker goes with it.

        The host's chat template writes its own surroundings of an image, so the line break that
        LLaVA files put there is not part of what is said.
        """
        parts: Parts = []
        pieces = re.split(f"{MARKER}\n?|\n{MARKER}", text)
        for index, piece in enumerate(pieces):
            if index:
                parts.append(self.take_image())
            if piece:
                parts.append(piece)
        return parts

    def finish(self) -> Sample | None:
        """Return the sample, or None when anything is wrong with the record."""
        self._supervise()
        if self.placeholders != len(self.media):
            self.fault(
                "images",
                f"{self.placeholders} placeholder(s) for {len(self.media)} image(s)",
                "each image has exactly one placeholder in the text",
            )
        if self._turns and self._roles_known:
            self.faults += role_faults(self._turns, self.record.origin, self._places)
        # What could not be read was reported where it stands; that it left no text is no news.
        told = [fault.field for fault in self.faults]
        self.faults += [
            fault
            for fault in content_faults(self._turns, self.record.origin, self._places)
            if not any(_inside(field, fault.field) for field in told)
        ]
        self.identifier, group = self._identifier(), label(self.fields, "group", self.fault)
        answers = sum(turn.role == "assistant" for turn in self._turns)
        truth = self.truth | read_truth(self.fields, len(self.media), answers, self.fault)
        if rest := other_fields(self.fields, (*self.consumed, *IMAGE_FIELDS)):
            truth["fields"] = rest
        if self.faults:
            return None
        return Sample(
            identifier=self.identifier,
            turns=tuple(self._turns),
            images=tuple(media.source for media in self.media),
            group=group or self.options.group,
            truth=truth,
            origin=self.record.origin,
            pair=self.pair,
        )

    @property
    def has_user(self) -> bool:
        """Whether a user turn was read."""
        return any(turn.role == "user" for turn in self._turns)

    def put_images_first(self) -> None:
        """Put the images that no placeholder stands for at the start of the first user turn."""
        rest = [self.take_image() for _ in range(self.placeholders, len(self.media))]
        for index, turn in enumerate(self._turns):
            if turn.role == "user" and rest:
                self._turns[index] = Turn("user", (*rest, *turn.parts))
                return

    def insert_request(self) -> None:
        """Write the caption request as the first user turn, after a system turn."""
        at = 1 if self._turns and self._turns[0].role == "system" else 0
        self._turns.insert(at, Turn("user", (self.options.caption_request,)))
        self._places.insert(at, "(caption request)")

    def _supervise(self) -> None:
        if self.options.supervise == "last":
            places = [i for i, turn in enumerate(self._turns) if turn.role == "assistant"]
            for index in places[:-1]:
                self._turns[index] = Turn("assistant", self._turns[index].parts)

    def _identifier(self) -> str:
        value = self.fields.get("id")
        if value is None:
            return f"{self.record.file.name}:{self.record.place}"
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            self.fault("id", shown(value), "a text or a whole number is needed")
            return ""
        return str(value)


def _inside(field: str, place: str) -> bool:
    return field.startswith(place) and field[len(place) : len(place) + 1] in ("", ".", "[")


def joined(parts: Sequence[str | int]) -> tuple[str | int, ...]:
    """Return the parts of a turn with neighbouring texts joined and empty ones left out."""
    joined: Parts = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(last := joined[-1], str):
            joined[-1] = last + part
        elif part != "":
            joined.append(part)
    return tuple(joined)
