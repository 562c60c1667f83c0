"""Questions about an image: `image_path`, and `conversations` with role and content.

    {"image_path": "a.png", "conversations": [
        {"role": "user", "content": "What color is the car?"},
        {"role": "assistant", "content": "The car is red."}]}

The image (or list of images) opens the first user turn; a text with `<image>` markers says itself
where the images stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.data.formats.messages import ROLES
from chiasm.data.formats.reader import Format, RecordReader

FORM = '{"image_path": ..., "conversations": [{"role": "user", "content": "..."}, ...]}'


def roles(fields: Mapping[str, Any]) -> list[Any]:
    """Return the roles of a record's `conversations`; empty when it has another form."""
    entries = fields.get("conversations")
    if not isinstance(entries, list):
        return []
    return [entry["role"] for entry in entries if isinstance(entry, dict) and "role" in entry]


def claims(fields: Mapping[str, Any]) -> bool:
    """Whether a record has `conversations` with role and content, and a user turn."""
    found = roles(fields)
    return bool(found) and any(role != "assistant" and role != "system" for role in found)


def read(reader: RecordReader) -> None:
    """Read the turns of a record."""
    read_turns(reader)
    if reader.placeholders == 0:
        reader.put_images_first()


def read_turns(reader: RecordReader) -> None:
    """Read image and turns as they stand."""
    if not reader.declared_images():
        allowed = "an image is needed; conversations in text alone go in the messages form"
        reader.fault("image_path", "missing", allowed)
    for place, entry in reader.entries("conversations"):
        role = reader.role(entry.get("role"), f"{place}.role", ROLES)
        text = reader.text(entry.get("content"), f"{place}.content")
        reader.turn(role, reader.marked(text), place)


VQA = Format(claims=claims, read=read, form=FORM, consumes=("conversations",))
