"""One video, or a file of videos: watched, asked about, drawn along its time axis, timed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chiasm.cli.asking import asking
from chiasm.cli.output import console, emit
from chiasm.cli.predict_file import PREDICTIONS, tell_predictions, write_predictions
from chiasm.cli.writing import make_folder, writing
from chiasm.core.errors import DataError

if TYPE_CHECKING:
    from chiasm.core.samples import Sample
    from chiasm.inference.responding import Generation
    from chiasm.inference.senses import Sensing

TIMELINE = "timeline.png"


def predict_video(
    run: str,
    model: Sensing,
    video: Path,
    question: str | None,
    generation: Generation,
    output: Path | None,
    *,
    domain: str | None,
    sure: float,
    as_json: bool,
) -> None:
    """Watch one video, answer about it, and write what comes of it.

    Args:
        run: Name of the run.
        model: The model.
        video: A video file, a folder of frames, or a file of features.
        question: The question, or None.
        generation: How answers are written.
        output: Folder for predictions and timeline; None writes none.
        domain: Of the video, for a model with parts by domain and no router; else None.
        sure: Score from which a segment is shown to people and drawn; files hold all.
        as_json: Write one JSON document to standard output.

    Raises:
        ChiasmError: The model lacks a sense, or the video cannot be watched, or its domain is not
            told or told in vain.
    """
    from chiasm.inference.senses import check_sense
    from chiasm.inference.session import Session
    from chiasm.inference.timeline import draw_timeline

    check_sense(model, "video")
    if question is None and "caption" not in model.senses:
        check_sense(model, "watch")
    if output is not None:
        make_folder(output)
    session = Session(model)
    session.set(video=video, domain=domain)
    shown = session.video()
    document: dict[str, Any] = {
        "model": run,
        "video": str(video),
        "duration": round(shown.duration, 4),
        "frames": len(shown.times),
        "tokens": shown.tokens,
        "kept": shown.kept,
        "remembered": int(shown.memory.mask.sum()),
        "streamed": shown.streamed,
    }
    if question is not None:
        answer = session.ask(question, **vars(generation))
        document |= {"question": question, **answer.document()}
    elif "caption" in model.senses:
        document["caption"] = session.caption(max_new_tokens=generation.max_new_tokens).document()
    # A still can be asked about and described, and nothing happens in it.
    still = len(shown.times) < 2 and (question is not None or "caption" in model.senses)
    watched = "watch" in model.senses and not still
    found = session.watch() if watched else []
    if watched:
        document["segments"] = [segment.document() for segment in found]
    if output is not None:
        picture = draw_timeline(video, shown, [one for one in found if one.score >= sure])
        files = [output / PREDICTIONS, output / TIMELINE]
        with writing(output):
            write_predictions(files[0], [{"id": video.name, **document}])
            picture.save(files[1])
        document["files"] = [str(path) for path in files]
    emit(document, as_json=as_json, render=lambda target: _show(document, sure, target))


def predict_video_file(
    model: Sensing,
    path: Path,
    output: Path | None,
    generation: Generation,
    *,
    format: str,
    media_root: Path | None,
    skip_faulty: bool,
    as_json: bool,
) -> None:
    """Watch each video of a file, and answer what is asked about it.

    Arguments and errors as for `predict_file`. A record that names nothing but a video is watched.
    """
    from chiasm.inference.telling import tell_samples
    from chiasm.inference.videos import as_watching
    from chiasm.inference.watching import watch_samples
    from chiasm.models.video_language import VideoLanguage

    watcher = as_watching(model)
    samples, faulty = _read(path, format, media_root, skip_faulty)
    if output is not None:
        make_folder(output)
    with asking(len(samples), "records") as tell:
        if isinstance(model, VideoLanguage):
            predictions = tell_samples(model, samples, generation, lambda n: tell("telling", n))
        else:
            limit = generation.max_new_tokens
            predictions = watch_samples(
                watcher, samples, lambda count: tell("watching", count), limit=limit
            )
    tell_predictions(predictions, faulty, output, as_json)


def time_video(model: Sensing, video: Path, repeats: int, *, as_json: bool) -> None:
    """Time each stage of watching one video, merged as the model does it and unmerged.

    Raises:
        ChiasmError: The model watches no videos, or this one cannot be read.
    """
    from chiasm.core.samples import Sample
    from chiasm.evaluation.video_ledgers import keep_video_ledgers
    from chiasm.inference.videos import as_watching

    sample = Sample(identifier=video.name, turns=(), video=video)
    ledgers = keep_video_ledgers(as_watching(model), sample, repeats=repeats)
    document = {name: ledger.to_json() for name, ledger in ledgers.items()}
    emit(document, as_json=as_json, render=lambda target: show_ledgers(document, target))


def show_ledgers(ledgers: Mapping[str, Any], target: Console) -> None:
    """Show what each stage took in, gave out, and cost; ledgers in plain values, by name."""
    for name, ledger in ledgers.items():
        table = Table(title=escape(name))
        for heading in ("stage", "tokens in", "out", "median ms", "peak MiB"):
            table.add_column(heading, justify="left" if heading == "stage" else "right")
        for row in ledger["rows"]:
            counts = ["" if row[n] is None else str(row[n]) for n in ("tokens_in", "tokens_out")]
            peak = "" if row["peak"] is None else f"{row['peak']:.1f}"
            table.add_row(row["name"], *counts, f"{row['median']:.2f}", peak)
        target.print(table)


def _read(
    path: Path, format: str, media_root: Path | None, skip_faulty: bool
) -> tuple[list[Sample], int]:
    """Return the sound samples of a file, and how many records are faulty."""
    from chiasm.data.check import check
    from chiasm.data.conversation import raise_faults
    from chiasm.data.formats.reader import ReadOptions
    from chiasm.data.reading import read_file

    if media_root is not None and not media_root.is_dir():
        raise DataError(f"media_root {media_root} is not a folder; correct it, or leave it out")
    report = check(path, format, media_root=media_root, prediction=True)
    if report.faults and not skip_faulty:
        raise_faults(f"{path}, of which nothing was watched (see --skip-faulty)", report.faults)
    for fault in report.faults:
        console.print(f"skipped: {fault}", markup=False, soft_wrap=True)
    options = ReadOptions(media_root or path.parent, prediction=True)
    samples = read_file(path, format, options).samples
    wrong = {fault.origin for fault in report.faults}
    lacking = [f"{one.origin}: no video" for one in samples if one.video is None]
    if lacking:
        title = f"{path}, of which nothing was watched: this model watches videos alone"
        raise DataError(title, lacking)
    sound = [sample for sample in samples if sample.origin not in wrong]
    if not sound:
        raise DataError(f"{path}: no record can be watched; see what was skipped above")
    return sound, len({fault.origin for fault in report.faults})


def _show(document: Mapping[str, Any], sure: float, target: Console) -> None:
    if "caption" in document:
        target.print(document["caption"]["text"], markup=False, soft_wrap=True)
    if "text" in document:
        target.print(document["text"], markup=False, soft_wrap=True)
    if "likeliest" in document:
        likeliest = ", ".join(
            f"{text} {share:.3f}" for text, share in document["likeliest"].items()
        )
        target.print(f"likeliest: {likeliest}", style="dim", markup=False, soft_wrap=True)
        if document["unknown_words"]:
            words = ", ".join(document["unknown_words"])
            console.print(f"words that the model does not know: {words}", markup=False)
    told = [one for one in document.get("segments", ()) if one["score"] >= sure]
    for segment in sorted(told, key=lambda one: float(one["start"])):
        target.print(
            f"{segment['start']:.2f} s to {segment['end']:.2f} s: {segment['label']} "
            f"({segment['score']:.3f})",
            markup=False,
        )
    if "segments" in document:
        more = len(document["segments"]) - len(told)
        target.print(
            f"{len(told)} segment(s) of score {sure:g} or more, {more} below it (see --score, "
            "--json)",
            style="dim",
            markup=False,
        )
    merged = "" if document["kept"] == document["tokens"] else f", merged to {document['kept']}"
    remembered = document["remembered"]
    merged += "" if remembered == document["kept"] else f", {remembered} remembered"
    way = "clip by clip" if document["streamed"] else "at once"
    target.print(
        f"{document['frames']} frames of {document['duration']:g} s as {document['tokens']} tokens"
        f"{merged}, read {way}",
        style="dim",
        markup=False,
    )
    for path in document.get("files", ()):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)
