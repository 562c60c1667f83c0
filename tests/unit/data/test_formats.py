"""The forms of conversations: what each is read into, and every way to get it wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chiasm.core.errors import UnknownNameError
from chiasm.core.samples import Sample, Turn
from chiasm.data.conversation import Fault
from chiasm.data.formats import FORMATS
from chiasm.data.formats.reader import ReadOptions
from chiasm.data.reading import Reading, read_file

ROOT = Path("pictures")
OPTIONS = ReadOptions(ROOT)


def read(folder: Path, *records: Any, format: str = "auto", **options: Any) -> Reading:
    path = folder / "data.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return read_file(path, format, ReadOptions(ROOT, **options))


def one(folder: Path, record: Any, **options: Any) -> Sample:
    reading = read(folder, record, **options)
    assert reading.faults == ()
    (sample,) = reading.samples
    return sample


def faults(folder: Path, *records: Any, **options: Any) -> list[tuple[int, str, str]]:
    return [(f.line, f.field, f.value) for f in read(folder, *records, **options).faults]


def talk(*texts: str, key: str = "content", who: str = "role") -> list[dict[str, str]]:
    names = ("user", "assistant") if who == "role" else ("human", "gpt")
    return [{who: names[index % 2], key: text} for index, text in enumerate(texts)]


ASKED = (Turn("user", (0, "Q?")), Turn("assistant", ("A.",), True))
IMAGE = {"type": "image", "image": "a.png"}
TEXT = {"type": "text", "text": "Q?"}

SAME = {
    "messages, parts": {
        "messages": [{"role": "user", "content": [IMAGE, TEXT]}, *talk("", "A.")[1:]]
    },
    "messages, answer in parts": {
        "messages": [
            {"role": "user", "content": [{"type": "image", "path": "a.png"}, TEXT]},
            {"role": "assistant", "content": [{"type": "text", "text": "A."}]},
        ]
    },
    "messages, image_url": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, TEXT],
            },
            *talk("", "A.")[1:],
        ]
    },
    "messages, image_url as a text": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}, TEXT]},
            *talk("", "A.")[1:],
        ]
    },
    "messages, images beside, marker": {"images": ["a.png"], "messages": talk("<image>\nQ?", "A.")},
    "messages, images beside, none": {"images": ["a.png"], "messages": talk("Q?", "A.")},
    "messages, images beside, part": {
        "images": ["a.png"],
        "messages": [{"role": "user", "content": [{"type": "image"}, TEXT]}, *talk("", "A.")[1:]],
    },
    "messages, empty keys as Parquet writes them": {
        "images": None,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": "a.png", "text": None},
                    {"type": "text", "image": None, "text": "Q?"},
                ],
            },
            *talk("", "A.")[1:],
        ],
    },
    "llava": {
        "image": "a.png",
        "conversations": talk("<image>\nQ?", "A.", key="value", who="from"),
    },
    "llava, list": {
        "image": ["a.png"],
        "conversations": talk("<image>Q?", "A.", key="value", who="from"),
    },
    "vqa": {"image_path": "a.png", "conversations": talk("Q?", "A.")},
    "vqa, marker": {"image": "a.png", "conversations": talk("<image>Q?", "A.")},
    "captioning, asked": {"image_path": "a.png", "conversations": talk("Q?", "A.")},
}


@pytest.mark.parametrize("form", sorted(SAME))
def test_every_form_of_the_same_gives_the_same_turns(tmp_path: Path, form: str) -> None:
    sample = one(tmp_path, SAME[form])
    assert sample.turns == ASKED
    assert sample.images == (ROOT / "a.png",)
    assert sample.identifier == "data.jsonl:1"
    assert sample.origin == f"{tmp_path / 'data.jsonl'}:1"
    assert dict(sample.truth) == {}


def test_captions_get_the_request_and_the_image_before_them(tmp_path: Path) -> None:
    record = {"image_path": "a.png", "conversations": [{"role": "assistant", "content": "A."}]}
    expected = (Turn("user", (0, "Describe this image.")), Turn("assistant", ("A.",), True))
    assert one(tmp_path, record).turns == expected
    assert one(tmp_path, {"image": "a.png", "caption": "A."}).turns == expected
    other = one(tmp_path, record, caption_request="What is shown?")
    assert other.turns[0].parts == (0, "What is shown?")
    system = {"role": "system", "content": "S"}
    spoken = one(tmp_path, {**record, "conversations": [system, *record["conversations"]]})
    assert [turn.role for turn in spoken.turns] == ["system", "user", "assistant"]
    assert spoken.turns[1].parts == (0, "Describe this image.")


def test_several_captions_are_all_accepted(tmp_path: Path) -> None:
    sample = one(tmp_path, {"image": "a.png", "caption": ["A.", "B."]})
    assert sample.turns[1].parts == ("A.",)
    assert sample.truth == {"answers": ["A.", "B."]}


def test_captions_and_questions_may_share_a_file(tmp_path: Path) -> None:
    caption = {"image_path": "a.png", "conversations": [{"role": "assistant", "content": "A."}]}
    reading = read(tmp_path, SAME["vqa"], caption, SAME["vqa"])
    assert reading.format == "captioning"
    assert [s.turns[0].text for s in reading.samples] == ["Q?", "Describe this image.", "Q?"]


def test_medical_records_form_their_own_group(tmp_path: Path) -> None:
    assert one(tmp_path, SAME["vqa"], format="medical").group == "medical"
    assert one(tmp_path, {**SAME["vqa"], "group": "skin"}, format="medical").group == "skin"
    assert one(tmp_path, SAME["vqa"]).group == ""
    assert one(tmp_path, SAME["vqa"], group="street").group == "street"


def test_several_images_keep_their_places(tmp_path: Path) -> None:
    texts = ["Left <image>\nright\n<image> and", "A.", "now <image>", "B."]
    record = {
        "image": ["a.png", "b.png", "c.png"],
        "conversations": talk(*texts, key="value", who="from"),
    }
    sample = one(tmp_path, record)
    assert sample.turns[0].parts == ("Left ", 0, "right", 1, " and")
    assert sample.turns[2].parts == ("now ", 2)
    parts = one(tmp_path, {"messages": talk("no picture", "A.")})
    assert parts.images == ()


def test_marks_split_only_where_images_stand_beside(tmp_path: Path) -> None:
    inline = {
        "messages": [
            {"role": "user", "content": [IMAGE, {"type": "text", "text": "the <image> tag"}]},
            {"role": "assistant", "content": "A."},
        ]
    }
    assert one(tmp_path, inline).turns[0].parts == (0, "the <image> tag")


def test_paths_start_from_the_media_root_and_others_stay(tmp_path: Path) -> None:
    def source(image: str) -> Any:
        return one(tmp_path, {**SAME["vqa"], "image_path": image}).images[0]

    assert source("x/a.png") == ROOT / "x/a.png"
    assert source("/x/a.png") == Path("/x/a.png")
    assert source("file:///x/a%20b.png") == Path("/x/a b.png")
    assert source("data:image/png;base64,AAAA") == "data:image/png;base64,AAAA"


def test_extra_fields_are_kept(tmp_path: Path) -> None:
    record = {
        **SAME["vqa"],
        "id": 10**30,
        "group": "g",
        "answers": ["A.", "a"],
        "kind": "color",
        "split": "train",
        "boxes": [[0, 1.5, 3, 4]],
        "cells": {"shape": [[0, 1, 2], [3, 4, -100]]},
        "source": {"any": [1, None]},
    }
    sample = one(tmp_path, record)
    assert sample.identifier == str(10**30)
    assert sample.group == "g"
    assert sample.truth["cells"]["shape"].tolist() == [[0, 1, 2], [3, 4, -100]]
    rest = {key: value for key, value in sample.truth.items() if key != "cells"}
    assert rest == {
        "answers": ["A.", "a"],
        "kind": "color",
        "split": "train",
        "boxes": [[0, 1.5, 3, 4]],
        "fields": {"source": {"any": [1, None]}},
    }


def test_answers_take_three_forms(tmp_path: Path) -> None:
    two = {"image_path": "a.png", "conversations": talk("Q?", "A.", "R?", "B.")}
    assert one(tmp_path, {**two, "answers": "x"}).truth["answers"] == ["x"]
    assert one(tmp_path, {**two, "answers": ["x", "y", "z"]}).truth["answers"] == ["x", "y", "z"]
    turns = [["x", "y"], ["z"]]
    assert one(tmp_path, {**two, "answers": turns}).truth["answers"] == turns
    assert "3 lists for 2 assistant turns" in str(faults(tmp_path, {**two, "answers": [["x"]] * 3}))


def test_the_last_answer_alone_can_be_supervised(tmp_path: Path) -> None:
    record = {"image_path": "a.png", "conversations": talk("Q?", "A.", "R?", "B.")}
    turns = one(tmp_path, record, supervise="last").turns
    assert [turn.supervised for turn in turns] == [False, False, False, True]
    turns = one(tmp_path, record).turns
    assert [turn.supervised for turn in turns] == [False, True, False, True]


def test_a_record_without_an_answer_is_a_question(tmp_path: Path) -> None:
    assert one(tmp_path, {"messages": talk("Q?")}).turns == (Turn("user", ("Q?",)),)


def test_unicode_stays_as_it_is(tmp_path: Path) -> None:
    text = "¿Qué? 🧀 \u202eabc\u202c e\u0301 \u0000 \ufeff"
    assert one(tmp_path, {"messages": talk(text, text)}).turns[1].parts == (text,)


MESSAGE = {"role": "user", "content": "Q?"}
WRONG: list[tuple[Any, str, str]] = [
    ({"messages": []}, "messages", "[]"),
    ({"messages": "Q?"}, "messages", "'Q?'"),
    ({"messages": [["user", "Q?"]]}, "messages[0]", "['user', 'Q?']"),
    ({"messages": [{"content": "Q?"}]}, "messages[0].role", "missing"),
    ({"messages": [{"role": "bot", "content": "Q?"}]}, "messages[0].role", "'bot' is not"),
    ({"messages": [{"role": 7, "content": "Q?"}]}, "messages[0].role", "7 is not a role"),
    ({"messages": [{"role": ["user"], "content": "Q?"}]}, "messages[0].role", "['user'] is not"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "missing"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "7"),
    ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content", "{}"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0]", "'' is no content"),
    ({"messages": [{"role": "user", "content": " \n"}]}, "messages[0]", "is no content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "half a"),
    ({"messages": [{"role": "user", "content": [[TEXT]]}]}, "messages[0].content[0]", "[{"),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type", "missing"),
    (
        {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]},
        "messages[0].content[0].type",
        "'video'",
    ),
    (
        {"messages": [{"role": "user", "content": [TEXT, {"type": "image"}]}]},
        "messages[0].content[1]",
        "without an image",
    ),
    (
        {"messages": [{"role": "user", "content": [{**IMAGE, "path": "b.png"}]}]},
        "messages[0].content[0]",
        "image given in image and path",
    ),
    (
        {"images": ["b.png"], "messages": [{"role": "user", "content": [IMAGE]}]},
        "messages[0].content[0]",
        "and the record's image field",
    ),
    (
        {"messages": [{"role": "user", "content": [{**IMAGE, "image": "http://a/b.png"}]}]},
        "messages[0].content[0].image",
        "download the file",
    ),
    ({"messages": talk("Q?", "A.")[1:]}, "messages[0]", "a turn of the assistant"),
    ({"messages": [MESSAGE, MESSAGE]}, "messages[1]", "a turn of the user"),
    (
        {"messages": [*talk("Q?", "A."), {"role": "system", "content": "x"}]},
        "messages[2]",
        "system",
    ),
    ({"messages": talk("<image> Q?", "A.")}, "images", "1 placeholder(s) for 0 image(s)"),
    (
        {"images": ["a.png", "b.png"], "messages": talk("<image> Q?", "A.")},
        "images",
        "1 placeholder(s) for 2 image(s)",
    ),
    (
        {"image": "a.png", "images": ["a.png"], "messages": talk("Q?", "A.")},
        "image and images",
        "both given",
    ),
    (
        {"image": "a.png", "conversations": talk("Q?", "A.", key="value", who="from")},
        "images",
        "0 placeholder(s) for 1 image(s)",
    ),
    (
        {
            "image": "a.png",
            "conversations": talk("<image>Q? <image>", "A.", key="value", who="from"),
        },
        "images",
        "2 placeholder(s) for 1 image(s)",
    ),
    (
        {"conversations": [{"from": "robot", "value": "Q?"}]},
        "conversations[0].from",
        "'robot' is not",
    ),
    ({"conversations": [{"from": "human"}]}, "conversations[0].value", "missing"),
    (
        {"image": "a.png", "conversations": talk("Q?", "<image>A.", key="value", who="from")},
        "conversations[1]",
        "an image in an assistant turn",
    ),
    ({"conversations": talk("Q?", "A.")}, "image_path", "missing"),
    ({"image_path": None, "conversations": talk("Q?", "A.")}, "image_path", "missing"),
    ({"image_path": "", "conversations": talk("Q?", "A.")}, "image_path", "''"),
    ({"image_path": 3, "conversations": talk("Q?", "A.")}, "image_path", "3"),
    ({"image_path": ["a.png", None], "conversations": talk("Q?", "A.")}, "image_path[1]", "None"),
    ({"image_path": {"x": 1}, "conversations": talk("Q?", "A.")}, "image_path", "None"),
    ({"image": "a.png", "caption": ""}, "caption", "'' is no content"),
    ({"image": "a.png", "caption": []}, "caption", "[]"),
    ({"image": "a.png", "caption": [3]}, "caption[0]", "3"),
    ({"caption": "A."}, "image", "missing"),
    ({**SAME["vqa"], "id": ""}, "id", "''"),
    ({**SAME["vqa"], "id": True}, "id", "True"),
    ({**SAME["vqa"], "id": [1]}, "id", "[1]"),
    ({**SAME["vqa"], "group": {"a": 1}}, "group", "{'a': 1}"),
    ({**SAME["vqa"], "split": ["train"]}, "split", "['train']"),
    ({**SAME["vqa"], "answers": []}, "answers", "[]"),
    ({**SAME["vqa"], "answers": [1]}, "answers", "[1]"),
    ({**SAME["vqa"], "answers": [["a"], []]}, "answers", "[['a'], []]"),
    ({**SAME["vqa"], "boxes": [[0, 0, 1]]}, "boxes[0]", "[0, 0, 1]"),
    ({**SAME["vqa"], "boxes": [[3, 0, 1, 1]]}, "boxes[0]", "[3, 0, 1, 1]"),
    ({**SAME["vqa"], "boxes": [[0, 0, 1, "1"]]}, "boxes[0]", "[0, 0, 1, '1']"),
    ({**SAME["vqa"], "boxes": 3}, "boxes", "3"),
    ({**SAME["vqa"], "cells": [[1]]}, "cells", "[[1]]"),
    ({**SAME["vqa"], "cells": {"a": [[1], [1, 2]]}}, "cells.a", "[[1], [1, 2]]"),
    ({**SAME["vqa"], "cells": {"a": [[1.5]]}}, "cells.a", "[[1.5]]"),
]


@pytest.mark.parametrize(("record", "field", "value"), WRONG)
def test_a_wrong_record_names_field_and_value(
    tmp_path: Path, record: Any, field: str, value: str
) -> None:
    found = faults(tmp_path, {"messages": talk("fine", "fine")}, record, format="auto")
    if found and "has the form" in found[0][2]:
        found = faults(tmp_path, record)
    assert [name for _, name, _ in found].count(field) == 1, found
    assert any(name == field and value in text for _, name, text in found), found


def test_a_single_fault_is_reported_once_and_alone(tmp_path: Path) -> None:
    for record, field, _ in WRONG:
        found = faults(tmp_path, record)
        assert [name for _, name, _ in found] == [field]


def test_all_faults_of_a_record_and_of_a_file_come_at_once(tmp_path: Path) -> None:
    bad = {
        "id": True,
        "messages": [
            {"role": "bot", "content": "Q?"},
            {"role": "assistant", "content": None},
            {"role": "user", "content": [{"type": "image", "image": "ftp://x/a.png"}]},
        ],
        "answers": 4,
    }
    found = faults(tmp_path, bad, {"messages": talk("Q?", "A.")}, {"messages": []})
    assert {(line, field) for line, field, _ in found} == {
        (1, "id"),
        (1, "messages[0].role"),
        (1, "messages[1].content"),
        (1, "messages[2].content[0].image"),
        (1, "answers"),
        (3, "messages"),
    }
    assert [line for line, _, _ in found] == sorted(line for line, _, _ in found)


def test_an_identifier_that_stands_twice_names_the_first(tmp_path: Path) -> None:
    record = {"id": 7, "messages": talk("Q?", "A.")}
    found = faults(tmp_path, record, {**record, "id": 8}, {**record, "id": "7"})
    assert found == [(3, "id", f"'7' stands already at {tmp_path / 'data.jsonl'}:1")]
    broken = {"id": 7, "messages": []}
    assert [line for line, field, _ in faults(tmp_path, broken, record) if field == "id"] == [2]


def test_unknown_structures_list_the_known_ones(tmp_path: Path) -> None:
    reading = read(tmp_path, {"question": "Q?", "answer": "A."}, {"question": "R?"})
    assert reading.format == ""
    (fault,) = reading.faults
    assert isinstance(fault, Fault)
    assert "['question', 'answer']" in fault.value
    assert all(f"{name}: " in fault.allowed for name in FORMATS if name != "medical")


def test_a_file_of_two_forms_and_a_record_of_two_forms_are_faults(tmp_path: Path) -> None:
    both = {**SAME["llava"], "messages": talk("Q?", "A.")}
    found = faults(tmp_path, SAME["vqa"], SAME["llava"], SAME["vqa"], both)
    assert [line for line, _, _ in found] == [2, 4]
    assert "has the form 'llava', most of the file has 'vqa'" in found[0][2]
    assert "has the forms messages and llava" in found[1][2]


def test_a_named_format_is_held_to(tmp_path: Path) -> None:
    found = faults(tmp_path, SAME["llava"], format="messages")
    assert (1, "messages", "missing") in found
    caption = {"image_path": "a.png", "conversations": [{"role": "assistant", "content": "A."}]}
    assert "a turn of the assistant" in str(faults(tmp_path, caption, format="vqa"))
    with pytest.raises(UnknownNameError, match="unknown data format 'lava'; known: captioning"):
        read(tmp_path, SAME["llava"], format="lava")


def test_a_record_that_is_no_object_is_a_fault_among_good_ones(tmp_path: Path) -> None:
    reading = read(tmp_path, {"messages": talk("Q?", "A.")}, [1], {"messages": talk("Q?", "A.")})
    assert len(reading.samples) == 2
    assert [(f.line, f.field) for f in reading.faults] == [(2, "record")]


def test_parquet_with_bytes_equals_json_with_paths(tmp_path: Path) -> None:
    rows = [
        {
            "id": "x",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "text": None},
                        {"type": "text", "text": "Q?"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "A."}]},
            ],
            "images": [{"bytes": b"\x89PNG", "path": None}],
        },
        {
            "id": "y",
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Q?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A."}]},
            ],
            "images": None,
        },
    ]
    path = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    reading = read_file(path, "auto", OPTIONS)
    assert reading.faults == ()
    first, second = reading.samples
    assert first.turns == ASKED
    assert first.images == (b"\x89PNG",)
    assert second.images == ()
    assert first.origin.endswith("data.parquet:1")
