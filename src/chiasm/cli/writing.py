"""Where results go: checked before the work that fills it, and told where it cannot be written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from chiasm.cli.output import console, emit
from chiasm.core.errors import InputError


def make_folder(folder: Path) -> None:
    """Make a folder for results, before the work that fills it.

    Raises:
        InputError: Something else has its name, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output {folder} cannot be made a folder: {error}; give another name"
        ) from None
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"--output {folder}: nothing can be written into it ({error}); give another name"
        ) from None


def check_report(report: Path, *beside: Path) -> None:
    """Check the name of a report, and make its folder, before the work that fills it.

    Args:
        report: The file.
        beside: Files that are written beside it under names made from its own.

    Raises:
        InputError: It is a folder or one of the other files, or its folder cannot be written into.
    """
    if report in beside:
        raise InputError(
            f"--output {report} is the name of another result, which lies beside the report; give "
            f"the report a name such as {report.with_suffix('.json')}"
        )
    for path in (report, *beside):
        if path.is_dir():
            raise InputError(
                f"--output: {path} is a folder, and a file of that name is to be written; name a "
                f"file such as {report / 'report.json'}"
            )
    make_folder(report.parent)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Tell what the system says where a result cannot be written.

    Raises:
        InputError: A file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"--output {place}: a result cannot be written: {error}; make room, or give another "
            "name"
        ) from error


def tell_report(
    document: dict[str, Any],
    save: Callable[[Path], Sequence[Path]],
    render: Callable[[Console], None],
    *,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write a report where one is wanted, say which files it became, and show it.

    Args:
        document: The report in plain values; gains `files` where some are written.
        save: Writes the report under a name and returns all files.
        render: Shows it to people.
        output: The name; None writes none.
        as_json: Write one JSON document to standard output.

    Raises:
        InputError: A file cannot be written.
    """
    if output is not None:
        with writing(output):
            document["files"] = [str(path) for path in save(output)]
        console.print(f"wrote {', '.join(document['files'])}", markup=False, soft_wrap=True)
    emit(document, as_json=as_json, render=render)
