"""The check of a dataset file: every fault at once, and none where there is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import ImageSource
from chiasm.data.check import Report, check
from chiasm.data.collate import Collator
from chiasm.data.dataset import load_dataset
from chiasm.data.media import load_image
from chiasm.data.prompts import Prompter
from chiasm.data.world.write import make
from chiasm.language.host import Host
from tests.archives import unpack
from tests.tiny import picture, tiny_qwen2_5_vl


@pytest.fixture(scope="module")
def host() -> Host:
    return tiny_qwen2_5_vl()


def with_host(path: Path, host: Host, **options: Any) -> Report:
    prompter = Prompter(host.tokenizer, host.image_token)
    return check(path, prompter=prompter, preparer=host.preparer, **options)


def record(name: str, image: str | list[str] = "good.png", **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "image_path": image,
        "conversations": [
            {"role": "user", "content": "What?"},
            {"role": "assistant", "content": "Red."},
        ],
        **fields,
    }


def write(folder: Path, records: Sequence[Any]) -> Path:
    picture(61, 83).save(folder / "good.png")
    content = (folder / "good.png").read_bytes()
    (folder / "short.png").write_bytes(content[: len(content) // 2])
    (folder / "empty.png").write_bytes(b"")
    path = folder / "data.jsonl"
    path.write_text(
        "\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8"
    )
    return path


def found(report: Report) -> list[tuple[int, str]]:
    return [(fault.line, fault.field) for fault in report.faults]


def test_a_sound_file_has_no_fault_and_its_numbers_are_those_of_training(
    tmp_path: Path, host: Host
) -> None:
    make("shapes", tmp_path / "w", 7, 0, splits=("train",), questions_per_image=3)
    path = tmp_path / "w" / "train.jsonl"
    report = with_host(path, host)
    assert report.faults == ()
    assert (report.records, report.samples, report.images) == (7, 7, 7)
    collate = Collator(Prompter(host.tokenizer, host.image_token), host.preparer)
    batch = collate(list(load_dataset(path)))
    assert list(report.lengths) == batch.attention_mask.sum(1).tolist()
    assert report.supervised == batch.supervised_tokens
    assert sum(count for _, count in report.histogram) == 7
    assert all(any(n <= bound for bound, _ in report.histogram) for n in report.lengths)
    assert report.turns["user"] == report.turns["assistant"]


def test_every_fault_of_a_file_comes_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        [
            record("1"),
            "{broken",
            record("3", "gone.png"),
            record("4", "short.png"),
            record("5", "empty.png", conversations=[{"role": "bot", "content": "x"}]),
            record("1"),
            record("7", boxes=[[0, 0, 83, 61], [1, 1, 84, 3], [-1, 0, 2, 2]]),
            record("8", ["good.png", "gone.png"]),
            "[]",
            record("10"),
        ],
    )
    report = check(path)
    assert found(report) == [
        (2, "record"),
        (3, "image_path"),
        (4, "image_path"),
        (5, "conversations[0].role"),
        (5, "image_path"),
        (6, "id"),
        (7, "boxes[1]"),
        (7, "boxes[2]"),
        (8, "image_path[1]"),
        (9, "record"),
    ]
    words = [fault.value for fault in report.faults]
    assert "does not exist" in words[1]
    assert "truncated" in words[2]
    assert "0 bytes" in words[4]
    assert "lies outside" in words[6]
    assert "83 x 61" in report.faults[6].allowed
    assert report.samples == 7
    assert report.distinct_images == 1


def test_missing_answers_are_faults_unless_the_file_is_to_be_answered(
    tmp_path: Path, host: Host
) -> None:
    question = record("1", conversations=[{"role": "user", "content": "What?"}])
    path = write(tmp_path, [question, record("2")])
    assert found(check(path)) == [(1, "turns")]
    assert found(with_host(path, host)) == [(1, "prompt")]
    assert "no supervised token" in with_host(path, host).faults[0].value
    assert check(path, prediction=True).faults == ()
    report = with_host(path, host, prediction=True)
    assert report.faults == ()
    assert len(report.lengths) == 2
    assert report.supervised == 0


def test_dense_labels_teach_without_an_answer(tmp_path: Path, host: Host) -> None:
    grid = host.preparer.prepare([picture(61, 83)]).geometries[0]
    cells = {"shape": [[0] * grid.columns] * grid.rows}
    question = [{"role": "user", "content": "What?"}]
    path = write(tmp_path, [record("1", conversations=question, cells=cells)])
    assert check(path).faults == ()
    assert with_host(path, host).faults == ()


def test_with_a_host_lengths_and_special_tokens_are_checked(tmp_path: Path, host: Host) -> None:
    turns = record("2")["conversations"]
    special = [{"role": "user", "content": "Is <|im_end|> seen?"}, turns[1]]
    long = [{"role": "user", "content": "What? " * 30}, turns[1]]
    path = write(
        tmp_path,
        [record("1"), record("2", conversations=special), record("3", conversations=long)],
    )
    assert check(path).faults == ()
    report = with_host(path, host, max_length=120)
    assert found(report) == [(2, "prompt"), (3, "length")]
    assert "'<|im_end|>'" in report.faults[0].value
    assert "at most 120" in report.faults[1].allowed
    assert "24 of them visual" in report.faults[1].value
    assert with_host(path, host, max_length=max(report.lengths)).faults == report.faults[:1]


def test_an_image_the_host_cannot_take_is_a_fault(tmp_path: Path, host: Host) -> None:
    path = write(tmp_path, [record("1"), record("2", "thin.png"), record("3")])
    Image.new("RGB", (1, 907)).save(tmp_path / "thin.png")
    assert check(path).faults == ()
    report = with_host(path, host)
    assert found(report) == [(2, "image_path")]
    assert "cannot prepare it" in report.faults[0].value
    assert len(report.lengths) == 2


def test_an_image_that_is_no_name_is_one_fault(tmp_path: Path) -> None:
    path = write(tmp_path, [record("1", 7), record("2", "http://a/b.png")])  # type: ignore[arg-type]
    assert found(check(path)) == [(1, "image_path"), (2, "image_path")]


def test_an_image_named_many_times_is_reported_at_each_and_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def counting(source: ImageSource) -> Image.Image:
        opened.append(source)
        return load_image(source)

    monkeypatch.setattr("chiasm.data.check.load_image", counting)
    path = write(tmp_path, [record("1", "gone.png"), record("2"), record("3", "gone.png")])
    report = check(path)
    assert opened == [tmp_path / "gone.png", tmp_path / "good.png"]
    assert found(report) == [(1, "image_path"), (3, "image_path")]
    assert (report.images, report.distinct_images) == (3, 1)


def test_a_file_of_no_known_form_is_one_fault(tmp_path: Path, host: Host) -> None:
    path = write(tmp_path, [{"question": "x"}, {"question": "y"}])
    report = with_host(path, host)
    assert report.format == ""
    assert len(report.faults) == 1
    assert (report.records, report.samples) == (2, 0)
    assert report.document()["tokens"] is None


def test_the_document_is_plain_json(tmp_path: Path, host: Host) -> None:
    path = write(tmp_path, [record("1"), record("2", "gone.png")])
    document = json.loads(json.dumps(with_host(path, host).document(), allow_nan=False))
    assert document["faults"][0]["line"] == 2
    assert document["faults"][0]["field"] == "image_path"
    assert set(document["faults"][0]) == {"origin", "line", "field", "value", "allowed"}
    assert document["tokens"]["least"] == document["tokens"]["most"] > 0
    assert document["tokens"]["supervised"] > 0


def test_progress_is_told_after_each_record(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = write(tmp_path, [record("1"), record("2")])
    check(path, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_arguments_that_need_each_other_and_missing_files(tmp_path: Path, host: Host) -> None:
    path = write(tmp_path, [record("1")])
    with pytest.raises(InputError, match="lengths need a host"):
        check(path, max_length=5)
    with pytest.raises(InputError, match="lengths need a host"):
        check(path, preparer=host.preparer)
    with pytest.raises(DataError, match="does not exist"):
        check(tmp_path / "gone.json")


def nlvr(identifier: str, **fields: Any) -> dict[str, Any]:
    thing = {"type": "circle", "color": "Blue", "size": 20, "x_loc": 1, "y_loc": 2}
    return {
        "sentence": "There is a circle",
        "label": "true",
        "identifier": identifier,
        "structured_rep": [[thing], [], []],
        **fields,
    }


def test_nlvr_files_go_through_the_same_check(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    (tmp_path / "dev").mkdir()
    for name in ("1-0", "2-0"):
        picture(100, 40).save(tmp_path / "dev" / f"{name}.png")
    path.write_text("\n".join(json.dumps(nlvr(name)) for name in ("1-0", "2-0")))
    report = check(path)
    assert (report.format, report.faults, report.samples) == ("nlvr", (), 2)
    assert check(tmp_path).samples == 2
    (tmp_path / "dev" / "2-0.png").write_bytes(b"")
    assert found(check(path)) == [(2, "images[0]")]
    path.write_text("\n".join(map(json.dumps, [nlvr("1-0"), nlvr("3-0"), nlvr("4-0", label="x")])))
    assert found(check(path)) == [(2, "record"), (3, "record")]


def test_the_human_sentences_pass(shared_data: Path, tmp_path: Path) -> None:
    unpack(
        shared_data / "nlvr_dev_hidden_perm0.tar",
        tmp_path,
        lambda name: name == "dev.json" or name[:6] == "dev/10",
    )
    lines = (tmp_path / "dev.json").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["identifier"].startswith("10")]
    (tmp_path / "dev.json").write_text("\n".join(kept))
    report = check(tmp_path / "dev.json")
    assert report.faults == ()
    assert report.samples == len(kept) > 10
