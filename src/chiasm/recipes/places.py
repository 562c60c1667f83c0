"""Where shipped recipes and models lie, and what a name in a recipe stands for."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from chiasm.core.errors import CheckpointError, UnknownNameError

RECIPE_FILE = "recipe.yaml"
HOST_FOLDER = "host"
ENCODER_FOLDER = "encoder"
SEGMENTER_FOLDER = "segmenter"
TOKENIZER_FOLDER = "tokenizer"


def shipped_models() -> dict[str, Path]:
    """Return the folders of the shipped models by name."""
    root = Path(str(files("chiasm"))) / "assets"
    if not root.is_dir():
        return {}
    return {folder.name: folder for folder in sorted(root.iterdir()) if folder.is_dir()}


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the shipped recipes by name."""
    root = Path(str(files("chiasm"))) / "recipes"
    return {file.stem: file for file in sorted(root.glob("*.yaml"), key=lambda file: file.stem)}


def shipped_engines() -> dict[str, Path]:
    """Return the files for `accelerate launch --config_file` by name."""
    root = Path(str(files("chiasm"))) / "recipes" / "engines"
    return {file.stem: file for file in sorted(root.glob("*.yaml"))}


def run_folder(name: str | Path) -> Path:
    """Return the folder of a run: a shipped name or a run directory.

    Raises:
        CheckpointError: There is neither.
    """
    shipped = shipped_models()
    if str(name) in shipped:
        return shipped[str(name)]
    folder = Path(name)
    if not (folder / RECIPE_FILE).is_file():
        raise CheckpointError(
            f"{str(name)!r} is no run: no folder with a {RECIPE_FILE}, and no shipped model "
            f"({', '.join(shipped) or 'none'}). Give a directory written by `chiasm train`"
        )
    return folder


def recipe_file(name: str | Path) -> Path:
    """Return the file of a recipe: a shipped name or a path.

    Raises:
        UnknownNameError: There is neither.
    """
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    if Path(name).is_file():
        return Path(name)
    raise UnknownNameError("recipe (and no such file)", str(name), shipped)


def host_folder(path: str, base: Path) -> tuple[Path | str, str]:
    """Return where a host's checkpoint lies and what to call it.

    Args:
        path: A shipped name, a run directory that holds a host, a checkpoint directory, or a name
            on the hub.
        base: Folder that relative paths start from.
    """
    return _checkpoint(path, base, HOST_FOLDER)


def encoder_folder(path: str, base: Path) -> Path | str:
    """Return where an extra encoder's checkpoint lies; as `host_folder`."""
    return _checkpoint(path, base, ENCODER_FOLDER)[0]


def segmenter_folder(path: str, base: Path) -> Path | str:
    """Return where a refiner's checkpoint lies; as `host_folder`."""
    return _checkpoint(path, base, SEGMENTER_FOLDER)[0]


def tokenizer_folder(path: str, base: Path) -> Path | str:
    """Return where a tokenizer's checkpoint lies; as `host_folder`."""
    return _checkpoint(path, base, TOKENIZER_FOLDER)[0]


def _checkpoint(path: str, base: Path, inner: str) -> tuple[Path | str, str]:
    shipped = shipped_models()
    if path in shipped:
        return shipped[path] / inner, path
    for folder in (Path(path), base / path):
        if folder.is_dir():
            return (folder / inner if (folder / inner).is_dir() else folder), folder.name
    return path, path
