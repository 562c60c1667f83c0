"""A file of phrases pointed at: checked whole first, each picture read once, written whole."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.cli.asking import asking
from chiasm.cli.output import console
from chiasm.cli.predict_file import tell_predictions
from chiasm.cli.writing import make_folder
from chiasm.core.errors import ChiasmError, DataError, MediaError

if TYPE_CHECKING:
    from chiasm.core.samples import ImageSource
    from chiasm.data.conversation import Fault
    from chiasm.data.records import Record
    from chiasm.inference.pointing import Pointing
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

    forms = {name: form for name, form in WHOLE_FILES.items() if name != "nlvr"}
    if path.is_dir() or format in forms:
        return True
    if format != "auto" or not path.is_file():
        return False
    if any(form.finds(path) for form in forms.values()):
        return True
    records, _ = read_records(path)
    fields = records[0].fields if records else {}
    return bool(set(TEXTS) & fields.keys()) or any(form.claims(fields) for form in forms.values())


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
    records, faults = read_phrases(pointing, path, format, media_root)
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
    faulty = len({fault.origin for fault in faults})
    tell_predictions(predictions, faulty, output, as_json)


def read_phrases(
    model: Pointing, path: Path, format: str, media_root: Path | None
) -> tuple[list[PhraseRecord], list[Fault]]:
    """Read records of phrases, and everything that is wrong with them, pictures included.

    Args:
        model: What will be asked; it says which pictures and phrases it can read.
        path: Records, or a set in one of the forms for grounding.
        format: Form of the records, or `auto`.
        media_root: Folder that relative media paths start from.

    Returns:
        The sound records, and the faults of the others.

    Raises:
        DataError: There is no such file, or `media_root` is no folder.
    """
    from chiasm.data.reading import add_repeated
    from chiasm.data.records import read_records

    if media_root is not None and not media_root.is_dir():
        raise DataError(f"media_root {media_root} is not a folder; correct it, or leave it out")
    plain = path.is_file() and format in ("auto", "phrases") and path.suffix in (".jsonl", ".json")
    read, faults = read_records(path) if plain else ([], [])
    if read and set(TEXTS) & read[0].fields.keys():
        found = [_record(record, media_root or path.parent, faults) for record in read]
        records = [record for record in found if record is not None]
        add_repeated(records, faults)
    else:
        records, faults = _read_set(path, format, media_root)
    wrong = {fault.origin for fault in faults}
    faults += [fault for record in records for fault in _unreadable(model, record)]
    unsound = {fault.origin for fault in faults}
    # A sample of a set has the place of its first phrase, which may be faulty on its own.
    dropped = unsound if plain and read else unsound - wrong
    in_order = sorted(faults, key=lambda fault: fault.line)
    return [record for record in records if record.origin not in dropped], in_order


def _unreadable(model: Pointing, record: PhraseRecord) -> list[Fault]:
    """Return what of a record the model cannot read."""
    from chiasm.data.conversation import Fault
    from chiasm.data.media import load_image
    from chiasm.inference.pointing import check_readable

    try:
        check_readable(model, load_image(record.image), record.phrases)
    except MediaError as error:
        return [Fault(record.origin, "image", str(error), "give another picture")]
    except ChiasmError as error:
        return [Fault(record.origin, "phrases", str(error), "correct it, or leave the record out")]
    return []


def _record(record: Record, root: Path, faults: list[Fault]) -> PhraseRecord | None:
    from chiasm.data.conversation import Fault, shown

    fields = record.fields
    image = next((fields[name] for name in IMAGES if name in fields), None)
    given: Any = next((fields[name] for name in TEXTS if name in fields), None)
    phrases = [given] if isinstance(given, str) else given
    wrong = []
    if not isinstance(phrases, list) or not phrases or not all(map(_is_phrase, phrases)):
        allowed = "a text that is not blank, or a list of such, is needed"
        wrong.append(Fault(record.origin, "phrases", shown(given), allowed))
    place = _place(image, root)
    if not isinstance(place, Path):
        wrong.append(Fault(record.origin, "image", place, "a path is needed"))
    faults += wrong
    if wrong or not isinstance(place, Path):
        return None
    return PhraseRecord(
        identifier=str(fields.get("id", f"{record.file.name}:{record.place}")),
        image=place,
        phrases=tuple(phrases),
        origin=record.origin,
    )


def _place(image: object, root: Path) -> Path | str:
    """Return where a picture lies, or what is wrong with what stands in its place."""
    from chiasm.data.conversation import shown
    from chiasm.data.media import local_path

    if not isinstance(image, str) or not image.strip():
        return shown(image)
    try:
        return root / local_path(image)
    except MediaError as error:
        return str(error)


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
