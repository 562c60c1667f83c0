"""`chiasm data`: what it prints, writes and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from chiasm.cli.main import app
from tests.recipes.pointing import write_panoptic, write_phrases
from tests.tiny import picture, tiny_qwen2_5_vl


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("host")
    tiny_qwen2_5_vl().save(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    picture(61, 83).save(tmp_path / "a.png")
    question, answer = ({"role": r, "content": c} for r, c in (("user", "Q?"), ("assistant", "A.")))
    good = {"image_path": "a.png", "conversations": [question, answer]}
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "id": 5}), encoding="utf-8")
    return path


@pytest.fixture
def broken(data: Path) -> Path:
    lines = data.read_text().splitlines()
    record = json.loads(lines[0])
    record["image_path"] = "[bold]gone.png"
    path = data.with_name("broken.jsonl")
    path.write_text("\n".join([*lines, json.dumps(record), "{", "[]"]), encoding="utf-8")
    return path


def test_the_verbs_are_listed_and_have_examples() -> None:
    listing = run("--help")
    assert all(verb in listing.stdout for verb in ("make", "check", "show"))
    for verb in ("make", "check", "show"):
        assert f"Example: chiasm data {verb}" in run(verb, "--help").stdout


def test_make_check_and_show_go_together(tmp_path: Path, host: Path) -> None:
    world = tmp_path / "w"
    made = run("make", "shapes", "--output", world, "--count", 3, "--seed", 1, "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["counts"]["train"] == 3
    checked = run("check", world / "train.jsonl", "--host", host, "--json")
    assert checked.exit_code == 0, checked.output
    document = json.loads(checked.stdout)
    assert document["faults"] == []
    assert document["samples"] == 3
    page = tmp_path / "page.html"
    shown = run(
        "show", world / "train.jsonl", "--index", 2, "--output", page, "--host", host, "--json"
    )
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["id"] == "train-2"
    assert json.loads(shown.stdout)["tokens"] in _lengths(document)
    assert 'class="supervised"' in page.read_text(encoding="utf-8")


def _lengths(document: dict[str, dict[str, int]]) -> range:
    return range(document["tokens"]["least"], document["tokens"]["most"] + 1)


def test_a_sound_file_leaves_with_0_and_a_broken_one_with_1(data: Path, broken: Path) -> None:
    sound = run("check", data)
    assert sound.exit_code == 0
    assert "0 fault(s); format vqa, 2 of 2 records" in sound.stdout
    faulty = run("check", broken)
    assert faulty.exit_code == 1
    assert "3 fault(s)" in faulty.stdout
    assert "gone.png" in faulty.stdout


def test_the_table_shows_values_as_they_are_and_counts_what_it_leaves_out(broken: Path) -> None:
    shown = run("check", broken, "--limit", 1)
    assert "[bold]gone.png: does not exist" in shown.stdout
    assert "and 2 more" in shown.stdout


def test_json_is_one_document_with_every_fault(broken: Path) -> None:
    result = run("check", broken, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert [(fault["line"], fault["field"]) for fault in document["faults"]] == [
        (3, "image_path"),
        (4, "record"),
        (5, "record"),
    ]


def test_lengths_are_checked_with_a_host(data: Path, host: Path) -> None:
    result = run("check", data, "--host", host, "--max-length", 10)
    assert result.exit_code == 1
    assert "at most 10" in result.stdout
    assert "up to" in run("check", data, "--host", host).stdout
    alone = run("check", data, "--max-length", 10)
    assert alone.exit_code == 1
    assert "--max-length 10 needs --host" in alone.stderr


def test_files_to_be_answered(data: Path) -> None:
    records = [json.loads(line) for line in data.read_text().splitlines()]
    for record in records:
        record["conversations"].pop()
    data.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert run("check", data).exit_code == 1
    assert run("check", data, "--prediction").exit_code == 0


def test_a_recipe_stands_for_the_files_it_reads(tmp_path: Path, data: Path, broken: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    (tmp_path / "elsewhere").mkdir()
    document = {
        "family": "dual_encoder",
        "host": {"path": "tiny-host"},
        "data": {
            "train": [{"path": str(data), "format": "captioning"}, {"path": str(broken)}],
            "validation": [
                {"path": str(data), "media_root": str(tmp_path / "elsewhere")},
                {"path": str(broken)},
                {"world": "shapes", "count": 5},
            ],
        },
        "objective": {"tokens": 1.0},
        "training": {"stages": [{"name": "only", "steps": 1}]},
    }
    recipe.write_text(yaml.safe_dump(document), encoding="utf-8")
    result = run("check", recipe, "--json")
    assert result.exit_code == 1, result.output
    files = json.loads(result.stdout)["files"]
    assert [(found["format"], len(found["faults"])) for found in files] == [
        ("captioning", 0),
        ("vqa", 3),
        ("vqa", 2),
    ]


def test_a_recipe_says_how_its_phrases_are_read(tmp_path: Path) -> None:
    """Checked are the samples that training will see: here one an instance, not one a category."""
    write_panoptic(tmp_path / "panoptic.json")
    counts = []
    for most in (None, 1):
        document = {
            "family": "grounding",
            "host": {"path": "tiny-host"},
            "data": {
                "train": [
                    {
                        "path": str(tmp_path / "panoptic.json"),
                        "grounding": {"phrases_per_sample": most},
                    }
                ]
            },
            "objective": {"masks": {"coarse.bce": 1.0}},
            "training": {"stages": [{"name": "only", "steps": 1}]},
        }
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(document), encoding="utf-8")
        result = run("check", recipe, "--json")
        assert result.exit_code == 0, result.output
        counts.append(json.loads(result.stdout)["samples"])
    assert counts == [5, 10]


def test_a_recipe_of_worlds_alone_has_nothing_to_check() -> None:
    result = run("check", "tiny-eye")
    assert result.exit_code == 1
    assert "only worlds made on demand" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "gone.jsonl"), "gone.jsonl: does not exist"),
        (("check", "no-such-recipe"), "no-such-recipe"),
        (("show", "gone.json", "--output", "a.html"), "gone.json: does not exist"),
    ],
)
def test_what_is_not_there_is_told_with_exit_code_1(
    arguments: tuple[str, ...], message: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr.replace("\n", "")


def test_an_index_out_of_range_and_a_wrong_suffix_are_told(data: Path, host: Path) -> None:
    far = run("show", data, "--index", 2, "--output", "a.html", "--host", host)
    assert far.exit_code == 1
    assert "has 2 samples; give 0 to 1" in far.stderr.replace("\n", " ")
    wrong = run("show", data, "--output", "a.pdf", "--host", host)
    assert wrong.exit_code == 1
    assert "allowed: .html, .png" in wrong.stderr.replace("\n", " ")


def test_wrong_usage_leaves_with_2(data: Path) -> None:
    assert run("check").exit_code == 2
    assert run("check", data, "--max-length", 0).exit_code == 2
    assert run("show", data, "--index", -1, "--output", "a.html").exit_code == 2


def test_masks_and_what_is_left_out_are_counted(tmp_path: Path, host: Path) -> None:
    write_panoptic(tmp_path / "panoptic.json", 3)
    tables = json.loads((tmp_path / "panoptic.json").read_text())
    tables["annotations"][2]["segments_info"] = []
    (tmp_path / "panoptic.json").write_text(json.dumps(tables))
    checked = run("check", tmp_path / "panoptic.json", "--host", host)
    assert checked.exit_code == 0, checked.output
    assert "format coco_panoptic, 2 of 3 records are samples" in checked.output
    assert "phrases: 4, 4 of them with a sound mask" in checked.output
    assert "left out: 1 images without a phrase" in checked.output
    document = json.loads(run("check", tmp_path / "panoptic.json", "--json").stdout)
    assert (document["phrases"], document["masks"]) == (4, 4)
    assert document["dropped"] == {"images without a phrase": 1}


def test_a_folder_of_phrases_is_checked_and_shown(tmp_path: Path, host: Path) -> None:
    record = {"image": "images/a.png", "phrase": "a cup", "mask": "masks/cup.png"}
    turned = {**record, "segmentation": {"size": [5, 7], "counts": [35]}, "mask": None}
    write_phrases(tmp_path / "p", f"{json.dumps(record)}\n{json.dumps(turned)}")
    checked = run("check", tmp_path / "p")
    assert checked.exit_code == 1
    assert "phrases[1].mask: phrase 'a cup': mask of 5 x 7 pixels (height x width), its image" in (
        checked.output
    )
    assert "phrases: 2, 1 of them with a sound mask" in checked.output
    (tmp_path / "p" / "phrases.jsonl").write_text(json.dumps(record))
    page = tmp_path / "page.html"
    shown = run("show", tmp_path / "p", "--output", page, "--host", host)
    assert shown.exit_code == 0, shown.output
    assert "a cup: " in page.read_text(encoding="utf-8")
