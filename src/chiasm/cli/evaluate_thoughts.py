"""`chiasm evaluate --suite chain_of_thought`: scores answers that come after a closer look."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chiasm.cli.asking import asking
from chiasm.cli.output import console
from chiasm.cli.writing import tell_report

if TYPE_CHECKING:
    from accelerate import PartialState

    from chiasm.evaluation.chain_of_thought import ThoughtReport
    from chiasm.inference.chain_of_thought import Thinking


def evaluate_thoughts_of(
    run: str,
    data: Path,
    media_root: Path | None,
    thought: str,
    *,
    judge: tuple[str | None, str | None],
    state: PartialState,
    output: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Score a run's answers after a closer look, and write and show the report.

    Args:
        run: A run directory, or the name of a shipped model.
        data: Questions with regions.
        media_root: Folder that relative media paths start from.
        thought: What is looked at closer.
        judge: Address and model of a judge; None for both matches words.
        state: This process's place; the main one writes.
        output: Report to write (JSON), with the answers as JSONL beside it.
        seed: Of the intervals.
        as_json: Write one JSON document to standard output.

    Raises:
        BadParameter: Half a judge is given (exit code 2).
        ChiasmError: The run does not point or answer, or the data is wrong.
    """
    from chiasm.evaluation.bootstrap import Bootstrap
    from chiasm.evaluation.chain_of_thought import ThoughtOptions, evaluate_thoughts
    from chiasm.evaluation.grounding_model import ModelThinker
    from chiasm.evaluation.judges import ChatJudge, contains_match
    from chiasm.evaluation.region_questions import read_region_questions
    from chiasm.inference.chain_of_thought import check_thought
    from chiasm.inference.senses import check_sense
    from chiasm.recipes.loading import load_run

    url, name = judge
    if (url is None) != (name is None):
        raise typer.BadParameter(
            "give both --judge-url and --judge-model", param_hint="--judge-url"
        )
    scored_by = contains_match if url is None or name is None else ChatJudge(url, name)
    wanted = check_thought(thought)
    samples = read_region_questions(data, media_root)
    model = load_run(run).to(state.device)
    for sense in ("ask", "point"):
        check_sense(model, sense)
    with asking(len(samples)) as tell:
        options = ThoughtOptions(
            thought=wanted,
            judge=scored_by,
            bootstrap=Bootstrap(seed=seed),
            data=str(data),
            progress=lambda count: tell("answering", count),
        )
        thinker = ModelThinker(cast("Thinking", model), name=run)
        report = evaluate_thoughts(thinker, samples, options)
    if not state.is_main_process:
        return
    tell_report(
        report.to_json(),
        report.save,
        lambda target: _show(report, target),
        output=output,
        as_json=as_json,
    )


def _show(report: ThoughtReport, target: Console) -> None:
    names = list(report.overall.scores)
    table = Table("group", "n", *(name.replace("_", " ") for name in names), "without region")
    for group in (report.overall, *report.by_group):
        cells = []
        for name in names:
            found = group.scores.get(name)
            cells.append(
                "" if found is None else f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"
            )
        table.add_row(
            escape(group.name) or "(none)", str(group.count), *cells, str(group.without_region)
        )
    target.print(table)
    context = report.context
    target.print(f"judge: {context['judge']}", style="dim", markup=False)
    if context["judge_replies_without_number"]:
        console.print(
            f"{context['judge_replies_without_number']} replies of the judge held no number and "
            "count 0",
            markup=False,
        )
    target.print(context["intervals"], style="dim", markup=False)
