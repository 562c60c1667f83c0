"""Recipes from YAML with overrides, and runs from their directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from chiasm.core.config import read_config
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.language.host import Host
from chiasm.recipes.build import Family, build_model, load_base_host
from chiasm.recipes.convert import convert_file
from chiasm.recipes.host_choice import HostChoice
from chiasm.recipes.overrides import apply_overrides
from chiasm.recipes.places import HOST_FOLDER, RECIPE_FILE, recipe_file, run_folder
from chiasm.recipes.schema import Recipe
from chiasm.training.durable import read_tensors
from chiasm.training.receipt import RECEIPT, TOLERANCE, replay_receipt
from chiasm.training.weights import WEIGHTS, load_model, load_parts


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: A shipped name, a YAML file, or a `config.json` of the form that `recipes.convert`
            reads.
        overrides: Assignments such as `training.batch_size=4`; see `apply_overrides`.

    Raises:
        UnknownNameError: There is no such recipe.
        ConfigError: Something in it is wrong; all faults at once.
    """
    file = recipe_file(name)
    values = _read_values(file)
    faults = apply_overrides(values, overrides)
    if faults:
        raise ConfigError(f"{file.name}: {len(faults)} fault(s) in overrides", faults)
    return read_config(Recipe, values, str(name))


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as YAML, resolved: overrides applied, defaults left out."""
    return yaml.safe_dump(recipe.to_plain(), sort_keys=False, allow_unicode=True)


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
    if recipe.host is None or recipe.host.scratch is None:
        model = build_model(recipe, base)
        load_model(folder, model)
    else:
        if not own_host.is_dir():
            raise CheckpointError(
                f"{folder} has no folder {HOST_FOLDER!r}, which a run with a host from scratch "
                "writes at its end; train it to the end, or resume it"
            )
        host = load_base_host(HostChoice(path=str(own_host)), base)
        model = build_model(recipe, base, host)
        load_parts(folder / WEIGHTS, model, *read_tensors(folder / WEIGHTS))
        replay_receipt(folder / RECEIPT, model, TOLERANCE)
    model.eval()
    return model


def load_host(name: str | Path) -> Host:
    """Load a host by shipped name, run directory, checkpoint directory or hub name."""
    return load_base_host(HostChoice(path=str(name)), Path.cwd())


def _read_values(file: Path) -> dict[str, Any]:
    if file.suffix == ".json":
        converted = convert_file(file)
        if converted.unknown:
            raise ConfigError(
                f"{file}: {len(converted.unknown)} key(s) mean nothing here; take them out, or "
                "write a recipe without them by `chiasm recipes copy`",
                converted.unknown,
            )
        return converted.values
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds {type(values).__name__}; a recipe is a mapping of keys")
    return values
