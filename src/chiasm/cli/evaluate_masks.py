"""`chiasm evaluate --suite grounding`: scores the masks of a model's phrases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chiasm.cli.asking import asking
from chiasm.cli.writing import tell_report

if TYPE_CHECKING:
    from accelerate import PartialState

    from chiasm.core.samples import Sample
    from chiasm.evaluation.bootstrap import Interval
    from chiasm.evaluation.grounding_model import MaskModel
    from chiasm.evaluation.grounding_report import GroundingReport, SplitResult

SHOWN = ("mean_iou", "cumulative_iou", "precision_at_0.5", "precision_at_0.7", "precision_at_0.9")
"""Numbers in the table for people; the report has all."""


def evaluate_masks_of(
    run: str,
    samples: Sequence[Sample],
    training: Sequence[Sample] | None,
    *,
    state: PartialState,
    data: str,
    output: Path | None,
    batch_size: int,
    seed: int,
    as_json: bool,
) -> None:
    """Score a run's masks, and write and show the report.

    Args:
        run: A run directory, or the name of a shipped model.
        samples: What is scored.
        training: What the baselines are fitted to; None for the evaluated phrases.
        state: This process's place; the main one writes.
        data: Name of the data.
        output: Report to write (JSON), with predictions as JSONL and a page beside it.
        batch_size: Samples a batch.
        seed: Of the intervals, and of the examples on the page.
        as_json: Write one JSON document to standard output.

    Raises:
        ChiasmError: The run does not point, or the data has no masks.
    """
    from chiasm.evaluation.bootstrap import Bootstrap
    from chiasm.evaluation.grounding import GroundingOptions, evaluate_masks
    from chiasm.evaluation.grounding_model import ModelGrounder
    from chiasm.evaluation.grounding_page import save_page
    from chiasm.evaluation.saving import page_path
    from chiasm.inference.senses import check_sense
    from chiasm.recipes.loading import load_run

    model = load_run(run).to(state.device)
    check_sense(model, "point")
    grounder = ModelGrounder(cast("MaskModel", model), name=run)
    with asking(len(samples), "samples") as tell:
        options = GroundingOptions(
            batch_size=batch_size,
            train_samples=training,
            bootstrap=Bootstrap(seed=seed),
            data=data,
            progress=lambda count: tell("pointing", count),
        )
        report = evaluate_masks(grounder, samples, options)
    if not state.is_main_process:
        return

    def save(path: Path) -> list[Path]:
        return [*report.save(path), save_page(report, samples, page_path(path), seed)]

    tell_report(
        report.to_json(),
        save,
        lambda target: _show(report, target),
        output=output,
        as_json=as_json,
    )


def _show(report: GroundingReport, target: Console) -> None:
    whole, *splits = report.summary.splits
    table = Table(title=f"{whole.count} phrases")
    table.add_column("masks")
    for name in SHOWN:
        table.add_column(name.replace("_", " "), justify="right")
    for maker, scores in whole.makers.items():
        table.add_row(escape(maker), *(_told(scores[name]) for name in SHOWN))
    target.print(table)
    _show_splits([whole, *splits], "split (average recall)", report.summary.best, target)
    if report.summary.groups:
        _show_splits(report.summary.groups, "group (mean IoU)", report.summary.best, target)
    for note in ("baselines", "intervals"):
        if report.context[note]:
            target.print(f"{note}: {report.context[note]}", style="dim", markup=False)


def _show_splits(splits: Sequence[SplitResult], title: str, best: str, target: Console) -> None:
    table = Table(title, "phrases", best, f"{best} ceiling")
    for split in splits:
        found = [split.makers.get(maker) for maker in (best, f"{best} ceiling")]
        cells = ["" if scores is None else _told(scores["average_recall"]) for scores in found]
        table.add_row(escape(split.name) or "(none)", str(split.count), *cells)
    target.print(table)


def _told(found: Interval) -> str:
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"
