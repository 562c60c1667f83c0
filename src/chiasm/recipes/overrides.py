"""Dotted assignments over plain values: `training.stages.0.steps=10`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Set values in place.

    Args:
        values: Mappings and lists, as read from YAML. They are changed.
        overrides: Assignments `key.path=value`, the value written as in YAML. A step that is a
            number is an index of a list; a mapping that is not there comes into being.

    Returns:
        One line for each assignment that cannot be made.
    """
    faults = []
    for override in overrides:
        path, sign, text = override.partition("=")
        if not sign or not path:
            faults.append(f"{override!r}: write key.path=value")
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            faults.append(f"{override!r}: the value is no YAML: {reason}")
            continue
        if fault := _assign(values, path.split("."), value):
            faults.append(f"{override!r}: {fault}")
    return faults


def _assign(values: dict[str, Any], steps: Sequence[str], value: Any) -> str | None:
    place: Any = values
    for depth, step in enumerate(steps):
        done = ".".join(steps[:depth])
        key: Any = step
        if isinstance(place, list):
            if not step.isdigit() or int(step) >= len(place):
                indices = f"its indices are 0 to {len(place) - 1}" if place else "it is empty"
                return f"{done} is a list and has no {step!r}; {indices}"
            key = int(step)
        elif not isinstance(place, dict):
            return f"{done} is {place!r}, a plain value with nothing inside"
        if depth == len(steps) - 1:
            place[key] = value
        else:
            if isinstance(place, dict) and place.get(key) is None:
                place[key] = {}
            place = place[key]
    return None
