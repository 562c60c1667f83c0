"""Videos with actions, questions or captions: a file of records, or a folder of splits.

    {"video_id": "vid_001", "actions": [{"start": 1.5, "end": 5.2, "label": "walking"},
                                        {"start_time": 7, "end_time": 9, "category": "running"}]}
    {"video_id": "vid_001", "qa_pairs": [{"question": "What is she doing?", "answer": "walking"}]}
    {"video_id": "vid_001", "question": "What is she doing?", "answer": "walking"}
    {"video_id": "vid_001", "captions": ["A woman walks.", "Somebody is walking."]}
    {"video_id": "vid_001", "caption": "A woman walks."}
    {"videos": ["a.mp4"], "messages": [{"role": "user", "content": "<video>What is this?"}, ...]}
    {"video": "a.mp4"}                                  in a file to be answered: watch it

A file holds one object, a list, or one object a line. In a folder, `training`, `validation` and
`test` (any of them; or one alone, given as the folder) each hold `annotations/` with such files and
`videos/`. Times are seconds.

The video is the file, the folder of frames or the file of features of that name, in the media root
(the file's folder by default) or in the folders `videos`, `frames` and `features` in it or beside
it; `video` gives a path in place of an id. `domain` becomes the group, `truth["split"]` is the
folder's split, several captions are all accepted `answers`, and of several questions about a video
each is two turns of one conversation. Actions fill `Sample.segments`, and are the answer in words.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.samples import Segment
from chiasm.data.conversation import shown
from chiasm.data.formats.messages import ROLES
from chiasm.data.formats.reader import CAPTION_REQUEST, ReadOptions, RecordReader
from chiasm.data.formats.video_library import FOLDERS, VideoLibrary
from chiasm.data.formats.whole import Gathering, Whole, WholeFormat
from chiasm.data.records import SUFFIXES, Record, read_records
from chiasm.data.video_words import ACTIONS_REQUEST, VIDEO_REQUEST, say_segments

SPLITS = {
    "training": "train",
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
    "composition": "composition",
}
"""Folder -> split."""

ANNOTATIONS = "annotations"
MARKER = "<video>"

TASKS: dict[str, tuple[str, ...]] = {
    "actions": ("actions", "annotations", "segments"),
    "questions": ("qa_pairs", "question"),
    "captions": ("captions", "caption"),
    "messages": ("messages",),
}
"""What a record teaches -> the fields of which one says so."""

SEGMENT_NAMES = (("start", "start_time"), ("end", "end_time"), ("label", "category"))
"""Both spellings of a segment."""

NAMES = ("video_id", "video", "videos")
CONSUMED = (*NAMES, "domain", "answer", *(name for names in TASKS.values() for name in names))


def read(path: Path, options: ReadOptions) -> Whole:
    """Read a file of records, or all annotations of a folder.

    Raises:
        DataError: There is no such file, or the folder holds no annotations.
    """
    gathering = Gathering(path, options)
    count = 0
    used: Counter[str] = Counter()
    for file, split in _files(path):
        # By default a folder's videos lie beside its annotations.
        beside = path.is_dir() and options.media_root == path
        library = VideoLibrary(file.parent if beside else options.media_root)
        records, faults = read_records(file)
        gathering.faults += faults
        count += len(records)
        for record in records:
            _read(record, split, library, gathering, used)
    return gathering.whole(count)


def _files(path: Path) -> list[tuple[Path, str]]:
    """Return the annotation files with their split; empty where none is told."""
    if not path.is_dir():
        return [(path, "")]
    places = [(path / name, split) for name, split in SPLITS.items()]
    places = [(place, split) for place, split in places if (place / ANNOTATIONS).is_dir()]
    if (path / ANNOTATIONS).is_dir():
        places.append((path, SPLITS.get(path.name, "")))
    found = [
        (file, split)
        for place, split in places
        for file in sorted((place / ANNOTATIONS).iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise DataError(
            f"{path}: no annotations; needed: training/annotations/*.json (and validation, test) "
            "beside training/videos"
        )
    return found


def _read(
    record: Record, split: str, library: VideoLibrary, gathering: Gathering, used: Counter[str]
) -> None:
    """Read one record, and add its sample or its faults."""
    fields = dict(record.fields)
    told = [task for task, names in TASKS.items() if any(fields.get(n) is not None for n in names)]
    watched = not told and gathering.options.prediction
    if len(told) != 1 and not watched:
        value = f"teaches {' and '.join(told) or 'nothing'}"
        allowed = "one of: actions; qa_pairs, or question and answer; captions; messages"
        gathering.fault(record.origin, "record", value, allowed)
        return
    task = "watch" if watched else told[0]
    name = _name(fields)
    if split:
        fields.setdefault("split", split)
    if fields.get("domain") is not None:
        fields.setdefault("group", fields["domain"])
    if fields.get("id") is None and isinstance(name, str):
        place = f"{split}/{name}/{task}".removeprefix("/")
        used[place] += 1
        fields["id"] = place if used[place] == 1 else f"{place}/{used[place]}"
    reader = RecordReader(replace(record, fields=fields), gathering.options, CONSUMED)
    video = _video(reader, name, library)
    segments = None if watched else _READ[task](reader)
    sample = reader.finish()
    gathering.faults += reader.faults
    if sample is not None and not reader.faults:
        gathering.samples.append(replace(sample, video=video, segments=segments))


def _name(fields: Mapping[str, Any]) -> Any:
    """Return what names the video: a path, an id, or the one path of a list."""
    videos = fields.get("videos")
    if isinstance(videos, list) and len(videos) == 1:
        videos = videos[0]
    given = [fields.get("video"), videos, fields.get("video_id")]
    return next((value for value in given if value is not None), None)


def _video(reader: RecordReader, name: Any, library: VideoLibrary) -> Path | None:
    place = next((n for n in ("video", "videos", "video_id") if reader.fields.get(n)), "video_id")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        found = "missing" if name is None else shown(name)
        reader.fault(place, found, "the id or the path of one video is needed")
        return None
    path = library.find(name)
    if isinstance(path, Path):
        return path
    looked = ", ".join(str(folder) for folder in library.folders)
    reader.fault(place, path, f"give each video one file of its name; looked in {looked}")
    return None


def _read_actions(reader: RecordReader) -> tuple[Segment, ...]:
    given = [name for name in TASKS["actions"] if reader.fields.get(name) is not None]
    if len(given) > 1:
        reader.fault(" and ".join(given), "both given", "name the actions in one field")
        return ()
    value = reader.fields[given[0]]
    segments: list[Segment] = []
    if not isinstance(value, list):
        reader.fault(given[0], shown(value), "a list of segments is needed; empty for none")
        value = []
    for index, entry in enumerate(value):
        place = f"{given[0]}[{index}]"
        if not isinstance(entry, Mapping):
            reader.fault(place, shown(entry), "a segment is an object {start, end, label}")
            continue
        segment = _segment(entry, place, reader)
        if segment is not None:
            segments.append(segment)
    segments.sort(key=lambda segment: (segment.start, segment.end, segment.label))
    reader.turn("user", (ACTIONS_REQUEST,), "(request)")
    reader.turn("assistant", (say_segments(segments),), given[0])
    return tuple(segments)


def _segment(entry: Mapping[str, Any], place: str, reader: RecordReader) -> Segment | None:
    """Read a segment in either spelling, or report what is wrong with it."""
    before = len(reader.faults)
    values: list[Any] = []
    for names in SEGMENT_NAMES:
        given = [name for name in names if entry.get(name) is not None]
        if len(given) != 1:
            found = "both given" if given else "missing"
            reader.fault(f"{place}.{names[0]}", found, f"give {' or '.join(names)}")
            values.append(None)
            continue
        values.append(entry[given[0]])
    start, end, label = values
    for name, value in (("start", start), ("end", end)):
        if value is not None and not _is_time(value):
            reader.fault(f"{place}.{name}", shown(value), "seconds from the start, at least 0")
    if label is not None and (not isinstance(label, str) or not label.strip()):
        reader.fault(f"{place}.label", shown(label), "a text is needed")
    if len(reader.faults) == before and not start < end:
        reader.fault(place, f"from {start} to {end} s", "a segment ends after it starts")
    if len(reader.faults) > before:
        return None
    return Segment(float(start), float(end), label.strip())


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # There is no largest whole number in JSON, and a largest float.
    return number and 0 <= value <= sys.float_info.max


def _read_questions(reader: RecordReader) -> None:
    pairs = reader.fields.get("qa_pairs")
    if pairs is None:
        _pair(reader, reader.fields, "")
        return
    if reader.fields.get("question") is not None:
        reader.fault("qa_pairs and question", "both given", "give one of them")
    answers: list[Any] = []
    kinds: list[Any] = []
    for place, entry in reader.entries("qa_pairs"):
        _pair(reader, entry, f"{place}.")
        answers.append(entry.get("answers") or [entry.get("answer")])
        kinds.append(entry.get("kind"))
    # Where one is not known, none is: they go by turn.
    told = {
        "answers": answers if all(None not in found for found in answers) else [],
        "kinds": kinds if None not in kinds else [],
    }
    added = {name: found for name, found in told.items() if found}
    reader.fields = {**added, **reader.fields}


def _pair(reader: RecordReader, entry: Mapping[str, Any], place: str) -> None:
    asked = f"{place}question"
    reader.turn("user", (reader.text(entry.get("question"), asked),), asked)
    # A file to be answered asks without telling.
    if entry.get("answer") is not None:
        answer = reader.text(entry["answer"], f"{place}answer")
        reader.turn("assistant", (answer,), f"{place}answer")


def _read_captions(reader: RecordReader) -> None:
    given = [name for name in TASKS["captions"] if reader.fields.get(name) is not None]
    if len(given) > 1:
        reader.fault(" and ".join(given), "both given", "give one of them")
    value = reader.fields[given[0]]
    captions = value if isinstance(value, list) else [value]
    if not captions:
        reader.fault(given[0], shown(value), "at least one caption is needed")
    texts = [
        reader.text(caption, f"{given[0]}[{index}]" if captions is value else given[0])
        for index, caption in enumerate(captions)
    ]
    custom = reader.options.caption_request
    reader.turn("user", (VIDEO_REQUEST if custom == CAPTION_REQUEST else custom,), "(request)")
    reader.turn("assistant", texts[:1], given[0])
    if texts and reader.fields.get("answers") is None:
        reader.fields = {**reader.fields, "answers": texts}


def _read_messages(reader: RecordReader) -> None:
    markers = 0
    for place, entry in reader.entries("messages"):
        role = reader.role(entry.get("role"), f"{place}.role", ROLES)
        text = reader.text(entry.get("content"), f"{place}.content")
        markers += text.count(MARKER)
        if MARKER in text and (markers > 1 or not text.startswith(MARKER) or role != "user"):
            allowed = "it opens the first user turn, once"
            reader.fault(f"{place}.content", f"{MARKER} in {shown(text)}", allowed)
        reader.turn(role, (text.replace(MARKER, "", 1).removeprefix("\n"),), place)


_READ: dict[str, Callable[[RecordReader], tuple[Segment, ...] | None]] = {
    "actions": _read_actions,
    "questions": _read_questions,
    "captions": _read_captions,
    "messages": _read_messages,
}
"""Task -> the function that reads its turns, and returns its segments if it has any."""


def _claims(fields: Mapping[str, Any]) -> bool:
    named = any(fields.get(name) is not None for name in NAMES)
    # A video alone is claimed, too: to be watched, or to be told that it teaches nothing.
    alone = any(isinstance(fields.get(name), str) for name in ("video", "video_id"))
    return named and (alone or any(name in fields for names in TASKS.values() for name in names))


def _finds(path: Path) -> bool:
    # Folders of other data sets have annotations, too, but no videos beside them.
    return path.is_dir() and any(
        (folder / ANNOTATIONS).is_dir() and any((folder / name).is_dir() for name in FOLDERS)
        for folder in (path, *(path / name for name in SPLITS))
    )


VIDEOS = WholeFormat(
    claims=_claims,
    finds=_finds,
    read=read,
    form='{"video_id": ..., "actions": [{"start", "end", "label"}]}, or with "qa_pairs", '
    '"captions", or {"videos": [...], "messages": [...]}',
    consumes=CONSUMED,
)
