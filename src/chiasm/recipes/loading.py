"""Recipes from YAML with overrides, and runs from their directories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from chiasm.core.config import read_config
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.language.host import Host
from chiasm.recipes.build import Family, build_model, load_base_host
from chiasm.recipes.places import HOST_FOLDER, RECIPE_FILE, recipe_file, run_folder
from chiasm.recipes.schema import HostChoice, Recipe
from chiasm.training.durable import read_tensors
from chiasm.training.receipt import RECEIPT, TOLERANCE, replay_receipt
from chiasm.training.weights import WEIGHTS, load_model, load_parts


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: A shipped name or a YAML file.
        overrides: Assignments such as `training.batch_size=4`, the value written as in YAML. A
            step that is a number is an index of a list (`training.stages.0.steps=10`).

    Raises:
        UnknownNameError: There is no such recipe.
        ConfigError: Something in it is wrong; all faults at once.
    """
    file = recipe_file(name)
    values = _read_yaml(file)
    faults = [fault for override in overrides if (fault := _assign(values, override))]
    if faults:
        raise ConfigError(f"{file.name}: {len(faults)} fault(s) in overrides", faults)
    return read_config(Recipe, values, str(name))


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as YAML, resolved: overrides applied, defaults left out."""
    return yaml.safe_dump(recipe.to_plain(), sort_keys=False, allow_unicode=True)


def recipe_base(name: str | Path) -> Path:
    """Return the folder that relative paths in a recipe start from: where the user stands.

    A shipped recipe names no files of its own, and a user's recipe is run from the user's folder.
    """
    del name
    return Path.cwd()


def load_run(name: str | Path) -> Family:
    """Load a trained model: strictly, with its receipt replayed.

    Args:
        name: A directory written by `chiasm train`, or the name of a shipped model.

    Raises:
        CheckpointError: The run is incomplete, was built on something else, or does not reproduce
            its receipt.
    """
    folder = run_folder(name)
    recipe = load_recipe(folder / RECIPE_FILE)
    base = Path.cwd()
    own_host = folder / HOST_FOLDER
    if recipe.host.scratch is None:
        model = build_model(recipe, base)
        load_model(folder, model)
    else:
        if not own_host.is_dir():
            raise CheckpointError(
                f"{folder} has no folder {HOST_FOLDER!r}, which a run with a host from scratch "
                "writes at its end; train it to the end, or resume it"
            )
        host = Host.from_pretrained(own_host, known_as=str(name))
        model = build_model(recipe, base, host)
        if (folder / WEIGHTS).is_file():
            load_parts(folder / WEIGHTS, model, *read_tensors(folder / WEIGHTS))
        elif model.new_parts:
            raise CheckpointError(
                f"{folder} has no {WEIGHTS}, and the parts {sorted(model.new_parts)} are nowhere "
                "else; copy the whole run directory"
            )
        replay_receipt(folder / RECEIPT, model, TOLERANCE)
    model.eval()
    return model


def load_host(name: str | Path) -> Host:
    """Load a host by shipped name, run directory, checkpoint directory or hub name."""
    return load_base_host(HostChoice(path=str(name)), Path.cwd())


def dataset_paths(name: str | Path) -> list[Path]:
    """Return the data files that a recipe names, training first."""
    recipe = load_recipe(name)
    base = recipe_base(name)
    sources = [*recipe.data.train, *recipe.data.validation]
    sources += [source for stage in recipe.training.stages for source in stage.data or ()]
    return [base / source.path for source in sources if source.path is not None]


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds {type(values).__name__}; a recipe is a mapping of keys")
    return values


def _assign(values: dict[str, Any], override: str) -> str | None:
    """Set one dotted value in place; return what is wrong with it, or None."""
    path, sign, text = override.partition("=")
    if not sign or not path:
        return f"{override!r}: write key.path=value"
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return f"{override!r}: the value is no YAML: {error}"
    steps = path.split(".")
    place: Any = values
    for depth, step in enumerate(steps):
        last = depth == len(steps) - 1
        if isinstance(place, list):
            if not step.isdigit() or int(step) >= len(place):
                done = ".".join(steps[:depth])
                return f"{override!r}: {step!r} is no index of {done} (0 to {len(place) - 1})"
            if last:
                place[int(step)] = value
            else:
                place = place[int(step)]
        elif isinstance(place, Mapping):
            if last:
                place[step] = value  # type: ignore[index]
            else:
                place = place.setdefault(step, {})  # type: ignore[attr-defined]
        else:
            return f"{override!r}: {'.'.join(steps[:depth])} is a plain value, not a mapping"
    return None
