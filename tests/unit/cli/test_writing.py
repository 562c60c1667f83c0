"""Results have a place before the work begins, and a fault of the place is told."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from chiasm.cli.writing import check_report, make_folder, writing
from chiasm.core.errors import InputError


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    make_folder(tmp_path / "deep" / "er")
    make_folder(tmp_path / "deep" / "er")
    assert list((tmp_path / "deep" / "er").iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for place in ("file", "file/deeper"):
        with pytest.raises(InputError, match=r"file.* cannot be made a folder: .*; give another"):
            make_folder(tmp_path / place)


def test_a_folder_that_takes_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a medium that may only be read; who runs as root may write everywhere else."""

    def refuse(*given: Any, **named: Any) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"nothing can be written into it .*Read-only file system"):
        make_folder(tmp_path)


def test_a_report_is_a_file_with_a_name_of_its_own(tmp_path: Path) -> None:
    check_report(tmp_path / "new" / "a.json", tmp_path / "new" / "a.html")
    assert (tmp_path / "new").is_dir()
    with pytest.raises(InputError, match=r"a.html is the name of another result.* as .*a.json"):
        check_report(tmp_path / "a.html", tmp_path / "a.html")
    with pytest.raises(InputError, match=r"is a folder.*; name a file such as .*report.json"):
        check_report(tmp_path)
    (tmp_path / "b.html").mkdir()
    with pytest.raises(InputError, match=r"b.html is a folder"):
        check_report(tmp_path / "b.json", tmp_path / "b.html")


def test_what_the_system_says_reaches_the_user(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a result cannot be written: .*Is a directory"):
        with writing(tmp_path):
            tmp_path.write_text("x", encoding="utf-8")
