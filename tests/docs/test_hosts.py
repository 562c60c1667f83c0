"""The page of hosts names every family, by the name that a `config.json` has for it."""

from __future__ import annotations

from pathlib import Path

from chiasm.language.hosts import HOSTS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "hosts.md"


def test_the_page_names_every_family_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    told = [line.split("|")[2] for line in text.splitlines() if line.startswith("| ")][1:]
    named = {name.strip(" `") for cell in told for name in cell.split(",")}
    assert named | {"mgm"} == set(HOSTS)
    assert '"host_family": "mgm"' in text
