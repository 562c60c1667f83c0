"""Fields beside the conversation, the same in every format.

- `id`: text or whole number, unique in the file; by default FILE:LINE.
- `group`: a label for grouped reports.
- `answers`: accepted answers: a text, a list of texts, or one list of texts an assistant turn.
- `kind`: the question kind, or `kinds`: one for each assistant turn.
- `split`: the split the record belongs to.
- `boxes`: XYXY in original pixels: a list of boxes, or one such list an image.
- `cells`: by name, labels (rows x columns of whole numbers), or one such table an image.

All but `id` and `group` go to `Sample.truth` under their name. Any other field is kept as it is in
`Sample.truth["fields"]`, and `chiasm data check` names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from chiasm.data.conversation import shown

EXTRAS = ("id", "group", "answers", "kind", "kinds", "split", "boxes", "cells")

Report = Callable[[str, str, str], None]
"""Called with field, value and what is allowed."""


def read_truth(
    fields: Mapping[str, Any], images: int, answer_turns: int, fault: Report
) -> dict[str, Any]:
    """Return the extra fields that go to `Sample.truth`.

    Args:
        fields: The record.
        images: How many images it names.
        answer_turns: How many assistant turns it has.
        fault: Receives what is wrong.
    """
    truth: dict[str, Any] = {
        field: label(fields, field, fault)
        for field in ("kind", "split")
        if fields.get(field) is not None
    }
    if fields.get("answers") is not None:
        truth["answers"] = _answers(fields["answers"], answer_turns, fault)
    if fields.get("kinds") is not None:
        truth["kinds"] = _kinds(fields["kinds"], answer_turns, fault)
    if fields.get("boxes") is not None:
        truth["boxes"] = _boxes(fields["boxes"], images, fault)
    if fields.get("cells") is not None:
        truth["cells"] = _cells(fields["cells"], images, fault)
    return truth


def label(fields: Mapping[str, Any], field: str, fault: Report) -> str:
    """Return a field that holds a text or a whole number; empty when it is not there."""
    value = fields.get(field)
    if value is None:
        return ""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    fault(field, shown(value), "a text is needed")
    return ""


def other_fields(fields: Mapping[str, Any], consumed: Sequence[str]) -> dict[str, Any]:
    """Return the fields that nothing reads."""
    known = {*consumed, *EXTRAS}
    return {name: value for name, value in fields.items() if name not in known}


def _answers(value: Any, turns: int, fault: Report) -> Any:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(answer, str) for answer in value):
            return value
        if all(
            isinstance(turn, list) and turn and all(isinstance(answer, str) for answer in turn)
            for turn in value
        ):
            if turns and turns != len(value):
                words = f"{len(value)} lists for {turns} assistant turns"
                fault("answers", words, "give one list an assistant turn")
            return value
    fault("answers", shown(value), "allowed: a text, texts, or a list of texts a turn")
    return []


def _kinds(value: Any, turns: int, fault: Report) -> list[str]:
    if isinstance(value, list) and value and all(isinstance(kind, str) for kind in value):
        if turns and turns != len(value):
            fault("kinds", f"{len(value)} kinds for {turns} assistant turns", "give one a turn")
        return value
    fault("kinds", shown(value), "a list of texts, one an assistant turn")
    return []


def _boxes(value: Any, images: int, fault: Report) -> list[Any]:
    several = images != 1
    if not isinstance(value, list) or (several and len(value) != images):
        fault("boxes", shown(value), f"a list for each of {images} image(s)")
        return []
    for image, boxes in enumerate(value if several else [value]):
        for index, box in enumerate(boxes if isinstance(boxes, list) else [boxes]):
            if not is_box(box):
                place = f"boxes[{image}][{index}]" if several else f"boxes[{index}]"
                allowed = "a box is [left, top, right, bottom] in pixels, with left < right"
                fault(place, shown(box), f"{allowed} and top < bottom")
    return value


def is_box(box: Any) -> bool:
    """Whether a value is [left, top, right, bottom] with left < right and top < bottom."""
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(side, int | float) and not isinstance(side, bool) for side in box)
        and all(abs(side) < math.inf for side in box)
        and box[0] < box[2]
        and box[1] < box[3]
    )


def _cells(value: Any, images: int, fault: Report) -> dict[str, Any]:
    if not isinstance(value, dict):
        fault("cells", shown(value), "labels by name: {name: [[...], ...]}")
        return {}
    return {
        name: [_table(table, f"cells.{name}[{i}]", fault) for i, table in enumerate(tables)]
        if images > 1 and isinstance(tables, list)
        else _table(tables, f"cells.{name}", fault)
        for name, tables in value.items()
    }


def _table(value: Any, field: str, fault: Report) -> Any:
    if value is None:
        return None
    try:
        table = np.asarray(value)
    except ValueError:
        table = np.zeros(0)
    if table.ndim != 2 or table.dtype.kind not in "iu":
        fault(field, shown(value), "rows x columns of whole numbers are needed")
    return table
