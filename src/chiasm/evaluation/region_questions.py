"""Questions with the region that answers them: records of the Visual CoT benchmark, and plain ones.

A record of the benchmark (Shao et al. 2024) has `image`, a list whose second item is the path with
"###" and the box [x0, y0, x1, y1] in original pixels, and `conversations`: the question, the box,
another image, the answer. A plain record has `image`, `question`, `answer` and `region`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.core.samples import Sample, Turn
from chiasm.data.conversation import Fault, raise_faults, shown
from chiasm.data.records import Record, read_records

MARK = "###"
REGION = "region"
"""Key of `Sample.truth`: the box that holds what answers the question, XYXY in original pixels."""

_BOX_REQUEST = re.compile(
    r"\s*Please provide the bounding box coordinate of the region.*$", re.DOTALL | re.IGNORECASE
)


class _WrongError(Exception):
    """Field, value, and what was allowed."""


def read_region_questions(path: Path | str, media_root: Path | str | None = None) -> list[Sample]:
    """Read questions with regions.

    Args:
        path: JSON, JSONL or Parquet.
        media_root: Folder that relative media paths start from; by default that of the file.

    Returns:
        One sample a record: its question and answer, `truth["answers"]` and `truth["region"]`, and
        as group the record's `dataset` where it names one.

    Raises:
        DataError: There is no such file, or records are wrong: all faults at once.
    """
    root = Path(path).parent if media_root is None else Path(media_root)
    records, faults = read_records(path)
    samples = []
    for record in records:
        try:
            samples.append(_read(record, root))
        except _WrongError as error:
            faults.append(Fault(record.origin, *error.args))
    raise_faults(str(path), faults)
    return samples


def _read(record: Record, root: Path) -> Sample:
    fields = record.fields
    plain = "question" in fields
    image, question, answer, region = _plain(fields) if plain else _benchmark(fields)
    return Sample(
        identifier=str(fields.get("id", fields.get("question_id", record.origin))),
        turns=(Turn("user", (0, question)), Turn("assistant", (answer,), supervised=True)),
        images=(root / image,),
        group=str(fields.get("dataset", fields.get("group", ""))),
        truth={"answers": [answer], REGION: region},
        origin=record.origin,
    )


def _plain(fields: Mapping[str, Any]) -> tuple[str, str, str, list[float]]:
    return (
        _text(fields.get("image"), "image"),
        _text(fields.get("question"), "question"),
        _text(fields.get("answer"), "answer"),
        _box(fields.get(REGION), REGION),
    )


def _benchmark(fields: Mapping[str, Any]) -> tuple[str, str, str, list[float]]:
    images: Any = fields.get("image")
    said: Any = fields.get("conversations")
    if not _texts(images) or len(images) < 2 or MARK not in images[1]:
        raise _WrongError(
            "image", shown(images), f"a list whose second item is PATH{MARK}[x0, y0, x1, y1]"
        )
    if not isinstance(said, Sequence) or len(said) < 2 or not all(map(_is_turn, said)):
        raise _WrongError(
            "conversations",
            shown(said),
            "turns with `from` and `value`, the question first and the answer last",
        )
    name, _, box = images[1].partition(MARK)
    try:
        numbers = json.loads(box)
    except ValueError:
        numbers = box
    question = _BOX_REQUEST.sub("", said[0]["value"].replace("<image>", "")).strip()
    return (
        _text(name, "image"),
        _text(question, "conversations"),
        _text(said[-1]["value"].strip(), "conversations"),
        _box(numbers, "image"),
    )


def _is_turn(turn: object) -> bool:
    return isinstance(turn, Mapping) and isinstance(turn.get("value"), str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _WrongError(field, shown(value), "a text that is not blank")
    return value


def _box(value: Any, field: str) -> list[float]:
    numbers = isinstance(value, list) and all(
        isinstance(side, int | float) and not isinstance(side, bool) for side in value
    )
    if not numbers or len(value) != 4 or not (value[0] < value[2] and value[1] < value[3]):
        raise _WrongError(
            field,
            shown(value),
            "a box [x0, y0, x1, y1] in original pixels, x0 below x1 and y0 below y1",
        )
    return [float(side) for side in value]
