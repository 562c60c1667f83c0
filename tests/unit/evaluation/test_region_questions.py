"""Records with regions: both forms, and all faults at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chiasm.core.errors import DataError
from chiasm.evaluation.region_questions import read_region_questions

REQUEST = (
    "Please provide the bounding box coordinate of the region that can help you answer the "
    "question better."
)


def benchmark(**more: Any) -> dict[str, Any]:
    return {
        "question_id": 7,
        "image": ["cot/a.jpg", "cot/a.jpg###[10, 20, 41.5, 53]"],
        "conversations": [
            {"from": "human", "value": f"<image>\nWhat is red? {REQUEST}"},
            {"from": "gpt", "value": "[0.1, 0.2, 0.4, 0.5]"},
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": "The bar.\n"},
        ],
        "dataset": "gqa",
        **more,
    }


def write(path: Path, records: list[Any]) -> Path:
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return path


def test_records_of_the_benchmark(tmp_path: Path) -> None:
    (sample,) = read_region_questions(write(tmp_path / "cot.json", [benchmark()]))
    assert (sample.identifier, sample.group) == ("7", "gqa")
    assert sample.turns[0].parts == (0, "What is red?")
    assert sample.turns[1].text == "The bar."
    assert sample.images == (tmp_path / "cot" / "a.jpg",)
    assert sample.truth == {"answers": ["The bar."], "region": [10.0, 20.0, 41.5, 53.0]}


def test_plain_records_and_another_folder(tmp_path: Path) -> None:
    record = {"image": "b.png", "question": "Q?", "answer": "A", "region": [1, 2, 3, 4], "id": "x"}
    file = tmp_path / "plain.jsonl"
    file.write_text(json.dumps(record) + "\n", encoding="utf-8")
    (sample,) = read_region_questions(file, tmp_path / "media")
    assert sample.images == (tmp_path / "media" / "b.png",)
    assert (sample.identifier, sample.group, sample.truth["region"]) == ("x", "", [1, 2, 3, 4])


def test_all_faults_at_once(tmp_path: Path) -> None:
    plain = {"image": "b.png", "question": "Q?", "answer": "A"}
    records = [
        benchmark(image="a.jpg"),
        benchmark(image=["a.jpg", "a.jpg###nowhere"]),
        benchmark(image=["a.jpg", "a.jpg###[4, 0, 4, 9]"]),
        benchmark(conversations=[{"from": "human"}]),
        {**plain, "region": [1, 2, 3]},
        {**plain, "answer": " ", "region": [1, 2, 3, 4]},
        benchmark(),
    ]
    with pytest.raises(DataError) as raised:
        read_region_questions(write(tmp_path / "cot.json", records))
    faults = raised.value.faults
    assert len(faults) == 6
    for fault, words in zip(
        faults,
        (
            "image: 'a.jpg'; a list whose second item is PATH###",
            "image: 'nowhere'; a box [x0, y0, x1, y1] in original pixels",
            "image: [4, 0, 4, 9]; a box",
            "conversations: [{'from': 'human'}]; turns with `from` and `value`",
            "region: [1, 2, 3]; a box",
            "answer: ' '; a text that is not blank",
        ),
        strict=True,
    ):
        assert words in fault
        assert "cot.json:" in fault
