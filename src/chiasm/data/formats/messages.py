"""Messages in the OpenAI and Qwen form.

    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"},
                                               {"type": "text", "text": "What is this?"}]},
                  {"role": "assistant", "content": "A cup."}]}

Content is a text or a list of parts: `text`; `image` with the image under `image`, `path` or `url`;
`image_url` with `{"url": ...}`. Images may also stand in one field `images` (or `image`) beside the
messages: then `{"type": "image"}` parts and `<image>` markers stand for them in order, and where
there are neither, the images open the first user turn. Network addresses are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.samples import Role
from chiasm.data.conversation import shown
from chiasm.data.formats.reader import MARKER, Format, Parts, RecordReader

ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
INLINE = ("image", "path", "url", "image_url")
"""Keys of an image part that may hold the image itself."""


def claims(fields: Mapping[str, Any]) -> bool:
    """Whether a record has `messages`."""
    return fields.get("messages") is not None


def read(reader: RecordReader) -> None:
    """Read the turns of a record."""
    declared = reader.declared_images()
    for place, message in reader.entries("messages"):
        role = reader.role(message.get("role"), f"{place}.role", ROLES)
        content = message.get("content")
        field = f"{place}.content"
        if isinstance(content, list):
            parts: Parts = []
            for index, part in enumerate(content):
                parts += _part(reader, part, f"{field}[{index}]", declared)
        else:
            text = reader.text(content, field)
            # Without images beside the messages a marker is a placeholder for nothing: a fault.
            parts = reader.marked(text)
        reader.turn(role, parts, place)
    if declared and reader.placeholders == 0:
        reader.put_images_first()


def _part(reader: RecordReader, part: Any, field: str, declared: bool) -> Parts:
    if not isinstance(part, dict):
        reader.fault(field, shown(part), "a part is an object with a type: text, image, image_url")
        return []
    kind = part.get("type")
    if kind == "text":
        text = reader.text(part.get("text"), f"{field}.text")
        return reader.marked(text) if declared and MARKER in text else [text]
    if kind in ("image", "image_url"):
        given = [key for key in INLINE if part.get(key) is not None]
        if len(given) > 1 or (given and declared):
            where = [*given, *(["the record's image field"] if declared else [])]
            reader.fault(field, f"image given in {' and '.join(where)}", "give it in one place")
            if not declared:
                return []
        elif given:
            reader.add_image(part[given[0]], f"{field}.{given[0]}")
        elif not declared:
            reader.fault(
                field,
                f"type {kind!r} without an image",
                "give it under image, path, url or image_url, or in the record's images",
            )
            return []
        return [reader.take_image()]
    reader.fault(
        f"{field}.type",
        "missing" if kind is None else shown(kind),
        "allowed: text, image, image_url",
    )
    return []


MESSAGES = Format(
    claims=claims,
    read=read,
    form='{"messages": [{"role": "user", "content": ...}, ...]}',
    consumes=("messages",),
)
