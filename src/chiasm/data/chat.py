"""One conversation given by a program, in the OpenAI or Qwen form, as a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chiasm.core.errors import DataError
from chiasm.core.samples import ImageSource, Sample
from chiasm.data.formats.messages import INLINE
from chiasm.data.formats.reader import ReadOptions
from chiasm.data.reading import read_record
from chiasm.data.records import Record


def read_messages(messages: Sequence[Mapping[str, Any]]) -> Sample:
    """Read one conversation.

    Args:
        messages: Objects with `role` and `content`, as in the format `messages` of a file. Images
            may also be PIL images, arrays HWC uint8 in [0, 255], or paths; relative paths start
            from the working directory.

    Raises:
        DataError: The conversation is malformed; `faults` names everything wrong with it.
    """
    if isinstance(messages, str | Mapping):
        raise DataError(
            f"a conversation is a list of messages, not a {type(messages).__name__}; give "
            "[{'role': 'user', 'content': ...}]"
        )
    held: dict[bytes, ImageSource] = {}
    plain = [_plain(message, held) for message in messages]
    record = Record({"messages": plain}, Path("messages"), 1)
    entry, faults = read_record(record, "messages", ReadOptions(media_root=Path()))
    if faults or entry.sample is None:
        title = f"the conversation has {len(faults)} fault(s)"
        raise DataError(
            title, [f"{fault.field}: {fault.value}; {fault.allowed}" for fault in faults]
        )
    sample = entry.sample
    images = tuple(
        held[source] if isinstance(source, bytes) and source in held else source
        for source in sample.images
    )
    return Sample(identifier="conversation", turns=sample.turns, images=images)


def read_video_messages(messages: Sequence[Mapping[str, Any]]) -> Sample:
    """Read one conversation about a video.

    Args:
        messages: As for `read_messages`; the first of the user also has one part
            `{"type": "video", "video": ...}`, a path or an array uint8 (frames, height, width, 3).

    Raises:
        DataError: The conversation is malformed, or has not exactly one video, in its first message
            of the user.
    """
    videos: list[tuple[int, Any]] = []
    rest: list[Any] = []
    for place, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, list | tuple):
            shown = [part for part in content if _is_video(part)]
            videos += [(place, part.get("video")) for part in shown]
            message = {**message, "content": [part for part in content if not _is_video(part)]}
        rest.append(message)
    sample = read_messages(rest)
    first = next(place for place, turn in enumerate(sample.turns) if turn.role == "user")
    places = [place for place, _ in videos]
    if places != [first]:
        raise DataError(
            f"{len(videos)} video(s) in the messages {places}; put one part {{'type': 'video', "
            f"'video': PATH}} into the first message of the user, {first}"
        )
    return replace(sample, video=videos[0][1])


def _is_video(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "video"


def _plain(message: Any, held: dict[bytes, ImageSource]) -> Any:
    """Return a message as it would stand in a file; images in memory become keys of `held`."""
    if not isinstance(message, Mapping):
        return message
    content = message.get("content")
    if isinstance(content, list | tuple):
        content = [_plain_part(part, held) for part in content]
    return {**message, "content": content}


def _plain_part(part: Any, held: dict[bytes, ImageSource]) -> Any:
    if not isinstance(part, Mapping):
        return part
    found = dict(part)
    for key in INLINE:
        value = found.get(key)
        if isinstance(value, Path):
            found[key] = str(value)
        elif isinstance(value, Image.Image | np.ndarray):
            # The readers of files know bytes, not images; no image file begins like this.
            found[key] = f"in memory {len(held)}".encode()
            held[found[key]] = value
    return found
