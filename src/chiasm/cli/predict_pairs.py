"""An image and its reconstruction: asked about, completed, checked, and shown in one sheet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from chiasm.cli.asking import asking
from chiasm.cli.output import console, emit
from chiasm.cli.predict_file import (
    PREDICTIONS,
    read_questions,
    tell_predictions,
    write_predictions,
)
from chiasm.cli.writing import make_folder, writing
from chiasm.core.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from chiasm.core.samples import Sample
    from chiasm.inference.answers import Answer, Completion
    from chiasm.inference.pairs import Painting, Pairing
    from chiasm.inference.responding import Generation
    from chiasm.inference.self_check import SelfCheck
    from chiasm.inference.senses import Sensing

SHEET = "sheet.png"
COMPLETED = "completed.png"

MOST_LETTERS = 40
"""Characters of a record's name in a file name."""


@dataclass(frozen=True)
class PairWants:
    """What is wanted of a model of pairs.

    Attributes:
        complete: Whether to draw the complete picture.
        self_check: Whether the model judges itself on the original first.
        temperature: Of the drawing.
        top_k: Of the drawing; 0 for all codes.
        guidance: Of the drawing; 1 for none.
        seed: Of the drawing.
    """

    complete: bool
    self_check: bool
    temperature: float
    top_k: int
    guidance: float
    seed: int

    @property
    def painting(self) -> Painting:
        """How pictures are drawn."""
        from chiasm.inference.pairs import Painting

        return Painting(self.temperature, self.top_k, self.guidance, self.seed)


@dataclass(frozen=True)
class _Found:
    """What came of one pair."""

    sample: Sample
    answer: Answer
    completed: Image.Image | None = None
    check: SelfCheck | None = None

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "question": self.sample.turns[-1].text.strip(),
            **self.answer.document(maps=False),
        }
        if self.check is not None:
            document["self_check"] = self.check.document()
        return document


def predict_pair(
    run: str,
    model: Sensing,
    given: Mapping[str, Any],
    wants: PairWants,
    generation: Generation,
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    """Ask about one pair and write what comes of it.

    Args:
        run: Name of the run.
        model: The model.
        given: The fields of `PairRequest`.
        wants: What is wanted beside the answer.
        generation: How the answer is written.
        output: Folder for the files; None writes none.
        as_json: Write one JSON document to standard output.

    Raises:
        ChiasmError: The model lacks a sense, or an input is wrong.
        BadParameter: Nothing is asked (exit code 2).
    """
    from chiasm.inference.pair_requests import PairRequest
    from chiasm.inference.pairs import as_pairing

    pairing = as_pairing(model)
    _check(pairing, wants)
    if given["question"] is None:
        raise typer.BadParameter(
            "give --ask TEXT or --complete as well", param_hint="--reconstruction"
        )
    sample = PairRequest.of({**given, "id": Path(given["image"]).name}, 0).sample()
    if output is not None:
        make_folder(output)
    (found,) = _ask(pairing, [sample], wants, generation, detail=output is not None)
    document = {"model": run, **found.document()}
    if output is not None:
        with writing(output):
            files = _save(found, output)
            if found.completed is not None:
                document["image"] = str(output / COMPLETED)
            lines = [{"id": sample.identifier, **document}]
            write_predictions(output / PREDICTIONS, lines)
        document["files"] = [str(path) for path in (output / PREDICTIONS, *files)]
    emit(document, as_json=as_json, render=lambda target: _show_one(document, target))


def predict_pair_file(
    model: Sensing,
    path: Path,
    output: Path | None,
    wants: PairWants,
    generation: Generation,
    *,
    format: str,
    media_root: Path | None,
    batch_size: int,
    skip_faulty: bool,
    as_json: bool,
) -> None:
    """Ask about each pair of a file; arguments and errors as for `predict_file`.

    With an output folder, each record gets a sheet in `sheets/`, and with `complete` its picture in
    `completed/`.
    """
    from chiasm.inference.pairs import as_pairing

    pairing = as_pairing(model)
    _check(pairing, wants)
    samples, faulty = read_questions(pairing, path, format, media_root, skip_faulty)
    lacking = [f"{one.origin}: no `image_recon`" for one in samples if one.pair is None]
    if lacking:
        title = f"{path}, of which nothing was answered: this model reads pairs alone"
        raise DataError(title, lacking)
    if output is not None:
        make_folder(output)
    predictions: list[dict[str, Any]] = []
    with asking(len(samples), "pairs") as tell:
        for start in range(0, len(samples), batch_size):
            some = samples[start : start + batch_size]
            for found in _ask(pairing, some, wants, generation, detail=output is not None):
                line = {"id": found.sample.identifier, **found.document()}
                if output is not None:
                    line |= _save_record(found, len(predictions), output)
                predictions.append(line)
            tell("answering", len(some))
    tell_predictions(predictions, faulty, output, as_json)


def _check(model: Pairing, wants: PairWants) -> None:
    from chiasm.inference.senses import check_sense

    if not wants.complete:
        return
    check_sense(model, "complete")
    if model.drawing is not None:
        model.drawing.check(**vars(wants.painting))


def _ask(
    model: Pairing,
    samples: list[Sample],
    wants: PairWants,
    generation: Generation,
    *,
    detail: bool,
) -> list[_Found]:
    """Ask about the pairs of one batch."""
    from chiasm.inference.answers import Completion
    from chiasm.inference.pairs import ask_pairs

    said: Sequence[Answer | Completion] = ask_pairs(
        model, samples, generation, wants.painting, complete=wants.complete, detail=detail
    )
    found = [
        _Found(sample, one.answer, one.image)
        if isinstance(one, Completion)
        else _Found(sample, one)
        for sample, one in zip(samples, said, strict=True)
    ]
    if not wants.self_check:
        return found
    return [replace(one, check=_check_itself(model, one.sample, generation)) for one in found]


def _check_itself(model: Pairing, sample: Sample, generation: Generation) -> SelfCheck:
    from chiasm.inference.pairs import ShownPair
    from chiasm.inference.pictures import read_picture
    from chiasm.inference.self_check import check_itself

    assert sample.pair is not None
    shown = ShownPair.look(model, read_picture(sample.images[0]), sample.pair)
    question = sample.turns[-1].text
    return check_itself(shown, question, max_new_tokens=generation.max_new_tokens)


def _save(found: _Found, folder: Path) -> list[Path]:
    """Write the sheet and, where one was drawn, the completed picture."""
    files = [folder / SHEET]
    _sheet(found).save(files[0])
    if found.completed is not None:
        files.append(folder / COMPLETED)
        found.completed.save(files[1])
    return files


def _save_record(found: _Found, index: int, output: Path) -> dict[str, str]:
    """Write the pictures of one record of a file; return their paths by field."""
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(found.sample.identifier).stem)[:MOST_LETTERS]
    name = f"{index + 1:05d}-{words.strip('-')}".strip("-") + ".png"
    drawn = {"sheet": (output / "sheets", _sheet(found))}
    if found.completed is not None:
        drawn["image"] = (output / "completed", found.completed)
    with writing(output):
        for folder, picture in drawn.values():
            folder.mkdir(exist_ok=True)
            picture.save(folder / name)
    return {field: str(folder / name) for field, (folder, _) in drawn.items()}


def _sheet(found: _Found) -> Image.Image:
    from chiasm.inference.pair_sheet import draw_sheet
    from chiasm.inference.pictures import read_picture

    assert found.sample.pair is not None
    return draw_sheet(
        read_picture(found.sample.images[0]),
        read_picture(found.sample.pair.reconstruction),
        found.answer,
        found.sample.turns[-1].text.strip(),
        found.completed,
    )


def _show_one(document: Mapping[str, Any], target: Console) -> None:
    target.print(document["text"], markup=False, soft_wrap=True)
    if document["finish"] == "length":
        console.print(
            f"cut off after {document['new_tokens']} tokens; raise --max-new-tokens", markup=False
        )
    pair = document["pair"]
    for name, box in pair["boxes"].items():
        sides = ", ".join(f"{side:.0f}" for side in box)
        target.print(
            f"box in the {name}: {sides} ({pair['rules'][name]})", style="dim", markup=False
        )
    shares = ", ".join(f"{name} {share:.3f}" for name, share in pair["alpha"].items())
    target.print(f"alpha, the original's share: {shares}", style="dim", markup=False)
    if check := document.get("self_check"):
        verdict = "clear" if check["clear"] else f"not clear, so it looked at the {check['source']}"
        target.print(
            f"self-check: {check['text']} (on the original: {check['first']}; {verdict}; "
            f"log-probability of yes {check['scores']['yes']:.3f}, of no "
            f"{check['scores']['no']:.3f})",
            markup=False,
            soft_wrap=True,
        )
    for path in document.get("files", ()):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)
