"""`chiasm evaluate`: scores a model's answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chiasm.cli.asking import asking, load_any_answerer
from chiasm.cli.evaluate_completion import evaluate_completion_of
from chiasm.cli.evaluate_masks import evaluate_masks_of
from chiasm.cli.evaluate_thoughts import evaluate_thoughts_of
from chiasm.cli.evaluate_video import evaluate_video_of
from chiasm.cli.output import Json
from chiasm.cli.writing import check_report, tell_report

if TYPE_CHECKING:
    from accelerate import PartialState

    from chiasm.core.samples import Sample
    from chiasm.evaluation.report import EvaluationReport, GroupResult

MASKS, THOUGHTS, COMPLETION, VIDEO = "grounding", "chain_of_thought", "completion", "video"
"""Suites that are no table of metrics on answers."""

Run = Annotated[str, typer.Argument(help="A run directory, or the name of a shipped model.")]
Data = Annotated[
    Path, typer.Option(help="Dataset: a file (JSON, JSONL, Parquet), or a folder of videos.")
]
SuiteName = Annotated[
    str,
    typer.Option(
        help="Metrics: answers, true_false, vqa, captions, grounding, chain_of_thought, "
        "completion or video."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(help="Report to write (JSON); predictions are put beside it as JSONL."),
]
TrainData = Annotated[
    Path | None,
    typer.Option(help="Training data: the baselines are counted on its answers or masks."),
]
Split = Annotated[
    str | None, typer.Option(help="Take the records whose field `split` says this; default all.")
]
MediaRoot = Annotated[
    Path | None, typer.Option(help="Folder that relative media paths start from.")
]
KeepHistory = Annotated[
    bool, typer.Option(help="Ask later turns with the true earlier ones before them.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Questions or samples a batch.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the bootstrap intervals.")]
Thought = Annotated[
    str | None,
    typer.Option(help="Of that suite: look closer at the object (default), the question, or none."),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(help="Of that suite: an OpenAI-compatible server that scores the answers."),
]
JudgeModel = Annotated[
    str | None, typer.Option(help="The model's name on that server; key in OPENAI_API_KEY.")
]


def evaluate(
    run: Run,
    data: Data,
    suite: SuiteName = "answers",
    output: Output = None,
    train_data: TrainData = None,
    split: Split = None,
    media_root: MediaRoot = None,
    keep_history: KeepHistory = False,
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    chain_of_thought: Thought = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    json: Json = False,
) -> None:
    """Score a model's answers, or the masks of its phrases, with intervals and baselines.

    Under `accelerate launch` or `torchrun` the processes share the work and the first one writes.

    Examples:
        chiasm evaluate runs/dual --data world/test.jsonl --output results/dual.json
        chiasm evaluate tiny-grounding --data world/test.refer.jsonl --suite grounding
        chiasm evaluate runs/pointer --data viscot.json --suite chain_of_thought
        chiasm evaluate runs/pair --data hidden/pairs.json --split test --suite completion
        chiasm evaluate tiny-video --data world --split test --suite video --output video.json
    """
    judge = (judge_url, judge_model)
    _check_usage(suite, train_data, split, keep_history, seed, (chain_of_thought, *judge))
    _check_names(suite, output)
    from chiasm.data.dataset import load_dataset
    from chiasm.evaluation.processes import join_processes

    state = join_processes()
    if suite == THOUGHTS:
        evaluate_thoughts_of(
            run,
            data,
            media_root,
            chain_of_thought or "object",
            judge=judge,
            state=state,
            output=output,
            seed=seed,
            as_json=json,
        )
        return
    samples = list(load_dataset(data, media_root=media_root, split=split))
    training = None if train_data is None else list(load_dataset(train_data))
    how: dict[str, Any] = {"state": state, "data": str(data), "output": output, "as_json": json}
    if suite == MASKS:
        evaluate_masks_of(run, samples, training, batch_size=batch_size, seed=seed, **how)
        return
    if suite == COMPLETION:
        evaluate_completion_of(run, samples, batch_size=batch_size, **how)
        return
    if suite == VIDEO:
        evaluate_video_of(run, samples, training, seed=seed, **how)
        return
    how |= {"keep_history": keep_history, "batch_size": batch_size, "seed": seed}
    _evaluate_answers_of(run, samples, training, suite, **how)


def _evaluate_answers_of(
    run: str,
    samples: Sequence["Sample"],
    training: Sequence["Sample"] | None,
    suite: str,
    *,
    keep_history: bool,
    batch_size: int,
    seed: int,
    state: "PartialState",
    data: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Score a run's answers, and write and show the report; arguments as for `evaluate`."""
    from chiasm.evaluation.bootstrap import Bootstrap
    from chiasm.evaluation.questions import split_questions
    from chiasm.evaluation.runner import evaluate as run_evaluation
    from chiasm.evaluation.video_answering import VideoCaptioner

    model = load_any_answerer(run, suite)
    questions = split_questions(samples, keep_history=keep_history)
    if isinstance(model, VideoCaptioner):
        model.check([question.sample for question in questions])
    with asking(len(questions)) as tell:
        report = run_evaluation(
            model,
            samples,
            suite,
            batch_size=batch_size,
            train_samples=training,
            keep_history=keep_history,
            bootstrap=Bootstrap(seed=seed),
            data=data,
            progress=lambda count: tell("answering", count),
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


def _check_usage(
    suite: str,
    train_data: Path | None,
    split: str | None,
    keep_history: bool,
    seed: int,
    thoughts: tuple[str | None, ...],
) -> None:
    """Check that no option is given that the suite would leave aside.

    Raises:
        BadParameter: One is (exit code 2).
    """
    names = ("--chain-of-thought", "--judge-url", "--judge-model")
    given = [name for name, value in zip(names, thoughts, strict=True) if value is not None]
    if given and suite != THOUGHTS:
        raise typer.BadParameter(f"goes with --suite {THOUGHTS}", param_hint=given[0])
    if keep_history and suite in (MASKS, THOUGHTS, COMPLETION, VIDEO):
        raise typer.BadParameter(
            f"suite {suite!r} asks no later turns; leave it out", param_hint="--keep-history"
        )
    if seed and suite == COMPLETION:
        raise typer.BadParameter(
            f"suite {suite!r} draws the likeliest codes and no intervals; leave it out",
            param_hint="--seed",
        )
    if split is not None and suite == THOUGHTS:
        raise typer.BadParameter(
            f"suite {suite!r} reads files without splits; leave it out", param_hint="--split"
        )
    if train_data is not None and suite in (THOUGHTS, COMPLETION):
        raise typer.BadParameter(
            f"suite {suite!r} has no baseline to fit; leave it out", param_hint="--train-data"
        )


def _check_names(suite: str, output: Path | None) -> None:
    """Check the suite and the place of the report before anything is loaded.

    Raises:
        UnknownNameError: No such suite.
        InputError: The report cannot be written there.
    """
    from chiasm.core.config import lookup
    from chiasm.evaluation.saving import page_path, predictions_path
    from chiasm.evaluation.suites import SUITES

    lookup({**SUITES, **dict.fromkeys((MASKS, THOUGHTS, COMPLETION, VIDEO))}, suite, "suite")
    if output is not None:
        pages = (page_path(output),) if suite in (MASKS, VIDEO) else ()
        check_report(output, predictions_path(output), *pages)


def _show(report: "EvaluationReport", target: Console) -> None:
    metrics = [*report.overall.scores, *report.overall.corpus]
    table = Table(title=f"suite {report.suite}")
    table.add_column("group")
    table.add_column("n", justify="right")
    for metric in metrics:
        table.add_column(metric, justify="right")
    baseline = report.overall.baseline
    if baseline is not None:
        table.add_column(f"majority ({baseline.source})", justify="right")
    for group in (report.overall, *report.by_group):
        table.add_row(*_cells(group, metrics))
    target.print(table)
    target.print(report.context["intervals"], style="dim", markup=False)
    if report.overall.other_answers:
        target.print(
            f"{report.overall.other_answers} of {report.overall.count} answers are none of the "
            "allowed ones and count as wrong"
        )


def _cells(group: "GroupResult", metrics: list[str]) -> list[str]:
    cells = [escape(group.name) or "(none)", str(group.count)]
    for metric in metrics:
        if metric in group.scores:
            found = group.scores[metric]
            cells.append(f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})")
        else:
            score = group.corpus[metric]
            cells.append("too few" if score is None else f"{score:.3f}")
    if group.baseline is not None:
        cells.append(f"{group.baseline.score:.3f}")
    return cells
