"""`chiasm data`: make a procedural world, check a dataset, show a sample."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn
from rich.table import Table

from chiasm.cli.output import Json, console, emit
from chiasm.core.errors import InputError

if TYPE_CHECKING:
    from chiasm.data.check import Report
    from chiasm.data.formats.grounding import GroundingOptions
    from chiasm.data.prompts import Prompter

DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")
RECIPE_SUFFIXES = (".yaml", ".yml")

app = typer.Typer(help="Make, check and show data.", no_args_is_help=True)

Format = Annotated[
    str,
    typer.Option(
        "--format",
        help="auto, messages, llava, pairs, vqa, captioning, medical, nlvr; with masks: phrases, "
        "refcoco, narratives, coco_instances, coco_panoptic; of videos: videos.",
    ),
]
MediaRoot = Annotated[
    Path | None, typer.Option("--media-root", help="Folder that relative media paths start from.")
]


@app.command(epilog="Example: chiasm data make shapes --output data/shapes --count 1000 --seed 0")
def make(
    world: Annotated[str, typer.Argument(help="Name of the world, for example shapes.")],
    output: Annotated[Path, typer.Option("--output", help="The folder to make.")],
    count: Annotated[int, typer.Option("--count", help="Scenes for training.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all splits.")] = 0,
    json: Json = False,
) -> None:
    """Write a procedural world as ordinary image and JSONL files."""
    from chiasm.cli.data_make import make as make_world

    document = make_world(world, output, count, seed)
    counts = ", ".join(f"{split} {number}" for split, number in document["counts"].items())
    emit(
        document,
        as_json=json,
        render=lambda out: out.print(
            f"wrote world {document['name']} to {document['output']}: {counts}", markup=False
        ),
    )


@app.command(epilog="Example: chiasm data check data/shapes/train.jsonl --host tiny-host")
def check(
    source: Annotated[
        str, typer.Argument(metavar="PATH_OR_RECIPE", help="A data file, or a recipe.")
    ],
    format: Format = "auto",
    media_root: MediaRoot = None,
    host: Annotated[
        str | None,
        typer.Option("--host", help="Shipped host or directory: also checks prompts and lengths."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=1, help="Most tokens; needs --host.")
    ] = None,
    prediction: Annotated[
        bool, typer.Option("--prediction", help="The file is to be answered: no answers needed.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Most faults in the table.")] = 100,
    json: Json = False,
) -> None:
    """Report every fault of a dataset at once; exit with 1 when there is one."""
    from chiasm.data.check import check as check_file

    if max_length is not None and host is None:
        raise InputError(
            f"--max-length {max_length} needs --host, whose tokenizer counts the tokens"
        )
    prompter, preparer = _load_host(host) if host is not None else (None, None)
    reports = []
    for file in _data_files(source):
        with Progress(
            "checking {task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as bar:
            task = bar.add_task(escape(file.path.name), total=None)
            reports.append(
                check_file(
                    file.path,
                    file.format if format == "auto" else format,
                    media_root=media_root or file.media_root,
                    prompter=prompter,
                    preparer=preparer,
                    max_length=max_length,
                    prediction=prediction,
                    grounding=file.grounding,
                    progress=partial(_advance, bar, task),
                )
            )
    documents = [report.document() for report in reports]
    emit(
        documents[0] if len(documents) == 1 else {"files": documents},
        as_json=json,
        render=lambda out: _render_reports(reports, limit, out),
    )
    if any(report.faults for report in reports):
        raise typer.Exit(code=1)


@app.command(epilog="Example: chiasm data show data/shapes/train.jsonl --index 3 --output 3.html")
def show(
    path: Annotated[Path, typer.Argument(help="A data file.")],
    output: Annotated[Path, typer.Option("--output", help="Page (.html) or picture (.png).")],
    index: Annotated[int, typer.Option("--index", min=0, help="Which sample, from 0.")] = 0,
    host: Annotated[
        str, typer.Option("--host", help="Shipped host or directory that would see it.")
    ] = "tiny-host",
    format: Format = "auto",
    media_root: MediaRoot = None,
    json: Json = False,
) -> None:
    """Write one sample as the model will see it: cells, rendered text, supervised tokens."""
    from chiasm.data.dataset import load_dataset
    from chiasm.data.show import view, write_view

    dataset = load_dataset(path, format, media_root)
    if index >= len(dataset):
        raise InputError(
            f"--index {index}: {path} has {len(dataset)} samples; give 0 to {len(dataset) - 1}"
        )
    prompter, preparer = _load_host(host)
    seen = view(dataset[index], prompter, preparer)
    write_view(seen, output)
    document = {
        "output": str(output),
        "id": dataset[index].identifier,
        "tokens": seen.tokens,
        "supervised": seen.supervised,
        "images": len(seen.images),
    }
    emit(
        document,
        as_json=json,
        render=lambda out: out.print(f"wrote {output}: {seen.summary}", markup=False),
    )


def _load_host(name: str) -> "tuple[Prompter, Any]":
    """Return the prompter and the image preparer of a host."""
    from chiasm.data.prompts import Prompter
    from chiasm.recipes.loading import load_host

    host = load_host(name)
    return Prompter(host.tokenizer, host.image_token, host.image_text), host.preparer


class _DataFile(NamedTuple):
    path: Path
    format: str = "auto"
    media_root: Path | None = None
    grounding: "GroundingOptions | None" = None


def _data_files(source: str) -> list[_DataFile]:
    """Return the data files that an argument stands for: itself, or those of a recipe."""
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in DATA_SUFFIXES or (path.exists() and suffix not in RECIPE_SUFFIXES):
        return [_DataFile(path)]
    from chiasm.recipes.loading import load_recipe

    recipe = load_recipe(source)
    sources = [*recipe.data.train, *recipe.data.validation]
    sources += [entry for stage in recipe.training.stages for entry in stage.data or ()]
    files = [
        _DataFile(
            Path(entry.path),
            entry.format,
            Path(entry.media_root) if entry.media_root else None,
            entry.grounding,
        )
        for entry in sources
        if entry.path is not None
    ]
    if not files:
        raise InputError(
            f"recipe {source} reads no data files, only worlds made on demand; there is nothing to "
            "check"
        )
    return list(dict.fromkeys(files))


def _advance(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _render_faults(report: "Report", limit: int, out: Console) -> None:
    """Write faults as a table on a terminal, as one line each otherwise."""
    if out.is_terminal:
        table = Table("line", "field", "value", "allowed", title=escape(report.path))
        for fault in report.faults[:limit]:
            cells = (fault.field, fault.value, fault.allowed)
            table.add_row(str(fault.line or ""), *map(escape, cells))
        out.print(table)
    else:
        for fault in report.faults[:limit]:
            out.print(str(fault), markup=False, soft_wrap=True)
    if len(report.faults) > limit:
        out.print(f"and {len(report.faults) - limit} more; --limit shows more of them")


def _render_reports(reports: "list[Report]", limit: int, out: Console) -> None:
    for report in reports:
        if report.faults:
            _render_faults(report, limit, out)
        turns = ", ".join(f"{count} {role}" for role, count in report.turns.items())
        out.print(
            f"{report.path}: {len(report.faults)} fault(s); format {report.format or 'unknown'}, "
            f"{report.samples} of {report.records} records are samples, {report.images} images "
            f"({report.distinct_images} different), turns: {turns or 'none'}",
            markup=False,
            soft_wrap=True,
        )
        if report.phrases:
            out.print(f"phrases: {report.phrases}, {report.masks} of them with a sound mask")
        for name, other in report.other_fields.items():
            near = f"; did you mean {other.near}?" if other.near else ""
            out.print(
                f"kept, and read by nothing: field {name!r} of {other.samples} sample(s){near}",
                markup=False,
                soft_wrap=True,
            )
        for reason, count in report.dropped.items():
            out.print(f"left out: {count} {reason}", markup=False)
        if report.lengths:
            out.print(f"tokens of a sample: {min(report.lengths)} to {max(report.lengths)}")
            for bound, count in report.histogram:
                out.print(f"  up to {bound:6d}: {count}")
