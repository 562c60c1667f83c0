"""Panoptic Narrative Grounding: a caption in pieces, some of which mean segments (Gonzalez 2021).

    [{"image_id": "9", "caption": "...", "segments": [
        {"utterance": "a bowl", "segment_ids": ["8345037", "6968006"], "plural": true},
        {"utterance": "on", "segment_ids": []}]}]

The segments are those of a COCO panoptic file, which is looked for beside the narratives and in
`annotations/` under the name `panoptic_SPLIT.json` of `png_coco_SPLIT.json`, or named by
`GroundingOptions.panoptic`; its PNGs lie in a folder of its name beside it.

The utterances, joined by a blank, are the text; each with segments is a phrase, which means all of
their pixels. As in the published evaluation, a phrase that means several is counted as a thing, and
any other takes it from the category of its segment. Narratives in which nothing is grounded are
left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.data.conversation import shown
from chiasm.data.formats.coco import Tables, open_tables, panoptic_png, panoptic_segments
from chiasm.data.formats.reader import ReadOptions
from chiasm.data.formats.whole import Gathering, Whole, WholeFormat, entry_of
from chiasm.data.masks import PanopticMask
from chiasm.data.phrases import Said
from chiasm.data.records import Record, read_records

PREFIX = "png_coco_"


class _Pictures:
    """The panoptic file by image: its PNG, and whether each segment is a thing."""

    def __init__(self, path: Path, gathering: Gathering) -> None:
        self.tables: Tables = open_tables(path, gathering)
        self.png: dict[Any, Path] = {}
        self.things: dict[Any, dict[int, bool]] = {}
        for number, annotation in enumerate(self.tables.annotations):
            segments = panoptic_segments(annotation, f"annotations[{number}]", gathering)
            image = annotation.get("image_id")
            if segments and entry_of(self.tables.images, image) is not None:
                self.png[image] = panoptic_png(path, annotation)
                self.things[image] = {s["id"]: self._is_thing(s) for s in segments}

    def _is_thing(self, segment: Mapping[str, Any]) -> bool:
        category = entry_of(self.tables.categories, segment.get("category_id"))
        return category is not None and bool(category.get("isthing"))


def read(path: Path, options: ReadOptions) -> Whole:
    """Read narratives and the panoptic file they are about.

    Raises:
        DataError: A file is missing.
    """
    gathering = Gathering(path, options)
    records, faults = read_records(path)
    gathering.faults += faults
    pictures = _Pictures(_find_panoptic(path, options), gathering)
    told: dict[Any, int] = {}
    for record in records:
        _read(record, pictures, told, gathering)
    return gathering.whole(len(records))


def _find_panoptic(path: Path, options: ReadOptions) -> Path:
    if options.grounding.panoptic is not None:
        return options.grounding.panoptic
    name = f"panoptic_{path.stem.removeprefix(PREFIX)}.json"
    places = [path.parent / name, path.parent / "annotations" / name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(
            f"{path}: no panoptic file beside it; looked for {' and '.join(map(str, places))}; "
            "name it in the option `panoptic`"
        )
    return found


def _read(record: Record, pictures: _Pictures, told: dict[Any, int], gathering: Gathering) -> None:
    image, faults = _whole(record.fields.get("image_id")), len(gathering.faults)
    segments = record.fields.get("segments")
    if image not in pictures.png:
        value = shown(record.fields.get("image_id"))
        gathering.fault(record.origin, "image_id", value, "an image of the panoptic file is needed")
    elif not isinstance(segments, list):
        allowed = "a list of utterances is needed"
        gathering.fault(record.origin, "segments", shown(segments), allowed)
    else:
        said = [
            piece
            for index, entry in enumerate(segments)
            if (piece := _piece(entry, index, image, pictures, record.origin, gathering))
        ]
        if len(gathering.faults) > faults:
            return
        if not any(isinstance(piece, Said) for piece in said):
            gathering.drop("narratives without a grounded phrase")
            return
        told[image] = told.get(image, 0) + 1
        name = f"{image}" if told[image] == 1 else f"{image}-narrative-{told[image]}"
        file = pictures.tables.images[image]["file_name"]
        gathering.add_text(name, gathering.find_image(file), said, record.origin)


def _piece(
    entry: Any,
    index: int,
    image: Any,
    pictures: _Pictures,
    origin: str,
    gathering: Gathering,
) -> Said | str:
    """Return one utterance, as a phrase where it has segments; empty when blank or faulty."""
    place = f"segments[{index}]"
    if not isinstance(entry, dict) or not isinstance(entry.get("utterance"), str):
        gathering.fault(origin, place, shown(entry), "it needs an utterance")
        return ""
    text, listed = entry["utterance"].strip(), entry.get("segment_ids") or []
    ids = [_whole(value) for value in listed] if isinstance(listed, list) else [None]
    known = pictures.things[image]
    if wrong := [value for value in ids if value not in known]:
        value = f"{shown(listed)} of {shown(text)}: {wrong[0]} is no segment of image {image}"
        gathering.fault(origin, f"{place}.segment_ids", value, f"it has {shown(list(known))}")
        return ""
    if not ids or not text:
        return text
    plural = bool(entry.get("plural"))
    chosen = tuple(dict.fromkeys(value for value in ids if value is not None))
    mask = PanopticMask(pictures.png[image], chosen)
    return Said(text, mask, f"{index}", thing=plural or known[chosen[0]], plural=plural)


def _whole(value: Any) -> int | None:
    """Return a whole number that may be written as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


NARRATIVES = WholeFormat(
    claims=lambda fields: all(key in fields for key in ("image_id", "caption", "segments")),
    finds=lambda path: False,
    read=read,
    form='{"image_id": ..., "caption": ..., "segments": [{"utterance": ..., "segment_ids": ...}]}',
)
