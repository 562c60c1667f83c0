"""Reading foreign pickles that hold plain values, and nothing else.

A pickle is a program: loading one with Python's `pickle.load` can run anything. Here no name is
ever looked up, which is what a pickle needs to call a function or to make an object, so what is
left are lists, tuples, dictionaries, texts, bytes, numbers, truth values and None. Arrays of numpy
are made by calling a function, so they are refused as well.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from chiasm.core.errors import DataError

PLAIN = (list, tuple, dict, str, bytes, int, float, bool, type(None))
MOST_BYTES = 512 * 2**20
"""Largest file read; the largest of the RefCOCO family has 34 MB."""


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows no name."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse every name."""
        raise _ForbiddenError(f"it asks for {module}.{name}")

    def persistent_load(self, identifier: Any) -> NoReturn:
        """Refuse references to other storage."""
        raise _ForbiddenError(f"it refers to other storage by {identifier!r}")


class _ForbiddenError(pickle.UnpicklingError):
    """The pickle asks for more than plain values."""


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle of plain values, also one that Python 2 wrote.

    Args:
        path: The file.

    Returns:
        Lists, tuples, dictionaries, str, bytes, int, float, bool, None, nested.

    Raises:
        DataError: There is no such file, it is no pickle, or it asks for anything but plain values;
            nothing of it was executed.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a pickle of plain values")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise DataError(f"{path}: {size} bytes; at most {MOST_BYTES} are read as a pickle")
    content = path.read_bytes()
    try:
        try:
            value = _load(content, "utf-8")
        except UnicodeDecodeError:
            # Texts of Python 2 are bytes; Latin-1 reads any.
            value = _load(content, "latin-1")
        _check_plain(value)
    except _ForbiddenError as error:
        raise DataError(
            f"{path}: refused, nothing of it was executed: {error}; allowed in a pickle: lists, "
            "tuples, dictionaries, texts, numbers. If you trust the file, convert it to JSON"
        ) from error
    # A broken pickle raises whatever its instructions run into.
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read as a pickle: {type(error).__name__}: {error}; write or "
            "download it again"
        ) from error
    return value


def _load(content: bytes, encoding: str) -> Any:
    return _PlainUnpickler(io.BytesIO(content), encoding=encoding).load()


def _check_plain(value: Any) -> None:
    """Refuse sets and whatever else instructions can make without a name; cycles are followed."""
    waiting, seen = [value], set()
    while waiting:
        found = waiting.pop()
        if type(found) not in PLAIN:
            raise _ForbiddenError(f"it holds a {type(found).__name__}")
        if isinstance(found, list | tuple | dict):
            if id(found) in seen:
                continue
            seen.add(id(found))
            waiting += [*found.keys(), *found.values()] if isinstance(found, dict) else found
