"""Captions, with or without a request.

    {"image_path": "a.png", "conversations": [
        {"role": "assistant", "content": "A sunset over the mountains."}]}
    {"image": "a.png", "caption": "A sunset over the mountains."}

Where no user turn stands, one is written: the image, and the caption request ("Describe this
image." unless another is given). `caption` may be a list of captions of the same image: the first
is learnt, and all become accepted `answers` where the record names none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.data.conversation import shown
from chiasm.data.formats.reader import Format, RecordReader
from chiasm.data.formats.vqa import read_turns, roles


def claims(fields: Mapping[str, Any]) -> bool:
    """Whether a record has a `caption`, or `conversations` of the assistant alone."""
    if fields.get("caption") is not None:
        return True
    found = roles(fields)
    return bool(found) and all(role in ("assistant", "system") for role in found)


def read(reader: RecordReader) -> None:
    """Read the turns of a record, writing the request where there is none."""
    if reader.fields.get("caption") is not None:
        _read_caption(reader)
    else:
        read_turns(reader)
    if not reader.has_user:
        reader.insert_request()
    if reader.placeholders == 0:
        reader.put_images_first()


def _read_caption(reader: RecordReader) -> None:
    if not reader.declared_images():
        reader.fault("image", "missing", "a caption needs an image")
    if reader.fields.get("conversations") is not None:
        reader.fault("caption and conversations", "both given", "give one of them")
    value = reader.fields["caption"]
    captions = value if isinstance(value, list) else [value]
    texts = [
        reader.text(caption, f"caption[{index}]" if captions is value else "caption")
        for index, caption in enumerate(captions)
    ]
    if not texts:
        reader.fault("caption", shown(value), "at least one caption is needed")
    reader.turn("assistant", texts[:1], "caption")
    if len(texts) > 1 and reader.fields.get("answers") is None:
        reader.fields = {**reader.fields, "answers": texts}


CAPTIONING = Format(
    claims=claims,
    read=read,
    form='{"image_path": ..., "conversations": [{"role": "assistant", "content": "..."}]} or '
    '{"image": ..., "caption": "..."}',
    consumes=("conversations", "caption"),
)
