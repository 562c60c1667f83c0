"""A file of records to samples: which format it has, and everything that is wrong with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from chiasm.core.config import lookup
from chiasm.core.errors import DataError
from chiasm.core.samples import Sample
from chiasm.data.conversation import Fault, shown
from chiasm.data.formats import AUTO, FORMATS, WHOLE_FILES
from chiasm.data.formats.reader import Media, ReadOptions, RecordReader
from chiasm.data.records import Record, read_records

Convert = Callable[[Any, "Path | str | None"], Sequence[Mapping[str, Any]]]
"""`format_conversations(conversations, image_path)` -> messages in the OpenAI and Qwen form."""


class Identified(Protocol):
    """Something that was read from a place and has a name."""

    @property
    def origin(self) -> str:
        """File and line."""
        ...

    @property
    def identifier(self) -> str:
        """What names it; empty where nothing does."""
        ...


@dataclass(frozen=True)
class Entry:
    """One record as it was read.

    Attributes:
        origin: File and line.
        identifier: Its own identifier, else file name and line; empty when it is malformed.
        sample: The sample, or None when something is wrong with the record.
        media: The images the record names, also when something else is wrong with it; first those
            the text refers to, in order.
    """

    origin: str
    identifier: str
    sample: Sample | None
    media: tuple[Media, ...]


@dataclass(frozen=True)
class Reading:
    """A file as it was read.

    Attributes:
        format: The format it was read as; empty when none fits.
        records: How many records the file holds.
        entries: Those that are of the format, in order.
        faults: Everything wrong, in the order of the file.
        dropped: What the format leaves out on purpose, and how often, by reason.
    """

    format: str
    records: int
    entries: tuple[Entry, ...]
    faults: tuple[Fault, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples without fault."""
        return tuple(entry.sample for entry in self.entries if entry.sample is not None)


def read_file(
    path: Path | str,
    format: str,
    options: ReadOptions,
    convert: Convert | None = None,
) -> Reading:
    """Read a file of records.

    Args:
        path: JSON, JSONL or Parquet; for some of `WHOLE_FILES` a folder or a pickle.
        format: A name in `FORMATS` or `WHOLE_FILES`, or `auto`.
        options: How records are read.
        convert: Turns `conversations` and the image's path into messages; the records are then
            read as messages.

    Returns:
        Samples and faults; nothing is raised for a fault of a record.

    Raises:
        DataError: There is no such file, or its suffix is not known.
        UnknownNameError: No such format.
    """
    if format != AUTO:
        lookup({**FORMATS, **WHOLE_FILES}, format, "data format")
    if format == AUTO and convert is None:
        format = _found_whole(Path(path)) or AUTO
    if format in WHOLE_FILES:
        return _read_whole(Path(path), format, options)
    records, faults = read_records(path)
    if format == AUTO and convert is None and records:
        claimed = [key for key, form in WHOLE_FILES.items() if form.claims(records[0].fields)]
        if claimed:
            return _read_whole(Path(path), claimed[0], options)
    if convert is not None:
        records = [_converted(record, convert, options) for record in records]
        format = "messages"
    fitting = records
    if format == AUTO:
        format, fitting = _detect(records, faults)
    entries = [_read(record, format, options, faults) for record in fitting]
    add_repeated(entries, faults)
    in_order = sorted(faults, key=lambda fault: fault.line)
    return Reading(format, len(records), tuple(entries), tuple(in_order))


def _found_whole(path: Path) -> str:
    """Return the form that a folder or a file without records has; empty for other files.

    The most general form is asked last: a folder of no other form is one of it.
    """
    found = [key for key, form in WHOLE_FILES.items() if form.finds(path)]
    return min(found, key=lambda key: key == "nlvr", default="")


def _read_whole(path: Path, format: str, options: ReadOptions) -> Reading:
    if path.is_dir() and options.media_root == path.parent:
        # By default media lie beside the file, and the file of a folder lies in it.
        options = replace(options, media_root=path)
    try:
        whole = WHOLE_FILES[format].read(path, options)
    except DataError as error:
        faults = tuple(_whole_fault(path, words) for words in error.faults or (str(error),))
        return Reading(format, 0, (), faults)
    entries = tuple(
        Entry(
            sample.origin,
            sample.identifier,
            sample,
            tuple(Media(f"images[{index}]", image) for index, image in enumerate(sample.images)),
        )
        for sample in whole.samples
    )
    found = list(whole.faults)
    add_repeated(entries, found)
    dropped = {reason: count for reason, count in whole.dropped.items() if count}
    return Reading(format, whole.records, entries, tuple(found), dropped)


def _whole_fault(path: Path, words: str) -> Fault:
    found = re.match(r"line (\d+): ", words)
    origin = f"{path}:{found.group(1)}" if found else str(path)
    rest = words[found.end() :] if found else words.removeprefix(f"{path}: ")
    return Fault(origin, "record", rest, "see the format's documentation")


def read_record(
    record: Record, format: str, options: ReadOptions, convert: Convert | None = None
) -> tuple[Entry, list[Fault]]:
    """Read one record in a named format, converted first when a function is given."""
    faults: list[Fault] = []
    if convert is not None:
        record = _converted(record, convert, options)
    return _read(record, format, options, faults), faults


def _read(record: Record, format: str, options: ReadOptions, faults: list[Fault]) -> Entry:
    form = FORMATS[format]
    reader = RecordReader(record, options, form.consumes)
    form.read(reader)
    sample = reader.finish()
    faults += reader.faults
    return Entry(record.origin, reader.identifier, sample, (*reader.media, *reader.beside))


def _detect(records: list[Record], faults: list[Fault]) -> tuple[str, list[Record]]:
    """Return the format of a file and the records to read in it; other forms become faults."""
    claims = [[key for key, form in FORMATS.items() if form.claims(r.fields)] for r in records]
    if ["captioning"] in claims:
        # Some captions of a file may have their own request; the caption format reads both.
        claims = [["captioning"] if found == ["vqa"] else found for found in claims]
    votes = Counter(key for found in claims for key in found)
    if not votes:
        faults += [_unknown(records[0], len(records))] if records else []
        return "", []
    format = votes.most_common(1)[0][0]
    fitting = []
    for record, found in zip(records, claims, strict=True):
        if len(found) > 1:
            allowed = "keep the fields of one form, or name the format"
            faults.append(
                Fault(record.origin, "record", f"has the forms {' and '.join(found)}", allowed)
            )
        elif found and found != [format]:
            value = f"has the form {found[0]!r}, most of the file has {format!r}"
            faults.append(Fault(record.origin, "record", value, "split the file by form"))
        else:
            fitting.append(record)
    return format, fitting


def _unknown(record: Record, count: int) -> Fault:
    forms = "; ".join(
        [
            *(f"{key}: {form.form}" for key, form in FORMATS.items() if key != "medical"),
            *(f"{key}: {form.form}" for key, form in WHOLE_FILES.items()),
        ]
    )
    return Fault(
        record.origin,
        "record",
        f"has the fields {shown(list(record.fields))}, which no format has ({count} record(s))",
        f"known formats: {forms}",
    )


def _converted(record: Record, convert: Convert, options: ReadOptions) -> Record:
    fields = dict(record.fields)
    conversations = fields.pop("conversations", None)
    image = next((fields.pop(key) for key in ("image_path", "image") if key in fields), None)
    if isinstance(image, str) and image and "://" not in image and image[:5].lower() != "data:":
        image = (options.media_root / image).absolute()
    try:
        messages = convert(conversations, image)
    except Exception as error:
        raise DataError(
            f"{record.origin}: format_conversations failed with {type(error).__name__}: {error}; "
            "it receives the record's conversations and the path of its image"
        ) from error
    plain = [_plain(message) for message in messages]
    return replace(record, fields={**fields, "messages": plain})


def _plain(value: Any) -> Any:
    """Return messages with paths as text, as they would stand in a file."""
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def add_repeated(entries: Sequence[Identified], faults: list[Fault]) -> None:
    """Add a fault for every identifier that stands twice."""
    seen: dict[str, str] = {}
    for entry in entries:
        first = seen.setdefault(entry.identifier, entry.origin)
        if entry.identifier and first != entry.origin:
            value = f"{shown(entry.identifier)} stands already at {first}"
            faults.append(Fault(entry.origin, "id", value, "an id stands once in a file"))
