"""A model on disk: its new and trained parts, what it was built on, and its receipt."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.core.errors import CheckpointError
from chiasm.core.protocols import Model
from chiasm.training.durable import copy_file, read_json, read_tensors, write_json, write_tensors
from chiasm.training.receipt import RECEIPT, TOLERANCE, replay_receipt, write_receipt

WEIGHTS = "model.safetensors"
HOST = "host.json"
MODEL_FILES = (HOST, RECEIPT, WEIGHTS)


def part_tensors(model: Model, parts: Collection[str]) -> dict[str, Tensor]:
    """Return parameters and persistent buffers of parts, named "part/name", tied ones once."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for part in sorted(parts):
        for name, tensor in model.parts[part].state_dict(keep_vars=True).items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[f"{part}/{name}"] = tensor
    return found


def save_model(directory: Path, model: Model, trained_parts: Collection[str]) -> None:
    """Write `model.safetensors`, `host.json` and `receipt.safetensors`.

    Saved are the model's new parts and the given ones; all others are the host's and stay where
    the host is.

    Args:
        directory: Made if it is not there.
        model: The model.
        trained_parts: Names of parts that any stage has trained.

    Raises:
        CheckpointError: A part is not one of the model's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    parts = sorted(set(trained_parts) | model.new_parts)
    unknown = [part for part in parts if part not in model.parts]
    if unknown:
        raise CheckpointError(
            f"the model has no part {', '.join(unknown)}; it has {', '.join(model.parts)}"
        )
    write_json(directory / HOST, dict(model.identity))
    write_receipt(directory / RECEIPT, model)
    write_tensors(
        directory / WEIGHTS, part_tensors(model, parts), metadata={"parts": json.dumps(parts)}
    )


def load_model(
    directory: Path, model: nn.Module, tolerance: float = TOLERANCE, receipt: bool = True
) -> float:
    """Load what `save_model` wrote into a freshly built model, strictly.

    Args:
        directory: A run directory, a checkpoint in it, or a shipped model.
        model: The model, built on the same host; its saved parts are overwritten in place.
        tolerance: Of the receipt, see `receipt.TOLERANCE`.
        receipt: Replay the receipt; leave it out only where the weights are about to be replaced.

    Returns:
        The largest difference between the receipt and the loaded model's logits.

    Raises:
        CheckpointError: A file is missing or damaged, the host is another one, or names or shapes
            of weights do not agree; all that disagree are named.
        ReceiptError: The loaded model does not reproduce its receipt.
    """
    tensors, metadata = read_tensors(directory / WEIGHTS)
    _check_identity(directory / HOST, model.identity)  # type: ignore[arg-type]
    load_parts(directory / WEIGHTS, model, tensors, metadata)  # type: ignore[arg-type]
    if not receipt:
        return 0.0
    return replay_receipt(directory / RECEIPT, model, tolerance)  # type: ignore[arg-type]


@torch.no_grad()
def load_parts(
    path: Path, model: Model, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Copy saved tensors into the parts they were saved from.

    Raises:
        CheckpointError: As in `load_model`.
    """
    saved = _saved_parts(path, metadata)
    faults = [
        f"part {part!r} is saved, but the model has none of that name; it has "
        f"{', '.join(model.parts)}"
        for part in saved
        if part not in model.parts
    ]
    faults += [
        f"part {part!r} is new in this model and not in the file"
        for part in sorted(model.new_parts)
        if part not in saved
    ]
    expected = part_tensors(model, [part for part in saved if part in model.parts])
    faults += [f"missing: {name}" for name in expected if name not in tensors]
    faults += [f"unexpected: {name}" for name in tensors if name not in expected]
    for name, tensor in tensors.items():
        if name in expected and expected[name].shape != tensor.shape:
            faults.append(
                f"{name}: saved with shape {tuple(tensor.shape)}, the model has "
                f"{tuple(expected[name].shape)}"
            )
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in faults)
        raise CheckpointError(
            f"{path} does not fit the model; build it from the recipe beside the file\n{listed}"
        )
    for name, tensor in tensors.items():
        expected[name].copy_(tensor)


def copy_model(source: Path, directory: Path) -> None:
    """Copy the model files of one directory to another, which is then loadable like the first."""
    for name in MODEL_FILES:
        copy_file(source / name, directory / name)


def _saved_parts(path: Path, metadata: Mapping[str, str]) -> list[str]:
    if "parts" not in metadata:
        raise CheckpointError(
            f"{path} does not say which parts it holds; it was not written by chiasm. Use the file "
            "of a run directory"
        )
    return list(json.loads(metadata["parts"]))


def _check_identity(path: Path, identity: Mapping[str, Any]) -> None:
    saved = read_json(path)
    found = json.loads(json.dumps(dict(identity)))
    differing = sorted(key for key in {*saved, *found} if saved.get(key) != found.get(key))
    if differing:
        lines = [
            f"  - {key}: saved {saved.get(key)!r}, here {found.get(key)!r}" for key in differing
        ]
        raise CheckpointError(
            f"{path}: the model was trained on another host than the one it is loaded onto; give "
            "the host that the recipe names\n" + "\n".join(lines)
        )
