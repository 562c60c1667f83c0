"""Reads a `config.json` of the form {qwen_model_name, dinov2_model_name, ...} as a recipe.

The form is that of a dual vision encoder that keeps its settings in one JSON file, either flat or
in sections (`model_config`, `training_config`, `data_config`, ...). A key at the top level counts
before the same key in a section.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.core.errors import ConfigError

HOST, ENCODER = "Qwen/Qwen2.5-VL-3B-Instruct", "facebook/dinov2-base"

SECTIONS = (
    "model_config",
    "training_config",
    "loss_config",
    "data_config",
    "logging_config",
    "inference_config",
)

VALUES: dict[str, str] = {
    "qwen_model_name": "host.path",
    "dinov2_model_name": "encoders.dinov2.path",
    "common_dim": "fusion.width",
    "dropout": "fusion.dropout",
    "freeze_config": "freeze_config",
    "training_mode": "training_mode",
    "learning_rate": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.accumulation",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "max_grad_norm": "training.clip_norm",
    "log_steps": "training.log_every",
    "num_workers": "training.workers",
    "language_loss_weight": "objective.tokens",
    "diversity_loss_weight": "objective.diversity",
    "scenario_description": "description",
    "seed": "seed",
}
"""Key to the place of the same value in a recipe."""

SPECIAL = (
    "num_epochs",
    "min_lr",
    "curriculum_training",
    "use_flash_attention",
    "train_data_path",
    "val_data_path",
    "image_root",
    "max_samples",
    "dataset_config",
)
"""Keys that need more than a new place."""

REASONS: dict[str, str] = {
    "project_name": "a run is named by its directory, --output",
    "output_dir": "give the run directory as --output",
    "scenario": "the description says it",
    "save_steps": "counts epochs; set training.checkpoint_every, which counts optimizer steps",
    "max_new_tokens": "belongs to the moment of asking, not to training",
    "temperature": "there is no contrastive loss; for answers it belongs to the moment of asking",
    "top_p": "belongs to the moment of asking, not to training",
    "do_sample": "belongs to the moment of asking, not to training",
    "device": "the device is found by itself; `accelerate launch` chooses among several",
    "use_wandb": "numbers go to metrics.jsonl and TensorBoard in the run directory",
    "log_level": "everything goes to log.txt in the run directory",
    "task_type": "a label without effect",
    "contrastive_loss_weight": "there is no contrastive loss here",
    "consistency_loss_weight": "there is no consistency loss here",
}
"""Keys that have no counterpart, and why."""


@dataclass
class Converted:
    """A recipe made of a foreign configuration.

    Attributes:
        values: The recipe's plain values.
        left_out: One line for each key that has no counterpart, or was not taken as it stands.
        unknown: One line for each key that this form does not have.
    """

    values: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def put(self, place: str, value: Any) -> None:
        """Set a dotted place."""
        *steps, last = place.split(".")
        inner = self.values
        for step in steps:
            inner = inner.setdefault(step, {})
        inner[last] = value


def convert_file(file: Path) -> Converted:
    """Read a configuration file.

    Raises:
        ConfigError: It is no JSON object, or its keys contradict each other.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{file} holds {type(config).__name__}; a configuration is an object")
    return convert(config, str(file))


def convert(config: Mapping[str, Any], title: str = "config.json") -> Converted:
    """Turn a configuration into the plain values of a recipe.

    Precedence is that of `models.dual_encoder_modes`: `training_mode` counts before
    `freeze_config`; flags of the command line count before both. The stages of an enabled
    `curriculum_training` say how long the run is, whatever `num_epochs` says.

    Args:
        config: As read from JSON.
        title: What messages call it.

    Raises:
        ConfigError: Two sections give one key different values, or a section is malformed.
    """
    found = Converted()
    given = _flatten(config, title)
    found.values = {
        "family": "dual_encoder",
        "host": {"path": HOST},
        "encoders": {"dinov2": {"kind": "dinov2", "path": ENCODER}},
        "fusion": {"kind": "gated", "scope": "global"},
        "data": {},
        "objective": {"tokens": 1.0, "diversity": 0.1},
        "training": {"learning_rate": 1e-4, "batch_size": 4},
    }
    for key, value in given.items():
        if key in VALUES:
            if value is not None:
                found.put(VALUES[key], value)
        elif key in REASONS:
            found.left_out.append(f"{key} ({json.dumps(value)}): {REASONS[key]}")
        elif key not in SPECIAL:
            near = difflib.get_close_matches(key, [*VALUES, *SPECIAL, *REASONS], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            found.unknown.append(f"{key} ({json.dumps(value)}): unknown key{hint}")
    _attention(found, given)
    _data(found, given)
    _stages(found, given, title)
    return found


def converted_text(converted: Converted, recipe: str, source: str) -> str:
    """Return a recipe as YAML with what was left out above it, as comments.

    Args:
        converted: What was converted.
        recipe: The recipe as YAML.
        source: The file it came from.
    """
    lines = [f"# Made from {source}."]
    missing = [*converted.left_out, *converted.unknown]
    if missing:
        lines += ["#", "# Not taken over:", *(f"#   {line}" for line in missing)]
    return "\n".join([*lines, recipe])


def _flatten(config: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return all keys side by side; the top level counts before sections."""
    found: dict[str, Any] = {}
    places: dict[str, str] = {}
    faults = []
    for section in ("freeze_config", "curriculum_training", "dataset_config", *SECTIONS):
        inner = config.get(section)
        if inner is None:
            continue
        if not isinstance(inner, dict):
            faults.append(f"{section}: {inner!r}; a section is an object")
            continue
        if section not in SECTIONS:
            continue
        for key, value in inner.items():
            taken = key in VALUES or key in SPECIAL
            if taken and key not in config and key in found and found[key] != value:
                faults.append(
                    f"{key}: {found[key]!r} in {places[key]} and {value!r} in {section}; give one"
                )
            found[key], places[key] = value, section
    if faults:
        raise ConfigError(f"{title}: {len(faults)} fault(s)", faults)
    found.update({key: value for key, value in config.items() if key not in SECTIONS})
    return found


def _attention(found: Converted, given: Mapping[str, Any]) -> None:
    if not given.get("use_flash_attention"):
        return
    if importlib.util.find_spec("flash_attn") is None:
        found.left_out.append(
            "use_flash_attention (true): the package flash_attn is not installed; sdpa is used"
        )
    else:
        found.put("host.attention", "flash_attention_2")


def _data(found: Converted, given: Mapping[str, Any]) -> None:
    dataset = given.get("dataset_config") or {}
    unknown = [key for key in dataset if key not in ("type", "args", "datasets", "weights")]
    found.unknown += [f"dataset_config.{key}: unknown key" for key in unknown]
    train = given.get("train_data_path")
    if dataset.get("type") == "multi":
        sources = _mixture(dataset, given)
        if train is not None:
            found.left_out.append(
                f"train_data_path ({json.dumps(train)}): dataset_config names several datasets"
            )
    else:
        arguments = dataset.get("args") or {}
        sources = [_source(train or arguments.get("data_path") or "data/train.json", given)]
        if train and arguments.get("data_path") not in (None, train):
            found.left_out.append(
                f"dataset_config.args.data_path ({json.dumps(arguments['data_path'])}): "
                "train_data_path is used"
            )
    found.put("data.train", sources)
    validation = given.get("val_data_path")
    if validation:
        found.put("data.validation", [_source(validation, given)])
        found.put("data.measure", ["loss"])


def _mixture(dataset: Mapping[str, Any], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = _objects(dataset.get("datasets"), "dataset_config.datasets")
    weights = dataset.get("weights") or [None] * len(entries)
    if len(weights) != len(entries):
        raise ConfigError(
            f"dataset_config: {len(entries)} datasets and {len(weights)} weights; give one each"
        )
    sources = []
    for entry, weight in zip(entries, weights, strict=True):
        arguments = {**given, **(entry.get("args") or {})}
        source = _source(arguments.get("data_path") or "", arguments)
        if entry.get("type") == "medical":
            source["format"] = "medical"
        sources.append(source if weight is None else {**source, "weight": weight})
    return sources


def _objects(value: Any, place: str) -> list[dict[str, Any]]:
    entries = value or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{place}: {json.dumps(value)}; a list of objects is needed")
    return entries


def _source(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    source: dict[str, Any] = {"path": path}
    if given.get("image_root"):
        source["media_root"] = given["image_root"]
    if given.get("max_samples"):
        source["count"] = given["max_samples"]
    return source


def _stages(found: Converted, given: Mapping[str, Any], title: str) -> None:
    rate = found.values["training"]["learning_rate"]
    common = {}
    if isinstance(given.get("min_lr"), int | float) and isinstance(rate, int | float):
        common["minimum_ratio"] = round(given["min_lr"] / rate, 9)
    curriculum = given.get("curriculum_training") or {}
    epochs = given.get("num_epochs", 10)
    entries = _objects(curriculum.get("stages"), "curriculum_training.stages")
    if not curriculum.get("enabled"):
        if entries:
            found.left_out.append("curriculum_training.stages: not enabled")
        found.put("training.stages", [{"name": "all", "epochs": epochs, **common}])
        return
    if not entries:
        raise ConfigError(f"{title}: curriculum_training is enabled and has no stages; give some")
    stages = []
    for index, entry in enumerate(entries):
        known = ("mode", "epochs", "description", "learning_rate", "name")
        found.unknown += [
            f"curriculum_training.stages.{index}.{key} ({json.dumps(value)}): unknown key; known: "
            f"{', '.join(known)}"
            for key, value in entry.items()
            if key not in known
        ]
        own = {key: entry[key] for key in known if key in entry}
        name = entry.get("name") or f"{index + 1}-{entry.get('mode', 'stage')}"
        stages.append({**own, "name": name, **common})
    found.put("training.stages", stages)
    total = sum(entry.get("epochs") or 0 for entry in entries)
    if given.get("num_epochs") not in (None, total):
        found.left_out.append(
            f"num_epochs ({json.dumps(epochs)}): the curriculum's stages take {total} epochs"
        )
