"""`chiasm evaluate --suite completion`: scores what a model draws behind an occluder."""

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
    from chiasm.evaluation.completion import CompletionReport
    from chiasm.models.occlusion import Occlusion

UNITS = {"iou": "silhouette IoU", "psnr": "hidden pixels, dB"}
"""Number -> how it is called in the table for people."""


def evaluate_completion_of(
    run: str,
    samples: Sequence[Sample],
    *,
    state: PartialState,
    data: str,
    output: Path | None,
    batch_size: int,
    as_json: bool,
) -> None:
    """Score a run's completions beside copies, and write and show the report.

    Args:
        run: A run directory, or the name of a shipped model.
        samples: Pairs with a target.
        state: This process's place; the main one writes.
        data: Name of the data.
        output: Report to write (JSON), with a line for each sample as JSONL beside it.
        batch_size: Samples a batch.
        as_json: Write one JSON document to standard output.

    Raises:
        ChiasmError: The run does not draw, or the data does not say what is hidden.
    """
    from chiasm.evaluation.completion import evaluate_completion
    from chiasm.inference.senses import check_sense
    from chiasm.recipes.loading import load_run

    model = load_run(run).to(state.device)
    check_sense(model, "complete")
    with asking(len(samples), "samples") as tell:
        report = evaluate_completion(
            cast("Occlusion", model),
            samples,
            batch_size=batch_size,
            name=run,
            data=data,
            progress=lambda count: tell("drawing", count),
        )
    if not state.is_main_process:
        return
    tell_report(
        report.to_json(),
        report.save,
        lambda target: _show(report, target),
        output=output,
        as_json=as_json,
    )


def _show(report: CompletionReport, target: Console) -> None:
    for number, unit in UNITS.items():
        makers = list(report.groups["all"])
        table = Table("samples", "n", *makers, title=unit)
        for name, found in report.groups.items():
            values = [found[maker].get(number) for maker in makers]
            told = ["" if value is None else f"{value:.3g}" for value in values]
            table.add_row(escape(name), f"{found[makers[0]]['count']:.0f}", *told)
        target.print(table)
    target.print(
        "ceiling: the truth through the tokenizer; reconstruction, aligned and blend are copied",
        style="dim",
    )
