"""What a run measures on its validation samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from chiasm.evaluation.suites import SUITES
from chiasm.recipes.build import build_model
from chiasm.recipes.loading import load_recipe
from chiasm.recipes.sources import list_samples
from chiasm.recipes.validation import first_number, measure_model, token_loss
from tests.recipes.small import furnish, tiny_overrides


@pytest.fixture(scope="module")
def model_and_samples(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    home = furnish(tmp_path_factory.mktemp("home"))
    recipe = load_recipe("medical", tiny_overrides(home))
    model = build_model(recipe, Path.cwd())
    sources = [*recipe.data.train, *recipe.data.validation]
    return model, list_samples(sources, model.collator.preparer, Path.cwd())


def test_the_loss_is_that_of_all_tokens_however_batches_are_cut(model_and_samples) -> None:  # type: ignore[no-untyped-def]
    model, samples = model_and_samples
    model.train()
    with torch.no_grad():
        model.eval()
        parts = [model(model.collator([sample])) for sample in samples]
        model.train()
    logits = torch.cat([part.logits for part in parts])
    targets = torch.cat([part.targets for part in parts])
    expected = float(nn.functional.cross_entropy(logits, targets))
    for size in (1, 3, 10):
        assert token_loss(model, samples, size) == pytest.approx(expected, rel=1e-5)
    assert model.training


def test_measures_give_their_numbers(model_and_samples) -> None:  # type: ignore[no-untyped-def]
    model, samples = model_and_samples
    found = measure_model(model, samples[:2], ("loss", "answers"), batch_size=2)
    assert {"loss", "exact_match", "exact_match/medical"} <= set(found)
    assert set(measure_model(model, samples[:2], ("captions",), 2)) >= {"rouge_l", "bleu_4"}
    assert set(measure_model(model, samples[:2], ("loss",), 2)) == {"loss"}


def test_descriptions_may_be_longer_than_answers(model_and_samples, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    model, samples = model_and_samples
    limits: list[int] = []

    def spied(batch: object, *, max_new_tokens: int) -> list[str]:
        limits.append(max_new_tokens)
        return ["it"] * 2

    monkeypatch.setattr(model, "generate", spied)
    measure_model(model, samples[:2], ("answers", "captions"), batch_size=2)
    assert limits == [32, 128]


def test_the_first_measure_has_a_name() -> None:
    assert first_number(("loss", "answers")) == "loss"
    assert first_number(("answers", "loss")) == "exact_match"
    assert {suite: first_number((suite,)) for suite in SUITES} == {  # type: ignore[arg-type]
        suite: rules.primary for suite, rules in SUITES.items()
    }
