"""Files that are whole or not there: written to a temporary name, synced, renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chiasm.core.errors import CheckpointError

PARTIAL = ".partial-"
"""Prefix of files and folders that are being written; whatever bears it may be deleted."""


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    partial = partial_path(path)
    partial.write_text(text, encoding="utf-8")
    _finish(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file whole or not at all."""
    partial = partial_path(path)
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(plain, partial, metadata=dict(metadata or {}))
    _finish(partial, path)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file whole or not at all."""
    partial = partial_path(path)
    shutil.copyfile(source, partial)
    _finish(partial, path)


def start_folder(path: Path) -> Path:
    """Make the folder that will be `path` once `finish_folder` is called; return it.

    Raises:
        CheckpointError: A folder of that name is already there.
    """
    if path.exists():
        raise CheckpointError(f"{path} is already there; delete it or write elsewhere")
    partial = partial_path(path)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def finish_folder(path: Path) -> None:
    """Give a folder of `start_folder`, with all that is in it now, its name."""
    partial = partial_path(path)
    sync(partial)
    partial.rename(path)
    sync(path.parent)


def partial_path(path: Path) -> Path:
    """Return where a file or folder lies while it is being written."""
    return path.with_name(PARTIAL + path.name)


def point(path: Path, name: str) -> None:
    """Make `path` stand for its neighbour `name`: a relative link, or a file with the name.

    The file is for file systems without links. Either replaces what was there in one step.
    """
    partial = partial_path(path)
    partial.unlink(missing_ok=True)
    try:
        partial.symlink_to(name)
    except OSError:
        partial.write_text(name + "\n", encoding="utf-8")
    partial.replace(path)
    sync(path.parent)


def pointed(path: Path) -> Path | None:
    """Return what a pointer of `point` stands for, or None when there is no pointer."""
    if path.is_symlink():
        return path.parent / path.readlink()
    if path.is_file():
        return path.parent / path.read_text(encoding="utf-8").strip()
    return None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, on the CPU, and its metadata.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); it is missing or damaged. Use another checkpoint"
        ) from None


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); it is missing or damaged. Use another checkpoint"
        ) from None


def remove_partial(folder: Path) -> None:
    """Delete what an earlier process left half written in a folder."""
    for path in folder.glob(PARTIAL + "*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def sync(path: Path) -> None:
    """Have the system write a file or a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finish(partial: Path, path: Path) -> None:
    sync(partial)
    partial.replace(path)
    sync(path.parent)
