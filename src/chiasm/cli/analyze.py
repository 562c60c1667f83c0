"""`chiasm analyze`: says honestly what the extra eye brought."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from chiasm.cli.asking import asking, load_answerer
from chiasm.cli.output import Json, emit

if TYPE_CHECKING:
    from chiasm.evaluation.gate_analysis import GateAnalysis


def analyze(
    run: Annotated[str, typer.Argument(help="A run directory, or the name of a shipped model.")],
    data: Annotated[Path, typer.Option(help="Dataset file with images and answers.")],
    output: Annotated[
        Path, typer.Option(help="Folder for report.html and analysis.json; made if needed.")
    ],
    control: Annotated[
        str | None,
        typer.Option(help="A run trained with the extra encoders' features shuffled over images."),
    ] = None,
    media_root: Annotated[
        Path | None, typer.Option(help="Folder that relative media paths start from.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Questions a batch, 2 or more.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of intervals and of the examples drawn.")] = 0,
    json: Json = False,
) -> None:
    """Show what the gate does, and what happens when the eyes are intervened on.

    Writes one page for people and all numbers as JSON: weights and contributions by image, signs
    of collapse, accuracy with the gate forced and with shuffled features, and beside a control.

    Example: chiasm analyze runs/dual --data world/test.jsonl --output analysis --control runs/null
    """
    from chiasm.data.dataset import load_dataset
    from chiasm.evaluation.bootstrap import Bootstrap
    from chiasm.evaluation.gate_analysis import analyse
    from chiasm.evaluation.html import save_analysis
    from chiasm.evaluation.questions import split_questions

    samples = list(load_dataset(data, media_root=media_root))
    model = load_answerer(run)
    control_model = None if control is None else load_answerer(control)
    with asking(len(split_questions(samples))) as tell:
        analysis = analyse(
            model,
            samples,
            control=control_model,
            batch_size=batch_size,
            bootstrap=Bootstrap(seed=seed),
            data=str(data),
            progress=tell,
        )
    page, numbers = save_analysis(analysis, output, seed)
    document = {**analysis.summary_json(), "files": [str(page), str(numbers)]}
    emit(document, as_json=json, render=lambda target: _show(analysis, page, target))


def _show(analysis: "GateAnalysis", page: Path, target: Console) -> None:
    from chiasm.evaluation.findings import headline

    target.print(headline(analysis), style="bold", markup=False)
    table = Table()
    for column in ("setting", "right", "interval", "difference, points"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    for setting in analysis.settings:
        accuracy, difference = setting.accuracy, setting.difference
        table.add_row(
            setting.name,
            f"{accuracy.mean:.1%}",
            f"{accuracy.low:.1%} to {accuracy.high:.1%}",
            ""
            if difference is None
            else f"{difference.mean * 100:+.1f} ({difference.low * 100:+.1f} to "
            f"{difference.high * 100:+.1f})",
        )
    target.print(table)
    if analysis.gate is not None:
        for alarm in analysis.gate.alarms:
            if alarm.fired:
                target.print(f"alarm ({alarm.name}): {alarm.text}", markup=False, style="yellow")
    for note in analysis.notes:
        target.print(note, markup=False, style="dim")
    target.print(f"page: {page}", markup=False, soft_wrap=True)
