r"""LLaVA conversations.

    {"id": "1", "image": "a.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A cup."}]}

`image` is a path or a list of paths; each has one `<image>` marker in the text, in order. A record
without `image` is a conversation in text alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.samples import Role
from chiasm.data.formats.reader import Format, RecordReader

ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


def claims(fields: Mapping[str, Any]) -> bool:
    """Whether a record has `conversations` with `from` and `value`, and is no pair."""
    return holds_turns(fields) and not {"image_orig", "image_recon"} & set(fields)


def holds_turns(fields: Mapping[str, Any]) -> bool:
    """Whether a record has `conversations` with `from` and `value`."""
    entries = fields.get("conversations")
    return isinstance(entries, list) and any(
        isinstance(entry, dict) and ("from" in entry or "value" in entry) for entry in entries
    )


def read(reader: RecordReader) -> None:
    """Read the images and turns of a record."""
    reader.declared_images()
    read_turns(reader)


def read_turns(reader: RecordReader) -> None:
    """Read the turns of a record."""
    for place, entry in reader.entries("conversations"):
        role = reader.role(entry.get("from"), f"{place}.from", ROLES)
        text = reader.text(entry.get("value"), f"{place}.value")
        reader.turn(role, reader.marked(text), place)


LLAVA = Format(
    claims=claims,
    read=read,
    form='{"image": ..., "conversations": [{"from": "human", "value": "<image>\\n..."}, ...]}',
    consumes=("conversations",),
)
