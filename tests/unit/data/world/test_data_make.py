"""What `chiasm data make` does: files, and progress on standard error."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from chiasm.cli import data_make


def test_lines_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = data_make.make("single", tmp_path / "w", 20, 1)
    assert summary["counts"]["train"] == 20
    assert (tmp_path / "w" / "train.jsonl").is_file()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[0] == "3 of 26 scenes"
    assert told.err.splitlines()[-1] == "26 of 26 scenes"
    assert len(told.err.splitlines()) == 10


def test_a_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(data_make, "console", screen)
    data_make.make("single", tmp_path / "w", 20, 1)
    shown = screen.file.getvalue()
    assert "26/26" in shown
    assert "scenes/s" in shown
