"""Records and their lines, from well-formed and from hostile files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chiasm.core.errors import ConfigError, DataError
from chiasm.data.records import read_records


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(path: Path) -> tuple[list[tuple[int, object]], list[tuple[int, str]]]:
    records, faults = read_records(path)
    return (
        [(record.line, dict(record.fields)) for record in records],
        [(fault.line, fault.value) for fault in faults],
    )


def test_json_lines_know_their_line_across_blanks_marks_and_line_ends(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": "x\xe2\x80\xa8y"}\r\n{"a": 3}'
    found, faults = lines(write(tmp_path, "a.jsonl", content))
    assert faults == []
    assert found == [(1, {"a": 1}), (4, {"a": "x\u2028y"}), (5, {"a": 3})]


def test_a_json_list_knows_the_line_of_each_record(tmp_path: Path) -> None:
    text = '\ufeff\n[\n {"a": 1},\n\n {"a":\n  "b\\nc"}\n,{"a": []}, {}\n]\n'
    found, faults = lines(write(tmp_path, "a.json", text))
    assert faults == []
    assert [line for line, _ in found] == [3, 5, 7, 7]


def test_one_object_is_one_record_and_an_indented_one_too(tmp_path: Path) -> None:
    assert lines(write(tmp_path, "a.json", '{\n "a": {"b": 1}\n}\n'))[0] == [(1, {"a": {"b": 1}})]


def test_one_object_a_line_is_read_with_the_suffix_json_as_well(tmp_path: Path) -> None:
    found, faults = lines(write(tmp_path, "a.json", '{"a": 1}\n{"a": 2}\n{"a": \n'))
    assert found == [(1, {"a": 1}), (2, {"a": 2})]
    assert [line for line, _ in faults] == [3]


def test_every_bad_line_is_a_fault_and_the_good_ones_are_read(tmp_path: Path) -> None:
    content = b"\n".join(
        [
            b'{"good": 1}',
            b'{"a": }',
            b"[1, 2]",
            b'"text"',
            b"null",
            b'{"a": "\xff"}',
            b'{"a": NaN}',
            b'{"a": 1, "a": 2}',
            b'{"n": ' + b"9" * 5000 + b"}",
            b"[" * 100_000,
            b'{"a": 1} {"a": 2}',
            b'{"good": 2}',
        ]
    )
    found, faults = lines(write(tmp_path, "a.jsonl", content))
    assert [line for line, _ in found] == [1, 12]
    assert [line for line, _ in faults] == list(range(2, 12))
    expected = ["column 7", "[1, 2]", "'text'", "None", "0xff at byte 8", "NaN is no JSON number"]
    expected += ["'a' stands twice", "digits", "nested too deeply", "Extra data"]
    for (line, value), words in zip(faults, expected, strict=True):
        assert words in value, (line, value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[\n{"a": 1},\n{"a": 2}\n{"a": 3}]', 4, "Expecting ',' or ']'"),
        ('[{"a": 1},\n {"a" 2}]', 2, "Expecting ':'"),
        ('[{"a": 1}\n', 2, "Expecting"),
        ('[{"a": 1}]\n[]', 2, "something follows the end"),
        ('{"a": 1}\n[]', 2, "something follows the end"),
        ('[{"a": Infinity}]', 1, "Infinity is no JSON number"),
        ("[" * 100_000, 1, "nested too deeply"),
        ("hello", 1, "Expecting value"),
    ],
)
def test_a_broken_json_file_says_where_it_breaks(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    _, faults = read_records(write(tmp_path, "a.json", text))
    assert len(faults) == 1
    assert faults[0].line == line
    assert words in faults[0].value
    assert "not read" in faults[0].allowed


def test_records_before_a_break_are_read(tmp_path: Path) -> None:
    found, faults = lines(write(tmp_path, "a.json", '[{"a": 1}, 7, {"a": 2}, {bad'))
    assert [fields for _, fields in found] == [{"a": 1}, {"a": 2}]
    assert len(faults) == 2


def test_bytes_that_are_not_utf8_are_found_in_their_line(tmp_path: Path) -> None:
    _, faults = lines(write(tmp_path, "a.json", b'[\n{"a": "\xe9"}]'))
    assert faults == [(2, "byte 0xe9 at byte 10 is not UTF-8")]
    _, faults = lines(write(tmp_path, "b.json", '[{"a": 1}]'.encode("utf-16")))
    assert faults == [(1, "byte 0xff at byte 1 is not UTF-8")]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", ""), ("a.json", " \n"), ("a.json", "[]"), ("a.jsonl", "\n\n"), ("a.jsonl", "")],
)
def test_files_without_records_are_a_fault(tmp_path: Path, name: str, text: str) -> None:
    assert lines(write(tmp_path, name, text)) == ([], [(0, "no records")])


def test_parquet_rows_count_from_one(tmp_path: Path) -> None:
    rows = [{"a": index, "b": [{"c": None}, {"c": b"\x00"}]} for index in range(700)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    found, faults = lines(path)
    assert faults == []
    assert found == list(enumerate(rows, 1))


def test_a_broken_parquet_file_is_a_fault(tmp_path: Path) -> None:
    _, faults = lines(write(tmp_path, "a.parquet", b"PAR1 no"))
    assert len(faults) == 1
    assert "cannot be read as Parquet" in faults[0][1]


def test_files_that_are_not_there_and_unknown_suffixes_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.json: does not exist; give a file"):
        read_records(tmp_path / "gone.json")
    with pytest.raises(DataError, match="is a folder"):
        read_records(tmp_path)
    with pytest.raises(ConfigError, match=r"a\.csv: '\.csv'; known: \.json, \.jsonl"):
        read_records(write(tmp_path, "a.csv", "a"))


def test_lines_agree_between_a_list_and_json_lines(tmp_path: Path) -> None:
    rows = [{"text": "é" * index + '\n\r\u2028"\\', "n": index} for index in range(50)]
    many = write(tmp_path, "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    one = write(tmp_path, "a.json", "[" + ",\n".join(json.dumps(row) for row in rows) + "]")
    assert lines(many) == lines(one)
