"""Documents as JSON, whatever names of files they hold."""

from __future__ import annotations

import json
from typing import Any

ESCAPE = "backslashreplace"
"""How text with bytes of a file name that are no text goes into UTF-8: a lone surrogate as its
escape, which is the one of JSON."""


def spell(document: Any, indent: int | None = None) -> str:
    """Return a document as JSON in UTF-8; bytes of a file name that are no text as escapes.

    Args:
        document: Plain dictionaries, lists, strings, numbers, booleans and None.
        indent: Spaces of each level; None for one line.

    Raises:
        ValueError: `document` holds NaN or infinity, for which JSON has no spelling.
        TypeError: `document` holds something else that JSON cannot spell.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", ESCAPE).decode("utf-8")
