"""One prediction: an answer or masks of what was given on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from chiasm.cli.output import console, emit
from chiasm.cli.predict_file import PREDICTIONS, write_predictions
from chiasm.cli.predict_masks import OVERLAY, RUN_LENGTHS, show_masks, write_masks
from chiasm.cli.writing import make_folder, writing
from chiasm.core.config import lookup

if TYPE_CHECKING:
    from chiasm.inference.answers import Answer, Mask
    from chiasm.inference.chain_of_thought import ThoughtAnswer
    from chiasm.inference.grounded import GroundedAnswer
    from chiasm.inference.responding import Generation
    from chiasm.inference.session import Session
    from chiasm.recipes.build import Family


GROUNDED = "grounded.html"
REGION = "region.png"


@dataclass(frozen=True)
class Wants:
    """What is wanted of the model.

    Attributes:
        question: The question, or None.
        phrases: Phrases to point at.
        mask: Head to take masks from; None for the best.
        ground: Whether the phrases of the answer are pointed at.
        finder: What finds them; None for rules.
        thought: How to look closer before answering; None for not at all.
    """

    question: str | None
    phrases: tuple[str, ...] = ()
    mask: str | None = None
    ground: bool = False
    finder: str | None = None
    thought: str | None = None

    @property
    def extractor(self) -> str | None:
        """What finds the phrases of the answer; None where they are not pointed at."""
        return (self.finder or "rules") if self.ground else None

    @property
    def pointing(self) -> bool:
        """Whether the model has to point."""
        return bool(self.phrases) or self.extractor is not None or self.thought is not None


def predict_one(
    run: str,
    model: Family,
    image: Path | None,
    wants: Wants,
    generation: Generation,
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    """Show a model something, ask for what is wanted, and write it.

    Args:
        run: Name of the run.
        model: The model.
        image: The image, or None for text alone.
        wants: What is wanted.
        generation: How answers are written.
        output: Folder for the files; None writes none.
        as_json: Write one JSON document to standard output.

    Raises:
        ChiasmError: The model lacks a sense, or an input is wrong.
    """
    from chiasm.inference.chain_of_thought import check_thought
    from chiasm.inference.phrases import EXTRACTORS
    from chiasm.inference.pointing import as_pointing, check_phrases, choose_head
    from chiasm.inference.session import Session

    session = Session(model)
    if wants.pointing:
        choose_head(as_pointing(model), wants.mask)
    if wants.phrases:
        check_phrases(wants.phrases)
    if wants.thought is not None:
        check_thought(wants.thought)
    if wants.extractor is not None:
        lookup(EXTRACTORS, wants.extractor, "phrase extractor")
    session.set(image=image)
    if output is not None:
        make_folder(output)
    said = _ask(session, wants, generation)
    document: dict[str, Any] = {"model": run, **said.document}
    masks = session.point(wants.phrases, mask=wants.mask) if wants.phrases else []
    if masks:
        found = [mask.document() for mask in masks]
        document["masks"] = [*document.get("masks", ()), *found]
    if output is not None:
        with writing(output):
            files = _save(output, document, said, [*said.masks, *masks], image)
        document["files"] = [str(file) for file in files]
        _tell_others(output, files)
    if wants.extractor is not None and not said.masks:
        console.print("the answer has no phrase to point at", markup=False)
    emit(document, as_json=as_json, render=lambda target: _show(document, said.answer, target))


@dataclass(frozen=True)
class _Said:
    """What came of the question: in plain values, and what files are made of."""

    document: dict[str, Any]
    answer: Answer | None = None
    masks: tuple[Mask, ...] = ()
    grounded: GroundedAnswer | None = None
    thought: ThoughtAnswer | None = None


def _ask(session: Session, wants: Wants, generation: Generation) -> _Said:
    from chiasm.inference.chain_of_thought import check_thought

    if wants.question is None:
        return _Said({})
    if wants.thought is not None:
        thought = session.think(
            wants.question,
            check_thought(wants.thought),
            mask=wants.mask,
            max_new_tokens=generation.max_new_tokens,
        )
        masks = () if thought.mask is None else (thought.mask,)
        return _Said(thought.document(), thought.answer, masks, thought=thought)
    if wants.extractor is not None:
        grounded = session.converse(
            wants.question, extractor=wants.extractor, mask=wants.mask, **vars(generation)
        )
        return _Said(grounded.document(), grounded.answer, tuple(grounded.masks), grounded=grounded)
    answer = session.ask(wants.question, **vars(generation))
    return _Said({"question": wants.question, **answer.document()}, answer)


def _show(document: dict[str, Any], answer: Answer | None, target: Console) -> None:
    if answer is not None:
        show_answer(answer, target)
    if document.get("thought", "none") != "none":
        _show_thought(document, target)
    show_masks(document.get("masks", ()), target)
    for path in document.get("files", ()):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _show_thought(document: dict[str, Any], target: Console) -> None:
    if document["region"] is None:
        target.print("looked closer at: nothing found, so at the whole picture", markup=False)
        return
    left, top, right, bottom = document["region"]
    target.print(
        f"looked closer at: {document['mask']['phrase']}, x {left} to {right}, y {top} to {bottom}",
        markup=False,
        soft_wrap=True,
    )


def show_answer(answer: Answer, target: Console) -> None:
    """Tell an answer, the gate where there is one, and whether the answer was cut off."""
    target.print(answer.text, markup=False, soft_wrap=True)
    if answer.gate is not None:
        target.print(f"gate: {_gate_words(answer)}", style="dim", markup=False, soft_wrap=True)
    if answer.finish == "length":
        console.print(
            f"cut off after {answer.new_tokens} tokens; raise --max-new-tokens", markup=False
        )


def _gate_words(answer: Answer) -> str:
    shares = ", ".join(f"{name} {share:.3f}" for name, share in (answer.gate or {}).items())
    return f"{shares}; mostly {answer.dominant} (confidence {answer.confidence:.3f})"


def _save(
    folder: Path,
    document: dict[str, Any],
    said: _Said,
    masks: Sequence[Mask],
    image: Path | None,
) -> list[Path]:
    """Write the prediction, for each stream its map over the image, masks, page and region."""
    from chiasm.inference.grounded_page import save_grounded
    from chiasm.inference.pictures import draw_map, read_picture

    name = "question" if image is None else image.name
    files = [folder / PREDICTIONS]
    write_predictions(files[0], [{"id": name, **document}])
    if image is not None:
        picture = read_picture(image)
        answer = said.answer
        if answer is not None and answer.report is not None and answer.views:
            for stream, rows in answer.report.images[0].maps.items():
                files.append(folder / f"gate-{stream}.png")
                draw_map(picture, rows, answer.views[0]).save(files[-1])
        if masks:
            files += write_masks(folder, picture, masks)
        if said.grounded is not None:
            files.append(save_grounded([said.grounded], folder / GROUNDED))
        if said.thought is not None and said.thought.region is not None:
            files.append(folder / REGION)
            picture.crop(said.thought.region).save(files[-1])
    return files


def _tell_others(folder: Path, files: Sequence[Path]) -> None:
    """Name what an earlier prediction left in the folder, which is not of this one."""
    ours = ("mask-*.png", "gate-*.png", RUN_LENGTHS, OVERLAY, GROUNDED, REGION)
    others = sorted(path.name for form in ours for path in folder.glob(form) if path not in files)
    if others:
        console.print(
            f"{folder} still holds, of an earlier prediction: {', '.join(others)}",
            markup=False,
            soft_wrap=True,
        )
