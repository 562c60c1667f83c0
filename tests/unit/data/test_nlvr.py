import json
from collections import Counter

import pytest
from PIL import Image

from chiasm.core.errors import DataError, InputError
from chiasm.data.formats.nlvr import read, split
from tests.archives import unpack


def scene(*colours):
    return [
        [{"type": "square", "color": colour, "size": 20, "x_loc": 40, "y_loc": 80}]
        for colour in colours
    ]


def record(identifier, sentence="There is a box", label="true", boxes=None, **more):
    boxes = scene("Yellow", "Black", identifier) if boxes is None else boxes
    return {
        "sentence": sentence,
        "label": label,
        "identifier": identifier,
        "structured_rep": boxes,
        **more,
    }


def write(folder, records, name="dev.json"):
    (folder / "dev").mkdir(exist_ok=True)
    for item in records:
        Image.new("RGB", (400, 100)).save(folder / "dev" / f"{item['identifier']}.png")
    path = folder / name
    path.write_text("\n".join(json.dumps(item) for item in records), encoding="utf-8")
    return path


def test_a_record_becomes_a_question(tmp_path):
    path = write(tmp_path, [record("31-2", sentence=" A tower. ", label="false"), record("31-3")])
    first, second = read(path)
    assert first.identifier == "31-2"
    assert first.images == (tmp_path / "dev" / "31-2.png",)
    assert first.turns[0].parts == (0, "A tower. True or false?")
    assert second.turns[0].parts == (0, "There is a box. True or false?")
    assert (first.turns[1].text, first.turns[1].supervised) == ("false", True)
    assert first.group == first.truth["kind"] == "true_false"
    assert first.truth["answers"] == ["false"]
    assert first.truth["presentation"] == "31"
    assert first.origin == "dev.json:1"
    assert [sample.identifier for sample in read(tmp_path)] == ["31-2", "31-3"]


def test_published_layout_gives_one_sample_a_permutation(tmp_path):
    folder = tmp_path / "images" / "5"
    folder.mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (400, 100)).save(folder / f"train-7-1-{number}.png")
    path = tmp_path / "train.json"
    path.write_text(json.dumps(record("7-1", directory="5")) + "\n", encoding="utf-8")
    samples = read(path)
    assert [sample.identifier for sample in samples] == [f"train-7-1-{k}" for k in range(6)]
    assert {sample.truth["presentation"] for sample in samples} == {"7"}


def test_all_faults_are_told_at_once(tmp_path):
    write(tmp_path, [record("1-0")])
    lines = [
        json.dumps(record("1-0")),
        "{",
        "[]",
        json.dumps({"sentence": "x"}),
        json.dumps(record("2-0", label="maybe")),
        json.dumps(record("1-0")),
        json.dumps(record("3-0")),
        json.dumps(record("30")),
        json.dumps(record("4-0", sentence=" ")),
    ]
    (tmp_path / "dev.json").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "dev.json")
    text = str(caught.value)
    assert len(caught.value.faults) == 8
    for expected in (
        "8 fault(s)",
        "line 2: no JSON",
        "line 3: a list",
        "line 4: no label, identifier, structured_rep",
        "line 5: label 'maybe'; allowed: true, false",
        "line 6: identifier '1-0' already stands in line 1",
        "line 7: no image for '3-0'; looked for dev/3-0.png",
        "line 8: identifier '30'",
        "line 9: sentence ' '",
    ):
        assert expected in text


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "dev.json")
    with pytest.raises(DataError, match=r"0 JSON files \(none\)"):
        read(tmp_path)
    (tmp_path / "dev.json").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="no record"):
        read(tmp_path)


def test_nothing_of_a_sentence_or_scene_straddles_the_split(tmp_path):
    records = []
    for number in range(150):
        records += [
            record(f"{number}-0", sentence=f"sentence {number}"),
            record(f"{number}-1", sentence=f"sentence {number}", boxes=scene("A", str(number))),
            # The scene of the presentation 50 before, its boxes in another order.
            record(
                f"{number}-2",
                sentence="x" * number + "y",
                boxes=scene(str(number % 50), "twin")[:: 1 if number % 2 else -1],
            ),
        ]
    records.append(record("900-0", sentence=" SENTENCE 3 ."))
    samples = read(write(tmp_path, records))
    parts = split(samples, {"train": 0.6, "validation": 0.2, "test": 0.2}, seed=3)
    side = {sample.identifier: name for name, part in parts.items() for sample in part}
    assert len(side) == len(samples)
    for number in range(150):
        tied = {side[f"{n}-{m}"] for n in range(number % 50, 150, 50) for m in range(3)}
        assert len(tied) == 1
    assert side["900-0"] == side["3-0"]
    assert all(parts.values())
    assert split(samples, {"train": 0.6, "validation": 0.2, "test": 0.2}, seed=3) == parts
    assert split(samples, {"train": 0.6, "validation": 0.2, "test": 0.2}, seed=4) != parts


def test_fractions_must_sum_to_one(tmp_path):
    samples = read(write(tmp_path, [record("1-0")]))
    with pytest.raises(InputError, match=r"sum to 0\.9"):
        split(samples, {"train": 0.5, "test": 0.4})
    foreign = [type(samples[0])(identifier="other", turns=())]
    with pytest.raises(InputError, match="'other' has no 'presentation'"):
        split(foreign, {"train": 1.0})


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    archive = shared_data / "nlvr_dev_hidden_perm0.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive.name} among the real data")
    folder = tmp_path_factory.mktemp("nlvr")
    unpack(archive, folder)
    return folder


def test_real_sentences(real):
    samples = [*read(real / "dev.json"), *read(real / "hidden.json")]
    labels = Counter(sample.turns[-1].text for sample in samples)
    assert labels == {"true": 547 + 546, "false": 442 + 439}
    with Image.open(samples[0].images[0]) as image:
        assert image.size == (400, 100)
    parts = split(samples, {"train": 0.7, "validation": 0.15, "test": 0.15}, seed=1)
    keys = {name: {sample.truth["presentation"] for sample in part} for name, part in parts.items()}
    assert not keys["train"] & keys["validation"]
    assert not (keys["train"] | keys["validation"]) & keys["test"]
    assert 0.6 < len(parts["train"]) / len(samples) < 0.8
