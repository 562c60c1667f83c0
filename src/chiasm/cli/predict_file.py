"""A file of questions answered: checked whole first, then answered in batches, written whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import typer
from rich.console import Console

from chiasm.cli.asking import asking
from chiasm.cli.output import console, emit
from chiasm.cli.writing import make_folder, writing
from chiasm.core.errors import DataError
from chiasm.core.spelling import spell

if TYPE_CHECKING:
    from chiasm.core.samples import Sample
    from chiasm.data.collate import Collator
    from chiasm.data.conversation import Fault
    from chiasm.inference.responding import Answering, Generation
    from chiasm.inference.senses import Sensing

PREDICTIONS = "predictions.jsonl"


class Collating(Protocol):
    """A model that reads samples."""

    @property
    def collator(self) -> Collator:
        """Turns samples into batches."""
        ...


def predict_file(
    model: Sensing,
    path: Path,
    output: Path | None,
    generation: Generation,
    *,
    format: str,
    media_root: Path | None,
    batch_size: int,
    skip_faulty: bool,
    as_json: bool,
) -> None:
    """Answer each record of a file.

    Args:
        model: A model that answers.
        path: Records in one of the documented forms. An assistant turn at the end of a record is
            left out; what it said is not read.
        output: Folder for the predictions; None writes them to standard output.
        generation: How to write.
        format: Form of the records, or `auto`.
        media_root: Folder that relative media paths start from.
        batch_size: Records a batch.
        skip_faulty: Answer the sound records and count the others.
        as_json: Write one JSON document to standard output.

    Raises:
        DataError: Records are faulty: all faults at once, before the first answer.
        InputError: The model answers no questions, or the output is no folder.
    """
    from chiasm.inference.responding import respond_to
    from chiasm.inference.senses import check_sense

    check_sense(model, "ask")
    answering = cast("Answering", model)
    samples, faulty = read_questions(answering, path, format, media_root, skip_faulty)
    if output is not None:
        make_folder(output)
    predictions: list[dict[str, Any]] = []
    with asking(len(samples)) as tell:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            for sample, answer in zip(batch, respond_to(answering, batch, generation), strict=True):
                predictions.append({"id": sample.identifier, **answer.document(maps=False)})
            tell("answering", len(batch))
    tell_predictions(predictions, faulty, output, as_json)


def read_questions(
    model: Collating, path: Path, format: str, media_root: Path | None, skip_faulty: bool
) -> tuple[list[Sample], int]:
    """Read the records of a file that can be answered.

    Returns:
        The samples with what follows their last user turn left out, and how many records are
        faulty.

    Raises:
        DataError: Records are faulty and not to be skipped, or none is left.
    """
    from chiasm.data.check import check
    from chiasm.data.conversation import raise_faults
    from chiasm.data.formats.reader import ReadOptions
    from chiasm.data.reading import read_file

    if media_root is not None and not media_root.is_dir():
        raise DataError(f"media_root {media_root} is not a folder; correct it, or leave it out")
    collator = model.collator
    strict = collator.over_long in ("error", "drop")
    report = check(
        path,
        format,
        media_root=media_root,
        prompter=collator.prompter,
        preparer=collator.preparer,
        max_length=collator.max_length if strict else None,
        prediction=True,
    )
    if report.faults and not skip_faulty:
        raise_faults(f"{path}, of which nothing was answered (see --skip-faulty)", report.faults)
    for fault in report.faults:
        console.print(f"skipped: {fault}", markup=False, soft_wrap=True)
    reading = read_file(path, format, ReadOptions(media_root or path.parent))
    wrong = {fault.origin for fault in report.faults}
    samples = [_question(sample) for sample in reading.samples if sample.origin not in wrong]
    if not samples:
        raise DataError(f"{path}: no record can be answered; see what was skipped above")
    return samples, _records(report.faults)


def tell_predictions(
    predictions: Sequence[Mapping[str, Any]],
    faulty: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write the predictions of a file, or give them out, and say how many there are.

    Args:
        predictions: In order.
        faulty: How many records were left out.
        output: Folder for `predictions.jsonl`; without one they are part of what is given out.
        as_json: Whether a program reads.
    """
    document: dict[str, Any] = {"count": len(predictions), "faulty": faulty}
    if output is None:
        document["predictions"] = list(predictions)
    else:
        with writing(output):
            write_predictions(output / PREDICTIONS, predictions)
        document["files"] = [str(output / PREDICTIONS)]
    emit(document, as_json=as_json, render=lambda target: _show(document, target))


def write_predictions(path: Path, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Write one object a line, the whole file or nothing."""
    from chiasm.training.durable import write_text

    write_text(path, "".join(write_line(prediction) + "\n" for prediction in predictions))


def write_line(prediction: Mapping[str, Any]) -> str:
    """Return one prediction as a line of JSON."""
    return spell(prediction)


def _question(sample: Sample) -> Sample:
    turns = sample.turns[:-1] if sample.turns[-1].role == "assistant" else sample.turns
    return replace(sample, turns=turns, truth={})


def _records(faults: Sequence[Fault]) -> int:
    return len({fault.origin for fault in faults})


def _show(document: Mapping[str, Any], target: Console) -> None:
    for prediction in document.get("predictions", ()):
        # Not through the console, which would wrap lines that a program reads.
        typer.echo(write_line(prediction))
    for path in document.get("files", ()):
        target.print(
            f"wrote {document['count']} predictions to {path}", markup=False, soft_wrap=True
        )
    if document["faulty"]:
        console.print(f"{document['faulty']} faulty record(s) were skipped", markup=False)
