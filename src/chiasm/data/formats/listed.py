"""Phrases in a JSONL file, each with its image and its mask: the form for data of one's own.

    {"image": "images/a.jpg", "phrase": "the red cup", "mask": "masks/a-cup.png"}
    {"image": "images/a.jpg", "phrase": "two dogs", "mask": {"path": "masks/a.png", "values": [3]}}
    {"image": "images/a.jpg", "phrase": "a hat", "segmentation": run lengths, "bbox": [x, y, w, h]}
    {"image": "images/a.jpg", "phrase": "a shoe", "segmentation": polygons, "height": 480,
     "width": 640, "thing": true, "plural": false, "id": "shoe-1", "split": "train"}

A folder that holds `phrases.jsonl` may be given in place of the file; paths start from it. In a
mask PNG everything but 0 belongs to the mask, or the `values` named. The records of one image and
split become one sample, its phrases in the order of the file.

Lists of boxes as the RefCOCO family is often passed on are read, too; a box is no mask, so it goes
to `truth["boxes"]` and the phrase has none:

    {"img_path": "a.jpg", "expression": "dish on the right", "bbox": [left, top, right, bottom]}

`truth` holds `split` where the records name one, and `boxes` where all phrases of the sample have
one. `bbox` is COCO's [left, top, width, height], beside `expression` the corners; `box` is always
the corners.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.core.errors import MediaError
from chiasm.core.samples import ImageSource, MaskSource
from chiasm.data.conversation import shown
from chiasm.data.formats.reader import ReadOptions
from chiasm.data.formats.whole import Box, Gathering, Whole, WholeFormat, box_of, corners_of
from chiasm.data.masks import PngMask, read_segmentation
from chiasm.data.media import local_path
from chiasm.data.phrases import Said
from chiasm.data.records import Record, read_records

FILE = "phrases.jsonl"
IMAGES = ("image", "image_path", "img_path")
TEXTS = ("phrase", "expression")
MASKS = ("mask", "segmentation")


@dataclass
class _Picture:
    """What was read of one image."""

    source: ImageSource
    origin: str
    split: str
    said: list[Said] = field(default_factory=list)
    boxes: dict[str, Box] = field(default_factory=dict)


def read(path: Path, options: ReadOptions) -> Whole:
    """Read a list of phrases.

    Args:
        path: The file, or a folder that holds `phrases.jsonl`.
        options: How it is read.

    Raises:
        DataError: There is no such file.
    """
    file = path / FILE if path.is_dir() else path
    gathering = Gathering(file, options)
    records, faults = read_records(file)
    gathering.faults += faults
    pictures: dict[tuple[str, str], _Picture] = {}
    for record in records:
        _read(record, pictures, gathering)
    stems = [name for name, _ in pictures]
    for (name, split), picture in pictures.items():
        truth = {"split": split} if split else {}
        gathering.add(
            name if stems.count(name) == 1 else f"{split}-{name}",
            picture.source,
            picture.said,
            picture.origin,
            boxes=picture.boxes,
            **truth,
        )
    return gathering.whole(len(records))


def _read(record: Record, pictures: dict[tuple[str, str], _Picture], gathering: Gathering) -> None:
    fields, before = record.fields, len(gathering.faults)
    name = _text(record, IMAGES, gathering)
    text = _text(record, TEXTS, gathering)
    split = fields.get("split") or ""
    if not isinstance(split, str):
        gathering.fault(record.origin, "split", shown(split), "a text is needed")
    for flag in ("thing", "plural"):
        if fields.get(flag) not in (None, True, False):
            gathering.fault(record.origin, flag, shown(fields[flag]), "true or false is needed")
    mask = _mask(record, gathering)
    box = _box(record, gathering)
    source: ImageSource = b""
    try:
        source = gathering.find_image(str(local_path(name)))
    except MediaError as error:
        gathering.fault(record.origin, "image", str(error).rstrip("."), "allowed: paths")
    if len(gathering.faults) > before:
        return
    picture = pictures.setdefault((name, split), _Picture(source, record.origin, split))
    given = fields.get("id", fields.get("sent_id"))
    identifier = record.place if given is None else str(given)
    if any(said.identifier == identifier for said in picture.said):
        value = f"{shown(identifier)} stands twice for {name}"
        gathering.fault(record.origin, "id", value, "an id stands once for an image")
        return
    if box is not None:
        picture.boxes[identifier] = box
    thing = fields.get("thing")
    thing = None if thing is None else bool(thing)
    picture.said.append(Said(text, mask, identifier, thing, bool(fields.get("plural"))))


def _text(record: Record, names: tuple[str, ...], gathering: Gathering) -> str:
    """Return the one text among fields, or report what stands there."""
    present = [name for name in names if record.fields.get(name) is not None]
    value = record.fields[present[0]] if len(present) == 1 else None
    if isinstance(value, str) and value.strip() and "\0" not in value:
        return value.strip()
    found = " and ".join(present) + " given" if len(present) > 1 else shown(value)
    place = present[0] if len(present) == 1 else names[0]
    gathering.fault(record.origin, place, found if present else "missing", "one text is needed")
    return ""


def _mask(record: Record, gathering: Gathering) -> MaskSource | None:
    fields, origin = record.fields, record.origin
    present = [name for name in MASKS if fields.get(name) is not None]
    if len(present) > 1:
        gathering.fault(origin, " and ".join(present), "both given", "give one of them")
        return None
    if not present:
        if "expression" not in fields and not {"bbox", "box"} & fields.keys():
            gathering.fault(origin, "mask", "missing", "a mask, a segmentation or a box is needed")
        return None
    value = fields[present[0]]
    if present[0] == "mask":
        found = _png(value, gathering.options.media_root)
    elif isinstance(value, Mapping):
        found = read_segmentation(value, 0, 0, f"{origin} segmentation")
    else:
        sides = (fields.get("height"), fields.get("width"))
        sound = all(isinstance(side, int) and side > 0 for side in sides)
        height, width = sides if sound else (0, 0)
        found = (
            read_segmentation(value, height, width, f"{origin} segmentation")
            if sound and isinstance(height, int) and isinstance(width, int)
            else "polygons without height and width of the image"
        )
    if isinstance(found, str):
        allowed = 'a path, {"path": ..., "values": [...]}, run lengths, or polygons with size'
        gathering.fault(origin, present[0], found, allowed)
        return None
    return found


def _png(value: Any, root: Path) -> MaskSource | str:
    entry = value if isinstance(value, Mapping) else {"path": value}
    if "counts" in entry:
        return read_segmentation(entry, 0, 0, "mask")
    path, values = entry.get("path"), entry.get("values")
    whole = values is None or _are_values(values)
    if not isinstance(path, str) or not path.strip() or "\0" in path or not whole:
        return shown(value)
    return PngMask(root / path, tuple(values or ()))


def _are_values(values: object) -> bool:
    """Whether these are labels of a PNG: at least one whole number, none negative."""
    return (
        isinstance(values, list)
        and bool(values)
        and all(type(number) is int and number >= 0 for number in values)
    )


def _box(record: Record, gathering: Gathering) -> Box | None:
    fields = record.fields
    corners = "box" in fields or "expression" in fields
    name = "box" if "box" in fields else "bbox"
    if fields.get(name) is None:
        return None
    if fields.get("box") is not None and fields.get("bbox") is not None:
        gathering.fault(record.origin, "box and bbox", "both given", "give one of them")
        return None
    found = corners_of(fields[name]) if corners else box_of(fields[name])
    if found is None:
        form = "[left, top, right, bottom]" if corners else "[left, top, width, height]"
        gathering.fault(record.origin, name, shown(fields[name]), f"a box is {form} in pixels")
    return found


def _claims(fields: Mapping[str, Any]) -> bool:
    return any(name in fields for name in TEXTS) and any(name in fields for name in IMAGES)


LISTED = WholeFormat(
    claims=_claims,
    finds=lambda path: path.is_dir() and (path / FILE).is_file(),
    read=read,
    form='{"image": ..., "phrase": ..., "mask": ...}',
)
