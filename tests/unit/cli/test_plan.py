"""`chiasm plan`: a document for programs, tables and an answer for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from chiasm.cli.main import app
from chiasm.cli.plan import read_size
from chiasm.core.errors import InputError
from tests.recipes.small import furnish, tiny_overrides


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("home"))


def chiasm(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)], catch_exceptions=False)


def document(*arguments: object) -> dict[str, Any]:
    result = chiasm(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_the_document_adds_up(home: Path) -> None:
    found = document("progressive", *tiny_overrides(home, 3), "--gpus", 3)
    assert found["parameters"] == sum(row["parameters"] for row in found["parts"])
    assert {row["certainty"] for row in found["parts"]} == {"exact"}
    assert [stage["name"] for stage in found["stages"]] == ["fusion", "vision", "everything"]
    for stage in found["stages"]:
        assert sum(stage[line] for line in found["certainty"]) == stage["total"]
    assert found["peak"]["total"] == max(stage["total"] for stage in found["stages"])
    assert found["by_zero"]["zero_0"] == found["peak"]["total"]
    assert found["by_zero"]["zero_3"] < found["by_zero"]["zero_2"] < found["by_zero"]["zero_0"]
    assert set(found["certainty"].values()) <= {"exact", "estimated", "assumed", "measured"}
    assert found["certainty"]["activations"] == "estimated"
    assert found["tokens"]["certainty"] == "exact"
    assert (found["memory_bytes"], found["fits"]) == (None, None)


def test_a_small_model_is_run(home: Path) -> None:
    off = ["training.gradient_checkpointing=false", "training.precision=fp32"]
    found = document("fusion-learning", *tiny_overrides(home), *off, "host.dtype=float32")
    assert found["certainty"]["activations"] == "measured"


@pytest.mark.parametrize(("memory", "fits"), [("2GiB", True), ("900MiB", False)])
def test_the_answer_and_the_knobs(memory: str, fits: bool, home: Path) -> None:
    arguments = ("fusion-learning", *tiny_overrides(home), "--memory", memory)
    assert document(*arguments)["fits"] is fits
    printed = chiasm(*arguments).stdout
    assert ("\nfits: " in printed) is fits
    assert ("\ndoes not fit: " in printed) is not fits
    assert ("training.batch_size=1 training.accumulation=2" in printed) is not fits
    assert "PARAMETERS (exact)" in printed


def test_without_data_tokens_are_assumed_and_it_is_said(home: Path) -> None:
    more = ["data.train.0.path=nothing.json"]
    result = chiasm("fusion-learning", *tiny_overrides(home), *more, "--json")
    assert json.loads(result.stdout)["tokens"]["certainty"] == "assumed"
    assert "note: token counts are assumed: " in result.stderr
    small = document(
        "fusion-learning", *tiny_overrides(home), *more, "--image", "90x60", "--text", 11
    )
    assert small["tokens"]["text"] == small["tokens"]["cells"] + 11
    assert "90 x 60" in small["tokens"]["source"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GiB", 16 * 1024**3),
        ("16", 16 * 1024**3),
        ("1.5 gib", 3 * 1024**3 // 2),
        ("24GB", 24 * 10**9),
        ("512MiB", 512 * 1024**2),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "16TB5", "-3GiB", "0GiB", "16 KB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match=r"is no size; write it as 16GiB"):
        read_size(text)


@pytest.mark.parametrize("image", ["90", "90x", "0x10", "90 x 60"])
def test_what_is_no_image(image: str, home: Path) -> None:
    result = chiasm("fusion-learning", *tiny_overrides(home), "--image", image)
    assert result.exit_code == 1
    assert "write WIDTHxHEIGHT" in result.stderr


def test_no_gpus_is_wrong_usage() -> None:
    assert chiasm("fusion-learning", "--gpus", 0).exit_code == 2
