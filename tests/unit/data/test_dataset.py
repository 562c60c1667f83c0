"""Datasets from files, from a program, and from a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from chiasm.core.errors import ConfigError, DataError, InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.dataset import (
    ConversationDataset,
    FileDataset,
    RecordDataset,
    create_dataset,
    load_dataset,
)
from chiasm.data.mixture import Mixture
from chiasm.data.records import Record
from chiasm.data.world.worlds import WorldDataset
from chiasm.data.world.write import make


def write(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def record(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_path": f"{number}.png",
        "conversations": [
            {"role": "user", "content": f"Q{number}?"},
            {"role": "assistant", "content": f"A{number}."},
        ],
        **fields,
    }


def test_a_file_is_read_with_paths_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(1), record(2)])
    dataset = load_dataset(path)
    assert isinstance(dataset, FileDataset)
    assert dataset.format == "vqa"
    assert len(dataset) == 2
    assert dataset[1].images == (tmp_path / "2.png",)
    assert [sample.identifier for sample in dataset] == ["1", "2"]
    for index in (-1, 2):
        with pytest.raises(IndexError, match=f"sample {index} of 2"):
            dataset[index]


def test_media_root_names_another_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(1)])
    (tmp_path / "pictures").mkdir()
    dataset = load_dataset(path, media_root=tmp_path / "pictures")
    assert dataset[0].images == (tmp_path / "pictures" / "1.png",)
    with pytest.raises(DataError, match=r"media_root .*gone is not a folder"):
        load_dataset(path, media_root=tmp_path / "gone")


def test_a_split_is_kept_and_an_unknown_one_lists_those_there(tmp_path: Path) -> None:
    records = [record(1, split="train"), record(2, split="test"), record(3)]
    path = write(tmp_path / "a.jsonl", records)
    assert [sample.identifier for sample in load_dataset(path, split="test")] == ["2"]
    with pytest.raises(DataError, match=r"split 'val'; it has: \(none\), test, train"):
        load_dataset(path, split="val")


def test_all_faults_of_a_file_are_in_one_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(1), record(2, id=[]), record(3, image_path=7)])
    with pytest.raises(DataError, match=r"a\.jsonl: 2 fault\(s\)") as caught:
        load_dataset(path)
    assert len(caught.value.faults) == 2
    assert f"{path}:2: id" in caught.value.faults[0]
    assert f"{path}:3: image_path" in caught.value.faults[1]


def test_a_flood_of_faults_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(n, answers=1) for n in range(250)])
    with pytest.raises(DataError, match=r"250 fault\(s\)") as caught:
        load_dataset(path)
    assert len(caught.value.faults) == 201
    assert caught.value.faults[-1].startswith("and 50 more")


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(1)])
    with pytest.raises(InputError, match="supervise 'first'"):
        load_dataset(path, supervise="first")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="caption request is blank"):
        load_dataset(path, caption_request=" ")


def as_messages(conversations: Any, image_path: Path | str | None) -> list[dict[str, Any]]:
    """Ask with the image after the words, and in capitals."""
    question, answer = (turn["content"] for turn in conversations)
    image = {"type": "image", "image": str(image_path)}
    parts = [{"type": "text", "text": question.upper()}, image]
    return [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]


class Capitals(ConversationDataset):
    def format_conversations(
        self, conversations: Any, image_path: Path | str | None
    ) -> Sequence[Mapping[str, Any]]:
        return as_messages(conversations, image_path)


def test_conversations_formatted_by_a_function_or_a_subclass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.jsonl", [record(1, group="g", image_path="q1.png"), record(2)])
    monkeypatch.chdir(tmp_path.parent)
    # A path relative to where one stands must not be put before the images twice.
    path = Path(tmp_path.name) / "a.jsonl"
    by_function = load_dataset(path, format_conversations=as_messages)
    by_subclass = Capitals(path)
    assert len(by_function) == len(by_subclass) == 2
    assert (
        by_function[0].turns
        == by_subclass[0].turns
        == (
            Turn("user", ("Q1?", 0)),
            Turn("assistant", ("A1.",), True),
        )
    )
    assert by_function[0].images == by_subclass[0].images == (tmp_path / "q1.png",)
    assert by_function[0].group == by_subclass[0].group == "g"
    assert by_function[0].identifier == by_subclass[0].identifier == "1"


def test_a_path_given_back_as_a_path_is_taken_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(1)])

    def with_path(conversations: Any, image_path: Path | str | None) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "image", "image": image_path}]}]

    dataset = load_dataset(path, format_conversations=with_path)
    assert dataset[0].images == (tmp_path / "1.png",)


def test_a_formatting_function_that_fails_names_the_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [record(1), record(2, conversations=[])])
    with pytest.raises(DataError, match=r"a\.jsonl:2: format_conversations failed with ValueError"):
        load_dataset(path, format_conversations=as_messages)
    with pytest.raises(DataError, match=r"messages\[0\]\.role: 'bot' is not a role"):
        load_dataset(path, format_conversations=lambda c, i: [{"role": "bot", "content": "x"}])


class Sums(RecordDataset):
    def to_sample(self, record: Record) -> Sample:
        image = self.options.media_root / record.fields["picture"]
        turns = (Turn("user", (0, "sum?")), Turn("assistant", (str(record.fields["n"]),), True))
        return Sample(f"{record.line}", turns, (image,), origin=record.origin)


def test_a_programs_own_records_become_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"picture": "x.png", "n": 7}, {"picture": "y.png", "n": 8}])
    dataset = Sums(path)
    assert len(dataset) == 2
    assert dataset[1].turns[1].text == "8"
    assert dataset[1].images == (tmp_path / "y.png",)
    assert Mixture({"sums": dataset}, shuffle=False).sample_at(3).identifier == "2"
    with pytest.raises(IndexError):
        dataset[2]
    with pytest.raises(TypeError, match="abstract"):
        RecordDataset(path)  # type: ignore[abstract]


def test_the_configured_mixture_of_the_documentation(tmp_path: Path) -> None:
    vqa = write(tmp_path / "vqa_data.jsonl", [record(n) for n in range(3)])
    caption = {"image_path": "a.png", "conversations": [{"role": "assistant", "content": "A."}]}
    captions = tmp_path / "caption_data.json"
    captions.write_text(json.dumps([caption] * 5), encoding="utf-8")
    mixture = create_dataset(
        {
            "type": "multi",
            "datasets": [
                {"type": "vqa", "args": {"data_path": str(vqa)}},
                {"type": "captioning", "args": {"data_path": str(captions)}},
            ],
            "weights": [0.7, 0.3],
        }
    )
    assert isinstance(mixture, Mixture)
    shares = mixture.report(1000)
    assert [share.drawn for share in shares.values()] == pytest.approx([700, 300], abs=30)
    texts = {mixture.sample_at(position).turns[0].text for position in range(60)}
    assert texts == {"Q0?", "Q1?", "Q2?", "Describe this image."}


@pytest.mark.parametrize("kind", ["vqa", "medical", "auto", "captioning"])
def test_each_configured_type_reads_its_file(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.jsonl", [record(1)])
    dataset = create_dataset(
        {"type": kind, "args": {"data_path": path, "image_root": tmp_path.parent}}
    )
    assert isinstance(dataset, FileDataset)
    assert dataset[0].images == (tmp_path.parent / "1.png",)
    assert dataset[0].group == ("medical" if kind == "medical" else "")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "vqq", "args": {"data_path": "a"}}, "type: 'vqq' is not allowed"),
        ({"type": "vqa", "args": {"data_pth": "a"}}, "did you mean 'data_path'"),
        ({"type": "vqa"}, "needs `args`"),
        ({"type": "multi"}, "needs `datasets`"),
        ({"type": "multi", "datasets": [], "args": {"data_path": "a"}}, "needs `datasets`"),
        (
            {
                "type": "multi",
                "datasets": [{"type": "vqa", "args": {"data_path": "a"}}],
                "weights": [1, 2],
            },
            "2 weights for 1 datasets",
        ),
        (
            {
                "type": "multi",
                "datasets": [
                    {
                        "type": "multi",
                        "datasets": [{"type": "vqa", "args": {"data_path": "a"}}],
                    }
                ],
            },
            "holds file datasets",
        ),
    ],
)
def test_wrong_configurations_say_what_is_allowed(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_dataset(config)


def test_a_world_written_to_files_reads_back_as_the_world(tmp_path: Path) -> None:
    make("shapes", tmp_path / "w", 5, 3, splits=("train",), questions_per_image=3)
    read = load_dataset(tmp_path / "w" / "train.jsonl")
    drawn = WorldDataset(world="shapes", split="train", seed=3, count=5, questions_per_image=3)
    assert len(read) == len(drawn)
    for index in range(5):
        assert read[index].turns == drawn[index].turns
        assert read[index].group == drawn[index].group
        assert read[index].truth["answers"] == drawn[index].truth["answers"]
    captions = load_dataset(tmp_path / "w" / "train.captions.json")
    assert captions.format == "captioning"
    assert len(captions) == 5
