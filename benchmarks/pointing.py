"""Does a frozen host point? tiny-grounding beside its ceiling, its baselines and a random host.

    python benchmarks/pointing.py --output runs/pointing --seeds 0 1 2

For each seed the same mask head and refiner are trained twice on the same samples: on the host as
it ships, and on a host of the same sizes whose weights are random (the control: what position,
colour and size of a thing give away without anything having been learned about words). Both are
measured on scenes of the test split. Finished runs in --output are not trained again.
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
from chiasm.evaluation.grounding import GroundingOptions, evaluate_masks
from chiasm.evaluation.grounding_model import ModelGrounder
from chiasm.evaluation.provenance import installed_versions
from chiasm.models.grounding import Grounding
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.running import prepare, run

HOSTS = ("trained", "random")
HOST_RECIPE = "tiny-host-112"
SHOWN = ("coarse", "coarse ceiling", "refined", "refined ceiling", "constant", "centre_box")


def train(output: Path, host: str, seed: int, overrides: Sequence[str]) -> Path:
    """Train one run unless it is there, and return its folder."""
    folder = output / f"{host}-{seed}"
    done = folder / "done.json"
    if done.is_file():
        return folder
    recipe = load_recipe("tiny-grounding", [f"seed={seed}", *overrides])
    if host == "random":
        scratch = load_recipe(HOST_RECIPE).base_host.scratch
        assert scratch is not None
        blank = scratch.model_copy(update={"attention_start": "random", "seed": seed})
        chosen = recipe.base_host.model_copy(update={"path": None, "scratch": blank})
        recipe = recipe.model_copy(update={"host": chosen})
    report = run(prepare(recipe, folder, Path.cwd(), resume=folder.is_dir()), folder)
    done.write_text(json.dumps({"step": report.step}))
    return folder


def measure(folder: Path, count: int, split: str) -> dict[str, Any]:
    """Return the scores of a run on a split, with ceiling, baselines and the things a picture."""
    model = load_run(folder)
    assert isinstance(model, Grounding)
    world = WorldDataset(world="shapes", split=split, count=count, phrases=3)
    seen = WorldDataset(world="shapes", split="train", count=300, phrases=3)
    options = GroundingOptions(
        batch_size=16, train_samples=[seen[index] for index in range(300)], data=f"shapes/{split}"
    )
    samples = [world[index] for index in range(count)]
    report = evaluate_masks(ModelGrounder(model, str(folder)), samples, options)
    return {"numbers": report.numbers(), "phrases": report.context["phrases"]}


def main() -> None:
    """Train, measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=300, help="scenes measured")
    parser.add_argument("--only", choices=HOSTS, help="train these, no table")
    parser.add_argument("overrides", nargs="*", help="values of the recipe, KEY.PATH=VALUE")
    options = parser.parse_args()
    hosts = [options.only] if options.only else list(HOSTS)
    folders = {
        host: [train(options.output, host, seed, options.overrides) for seed in options.seeds]
        for host in hosts
    }
    if options.only:
        return
    results: dict[str, Any] = {"versions": installed_versions(), "split": options.split}
    for host, runs in folders.items():
        results[host] = [measure(folder, options.count, options.split) for folder in runs]
    name = f"pointing-{options.split}.json"
    (options.output / name).write_text(json.dumps(results, indent=2))
    for maker in SHOWN:
        row = f"{maker:16s}"
        for host in HOSTS:
            found = [entry["numbers"].get(f"{maker}.mean_iou") for entry in results[host]]
            values = [value for value in found if value is not None]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            row += f"  {host} host {statistics.mean(values):.3f} +- {spread:.3f}"
        sys.stdout.write(row + "\n")


if __name__ == "__main__":
    main()
