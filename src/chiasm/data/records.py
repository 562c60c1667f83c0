"""Records from JSON, JSONL and Parquet files, with the line each one stands on.

Reading never stops at the first fault of a JSONL file: a line that cannot be read is a fault, and
the next line is read. In a JSON file nothing after a syntax error can be told apart, so the fault
says that what follows was not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasm.core.config import lookup
from chiasm.core.errors import DataError
from chiasm.data.conversation import Fault, shown

SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""File suffix to container."""


@dataclass(frozen=True)
class Record:
    """One record of a file.

    Attributes:
        fields: The record as it stands in the file.
        file: The file.
        line: The line it begins on, from 1; in Parquet the row, from 1.
        nth: Which of the records that begin on this line, from 1; a JSON file without line breaks
            holds all of them on one.
    """

    fields: Mapping[str, Any]
    file: Path
    line: int
    nth: int = 1

    @property
    def place(self) -> str:
        """The line, and which record on it if it is not the first: `7`, or `1#3`."""
        return f"{self.line}" if self.nth == 1 else f"{self.line}#{self.nth}"

    @property
    def origin(self) -> str:
        """File and place, for messages."""
        return f"{self.file}:{self.place}"


def read_records(path: Path | str) -> tuple[list[Record], list[Fault]]:
    """Read all records of a file.

    Args:
        path: A JSON file (a list of objects, or one object), a JSONL file (one object a line,
            blank lines allowed; also with the suffix .json), or a Parquet file. Text is UTF-8,
            with or without a byte order mark.

    Returns:
        The records in order, and what could not be read.

    Raises:
        DataError: There is no such file, or its suffix is not known.
    """
    file = Path(path)
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "does not exist"
        raise DataError(
            f"{file}: {kind}; give a file of records with one of the suffixes "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    container = lookup(SUFFIXES, file.suffix.lower(), f"file suffix of {file}:")
    readers = {"json": _read_json, "jsonl": _read_lines, "parquet": _read_parquet}
    records: list[Record] = []
    faults: list[Fault] = []
    for line, found in readers[container](file):
        if isinstance(found, Fault):
            faults.append(found)
        elif not isinstance(found, dict):
            faults.append(
                Fault(f"{file}:{line}", "record", shown(found), "a record is an object {...}")
            )
        else:
            before = records[-1] if records else None
            nth = before.nth + 1 if before is not None and before.line == line else 1
            records.append(Record(found, file, line, nth))
    if not records and not faults:
        faults.append(Fault(str(file), "file", "no records", "it needs at least one record"))
    return records, faults


def _read_lines(file: Path) -> Iterator[tuple[int, Any]]:
    content = file.read_bytes()
    # Split at newlines only: str.splitlines would also split at U+2028 inside a text.
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if text:
                yield number, _decoder().decode(text)
        except UnicodeDecodeError as error:
            yield number, _not_utf8(file, number, error)
        except (ValueError, RecursionError) as error:
            place = f"column {error.colno}: " if isinstance(error, json.JSONDecodeError) else ""
            yield (
                number,
                Fault(
                    f"{file}:{number}",
                    "record",
                    f"cannot be read: {place}{_words(error)}",
                    "in JSONL each line is one JSON object",
                ),
            )


def _read_json(file: Path) -> Iterator[tuple[int, Any]]:
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield 1, _not_utf8(file, content.count(b"\n", 0, error.start) + 1, error)
        return
    if _holds_lines(text):
        yield from _read_lines(file)
        return
    line, seen = 1, 0
    try:
        for place, value in _values(text):
            line += text.count("\n", seen, place)
            seen = place
            yield line, value
    except RecursionError as error:
        yield line, _syntax_fault(file, f"{line}", _words(error))
    except json.JSONDecodeError as error:
        yield error.lineno, _syntax_fault(file, f"{error.lineno}", f"column {error.colno}: {error}")
    except ValueError as error:
        yield line, _syntax_fault(file, f"{line}", _words(error))


def _holds_lines(text: str) -> bool:
    """Whether one object a line stands in a file with the suffix .json, as some data sets have."""
    first, _, rest = text.strip().partition("\n")
    if not first.lstrip().startswith("{") or not rest.strip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """Yield (place, value) for each element of the list that a text holds, or for its one value."""
    decoder = _decoder()
    place = _skip(text, 0)
    if place == len(text):
        return
    several = text[place] == "["
    place = _skip(text, place + 1) if several else place
    while not (several and text[place : place + 1] == "]"):
        value, end = decoder.raw_decode(text, place)
        yield place, value
        place = _skip(text, end)
        if not several:
            break
        if text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif text[place : place + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
    rest = _skip(text, place + 1 if several else place)
    if rest < len(text):
        raise json.JSONDecodeError(
            "something follows the end; a file with one object a line has the suffix .jsonl",
            text,
            rest,
        )


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _read_parquet(file: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=256):
                for fields in batch.to_pylist():
                    row += 1
                    yield row, fields
    except (pyarrow.ArrowException, OSError) as error:
        yield (
            row + 1,
            Fault(
                f"{file}:{row + 1}",
                "file",
                f"cannot be read as Parquet: {_words(error)}",
                "write or download it again; what follows was not read",
            ),
        )


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; Python would silently keep the last of two equal keys."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return fields


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _not_utf8(file: Path, line: int, error: UnicodeDecodeError) -> Fault:
    return Fault(
        f"{file}:{line}",
        "record",
        f"byte 0x{error.object[error.start]:02x} at byte {error.start + 1} is not UTF-8",
        "save the file as UTF-8",
    )


def _syntax_fault(file: Path, line: str, words: str) -> Fault:
    return Fault(
        f"{file}:{line}",
        "file",
        f"cannot be read: {words}",
        "allowed: a JSON list of objects, or one object; what follows this place was not read",
    )


def _words(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error).split("\n")[0] or type(error).__name__
