"""A file of phrases pointed at: checked whole first, each picture read once, written whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from chiasm.cli.asking import asking
from chiasm.cli.output import console, emit
from chiasm.cli.predict_file import PREDICTIONS, make_folder, write_line, write_predictions
from chiasm.core.errors import ChiasmError, DataError

if TYPE_CHECKING:
    from chiasm.core.samples import ImageSource
    from chiasm.data.conversation import Fault
    from chiasm.data.records import Record
    from chiasm.inference.senses import Sensing

IMAGES = ("image", "image_path", "img_path")
TEXTS = ("phrase", "expression", "phrases")


@dataclass(frozen=True)
class PhraseRecord:
    """Phrases to point at in one picture.

    Attributes:
        identifier: Of the prediction.
        image: The picture.
        phrases: At least one.
        origin: File and line, for messages.
    """

    identifier: str
    image: ImageSource
    phrases: tuple[str, ...]
    origin: str


def holds_phrases(path: Path, format: str) -> bool:
    """Whether a file or folder is of phrases rather than of questions; its name alone may tell."""
    from chiasm.data.formats import WHOLE_FILES
    from chiasm.data.records import read_records

    if path.is_dir() or (format in WHOLE_FILES and format != "nlvr"):
        return True
    if format != "auto" or not path.is_file():
        return False
    if any(form.finds(path) for name, form in WHOLE_FILES.items() if name != "nlvr"):
        return True
    records, _ = read_records(path)
    return bool(records) and bool(set(TEXTS) & records[0].fields.keys())


def predict_phrases(
    model: Sensing,
    path: Path,
    output: Path | None,
    mask: str | None,
    *,
    format: str,
    media_root: Path | None,
    skip_faulty: bool,
    as_json: bool,
) -> None:
    """Point at the phrases of each record of a file.

    Args:
        model: A model that points.
        path: Records with `image` and `phrase` or `phrases`, or a set in one of the documented
            forms for grounding. True masks are not read.
        output: Folder for the predictions; None writes them to standard output.
        mask: Head to take masks from; None for the best.
        format: Form of the records, or `auto`.
        media_root: Folder that relative media paths start from.
        skip_faulty: Point at what the sound records say and count the others.
        as_json: Write one JSON document to standard output.

    Raises:
        DataError: Records are faulty: all faults at once, before the first mask.
        InputError: The model does not point, or the output is no folder.
    """
    from chiasm.data.conversation import raise_faults
    from chiasm.data.media import load_image
    from chiasm.inference.pointing import as_masks, as_pointing, choose_head

    pointing = as_pointing(model)
    head = choose_head(pointing, mask)
    records, faults = read_phrases(path, format, media_root)
    if faults and not skip_faulty:
        raise_faults(f"{path}, of which nothing was pointed at (see --skip-faulty)", faults)
    for fault in faults:
        console.print(f"skipped: {fault}", markup=False, soft_wrap=True)
    if not records:
        raise DataError(f"{path}: no record with phrases can be pointed at")
    if output is not None:
        make_folder(output)
    predictions: list[dict[str, Any]] = []
    with asking(len(records), "records") as tell:
        for source, group in groupby(records, key=lambda record: record.image):
            image = load_image(source)
            reading = pointing.read_picture(image)
            for record in group:
                found = pointing.point_at(reading, record.phrases, head)
                masks = as_masks(found, record.phrases, image)
                documents = [one.document() for one in masks]
                predictions.append({"id": record.identifier, "masks": documents})
                tell("pointing", 1)
    document: dict[str, Any] = {
        "count": len(predictions),
        "faulty": len({fault.origin for fault in faults}),
    }
    if output is None:
        document["predictions"] = predictions
    else:
        write_predictions(output / PREDICTIONS, predictions)
        document["files"] = [str(output / PREDICTIONS)]
    emit(document, as_json=as_json, render=lambda target: _show(document, target))


def read_phrases(
    path: Path, format: str, media_root: Path | None
) -> tuple[list[PhraseRecord], list[Fault]]:
    """Read records of phrases, and everything that is wrong with them, pictures included.

    Raises:
        DataError: There is no such file, or `media_root` is no folder.
    """
    from chiasm.data.conversation import Fault
    from chiasm.data.media import load_image
    from chiasm.data.records import read_records

    if media_root is not None and not media_root.is_dir():
        raise DataError(f"media_root {media_root} is not a folder; correct it, or leave it out")
    plain = path.is_file() and format in ("auto", "phrases") and path.suffix in (".jsonl", ".json")
    read, faults = read_records(path) if plain else ([], [])
    if read and set(TEXTS) & read[0].fields.keys():
        found = [_record(record, media_root or path.parent, faults) for record in read]
        records = [record for record in found if record is not None]
    else:
        records, faults = _read_set(path, format, media_root)
    sound: dict[int, bool] = {}
    for place, record in enumerate(records):
        try:
            load_image(record.image)
            sound[place] = True
        except ChiasmError as error:
            faults.append(Fault(record.origin, "image", str(error), "give a picture"))
    return [record for place, record in enumerate(records) if sound.get(place)], faults


def _record(record: Record, root: Path, faults: list[Fault]) -> PhraseRecord | None:
    from chiasm.data.conversation import Fault, shown
    from chiasm.data.media import local_path

    fields = record.fields
    image = next((fields[name] for name in IMAGES if name in fields), None)
    given: Any = next((fields[name] for name in TEXTS if name in fields), None)
    phrases = [given] if isinstance(given, str) else given
    wrong = []
    if not isinstance(image, str) or not image.strip():
        wrong.append(Fault(record.origin, "image", shown(image), "a path is needed"))
    if not isinstance(phrases, list) or not phrases or not all(map(_is_phrase, phrases)):
        allowed = "a text that is not blank, or a list of such, is needed"
        wrong.append(Fault(record.origin, "phrases", shown(given), allowed))
    faults += wrong
    if wrong or not isinstance(image, str):
        return None
    return PhraseRecord(
        identifier=str(fields.get("id", f"{record.file.name}:{record.place}")),
        image=root / local_path(image),
        phrases=tuple(phrases),
        origin=record.origin,
    )


def _is_phrase(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _read_set(
    path: Path, format: str, media_root: Path | None
) -> tuple[list[PhraseRecord], list[Fault]]:
    """Read one of the forms for grounding; its samples bring their phrases."""
    from chiasm.data.formats.reader import ReadOptions
    from chiasm.data.locating import phrase_text
    from chiasm.data.reading import read_file

    reading = read_file(path, format, ReadOptions(media_root or path.parent))
    records = [
        PhraseRecord(
            identifier=sample.identifier,
            image=sample.images[0],
            phrases=tuple(phrase_text(sample.turns, phrase) for phrase in sample.phrases),
            origin=sample.origin,
        )
        for sample in reading.samples
        if sample.phrases
    ]
    return records, list(reading.faults)


def _show(document: Mapping[str, Any], target: Console) -> None:
    lines: Sequence[Mapping[str, Any]] = document.get("predictions", ())
    for prediction in lines:
        # Not through the console, which would wrap lines that a program reads.
        typer.echo(write_line(prediction))
    for path in document.get("files", ()):
        target.print(
            f"wrote masks of {document['count']} records to {path}", markup=False, soft_wrap=True
        )
    if document["faulty"]:
        console.print(f"{document['faulty']} faulty record(s) were skipped", markup=False)
