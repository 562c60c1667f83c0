"""Reports on disk: read back as they were, also where a file's name is no text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from chiasm.core.spelling import spell
from chiasm.evaluation.merge_ledger import LedgerRow, MergeLedger
from chiasm.evaluation.merge_ledger_page import save_ledgers
from chiasm.evaluation.provenance import fingerprint
from chiasm.evaluation.saving import save_report

ODD = b"\xff.mp4".decode("utf-8", "surrogateescape")
"""What Python makes of the name of a file that is not UTF-8."""


def test_a_report_and_its_predictions_are_read_back(tmp_path: Path) -> None:
    document, lines = {"data": ODD, "mean": 0.5}, [{"id": ODD, "text": "grün\n"}, {"id": "b"}]
    report, predictions = save_report(tmp_path / "made" / "report.json", document, lines)
    assert predictions.name == "report.predictions.jsonl"
    assert json.loads(report.read_text(encoding="utf-8")) == document
    written = predictions.read_text(encoding="utf-8")
    assert [json.loads(line) for line in written.splitlines()] == lines
    # Words of any language stay as they are; a name that is no text is spelled by its bytes.
    assert "grün" in written and r"\udcff.mp4" in written


def test_a_page_names_what_is_no_text(tmp_path: Path) -> None:
    rows = tuple(LedgerRow(name, None, None, (1.0,)) for name in ("decode", "total"))
    _, page = save_ledgers({"unmerged": MergeLedger(rows, {"video": ODD})}, tmp_path / "l.json")
    assert r"\udcff.mp4" in page.read_text(encoding="utf-8")


def test_identifiers_that_are_no_text_have_a_fingerprint() -> None:
    assert fingerprint([ODD]) != fingerprint([ODD.replace("\udcff", "\udcfe")])
    # What was written before stays what it was.
    assert fingerprint(["a", "ü"])[:8] == "d16f074e"


def test_what_json_has_no_spelling_for_is_refused() -> None:
    assert spell({"a": [ODD, "ü"]}) == '{"a": ["\\udcff.mp4", "ü"]}'
    assert spell({"a": 1}, indent=2) == '{\n  "a": 1\n}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        spell(math.nan)
