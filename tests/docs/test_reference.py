"""The reference of the recipe is what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maker() -> Any:
    place = ROOT / "docs" / "make_recipe_reference.py"
    spec = importlib.util.spec_from_file_location("make_recipe_reference", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(maker: Any) -> None:
    found = maker.PAGE.read_text(encoding="utf-8")
    assert found == maker.page(), "run: python docs/make_recipe_reference.py"


def test_every_key_has_a_meaning(maker: Any) -> None:
    rows = [line for line in maker.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 90
    assert [row for row in rows if row.endswith("|  |")] == []
