"""A JSON file without line breaks: records on one line are still told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chiasm.data.dataset import load_dataset
from chiasm.data.formats import AUTO
from chiasm.data.formats.reader import ReadOptions
from chiasm.data.reading import read_file
from chiasm.data.records import read_records


def record(**fields: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    return {"messages": turns, **fields}


def test_each_record_has_its_own_origin_and_identifier(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([record(), record(), record()]), encoding="utf-8")
    records, _ = read_records(file)
    assert [r.origin for r in records] == [f"{file}:1", f"{file}:1#2", f"{file}:1#3"]
    assert [s.identifier for s in load_dataset(file)] == ["a.json:1", "a.json:1#2", "a.json:1#3"]


def test_counting_begins_anew_on_each_line(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    one = json.dumps(record())
    file.write_text(f"[{one}, {one},\n{one}, {one}]", encoding="utf-8")
    assert [s.identifier for s in load_dataset(file)] == [
        "a.json:1",
        "a.json:1#2",
        "a.json:2",
        "a.json:2#2",
    ]


def test_an_identifier_given_twice_on_one_line_is_a_fault_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([record(id="x"), record(), record(id="x")]), encoding="utf-8")
    faults = read_file(file, AUTO, ReadOptions(media_root=tmp_path)).faults
    assert [(fault.origin, fault.line, fault.field) for fault in faults] == [
        (f"{file}:1#3", 1, "id")
    ]
    assert "'x' stands already at" in faults[0].value
