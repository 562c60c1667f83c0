"""Vision towers from checkpoints and from plain values, stripped to what patch tokens need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.image_processing_base import ImageProcessingMixin

from chiasm.core.config import lookup
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.encoders.families import Colour, Family, Tower
from chiasm.encoders.transform import RESAMPLING, GridTransform


@dataclass(frozen=True)
class LoadedTower:
    """A tower with all that its encoder needs to know.

    Attributes:
        model: The tower, without pieces that patch tokens never depend on.
        tower: What `model` is.
        patch: Side of a patch in pixels.
        mean: Mean of each channel in [0, 1].
        deviation: Standard deviation of each channel.
        resampling: Filter, a key of `RESAMPLING`.
        source: `name`, and for a checkpoint `path` and `revision`.
    """

    model: nn.Module
    tower: Tower
    patch: int
    mean: Colour
    deviation: Colour
    resampling: str
    source: Mapping[str, str]


def build_tower(family: Family, architecture: Mapping[str, Any], dtype: torch.dtype) -> LoadedTower:
    """Build a tower with random weights.

    Args:
        family: The kind of encoder.
        architecture: Values of the tower's configuration class, `model_type` among them if the
            family has several towers.
        dtype: Type of the weights.

    Raises:
        ConfigError: A value is unknown to the configuration class or impossible.
    """
    values = dict(architecture)
    kind = values.pop("model_type", next(iter(family.towers)))
    tower = lookup(family.towers, kind, f"model_type of encoder {family.name}")
    known = set(tower.config().to_dict())
    faults = [f"{name}: unknown to {tower.config.__name__}" for name in values if name not in known]
    if faults:
        raise ConfigError(f"architecture of encoder {family.name}", faults)
    config = tower.config(**{**values, **tower.settings})
    model = tower.model(config).to(dtype)
    _strip(model, tower)
    return LoadedTower(
        model=model,
        tower=tower,
        patch=_patch(config, family),
        mean=family.mean,
        deviation=family.deviation,
        resampling=family.resampling,
        source={"name": family.name},
    )


def load_tower(
    family: Family, path: str, dtype: torch.dtype, revision: str | None = None
) -> LoadedTower:
    """Load a tower from a local directory or the hub; code of the checkpoint is never run.

    Args:
        family: The kind of encoder.
        path: Local directory or hub name. A text-and-image checkpoint gives its image tower.
        dtype: Type of the weights.
        revision: Branch, tag or commit on the hub.

    Raises:
        CheckpointError: It cannot be read, is of another kind, or lacks weights.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"encoder {family.name}: no checkpoint can be read from {path!r} ({_first(error)}); "
            "give a local directory that holds config.json and model.safetensors, or a hub name"
        ) from error
    if config.model_type not in family.towers:
        raise CheckpointError(
            f"encoder {family.name}: {path!r} is of the model type {config.model_type!r}; "
            f"this encoder reads {', '.join(family.towers)}"
        )
    tower = family.towers[config.model_type]
    if not isinstance(config, tower.config):
        config = config.vision_config
    for name, value in tower.settings.items():
        setattr(config, name, value)
    try:
        model, report = tower.model.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            revision=revision,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"encoder {family.name}: the weights of {path!r} cannot be read ({_first(error)}); "
            "they must be safetensors of the architecture in its config.json"
        ) from error
    missing = [name for name in report["missing_keys"] if not name.startswith(tower.unused)]
    if missing:
        raise CheckpointError(
            f"encoder {family.name}: {path!r} lacks {len(missing)} weights, first "
            f"{sorted(missing)[0]!r}; it would run on random numbers. Use a complete checkpoint"
        )
    _strip(model, tower)
    mean, deviation, resampling = _preprocessing(family, path, revision)
    return LoadedTower(
        model=model,
        tower=tower,
        patch=_patch(config, family),
        mean=mean,
        deviation=deviation,
        resampling=resampling,
        source={"name": family.name, "path": path, "revision": revision or ""},
    )


def save_tower(model: nn.Module, transform: GridTransform, directory: Path) -> None:
    """Write a tower and its preprocessing in the form that `load_tower` and transformers read."""
    assert isinstance(model, transformers.PreTrainedModel)
    model.save_pretrained(directory)
    resample = int(RESAMPLING[transform.resampling])
    values = {
        "image_mean": transform.mean,
        "image_std": transform.deviation,
        "resample": resample,
    }
    text = json.dumps(values, indent=2) + "\n"
    (directory / "preprocessor_config.json").write_text(text, encoding="utf-8")


def _strip(model: nn.Module, tower: Tower) -> None:
    """Take out the pieces that patch tokens never depend on."""
    modules = dict(model.named_modules())
    for name in tower.unused:
        parent, _, own = name.rpartition(".")
        if name in modules:
            model.set_submodule(name, nn.Identity())
        elif own in modules[parent]._parameters:
            modules[parent].register_parameter(own, None)


def _preprocessing(family: Family, path: str, revision: str | None) -> tuple[Colour, Colour, str]:
    """Read mean, deviation and filter from the checkpoint; the family's own where it has none."""
    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(path, revision=revision)
    except OSError:
        values = {}
    by_number = {int(filter_): name for name, filter_ in RESAMPLING.items()}
    number = values.get("resample", int(RESAMPLING[family.resampling]))
    if number not in by_number:
        raise CheckpointError(
            f"encoder {family.name}: {path!r} asks for the resampling filter {number}; "
            f"known: {by_number}"
        )
    mean = tuple(values.get("image_mean", family.mean))
    deviation = tuple(values.get("image_std", family.deviation))
    return mean, deviation, by_number[number]


def _patch(config: Any, family: Family) -> int:
    if not isinstance(config.patch_size, int):
        raise ConfigError(
            f"encoder {family.name}: patch_size is {config.patch_size!r}; only square patches, "
            "given as one whole number, are supported"
        )
    return int(config.patch_size)


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
