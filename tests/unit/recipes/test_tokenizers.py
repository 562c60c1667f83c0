"""A recipe of the family `tokenizer`: what it must say, its memory, and the codebook it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chiasm.core.config import read_config
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.encoders.codebook import CodebookConfig
from chiasm.models.tokenizer import Tokenizer
from chiasm.recipes.build import build_model
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.measuring import assume_tokens, count_tokens, measure_activations
from chiasm.recipes.outline import outline_recipe
from chiasm.recipes.plan import list_parts, plan_stages
from chiasm.recipes.running import prepare, run
from chiasm.recipes.schema import Recipe
from chiasm.recipes.shipping import ship
from chiasm.recipes.tokenizers import open_codebook
from tests.tiny_codebooks import ARCHITECTURE, tiny_codebook, tiny_pixels

FEW = (
    "training.stages.0.steps=2",
    "training.batch_size=2",
    "training.workers=0",
    "data.train.0.count=7",
    "data.validation.0.count=3",
)


def plain(*more: str) -> dict[str, Any]:
    values = load_recipe("tiny-pair-tokenizer", (*FEW, *more)).to_plain()
    values["tokenizer"]["codebook"] = {"architecture": ARCHITECTURE}
    values["tokenizer"].pop("start")
    return values


def recipe(**values: Any) -> Recipe:
    return read_config(Recipe, {**plain(), **values}, "test")


def test_the_shipped_recipe_is_as_large_as_it_says() -> None:
    shipped = load_recipe("tiny-pair-tokenizer")
    assert shipped.metric == "psnr"
    outline = outline_recipe(shipped, Path())
    size = sum(part.parameters for part in list_parts(shipped, outline))
    assert 500_000 < size < 1_000_000
    assert outline.places == 64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"host": {"path": "tiny-host"}}, "is given to a family without one"),
        ({"tokenizer": None}, "`tokenizer` is missing, or of no use"),
        ({"family": "dual_encoder"}, "`host` is missing"),
        ({"objective": {"pictures": {"sharpness": 1}}}, r"\['sharpness'\]; known: absolute, squ"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**values)


def test_it_is_written_as_it_was_read() -> None:
    assert read_config(Recipe, recipe().to_plain(), "again") == recipe()


def test_parts_and_memory_are_those_of_the_model() -> None:
    small = recipe()
    outline = outline_recipe(small, Path())
    model = build_model(small, Path())
    counted = {part.name: part.parameters for part in list_parts(small, outline)}
    assert counted == {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.parts.items()
    }
    tokens = count_tokens(small, outline, Path())
    assert (tokens.cells, tokens.text) == (9, 0)
    assert assume_tokens(outline).certainty == "assumed"
    measured = measure_activations(small, outline, Path())
    assert measured is not None
    (guess,) = plan_stages(small, outline, tokens)
    (exact,) = plan_stages(small, outline, tokens, measured=measured)
    assert guess.weights == exact.weights == 4 * sum(counted.values())
    # A sample has three pictures; the guess is for each picture, and leaves out what is shared.
    assert 0.5 < exact.activations / (3 * guess.activations) < 2


def test_a_run_leaves_a_codebook_that_others_can_name(tmp_path: Path) -> None:
    output = tmp_path / "run"
    report = run(prepare(recipe(), output, tmp_path), output)
    assert report.finished
    assert sorted(report.metrics) == ["codebook_use", "perplexity", "psnr", "revived"]
    model = load_run(output)
    assert isinstance(model, Tokenizer) and not model.training
    values = plain()
    values["tokenizer"] = {"codebook": {"path": "run"}}
    following = build_model(read_config(Recipe, values, "next"), tmp_path)
    assert isinstance(following, Tokenizer)
    pixels = tiny_pixels(3)
    codes = model.codebook.encode(pixels).indices
    assert torch.equal(following.codebook.encode(pixels).indices, codes)
    assert following.new_parts == frozenset()


def test_a_shipped_run_has_its_weights_once_and_can_be_named(tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(prepare(recipe(), output, tmp_path), output)
    ship(output, tmp_path / "shipped")
    held = [file.name for file in (tmp_path / "shipped" / "tokenizer").iterdir()]
    assert held == ["config.json"]
    trained = load_run(output)
    assert isinstance(trained, Tokenizer)
    named = CodebookConfig(path="shipped", codes=53)
    found = open_codebook(named, tmp_path)
    pixels = tiny_pixels(3)
    assert torch.equal(found.encode(pixels).latents, trained.codebook.encode(pixels).latents)
    with pytest.raises(CheckpointError, match="53 codes of width 7, and 59"):
        open_codebook(CodebookConfig(path="shipped", codes=59), tmp_path)


def test_another_codebook_than_that_of_the_run_is_named(tmp_path: Path) -> None:
    tiny_codebook().save(tmp_path / "first")
    values = plain()
    values["tokenizer"] = {"codebook": {"path": str(tmp_path / "first")}}
    output = tmp_path / "run"
    run(prepare(read_config(Recipe, values, "run"), output, tmp_path), output)
    assert isinstance(load_run(output), Tokenizer)
    tiny_codebook(seed=1).save(tmp_path / "first")
    with pytest.raises(CheckpointError, match="trained on another host"):
        load_run(output)
    assert CodebookConfig(path=str(tmp_path / "first")).build().size == 53
