"""`chiasm quickstart grounding`: a frozen host learns to point, in minutes on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chiasm.cli.laps import Laps
from chiasm.cli.output import console

WORLD = "shapes"
SCENES = 600
"""Training pictures; each names up to three things."""

STEPS = 120
SHIPPED = "tiny-grounding"


def run_grounding(output: Path, seed: int, scenes: int, steps: int) -> dict[str, Any]:
    """Draw scenes, train mask head and refiner on the frozen tiny-host-112, measure, and report.

    Args:
        output: Folder for everything that is made.
        seed: Of the data and of the training.
        scenes: Training pictures.
        steps: Training steps.

    Returns:
        What `show_grounding` shows.
    """
    from chiasm.data.dataset import load_dataset
    from chiasm.data.world import write
    from chiasm.evaluation.grounding import GroundingOptions, evaluate_masks
    from chiasm.evaluation.grounding_model import ModelGrounder
    from chiasm.evaluation.grounding_page import save_page
    from chiasm.models.grounding import Grounding
    from chiasm.recipes.loading import load_recipe, load_run
    from chiasm.recipes.running import prepare, run

    laps = Laps()
    world, folder = output / "world", output / "grounding"
    console.print(f"1/3  drawing {scenes} scenes into {world}")
    write.make(WORLD, world, scenes, seed)
    laps.end("data")
    console.print("2/3  training a mask head and a refiner on the frozen tiny-host-112")
    recipe = load_recipe(
        SHIPPED,
        [
            f"data.train=[{{path: {(world / 'train.refer.jsonl').absolute()}}}]",
            "data.validation=[]",
            f"training.stages.0.steps={steps}",
            f"seed={seed}",
        ],
    )
    run(prepare(recipe, folder, Path.cwd()), folder)
    laps.end("training")
    console.print("3/3  pointing at the things of the test scenes")
    training = list(load_dataset(world / "train.refer.jsonl"))
    samples = list(load_dataset(world / "test.refer.jsonl"))
    options = GroundingOptions(train_samples=training, data=WORLD)
    reports = {}
    for name, place in ((f"trained here, {steps} steps", str(folder)), (SHIPPED, SHIPPED)):
        model = load_run(place)
        assert isinstance(model, Grounding)
        reports[name] = evaluate_masks(ModelGrounder(model, name), samples, options)
    last = reports[SHIPPED]
    page = save_page(last, samples, output / "report" / "pointing.html", seed)
    laps.end("evaluation")
    numbers = {name: report.numbers() for name, report in reports.items()}
    return {
        "phrases": last.summary.splits[0].count,
        "mean_iou": {
            maker: {name: found.get(f"{maker}.mean_iou") for name, found in numbers.items()}
            for maker in ("constant", "centre_box", "coarse", "refined", "coarse ceiling")
        },
        "page": str(page),
        "run": str(folder),
        "seconds": laps.seconds,
    }


def show_grounding(document: dict[str, Any], target: Console) -> None:
    """Show the table for people."""
    table = Table(title=f"mean IoU of {document['phrases']} phrases in scenes not trained on")
    table.add_column("mask")
    names = list(document["mean_iou"]["coarse"])
    for name in names:
        table.add_column(name, justify="right")
    for maker, values in document["mean_iou"].items():
        table.add_row(maker, *("" if values[n] is None else f"{values[n]:.3f}" for n in names))
    target.print(table)
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in document["seconds"].items())
    target.print(seconds, style="dim")
    target.print(f"report: {document['page']}", soft_wrap=True, markup=False)
