"""Pointing at real pictures: COCO panoptic segments or instances, split by image.

    python benchmarks/coco_pointing.py panoptic.json --images IMAGES --output runs/coco
    python benchmarks/coco_pointing.py panoptic.json --images IMAGES --output runs/colours \
        --setting colours --split 1

The mask heads learn from the images of one part and are measured on those of the other: with the
setting `maps` the mask head and the refiner of tiny-grounding, with `colours` a head that reads
colours, places and words. Beside them stand the constant mask and the box in the middle (both
fitted to the training part), the resolution ceiling, and with `maps` the heads as they ship. As a
control the trained heads are given each picture's phrases with the next picture in its place: what
is left is what the words alone are worth. Beside each score stands the mean share of the picture
that the masks cover, because a mask of everything scores well here. The host stays frozen; it has
never seen a photograph, so what is measured is the path and not the state of the art.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.core.run_length import decode_run_length
from chiasm.core.samples import Sample
from chiasm.data.dataset import load_dataset
from chiasm.data.media import load_image
from chiasm.data.splitting import split_by_image
from chiasm.evaluation.grounding import GroundingOptions, evaluate_masks
from chiasm.evaluation.grounding_model import ModelGrounder
from chiasm.evaluation.provenance import installed_versions
from chiasm.models.grounding import Grounding
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.running import prepare, run

PARTS = {"train": 0.7, "held_out": 0.3}

SETTINGS = {
    "maps": (),
    "colours": (
        "grounding={reads: colours}",
        "objective={masks: {coarse.balanced: 1.0}, masks_inside: 0.6}",
        "training={batch_size: 4, betas: [0.9, 0.98], learning_rate: 0.005, weight_decay: 0.3, "
        "log_every: 20, stages: [{name: masks, steps: 150, warmup: 15}]}",
    ),
}
"""What each setting changes in the recipe of tiny-grounding."""

STEPS = {"maps": 400, "colours": 150}
"""Steps of each setting."""


def divide(
    annotations: Path, images: Path, output: Path, split: int = 0
) -> dict[str, list[Sample]]:
    """Write one annotation file a part, which recipes can name, and return the samples."""
    whole = load_dataset(annotations, media_root=images)
    values = json.loads(annotations.read_text(encoding="utf-8"))
    output.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[Sample]] = {}
    for name, part in split_by_image(whole, PARTS, split).items():
        samples = [part[index] for index in range(len(part))]
        names = {Path(str(sample.images[0])).name for sample in samples}
        kept = [image for image in values["images"] if Path(image["file_name"]).name in names]
        numbers = {image["id"] for image in kept}
        chosen = [a for a in values["annotations"] if a["image_id"] in numbers]
        text = json.dumps({**values, "images": kept, "annotations": chosen})
        (output / f"{name}.json").write_text(text, encoding="utf-8")
        pictures = annotations.with_suffix("")
        if pictures.is_dir() and not (output / name).exists():
            (output / name).symlink_to(pictures.resolve(), target_is_directory=True)
        parts[name] = samples
    return parts


def exchange_pictures(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples, each with the picture of the next, stretched to its own size."""
    pictures = [load_image(sample.images[0]) for sample in samples]
    return [
        replace(sample, images=(pictures[(place + 1) % len(samples)].resize(pictures[place].size),))
        for place, sample in enumerate(samples)
    ]


def measure(
    folder: str | Path, samples: Sequence[Sample], train: Sequence[Sample], data: str
) -> dict[str, float]:
    """Return the scores of a run on samples, and by head the mean share of the picture covered."""
    model = load_run(folder)
    assert isinstance(model, Grounding)
    options = GroundingOptions(batch_size=8, train_samples=train, data=data)
    report = evaluate_masks(ModelGrounder(model, str(folder)), samples, options)
    covered = {
        f"{head}.covered": float(
            np.mean([decode_run_length(score.masks[head]).mean() for score in report.scores])
        )
        for head in report.summary.heads
    }
    return report.numbers() | covered


def main(arguments: Sequence[str] | None = None) -> None:
    """Split, train, measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--setting", choices=SETTINGS, default="maps")
    parser.add_argument("--split", type=int, default=0, help="another number, another split")
    parser.add_argument("--start", default="tiny-grounding", help="heads as they ship, for `maps`")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="values of the recipe, KEY.PATH=VALUE")
    options = parser.parse_intermixed_args(arguments)
    setting: str = options.setting
    parts = divide(options.annotations, options.images, options.output, options.split)
    file, root = options.output.resolve() / "train.json", options.images.resolve()
    source = f"{{path: {file}, media_root: {root}}}"
    overrides = [
        *SETTINGS[setting],
        f"data.train=[{source}]",
        "data.validation=[]",
        f"training.stages.0.steps={options.steps or STEPS[setting]}",
        f"seed={options.seed}",
        *options.overrides,
    ]
    folder = options.output / f"run-{options.seed}"
    if not (folder / "model.safetensors").is_file():
        run(prepare(load_recipe("tiny-grounding", overrides), folder, Path.cwd()), folder)
    data, held_out, train = options.annotations.name, parts["held_out"], parts["train"]
    results: dict[str, Any] = {
        "versions": installed_versions(),
        "setting": setting,
        "split": options.split,
        "images": {name: len(samples) for name, samples in parts.items()},
        "trained": measure(folder, held_out, train, data),
        "pictures exchanged": measure(folder, exchange_pictures(held_out), train, data),
    }
    if setting == "maps":
        results["as it ships"] = measure(options.start, held_out, train, data)
    (options.output / f"coco-{options.seed}.json").write_text(json.dumps(results, indent=2))
    for measured in ("trained", "pictures exchanged", "as it ships"):
        if measured in results:
            sys.stdout.write(f"{measured}\n{tabulate(results[measured])}")


def tabulate(scores: dict[str, float]) -> str:
    """Return one line a maker: mean IoU of all phrases, things, stuff, and the share covered."""
    lines = []
    for maker in sorted(name.split(".")[0] for name in scores if name.endswith(".mean_iou")):
        cells = [
            f"{title} {scores[key]:.3f}"
            for title, key in (
                ("mean IoU", f"{maker}.mean_iou"),
                ("things", f"{maker}.mean_iou/things"),
                ("stuff", f"{maker}.mean_iou/stuff"),
                ("covers", f"{maker}.covered"),
            )
            if key in scores
        ]
        lines.append(f"  {maker:16s} {'  '.join(cells)}\n")
    return "".join(lines)


if __name__ == "__main__":
    main()
