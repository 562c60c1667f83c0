"""Dotted assignments: where they reach, and what is said about those that reach nothing."""

from __future__ import annotations

from typing import Any

import pytest

from chiasm.recipes.overrides import apply_overrides


def values() -> dict[str, Any]:
    return {"a": {"b": 1, "empty": None}, "stages": [{"steps": 3}, {"steps": 5}], "none": []}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=7", {"a": {"b": 7, "empty": None}}),
        ("a.new.deep=[1, two]", {"a": {"b": 1, "empty": None, "new": {"deep": [1, "two"]}}}),
        ("a.empty.inside=x", {"a": {"b": 1, "empty": {"inside": "x"}}}),
        ("a.b=", {"a": {"b": None, "empty": None}}),
        ("a.b=x=y", {"a": {"b": "x=y", "empty": None}}),
        ("stages.1.steps=11", {"stages": [{"steps": 3}, {"steps": 11}]}),
        ("stages.0={steps: 2}", {"stages": [{"steps": 2}, {"steps": 5}]}),
    ],
)
def test_values_are_set(override: str, expected: dict[str, Any]) -> None:
    found = values()
    assert apply_overrides(found, [override]) == []
    assert found == values() | expected


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("a.b", "'a.b': write key.path=value"),
        ("=3", "'=3': write key.path=value"),
        ("stages.2.steps=1", "'stages.2.steps=1': stages is a list and has no '2'; its indices"),
        ("stages.-1.steps=1", "stages is a list and has no '-1'; its indices are 0 to 1"),
        ("stages.first.steps=1", "stages is a list and has no 'first'; its indices are 0 to 1"),
        ("none.0=1", "none is a list and has no '0'; it is empty"),
        ("a.b.c=1", "a.b is 1, a plain value with nothing inside"),
        ("a.b=[1", "'a.b=[1': the value is no YAML: "),
    ],
)
def test_what_cannot_be_set_is_said(override: str, fault: str) -> None:
    found = values()
    faults = apply_overrides(found, [override])
    assert len(faults) == 1
    assert fault in faults[0]
    assert "\n" not in faults[0]
    assert found == values()


def test_all_faults_come_at_once() -> None:
    assert len(apply_overrides(values(), ["a", "a.b=2", "none.1=1"])) == 2
