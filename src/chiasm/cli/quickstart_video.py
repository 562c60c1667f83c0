"""`chiasm quickstart video`: what happens in a video, when, and at what price, in minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from chiasm.cli.laps import Laps
from chiasm.cli.output import console
from chiasm.cli.predict_usage import SURE
from chiasm.cli.predict_video import show_ledgers

if TYPE_CHECKING:
    from chiasm.core.samples import Sample
    from chiasm.inference.senses import Sensing

WORLD = "motion"
SCENES = 1600
"""Training videos; a tenth of that for the test."""

STEPS = 200
QUESTIONS = 4
"""Questions about each video."""

SHIPPED = "tiny-video"
NUMBERS = {
    "right answers": "exact_match",
    "the most frequent answer": "majority",
    "actions: mAP 0.3 to 0.7": "map_thumos",
    "actions: mAP 0.5 to 0.95": "map_activitynet",
}
"""Row of the table for people -> number."""


def run_video(output: Path, seed: int, scenes: int, steps: int) -> dict[str, Any]:
    """Write test videos, train on the world, measure, keep the ledger, and draw a timeline.

    Args:
        output: Folder for everything that is made.
        seed: Of the data and of the training.
        scenes: Training videos.
        steps: Training steps.

    Returns:
        What `show_video` shows.
    """
    from chiasm.data.dataset import load_dataset
    from chiasm.data.world import write
    from chiasm.evaluation.merge_ledger_page import save_ledgers
    from chiasm.evaluation.video_ledgers import keep_video_ledgers
    from chiasm.inference.videos import as_watching
    from chiasm.recipes.loading import load_recipe, load_run
    from chiasm.recipes.places import shipped_models
    from chiasm.recipes.running import prepare, run

    laps = Laps()
    world, folder = output / "world", output / "video"
    console.print(f"1/4  writing test videos of moving things (MP4) into {world}")
    write.make(WORLD, world, scenes, seed, splits=("test",), questions_per_image=QUESTIONS)
    laps.end("data")
    console.print(f"2/4  teaching a model to watch {scenes} others, painted as they are needed")
    recipe = load_recipe(
        SHIPPED,
        [
            f"data.train=[{{world: {WORLD}, count: {scenes}, questions: 6, seed: {seed}}}]",
            "data.validation=[]",
            # One stage, at one ratio: the recipe's own course takes minutes.
            f"training.stages=[{{name: videos, steps: {steps}, warmup: {min(100, steps // 5)}}}]",
            "video.curriculum=null",
            "video.compression.schedule=null",
            "video.compression.budget={ratio: 0.25}",
            f"seed={seed}",
        ],
    )
    run(prepare(recipe, folder, Path.cwd()), folder)
    laps.end("training")
    console.print("3/4  asking about the test videos, and finding what happens in them")
    samples = list(load_dataset(world))
    models = {f"trained here, {steps} steps": load_run(folder)}
    if SHIPPED in shipped_models():
        models[SHIPPED] = load_run(SHIPPED)
    scores = {name: _measure(model, samples) for name, model in models.items()}
    laps.end("evaluation")
    best = list(models)[-1]
    console.print(f"4/4  keeping the ledger of {best}, and drawing what it sees")
    watcher = as_watching(models[best])
    ledgers = keep_video_ledgers(watcher, samples[0], memory=False)
    _, page = save_ledgers(ledgers, output / "report" / "ledger.json")
    timeline = _draw(watcher, samples[0], output / "report" / "timeline.png")
    laps.end("report")
    return {
        "videos": len({str(sample.video) for sample in samples}),
        "scores": scores,
        "ledger": {name: ledger.to_json() for name, ledger in ledgers.items()},
        "ledger_of": best,
        "page": str(page),
        "timeline": str(timeline),
        "video": str(samples[0].video),
        "run": str(folder),
        "seconds": laps.seconds,
    }


def _measure(model: Sensing, samples: Sequence[Sample]) -> dict[str, float]:
    """Return the numbers of `score_videos`, and that of the most frequent answer."""
    from chiasm.evaluation.video_scores import score_videos
    from chiasm.inference.videos import as_watching
    from chiasm.inference.watching import watch_samples

    scores = score_videos(watch_samples(as_watching(model), samples), samples)
    numbers = scores.numbers()
    baseline = scores.texts["answers"].overall.baseline
    if baseline is not None:
        numbers["majority"] = baseline.score
    return numbers


def _draw(model: Sensing, sample: Sample, path: Path) -> Path:
    from chiasm.inference.session import Session
    from chiasm.inference.timeline import draw_timeline

    session = Session(model)
    session.set(video=str(sample.video))
    sure = [segment for segment in session.watch() if segment.score >= SURE]
    draw_timeline(sample.video, session.video(), sure).save(path)
    return path


def show_video(document: Mapping[str, Any], target: Console) -> None:
    """Show the tables for people."""
    title = f"{document['videos']} videos that were not trained on"
    table = Table("", *document["scores"], title=title)
    for row, number in NUMBERS.items():
        told = [found.get(number) for found in document["scores"].values()]
        table.add_row(row, *("" if value is None else f"{value:.1%}" for value in told))
    target.print(table)
    target.print(f"one video, watched by {document['ledger_of']}:", markup=False)
    show_ledgers(document["ledger"], target)
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in document["seconds"].items())
    target.print(seconds, style="dim")
    for name in ("page", "timeline"):
        target.print(f"{name}: {document[name]}", soft_wrap=True, markup=False)
    best = SHIPPED if document["ledger_of"] == SHIPPED else document["run"]
    target.print(
        f"next:  chiasm predict {best} --video {document['video']} --ask QUESTION --output DIR",
        soft_wrap=True,
        markup=False,
    )
