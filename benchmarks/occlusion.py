"""What a reconstruction is worth, and each of the three levels: variants beside each other.

    python benchmarks/occlusion.py --output runs/occlusion --seeds 0 1 2

Every variant starts from the same host, has the same steps, and differs in what it is given or in
one level. Answers are measured on the test split of the world `occluded` by how much is hidden;
completions on the first part of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from chiasm.evaluation.completion import evaluate_completion
from chiasm.evaluation.pair_answering import PairAnswerer
from chiasm.evaluation.provenance import code_commit, installed_versions
from chiasm.evaluation.runner import evaluate
from chiasm.models.occlusion import Occlusion
from chiasm.recipes.data_choice import Source
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.running import prepare, run
from chiasm.recipes.schema import Recipe
from chiasm.recipes.sources import list_samples

GIVEN = "data.train.0.pair"

VARIANTS: dict[str, tuple[str, ...]] = {
    "pair": (),
    # With the original in place of the reconstruction there is nothing to blend.
    "original only": (f"{GIVEN}=original_only", "occlusion.blend.alpha=original"),
    "reconstruction only": (f"{GIVEN}=reconstruction_only",),
    "mask known": (f"{GIVEN}=mask_known",),
    "no level 1 (alpha 0.5)": ("occlusion.blend.alpha=fixed",),
    "no level 1 (original unblended)": ("occlusion.blend.alpha=original",),
    "static alpha, blended as given": (
        "occlusion.blend.alpha=static",
        "occlusion.blend.align_first=false",
    ),
    "no level 2": ("occlusion.attention=null",),
    "no level 2 alignment": (
        "occlusion.attention.align=false",
        "occlusion.blend.align_first=false",
    ),
    "no level 3": ("occlusion.drawing=null", "objective.codes=null"),
}
"""Name to the overrides of the recipe."""

OWN_CONTROL = {
    "original only": "original_only",
    "reconstruction only": "reconstruction_only",
    "mask known": "mask_known",
}
"""What a variant is given when it is measured, where that is not the pair."""

CONTROLS = ("original_only", "reconstruction_only", "shuffled", "wrong", "mask_known")
"""What the variant `pair` is also given."""


def without_missing_parts(recipe: Recipe) -> Recipe:
    """Return a recipe whose stages train no part that a variant took out."""
    choice = recipe.occlusion
    assert choice is not None
    out = set()
    if choice.blend.alpha in ("fixed", "original"):
        out.add("pixel_blend")
    if choice.attention is None:
        out.add("aligned_attention")
    if choice.drawing is None:
        out.add("host_generation")
    stages = tuple(
        stage.model_copy(update={"train": tuple(p for p in stage.train or () if p not in out)})
        for stage in recipe.training.stages
    )
    training = recipe.training.model_copy(update={"stages": stages})
    return recipe.model_copy(update={"training": training})


def samples_under(control: str, count: int) -> list[Any]:
    """Return samples of the test split under a control."""
    source = Source.model_validate(
        {"world": "occluded", "split": "test", "count": count, "pair": control}
    )
    return list_samples([source], None, Path.cwd())


def answers(model: Occlusion, control: str, count: int) -> dict[str, float]:
    """Return exact match in all and by how much is hidden."""
    samples = samples_under(control, count)
    levels = [str(sample.truth["level"]) for sample in samples]
    report = evaluate(PairAnswerer(model), samples, "answers", batch_size=64)
    correct = [prediction.scores["exact_match"] for prediction in report.predictions]
    parts = {
        level: [c for c, own in zip(correct, levels, strict=True) if own == level]
        for level in sorted(set(levels))
    }
    return {"all": mean(correct), **{level: mean(found) for level, found in parts.items()}}


def measure(folder: Path, variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one run."""
    model = load_run(folder)
    assert isinstance(model, Occlusion)
    found: dict[str, Any] = {
        "answers": answers(model, OWN_CONTROL.get(variant, "given"), options.count)
    }
    if variant == "pair":
        found["controls"] = {name: answers(model, name, options.count) for name in CONTROLS}
    if model.drawing is not None:
        samples = samples_under(OWN_CONTROL.get(variant, "given"), options.drawn)
        found["completion"] = dict(evaluate_completion(model, samples, batch_size=32).groups)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--recipe", default="tiny-pair")
    parser.add_argument("--count", type=int, default=1500, help="questions of the test split")
    parser.add_argument("--drawn", type=int, default=300, help="completions of the test split")
    parser.add_argument("overrides", nargs="*", help="values of the recipe, KEY.PATH=VALUE")
    options = parser.parse_intermixed_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for variant in options.only:
        for seed in options.seeds:
            name = f"{variant.replace(' ', '-')}-{seed}"
            results = options.output / f"{name}.json"
            if results.exists():
                continue
            folder = options.output / name
            changes = [*VARIANTS[variant], f"seed={seed}", "data.validation=[]", *options.overrides]
            if not (folder / "model.safetensors").is_file():
                recipe = without_missing_parts(load_recipe(options.recipe, changes))
                run(prepare(recipe, folder, Path.cwd()), folder)
            found = measure(folder, variant, options)
            about = {"versions": installed_versions(), "commit": code_commit()}
            results.write_text(
                json.dumps({"variant": variant, "seed": seed, **about, **found}, indent=2)
            )
    sys.stdout.write(table(options.output))


def table(output: Path) -> str:
    """Return what all runs in a folder found, mean and deviation over seeds, as Markdown."""
    rows: dict[str, list[dict[str, float]]] = {}
    for file in sorted(output.glob("*.json")):
        found = json.loads(file.read_text())
        rows.setdefault(found["variant"], []).append(found["answers"])
        for name, numbers in found.get("controls", {}).items():
            rows.setdefault(f"pair, given {name}", []).append(numbers)
    levels = sorted({level for found in rows.values() for numbers in found for level in numbers})
    lines = ["| | " + " | ".join(levels) + " |", "|---" * (len(levels) + 1) + "|"]
    for name, found in rows.items():
        cells = []
        for level in levels:
            values = [100 * numbers[level] for numbers in found]
            spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.1f}{spread}")
        lines.append(f"| {name} ({len(found)}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
