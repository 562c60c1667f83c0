"""COCO instances and COCO panoptic: the names of categories as phrases.

    {"images": [{"id": 9, "file_name": "9.jpg", "height": 480, "width": 640}],
     "annotations": [{"id": 1, "image_id": 9, "category_id": 18, "bbox": [x, y, width, height],
                      "segmentation": polygons or run lengths, "iscrowd": 0}],
     "categories": [{"id": 18, "name": "dog"}]}

Panoptic files have `file_name` and `segments_info` in their annotations in place of a segmentation,
and a folder of PNGs of the JSON's own name beside it (`panoptic.json`, `panoptic/9.png`).

By default a category is one phrase that means all of its pixels, crowd regions included; with
`phrase_per: instance` each instance or segment is a phrase, and crowd regions are left out and
counted. Names of panoptic categories lose what only the label set needs: "wall-other-merged"
becomes "wall", "floor-wood" "floor wood". Images without a phrase are left out and counted.
`truth["boxes"]` holds the box of each phrase.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasm.core.samples import MaskSource
from chiasm.data.conversation import shown
from chiasm.data.formats.reader import ReadOptions
from chiasm.data.formats.whole import (
    Box,
    Gathering,
    Whole,
    WholeFormat,
    around,
    box_of,
    entry_of,
    read_table,
)
from chiasm.data.masks import PanopticMask, UnionMask, read_segmentation
from chiasm.data.phrases import Said

LABEL_ENDINGS = re.compile(r"(-merged|-other|-stuff)+$")
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Tables:
    """The three tables of a COCO file.

    Attributes:
        images: By id; each has a `file_name`.
        categories: By id; each has a `name`.
        annotations: In the order of the file.
    """

    images: dict[Any, Json]
    categories: dict[Any, Json]
    annotations: list[Json]

    def fault(self, annotation: Json) -> str:
        """Return what an annotation refers to that is not there, or an empty text."""
        for key, table in (("image_id", self.images), ("category_id", self.categories)):
            if entry_of(table, annotation.get(key)) is None:
                return f"{key} {shown(annotation.get(key))} is in no table of the file"
        return ""


@dataclass(frozen=True)
class _Region:
    """One instance or segment: its category, its pixels, its box."""

    identifier: str
    category: Any
    mask: MaskSource
    box: Box | None
    crowd: bool


def category_phrase(name: str) -> str:
    """Return a category's name as it would be said."""
    return LABEL_ENDINGS.sub("", name).replace("-", " ")


def read_instances(path: Path, options: ReadOptions) -> Whole:
    """Read a COCO instances file.

    Raises:
        DataError: There is no such file.
    """
    gathering = Gathering(path, options)
    tables = open_tables(path, gathering)
    regions: dict[Any, list[_Region]] = {image: [] for image in tables.images}
    for number, annotation in enumerate(tables.annotations):
        place = f"annotations[{number}]"
        if fault := tables.fault(annotation):
            gathering.fault(str(path), place, fault, "the file is incomplete; download it again")
            continue
        image = tables.images[annotation["image_id"]]
        mask = annotation_mask(annotation, image, f"{path.name} {place}")
        if isinstance(mask, str):
            gathering.fault(str(path), f"{place}.segmentation", mask, SEGMENTATIONS)
        else:
            regions[annotation["image_id"]].append(_region(annotation, mask, place))
    _name(tables, regions, gathering)
    return gathering.whole(len(tables.annotations))


SEGMENTATIONS = "polygons, or run lengths with size and counts, of an image with height and width"


def annotation_mask(annotation: Json, image: Json, where: str) -> MaskSource | str:
    """Return the mask of an instance, or what is wrong with it."""
    height, width = image.get("height"), image.get("width")
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        return f"in an image of {shown(height)} x {shown(width)} pixels (height x width)"
    return read_segmentation(annotation.get("segmentation"), height, width, where)


def read_panoptic(path: Path, options: ReadOptions) -> Whole:
    """Read a COCO panoptic file, whose PNGs lie in a folder of its name beside it.

    Raises:
        DataError: There is no such file.
    """
    gathering = Gathering(path, options)
    tables = open_tables(path, gathering)
    regions: dict[Any, list[_Region]] = {image: [] for image in tables.images}
    for number, annotation in enumerate(tables.annotations):
        place = f"annotations[{number}]"
        for segment in panoptic_segments(annotation, place, gathering):
            linked = {**segment, "image_id": annotation.get("image_id")}
            if fault := tables.fault(linked):
                allowed = "the file is incomplete; download it again"
                gathering.fault(str(path), place, fault, allowed)
                continue
            mask = PanopticMask(panoptic_png(path, annotation), (segment["id"],))
            regions[linked["image_id"]].append(_region(linked, mask, place))
    _name(tables, regions, gathering)
    return gathering.whole(len(tables.annotations))


def panoptic_png(path: Path, annotation: Json) -> Path:
    """Return where the PNG of an annotation of a panoptic file lies."""
    return path.with_suffix("") / str(annotation["file_name"])


def panoptic_segments(annotation: Json, place: str, gathering: Gathering) -> list[Json]:
    """Return the segments of a panoptic annotation, reporting what is wrong with it."""
    segments = annotation.get("segments_info")
    if not isinstance(annotation.get("file_name"), str) or not isinstance(segments, list):
        value = f"has the fields {shown(list(annotation))}"
        allowed = "a panoptic annotation has file_name and segments_info"
        gathering.fault(str(gathering.file), place, value, allowed)
        return []
    sound: list[Json] = [
        s for s in segments if isinstance(s, dict) and isinstance(s.get("id"), int)
    ]
    if len(sound) < len(segments):
        wrong = next(entry for entry in segments if entry not in sound)
        allowed = "a segment is an object with a whole number as id"
        gathering.fault(str(gathering.file), f"{place}.segments_info", shown(wrong), allowed)
    return sound


def open_tables(path: Path, gathering: Gathering) -> Tables:
    """Read the tables of a COCO file, reporting what is wrong with them.

    Raises:
        DataError: There is no such file.
    """
    found, faults = read_table(path, ("images", "annotations", "categories"))
    gathering.faults += faults
    kept: dict[str, dict[Any, Json]] = {"images": {}, "categories": {}}
    for key, needed in (("images", "file_name"), ("categories", "name")):
        for number, entry in enumerate(found[key]):
            text = entry.get(needed)
            if isinstance(entry.get("id"), int) and isinstance(text, str) and text.strip():
                kept[key][entry["id"]] = entry
            else:
                allowed = f"it needs a whole number as id, and {needed}"
                gathering.fault(str(path), f"{key}[{number}]", shown(entry), allowed)
    return Tables(kept["images"], kept["categories"], found["annotations"])


def _region(annotation: Json, mask: MaskSource, place: str) -> _Region:
    return _Region(
        identifier=f"{annotation.get('id', place)}",
        category=annotation["category_id"],
        mask=mask,
        box=box_of(annotation.get("bbox")),
        crowd=bool(annotation.get("iscrowd")),
    )


def _name(tables: Tables, regions: Mapping[Any, Sequence[_Region]], gathering: Gathering) -> None:
    """Make a sample of each image that has a phrase."""
    each = gathering.options.grounding.phrase_per == "instance"
    for image, found in regions.items():
        named = [region for region in found if not (each and region.crowd)]
        gathering.dropped["crowd regions"] += len(found) - len(named)
        groups: dict[Any, list[_Region]] = {}
        for number, region in enumerate(named):
            groups.setdefault(number if each else region.category, []).append(region)
        if not groups:
            gathering.drop("images without a phrase")
            continue
        said = [_said(group, tables.categories, each) for group in groups.values()]
        boxes = {
            piece.identifier: box
            for piece, group in zip(said, groups.values(), strict=True)
            if (box := around([region.box for region in group])) is not None
        }
        gathering.add(
            f"{image}",
            gathering.find_image(tables.images[image]["file_name"]),
            said,
            f"{gathering.file} image {image}",
            boxes=boxes,
            image_id=image,
        )


def _said(group: Sequence[_Region], categories: Mapping[Any, Json], each: bool) -> Said:
    category = categories[group[0].category]
    text = category_phrase(category["name"])
    masks = tuple(region.mask for region in group)
    thing = category.get("isthing")
    return Said(
        text=text,
        mask=masks[0] if len(masks) == 1 else UnionMask(masks, f"masks of {text!r}"),
        identifier=group[0].identifier if each else f"category-{category['id']}",
        thing=None if thing is None else bool(thing),
        plural=len(group) > 1 or any(region.crowd for region in group),
    )


def _claims(fields: Json, panoptic: bool) -> bool:
    if not all(key in fields for key in ("images", "annotations", "categories")):
        return False
    annotations = fields["annotations"]
    first = annotations[0] if isinstance(annotations, list) and annotations else {}
    return isinstance(first, dict) and ("segments_info" in first) == panoptic


def _never(path: Path) -> bool:
    return False


COCO_INSTANCES = WholeFormat(
    claims=lambda fields: _claims(fields, panoptic=False),
    finds=_never,
    read=read_instances,
    form='{"images": [...], "annotations": [{"segmentation": ...}], "categories": [...]}',
)
COCO_PANOPTIC = WholeFormat(
    claims=lambda fields: _claims(fields, panoptic=True),
    finds=_never,
    read=read_panoptic,
    form='{"images": [...], "annotations": [{"segments_info": [...]}], "categories": [...]}',
)
