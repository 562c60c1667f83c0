"""The strict configuration reader: frozen models, every fault at once, the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from chiasm.core.errors import ConfigError, UnknownNameError

ConfigT = TypeVar("ConfigT", bound="Config")
ValueT = TypeVar("ValueT")


class Config(BaseModel):
    """Base of every configuration: immutable, no unknown key, values checked when read.

    A part's configuration stands in the same file as the part and has a `build` method.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def lookup(table: Mapping[str, ValueT], name: str, what: str) -> ValueT:
    """Return `table[name]`.

    Args:
        table: Literal table from name to value.
        name: The name asked for.
        what: What the name stands for, used in the message.

    Raises:
        UnknownNameError: `name` is not in the table; the message lists the known names.
    """
    if name not in table:
        raise UnknownNameError(what, name, table)
    return table[name]


def read_config(kind: type[ConfigT], values: Mapping[str, Any], title: str) -> ConfigT:
    """Build a configuration from plain values and report all faults at once.

    Args:
        kind: The configuration class.
        values: Plain values, as read from YAML or JSON.
        title: First line of the message when something is wrong, for example the file's name.

    Raises:
        ConfigError: At least one value is wrong; `faults` holds one line for each.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        told = error.errors()
        # A list whose items are wrong also counts as too short; that is no second fault.
        places = [fault["loc"] for fault in told]
        faults = [
            _describe(kind, fault)
            for fault in told
            if fault["type"] != "too_short" or not _has_inside(fault["loc"], places)
        ]
        raise ConfigError(f"{title}: {len(faults)} fault(s)", faults) from None


def _has_inside(place: tuple[int | str, ...], others: Sequence[tuple[int | str, ...]]) -> bool:
    return any(len(other) > len(place) and other[: len(place)] == place for other in others)


def _describe(kind: type[BaseModel], fault: ErrorDetails) -> str:
    place = ".".join(str(step) for step in fault["loc"]) or "(top level)"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(kind, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        allowed = f"; known keys: {', '.join(known)}" if known else ""
        return f"{place}: unknown key{hint}{allowed}"
    if fault["type"] == "missing":
        return f"{place}: missing, and it has no default"
    return f"{place}: {fault['input']!r} is not allowed: {fault['msg']}"


def _known_keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the model that `path` leads to, as far as types tell."""
    current: list[type[BaseModel]] = [kind]
    for step in path:
        following: list[type[BaseModel]] = []
        for model in current:
            if isinstance(step, str) and step in model.model_fields:
                following += _models_in(model.model_fields[step].annotation)
        # A step that is no field is a list index, a dictionary key or a union tag: stay here.
        current = following or current
    return sorted({name for model in current for name in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for argument in get_args(annotation):
        found += _models_in(argument)
    return found
