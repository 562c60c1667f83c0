"""`chiasm evaluate --suite video`: actions in time, answers, captions, and the merge ledger."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chiasm.cli.asking import asking
from chiasm.cli.output import console
from chiasm.cli.predict_video import show_ledgers
from chiasm.cli.writing import tell_report
from chiasm.core.errors import DataError, InputError

if TYPE_CHECKING:
    from accelerate import PartialState

    from chiasm.core.samples import Sample
    from chiasm.evaluation.video_scores import VideoScores
    from chiasm.models.long_video import LongVideo

REPEATS = 3
"""Runs of the ledger that count."""


def evaluate_video_of(
    run: str,
    samples: Sequence[Sample],
    training: Sequence[Sample] | None,
    *,
    state: PartialState,
    data: str,
    output: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Score what a run predicts about videos, keep its ledger, and write and show the report.

    Args:
        run: A run directory, or the name of a shipped model.
        samples: Videos with their truth.
        training: Samples whose answers the majority baseline is counted on.
        state: This process's place; the main one does all the work.
        data: Name of the data.
        output: Report to write (JSON), with predictions as JSONL and the page of the ledger beside
            it.
        seed: Of the intervals.
        as_json: Write one JSON document to standard output.

    Raises:
        ChiasmError: The run watches no videos, or the data cannot be watched or scored.
    """
    from chiasm.data.video_words import ACTIONS_REQUEST
    from chiasm.evaluation.bootstrap import Bootstrap
    from chiasm.evaluation.merge_ledger_page import render_ledgers
    from chiasm.evaluation.saving import page_path, save_report, write_page
    from chiasm.evaluation.video_ledgers import keep_video_ledgers
    from chiasm.evaluation.video_scores import score_videos
    from chiasm.inference.videos import as_watching
    from chiasm.inference.watching import watch_samples
    from chiasm.models.video_language import VideoLanguage
    from chiasm.recipes.loading import load_run

    if not state.is_main_process:
        return
    loaded = load_run(run).to(state.device)
    if isinstance(loaded, VideoLanguage):
        raise InputError(
            f"{run} answers about videos in its own words and finds no actions; score them with "
            "--suite answers or --suite captions"
        )
    model = as_watching(loaded)
    _check_videos(samples, data)
    with asking(len(samples), "samples") as tell:
        lines = watch_samples(model, samples, lambda count: tell("watching", count))
    scores = score_videos(
        lines,
        samples,
        train_samples=training,
        bootstrap=Bootstrap(seed=seed),
        caption_requests=model.collator.requests - {ACTIONS_REQUEST},
        settings=_settings(run, model),
        data=data,
    )
    console.print("keeping the ledger of one video", markup=False)
    ledgers = keep_video_ledgers(model, samples[0], repeats=REPEATS)
    document: dict[str, Any] = {
        "suite": "video",
        "numbers": scores.numbers(),
        **scores.to_json(),
        "ledger": {name: ledger.to_json() for name, ledger in ledgers.items()},
    }

    def save(path: Path) -> list[Path]:
        page = page_path(path)
        paths = [*save_report(path, document, lines), page]
        write_page(page, render_ledgers(ledgers))
        return paths

    show = partial(_show, scores, document)
    tell_report(document, save, show, output=output, as_json=as_json)


def _check_videos(samples: Sequence[Sample], data: str) -> None:
    lacking = [sample.origin or sample.identifier for sample in samples if sample.video is None]
    if lacking or not samples:
        raise DataError(
            f"{data}: {len(lacking)} of {len(samples)} sample(s) without video", lacking
        )


def _settings(run: str, model: LongVideo) -> dict[str, Any]:
    """Return what shapes the predictions; see `Described.describe`."""
    parameter = next(model.parameters())
    return {
        "model": run,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "attention": type(model.reading.reader.mixers[0]).__name__,
        "pixels": model.collator.size,
        "sampling": model.collator.sampling.model_dump(mode="json"),
    }


def _show(scores: VideoScores, document: dict[str, Any], target: Console) -> None:
    if scores.detection:
        table = Table("actions", "mAP", "by temporal IoU", title=f"{scores.videos} videos")
        for name, found in scores.detection.items():
            each = zip(found.thresholds, found.per_threshold, strict=True)
            told = ", ".join(f"{value:.3f} at {threshold:g}" for threshold, value in each)
            table.add_row(name, f"{found.mean:.3f}", told)
        target.print(table)
    for suite, report in scores.texts.items():
        metrics = [*report.overall.scores]
        corpus = [name for name, value in report.overall.corpus.items() if value is not None]
        table = Table("kind", "n", *metrics, *corpus, "majority", title=suite)
        for group in (report.overall, *report.by_kind):
            values = [
                f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"
                for found in (group.scores[name] for name in metrics)
            ]
            whole = [group.corpus.get(name) for name in corpus]
            values += ["" if value is None else f"{value:.3f}" for value in whole]
            base = "" if group.baseline is None else f"{group.baseline.score:.3f}"
            table.add_row(escape(group.name) or "(none)", str(group.count), *values, base)
        target.print(table)
    for task, count in scores.unscored.items():
        target.print(f"{count} sample(s) of {task} were not scored: nothing was predicted for them")
    show_ledgers(document["ledger"], target)
