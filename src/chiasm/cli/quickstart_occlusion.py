"""`chiasm quickstart occlusion`: what a reconstruction of a hidden thing is worth, in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from chiasm.cli.laps import Laps
from chiasm.cli.output import console

if TYPE_CHECKING:
    from chiasm.core.samples import Sample
    from chiasm.data.pair_controls import PairControl
    from chiasm.models.occlusion import Occlusion

WORLD = "occluded"
SCENES = 1500
"""Training pairs."""

STEPS = 150
QUESTIONS = 2
"""Questions about each pair."""

SHIPPED = "tiny-pair"

GIVEN: dict[str, PairControl] = {
    "the pair": "given",
    "another thing's reconstruction": "shuffled",
    "the original alone": "original_only",
}
"""What a model is given -> the control that gives it."""

SHEETS = 4
"""Test pairs that are drawn step by step."""


def run_occlusion(output: Path, seed: int, scenes: int, steps: int) -> dict[str, Any]:
    """Draw pairs, train answers on them, ask both models under controls, and draw sheets.

    Args:
        output: Folder for everything that is made.
        seed: Of the data and of the training.
        scenes: Training pairs.
        steps: Training steps.

    Returns:
        What `show_occlusion` shows.
    """
    from chiasm.data.dataset import load_dataset
    from chiasm.data.world import write
    from chiasm.models.occlusion import Occlusion
    from chiasm.recipes.loading import load_recipe, load_run
    from chiasm.recipes.running import prepare, run

    laps = Laps()
    world, folder = output / "world", output / "pair"
    console.print(f"1/4  drawing {scenes} pairs into {world}")
    write.make(WORLD, world, scenes, seed, questions_per_image=QUESTIONS)
    laps.end("data")
    console.print("2/4  teaching tiny-pair-host to read a picture and a reconstruction together")
    pairs = world / "pairs.json"
    recipe = load_recipe(
        SHIPPED,
        [
            f"data.train=[{{path: {pairs.absolute()}, split: train}}]",
            "data.validation=[]",
            "host.pictures=null",
            "occlusion.drawing=null",
            "objective={tokens: 1.0}",
            "training.stages.0.train=[host_vision, host_projector, host_language, pixel_blend, "
            "aligned_attention]",
            f"training.stages.0.steps={steps}",
            f"seed={seed}",
        ],
    )
    run(prepare(recipe, folder, Path.cwd()), folder)
    laps.end("training")
    console.print("3/4  asking about what is hidden, under controls")
    samples = list(load_dataset(pairs, split="test"))
    trained, shipped = load_run(folder), load_run(SHIPPED)
    assert isinstance(trained, Occlusion)
    assert isinstance(shipped, Occlusion)
    right = {
        name: {what: _right(model, samples, how) for what, how in GIVEN.items()}
        for name, model in ((f"trained here, {steps} steps", trained), (SHIPPED, shipped))
    }
    laps.end("evaluation")
    console.print(f"4/4  drawing what {SHIPPED} sees and completes")
    sheets = _draw(shipped, samples[:SHEETS], output / "sheets")
    laps.end("sheets")
    return {
        "pairs": len(samples),
        "right": right,
        "sheets": [str(path) for path in sheets],
        "run": str(folder),
        "seconds": laps.seconds,
    }


def _right(model: Occlusion, samples: Sequence[Sample], control: PairControl) -> float:
    """Return the share of right answers under a control."""
    from chiasm.data.pair_controls import ControlledPairs
    from chiasm.evaluation.pair_answering import PairAnswerer
    from chiasm.evaluation.runner import evaluate

    given = ControlledPairs(samples, control)
    report = evaluate(PairAnswerer(model), [given[i] for i in range(len(given))], "answers")
    return report.overall.scores["exact_match"].mean


def _draw(model: Occlusion, samples: Sequence[Sample], folder: Path) -> list[Path]:
    """Write a sheet of every step for each sample."""
    from dataclasses import replace

    from chiasm.inference.answers import Completion
    from chiasm.inference.pair_sheet import draw_sheet
    from chiasm.inference.pairs import Painting, ask_pairs
    from chiasm.inference.pictures import read_picture
    from chiasm.inference.responding import Generation

    # The first question alone, without its answer.
    asked = [replace(sample, turns=sample.turns[:1]) for sample in samples]
    drawn = ask_pairs(
        model, asked, Generation(), Painting(temperature=0.0), complete=True, detail=True
    )
    folder.mkdir()
    paths = []
    for place, (sample, made) in enumerate(zip(asked, drawn, strict=True)):
        assert isinstance(made, Completion)
        assert sample.pair is not None
        sheet = draw_sheet(
            read_picture(sample.images[0]),
            read_picture(sample.pair.reconstruction),
            made.answer,
            sample.turns[0].text.strip(),
            made.image,
        )
        paths.append(folder / f"{place + 1}.png")
        sheet.save(paths[-1])
    return paths


def show_occlusion(document: dict[str, Any], target: Console) -> None:
    """Show the table for people."""
    title = f"right answers about {document['pairs']} hidden things not trained on"
    table = Table("given", *document["right"], title=title)
    for what in GIVEN:
        table.add_row(what, *(f"{found[what]:.1%}" for found in document["right"].values()))
    target.print(table)
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in document["seconds"].items())
    target.print(seconds, style="dim")
    for path in document["sheets"]:
        target.print(f"sheet: {path}", soft_wrap=True, markup=False)
    target.print(
        f"next:  chiasm predict {SHIPPED} --image PICTURE.png --reconstruction OTHER.png "
        "--ask QUESTION --complete --output DIR",
        soft_wrap=True,
        markup=False,
    )
