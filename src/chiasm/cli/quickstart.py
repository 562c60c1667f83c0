"""`chiasm quickstart`: from nothing to a trained model and a report, in minutes on a CPU."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from chiasm.cli.asking import load_answerer
from chiasm.cli.laps import Laps
from chiasm.cli.output import Json, console, emit
from chiasm.cli.quickstart_grounding import SCENES as GROUNDING_SCENES
from chiasm.cli.quickstart_grounding import STEPS as GROUNDING_STEPS
from chiasm.cli.quickstart_grounding import run_grounding, show_grounding
from chiasm.cli.quickstart_occlusion import SCENES as OCCLUSION_SCENES
from chiasm.cli.quickstart_occlusion import STEPS as OCCLUSION_STEPS
from chiasm.cli.quickstart_occlusion import run_occlusion, show_occlusion
from chiasm.cli.quickstart_video import SCENES as VIDEO_SCENES
from chiasm.cli.quickstart_video import STEPS as VIDEO_STEPS
from chiasm.cli.quickstart_video import run_video, show_video
from chiasm.core.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from chiasm.evaluation.report import EvaluationReport

FAMILIES = ("dual", "grounding", "occlusion", "video")
"""Families that have a quickstart."""

WORLD = "attributes_and_grain"
SCENES = 1200
"""Training pictures; enough for a fusion, and written in seconds."""

STEPS = 240

QUESTIONS = 4
"""Questions about each picture."""

GRAIN = "grain"
"""Group of the questions that need the second eye."""


def quickstart(
    family: Annotated[
        str, typer.Argument(help="Which family to try: dual, grounding, occlusion or video.")
    ] = "dual",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for everything that is made.")
    ] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Seed of the data and of the training.")] = 0,
    scenes: Annotated[
        int | None, typer.Option(min=20, help="Training pictures to draw; the family's own number.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; the family's own number.")
    ] = None,
    json: Json = False,
) -> None:
    """Make data, train, measure and report: a first look at what chiasm does.

    The shipped tiny-host answers questions about drawn scenes and cannot see fine textures. The
    quickstart `dual` gives it a second eye, trains only the fusion between them, and shows what
    changed. `grounding` teaches a mask head to read the attention of a frozen host; `occlusion`
    teaches a host to look at a picture and the reconstruction of what is hidden in it; `video`
    teaches a small model to find what happens in videos, and when.

    Example: chiasm quickstart dual --output runs/quickstart
    """
    if family not in FAMILIES:
        raise UnknownNameError("quickstart family", family, FAMILIES)
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output} is not empty; give --output another folder, or remove it")
    if family == "grounding":
        document = run_grounding(output, seed, scenes or GROUNDING_SCENES, steps or GROUNDING_STEPS)
        emit(document, as_json=json, render=lambda target: show_grounding(document, target))
        return
    if family == "occlusion":
        document = run_occlusion(output, seed, scenes or OCCLUSION_SCENES, steps or OCCLUSION_STEPS)
        emit(document, as_json=json, render=lambda target: show_occlusion(document, target))
        return
    if family == "video":
        document = run_video(output, seed, scenes or VIDEO_SCENES, steps or VIDEO_STEPS)
        emit(document, as_json=json, render=lambda target: show_video(document, target))
        return
    document = _dual(output, seed, scenes or SCENES, steps or STEPS)
    emit(document, as_json=json, render=lambda target: _show(document, target))


def _dual(output: Path, seed: int, scenes: int, steps: int) -> dict[str, Any]:
    from chiasm.data.dataset import load_dataset
    from chiasm.data.world import write
    from chiasm.evaluation.gate_analysis import analyse
    from chiasm.evaluation.html import save_analysis
    from chiasm.evaluation.runner import evaluate
    from chiasm.recipes.loading import load_recipe
    from chiasm.recipes.running import prepare, run

    laps = Laps()
    world, folder = output / "world", output / "dual"
    console.print(f"1/4  drawing {scenes} scenes into {world}")
    write.make(WORLD, world, scenes, seed, questions_per_image=QUESTIONS)
    laps.end("data")
    console.print("2/4  training the fusion between tiny-host and its second eye")
    recipe = load_recipe(
        "quickstart-dual",
        [
            f"data.train.0.path={(world / 'train.jsonl').absolute()}",
            f"data.validation.0.path={(world / 'validation.jsonl').absolute()}",
            f"training.stages.0.steps={steps}",
            f"seed={seed}",
        ],
    )
    run(prepare(recipe, folder, Path.cwd()), folder)
    laps.end("training")
    console.print("3/4  asking the test questions, with one eye and with two")
    training = list(load_dataset(world / "train.jsonl"))
    samples = list(load_dataset(world / "test.jsonl"))
    reports = {
        name: evaluate(load_answerer(place), samples, "answers", train_samples=training)
        for name, place in (("tiny-host", "tiny-host"), ("with the second eye", str(folder)))
    }
    laps.end("evaluation")
    console.print("4/4  looking into the gate")
    analysis = analyse(load_answerer(str(folder)), samples, data=WORLD)
    page, numbers = save_analysis(analysis, output / "report", seed)
    laps.end("analysis")
    return {
        "rows": _rows(reports),
        "page": str(page),
        "numbers": str(numbers),
        "run": str(folder),
        "seconds": laps.seconds,
    }


def _rows(reports: "dict[str, EvaluationReport]") -> list[dict[str, Any]]:
    """Return accuracies of the second eye's questions and of the host's own."""
    rows = []
    for title, wanted in (("fine textures", True), ("the host's own", False)):
        row: dict[str, Any] = {"questions": title}
        for name, report in reports.items():
            kinds = [kind for kind in report.by_kind if (kind.name == GRAIN) == wanted]
            count = sum(kind.count for kind in kinds)
            scores = [kind.scores["exact_match"].mean * kind.count for kind in kinds]
            row["count"] = count
            row[name] = sum(scores) / max(1, count)
            majority = [kind.baseline.score * kind.count for kind in kinds if kind.baseline]
            row["majority"] = sum(majority) / max(1, count)
        rows.append(row)
    return rows


def _show(document: dict[str, Any], target: Console) -> None:
    table = Table(title="right answers on scenes that were not trained on")
    names = [name for name in document["rows"][0] if name not in ("questions", "count")]
    names.sort(key=lambda name: name != "majority")
    table.add_column("questions about")
    table.add_column("asked", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for row in document["rows"]:
        values = [f"{row[name]:.1%}" for name in names]
        table.add_row(row["questions"], str(row["count"]), *values)
    target.print(table)
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in document["seconds"].items())
    target.print(seconds, style="dim")
    target.print(f"report: {document['page']}", soft_wrap=True, markup=False)
    target.print(
        f"next:   chiasm predict {document['run']} --image PICTURE.png --ask QUESTION",
        soft_wrap=True,
        markup=False,
    )
