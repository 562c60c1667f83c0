"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that refer to one object (Yu 2016, Mao 2016).

    FOLDER/refs(unc).p           a pickle: a list of {"ref_id", "ann_id", "image_id", "split",
                                 "sentences": [{"sent": "the left cup", "raw": "The left cup"}]}
    FOLDER/instances.json        COCO instances: the masks, by "ann_id"
    FOLDER/train2014/...         the images, here or in `media_root`

Give the folder or the pickle. The pickle is read by a reader that executes nothing. All expressions
of one image and split become one sample, lower-cased, in the order of the file, separated by a
full stop; `GroundingOptions` chooses among the expressions of an object and cuts long lists into
several samples. `truth` holds `split`, `image_id` and the `boxes` of the phrases.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasm.core.errors import DataError
from chiasm.core.samples import MaskSource
from chiasm.data.conversation import shown
from chiasm.data.formats.coco import SEGMENTATIONS, Tables, annotation_mask, open_tables
from chiasm.data.formats.grounding import GroundingOptions
from chiasm.data.formats.plain_pickle import load_plain_pickle
from chiasm.data.formats.reader import ReadOptions
from chiasm.data.formats.whole import Box, Gathering, Whole, WholeFormat, box_of, entry_of
from chiasm.data.phrases import Said

PICKLES = (".p", ".pkl", ".pickle")
FIELDS = ("ref_id", "ann_id", "image_id", "split", "sentences")


@dataclass(frozen=True)
class _Reference:
    """One object that is referred to, with everything said about it."""

    identifier: str
    sentences: tuple[str, ...]
    mask: MaskSource
    box: Box | None


def read(path: Path, options: ReadOptions) -> Whole:
    """Read the references and the instances beside them.

    Args:
        path: The pickle, or the folder that holds exactly one.
        options: How they are read.

    Raises:
        DataError: A file is missing, or the pickle is not of plain values.
    """
    file = _find_pickle(path)
    instances = file.parent / "instances.json"
    if not instances.is_file():
        raise DataError(
            f"{instances}: does not exist; the masks of {file.name} are in the instances.json of "
            "its data set, put it beside it"
        )
    records = load_plain_pickle(file)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{file}: a {type(records).__name__}; a list of references is needed")
    gathering = Gathering(file, options)
    tables = open_tables(instances, gathering)
    annotations = {
        annotation["id"]: annotation
        for annotation in tables.annotations
        if isinstance(annotation.get("id"), int | str)
    }
    images: dict[tuple[Any, str], list[_Reference]] = {}
    seen: dict[str, int] = {}
    for number, record in enumerate(records):
        reference = _reference(record, number, tables, annotations, gathering)
        if reference is None:
            continue
        if seen.setdefault(reference.identifier, number) != number:
            value = f"{reference.identifier} stands already at refs[{seen[reference.identifier]}]"
            gathering.fault(str(file), f"refs[{number}].ref_id", value, "an id stands once")
        else:
            images.setdefault((record["image_id"], record["split"]), []).append(reference)
    for (image, split), references in images.items():
        _add(image, split, references, tables, gathering)
    return gathering.whole(len(records))


def _find_pickle(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = _pickles(path)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{path}: {len(found)} files of references ({names}); name the one to read")
    return found[0]


def _pickles(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("refs*") if file.suffix in PICKLES)


def _reference(
    record: Mapping[str, Any],
    number: int,
    tables: Tables,
    annotations: Mapping[Any, Mapping[str, Any]],
    gathering: Gathering,
) -> _Reference | None:
    place, file = f"refs[{number}]", str(gathering.file)
    if lacking := [name for name in FIELDS if name not in record]:
        value = f"without {', '.join(lacking)}"
        gathering.fault(file, place, value, f"a reference has {', '.join(FIELDS)}")
        return None
    if not isinstance(record["split"], str):
        gathering.fault(file, f"{place}.split", shown(record["split"]), "a text is needed")
        return None
    sentences = _sentences(record["sentences"])
    if not sentences:
        value, allowed = (
            shown(record["sentences"]),
            "sentences have a text 'sent' that is not blank",
        )
        gathering.fault(file, f"{place}.sentences", value, allowed)
        return None
    annotation = entry_of(annotations, record["ann_id"])
    image = entry_of(tables.images, record["image_id"])
    if annotation is None or image is None:
        key = "ann_id" if annotation is None else "image_id"
        value = f"{shown(record[key])} is not in instances.json"
        gathering.fault(file, f"{place}.{key}", value, "both files are of one data set")
        return None
    mask = annotation_mask(annotation, image, f"annotation {record['ann_id']}")
    if isinstance(mask, str):
        gathering.fault(file, f"{place}.ann_id {record['ann_id']}", mask, SEGMENTATIONS)
        return None
    return _Reference(f"{record['ref_id']}", sentences, mask, box_of(annotation.get("bbox")))


def _sentences(value: Any) -> tuple[str, ...]:
    """Return the expressions, lower-cased; none when one is missing or blank."""
    if not isinstance(value, list | tuple):
        return ()
    texts = [entry.get("sent") if isinstance(entry, dict) else None for entry in value]
    found = [text.strip().lower() for text in texts if isinstance(text, str) and text.strip()]
    return tuple(found) if len(found) == len(texts) else ()


def _add(
    image: Any,
    split: str,
    references: Sequence[_Reference],
    tables: Tables,
    gathering: Gathering,
) -> None:
    options = gathering.options.grounding
    spoken = {reference.identifier: _chosen(reference, split, options) for reference in references}
    for turn in range(max(map(len, spoken.values()))):
        said = [
            Said(spoken[reference.identifier][turn], reference.mask, reference.identifier, True)
            for reference in references
            if turn < len(spoken[reference.identifier])
        ]
        gathering.add(
            f"{split}-{image}" if turn == 0 else f"{split}-{image}-again-{turn}",
            gathering.find_image(tables.images[image]["file_name"]),
            said,
            f"{gathering.file} image {image}",
            boxes={r.identifier: r.box for r in references if r.box is not None},
            split=split,
            image_id=image,
        )


def _chosen(reference: _Reference, split: str, options: GroundingOptions) -> tuple[str, ...]:
    """Return the expressions that are said, in the order of the samples that say them."""
    how = options.sentences
    if how == "auto":
        how = "random" if split == "train" else "first"
    if how == "first":
        return reference.sentences[:1]
    order = list(reference.sentences)
    random.Random(f"{options.seed}/{reference.identifier}").shuffle(order)
    return tuple(order) if how == "all" else tuple(order[:1])


def _finds(path: Path) -> bool:
    return bool(_pickles(path)) if path.is_dir() else path.suffix in PICKLES


REFCOCO = WholeFormat(
    claims=lambda fields: False,
    finds=_finds,
    read=read,
    form="a folder with refs(unc).p and instances.json",
)
