"""Turns a finished run into a shipped model: what loads it, what made it, and nothing twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from chiasm.core.errors import CheckpointError, InputError
from chiasm.recipes.loading import load_recipe, load_run, recipe_text
from chiasm.recipes.own_host import PREFIX
from chiasm.recipes.places import (
    ENCODER_FOLDER,
    HOST_FOLDER,
    RECIPE_FILE,
    SEGMENTER_FOLDER,
    TOKENIZER_FOLDER,
)
from chiasm.training.durable import read_tensors, write_tensors
from chiasm.training.receipt import RECEIPT, write_receipt
from chiasm.training.weights import WEIGHTS, load_parts, part_tensors

RECORDS = ("host.json", "receipt.safetensors", "parts.json", "metrics.jsonl", "log.txt", WEIGHTS)
"""Files that go along as they are, besides the recipe."""


def ship(run: Path, target: Path, overrides: tuple[str, ...] = (), half: bool = False) -> None:
    """Copy a run into a folder of shipped models and load it from there.

    The folders `host` and `tokenizer` go without weights: all of a host's are in the run's own
    weights, also those of parts that it did not train.

    Args:
        run: A finished run directory.
        target: The folder to write; it must not exist.
        overrides: Values of the recipe that are written differently, such as a host that is
            shipped under a name and lay in a folder when the run was made.
        half: Write weights in half precision, in half the space, and a receipt of what they are
            then. Models are still loaded in the precision of their recipe.

    Raises:
        InputError: The target is there, or a weight is too large for half precision.
        CheckpointError: A file of the run is missing, or the copy does not load.
    """
    if target.exists():
        raise InputError(f"{target} exists; remove it first, so that nothing old stays in it")
    missing = [name for name in (RECIPE_FILE, *RECORDS) if not (run / name).is_file()]
    if missing:
        raise CheckpointError(f"{run} lacks {', '.join(missing)}; train it to its end first")
    target.mkdir(parents=True)
    recipe = load_recipe(run / RECIPE_FILE, overrides)
    (target / RECIPE_FILE).write_text(recipe_text(recipe), encoding="utf-8")
    for name in RECORDS:
        shutil.copyfile(run / name, target / name)
    weights = shutil.ignore_patterns("*.safetensors")
    for folder in (HOST_FOLDER, TOKENIZER_FOLDER):
        if (run / folder).is_dir():
            shutil.copytree(run / folder, target / folder, ignore=weights)
    for folder in (ENCODER_FOLDER, SEGMENTER_FOLDER):
        if (run / folder).is_dir():
            shutil.copytree(run / folder, target / folder)
    if (run / HOST_FOLDER).is_dir():
        _add_untrained(run, target / WEIGHTS)
    if half:
        _halve(target)
    load_run(target)


def _add_untrained(run: Path, path: Path) -> None:
    """Write the weights of the parts of a run's host that no stage trained into a copy of its own.

    A host's parts are those that carry its prefix, a dense head beside it none of them.
    """
    tensors, metadata = read_tensors(path)
    model = load_run(run)
    saved = set(json.loads(metadata["parts"]))
    untrained = {name for name in model.parts if name.startswith(PREFIX)} - saved
    if untrained:
        tensors |= part_tensors(model, untrained)
        write_tensors(path, tensors, metadata={"parts": json.dumps(sorted(saved | untrained))})


def _halve(folder: Path) -> None:
    """Round the weights of a run to half precision, and write the receipt of the rounded model."""
    model = load_run(folder)
    path = folder / WEIGHTS
    tensors, metadata = read_tensors(path)
    halves = {name: _rounded(name, tensor) for name, tensor in tensors.items()}
    load_parts(path, model, halves, metadata)
    write_receipt(folder / RECEIPT, model)
    write_tensors(path, halves, metadata=metadata)


def _rounded(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    rounded = tensor.half()
    if not rounded.isfinite().all():
        raise InputError(
            f"{name}: {float(tensor.abs().max()):.3g} is no number of half precision, whose "
            f"largest is {torch.finfo(torch.half).max:.0f}; ship this model in full"
        )
    return rounded
