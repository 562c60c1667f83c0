"""Entries of a recipe that say by `kind` which configuration they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.config import Config, lookup


def read_kind(entry: Any, table: Mapping[str, type[Config]], what: str) -> Any:
    """Read `{kind: name, ...}` into the configuration that the table has under that name.

    Pydantic's own check of the field's type is skipped: the table decides, so that one entry in it
    is enough for a kind of one's own.

    Raises:
        ValueError: The entry is no mapping with a known kind.
    """
    if isinstance(entry, tuple(table.values())):
        return entry
    if not isinstance(entry, dict):
        raise ValueError(
            f"{entry!r} is no {what}; write {{kind: ...}} with one of: {', '.join(table)}"
        )
    if "kind" not in entry:
        raise ValueError(f"{what} without `kind`; known kinds: {', '.join(table)}")
    values = {key: value for key, value in entry.items() if key != "kind"}
    if entry["kind"] not in table:
        raise ValueError(f"unknown {what} kind {entry['kind']!r}; known: {', '.join(table)}")
    return lookup(table, entry["kind"], what).model_validate(values)


def kind_of(config: Config, table: Mapping[str, type[Config]]) -> str:
    """Return the name under which a table has a configuration."""
    return next(name for name, kind in table.items() if kind is type(config))
