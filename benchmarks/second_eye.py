"""Does the second eye bring anything? tiny-dual beside the null eye and beside the host alone.

    python benchmarks/second_eye.py --output runs/second-eye --seeds 0 1 2

For each seed two fusions are trained on the same host, the same samples and the same number of
steps: one sees each image with the second eye, the other (the null eye) is given the second eye's
view of another image of the batch. Both are asked questions that need the second eye (fine
textures) and questions of the host's own world, on scenes of the test split, beside the host as it
ships and the majority answer of the training data. Finished runs in --output are not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chiasm.data.world.worlds import WorldDataset
from chiasm.evaluation.answering import ModelAnswerer
from chiasm.evaluation.provenance import installed_versions
from chiasm.evaluation.runner import evaluate
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.running import prepare, run

SETS = {
    "fine textures": ("single_grain", "test", 600, 1),
    "the host's own": ("attributes", "test", 400, 4),
    "the host's own, held-out compositions": ("attributes", "composition", 300, 4),
}
"""Name -> world, split, images, questions an image."""


def measure(name: str) -> dict[str, Any]:
    """Return the accuracy of a run on every set, with the majority baseline and by kind."""
    model = ModelAnswerer(load_run(name), name)
    found: dict[str, Any] = {}
    for title, (world, split, count, questions) in SETS.items():
        samples = [*_world(world, split, count, questions)]
        train = [*_world(world, "train", count, questions)]
        report = evaluate(model, samples, "answers", batch_size=64, train_samples=train)
        score = report.overall.scores["exact_match"]
        baseline = report.overall.baseline
        found[title] = {
            "accuracy": score.mean,
            "interval": [score.low, score.high],
            "questions": report.overall.count,
            "majority": None if baseline is None else baseline.score,
            "by_kind": {k.name: k.scores["exact_match"].mean for k in report.by_kind},
        }
    return found


def train(output: Path, recipe_name: str, seed: int, control: str, more: Sequence[str]) -> Path:
    """Train one run unless it is there, and return its folder."""
    folder = output / f"{control if control != 'none' else 'dual'}-{seed}"
    done = folder / "done.json"
    if done.is_file():
        return folder
    recipe = load_recipe(recipe_name, [f"seed={seed}", f"control={control}", *more])
    report = run(prepare(recipe, folder, Path.cwd(), resume=folder.is_dir()), folder)
    done.write_text(json.dumps({"step": report.step}))
    return folder


def _world(world: str, split: str, count: int, questions: int) -> list[Any]:
    dataset = WorldDataset(
        world=world, split=split, seed=0, count=count, questions_per_image=questions
    )
    return [dataset[index] for index in range(count)]


def main() -> None:
    """Train, measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="tiny-dual")
    parser.add_argument("--only", choices=["none", "null_eye"], help="train this one, no table")
    parser.add_argument("overrides", nargs="*", help="values of the recipe, KEY.PATH=VALUE")
    options = parser.parse_args()
    controls = [options.only] if options.only else ["none", "null_eye"]
    runs = {
        control: [
            train(options.output, options.recipe, seed, control, options.overrides)
            for seed in options.seeds
        ]
        for control in controls
    }
    if options.only:
        return
    results: dict[str, Any] = {"versions": installed_versions(), "host": measure("tiny-host")}
    for control, folders in runs.items():
        results[control] = [measure(str(folder)) for folder in folders]
    (options.output / "second_eye.json").write_text(json.dumps(results, indent=2))
    lines = []
    for title in SETS:
        row = f"{title}: majority {results['host'][title]['majority']:.1%}, "
        row += f"host alone {results['host'][title]['accuracy']:.1%}"
        for control, label in (("none", "second eye"), ("null_eye", "null eye")):
            values = [entry[title]["accuracy"] for entry in results[control]]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            row += f", {label} {statistics.mean(values):.1%} +- {spread:.1%}"
        lines.append(row)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
