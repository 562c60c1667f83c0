"""The model of pairs: gradients through its three levels, its two branches, its answers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.core.errors import ConfigError, InputError
from chiasm.data.collate import Collator
from chiasm.data.prompts import Prompter
from chiasm.fusion.aligned_attention import AlignedAttentionConfig
from chiasm.fusion.pixel_blend import PixelBlendConfig
from chiasm.language.late import with_late_projector
from chiasm.models.drawing import Drawing
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.occlusion import Occlusion
from chiasm.recipes.build import build_model, build_objective
from chiasm.recipes.collating import frame_pairs
from chiasm.recipes.loading import load_run
from chiasm.recipes.running import prepare, run
from chiasm.training.durable import read_tensors
from chiasm.training.weights import WEIGHTS
from tests.tiny_hosts import build_tiny
from tests.tiny_pairs import pair_samples, tiny_pair_model, tiny_pair_recipe

AFTER = "occlusion.drawing.order=after_text"


def lively(*overrides: str) -> Occlusion:
    """A model whose attention already writes something, so that gradient passes it."""
    model = copy.deepcopy(tiny_pair_model(*overrides))
    if model.attention is not None:
        generator = torch.Generator().manual_seed(0)
        weight = model.attention.output.weight
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model


def gradients(model: Occlusion, term: str) -> dict[str, float]:
    """The largest gradient that one term of the loss alone gives each part."""
    objective = build_objective(tiny_pair_recipe().objective)
    model.train()
    batch = model.collator(pair_samples(4))
    objective.score(model(batch), batch)[term].backward()
    return {
        name: max(0.0 if p.grad is None else float(p.grad.abs().max()) for p in part.parameters())
        for name, part in model.parts.items()
    }


@pytest.mark.parametrize("order", ["before_text", "after_text"])
@pytest.mark.parametrize("term", ["tokens", "codes"])
@pytest.mark.parametrize("alpha", ["static", "scalar", "multi_scale", "content"])
def test_each_level_gets_gradient_from_each_loss(order: str, term: str, alpha: str) -> None:
    model = lively(f"occlusion.drawing.order={order}", f"occlusion.blend.alpha={alpha}")
    found = gradients(model, term)
    assert found["pixel_blend"] > 0
    assert found["aligned_attention"] > 0
    assert found["host_projector"] > 0
    assert found["host_language"] > 0
    drawn = term == "codes" or order == "before_text"
    assert (found["host_generation"] > 0) == drawn


def test_gradient_reaches_alpha_through_the_codes_alone() -> None:
    # Without attention's output, the blend is read by nothing but the tokenizer of pictures.
    model = copy.deepcopy(tiny_pair_model())
    model.host.requires_grad_(False)
    found = gradients(model, "codes")
    assert found["pixel_blend"] > 0
    assert found["host_tokenizer"] == 0


def test_frozen_parts_rest_bit_for_bit_and_alpha_moves(tmp_path: Path) -> None:
    recipe = tiny_pair_recipe()
    before = {
        name: {key: value.clone() for key, value in part.state_dict().items()}
        for name, part in build_model(recipe, tmp_path).parts.items()
    }
    run(prepare(recipe, tmp_path / "run", tmp_path), tmp_path / "run")
    saved, _ = read_tensors(tmp_path / "run" / WEIGHTS)
    model = load_run(tmp_path / "run")
    after = {name: part.state_dict() for name, part in model.parts.items()}
    moved = {
        name: any(not torch.equal(value, after[name][key]) for key, value in values.items())
        for name, values in before.items()
    }
    assert {name for name, did in moved.items() if not did} == {"host_vision", "host_tokenizer"}
    logits = "pixel_blend/alpha.logits"
    assert saved[logits].abs().max() > 0


def test_it_starts_as_the_host_alone() -> None:
    model = tiny_pair_model()
    host = copy.deepcopy(model.host)
    plain = DualEncoder(
        host=host,
        encoders={},
        fusion=None,
        collator=Collator(
            Prompter(host.tokenizer, host.image_token, host.image_text), host.preparer
        ),
    )
    understanding = copy.deepcopy(model)
    understanding.scored = frozenset({"tokens"})
    samples = pair_samples(3)
    with torch.no_grad():
        ours = understanding.eval()(understanding.collator(samples)).logits
        theirs = plain.eval()(plain.collator(samples)).logits
    # The same tower in batches of 9 and of 3 pictures; measured 4e-7.
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("scored", "weights"), [("tokens", (1.0, 0.0)), ("codes", (0.0, 1.0))])
def test_a_branch_of_weight_zero_is_not_computed(scored: str, weights: tuple[float, float]) -> None:
    tokens, codes = weights
    recipe = tiny_pair_recipe(f"objective={{tokens: {tokens}, codes: {codes}}}")
    model = build_model(recipe, Path())
    assert isinstance(model, Occlusion)
    outputs = model(model.collator(pair_samples(2)))
    assert (outputs.logits is not None) == (scored == "tokens")
    assert ("codes.logits" in outputs.named) == (scored == "codes")
    # The branch is there all the same, and draws.
    batch = model.collator.collate(pair_samples(1), generation=True)
    assert model.complete(batch, seed=0, max_new_tokens=2)[0].image.shape == (64, 64, 3)


@pytest.mark.parametrize("order", ["before_text", "after_text"])
def test_a_batch_answers_and_draws_as_its_rows_do(order: str) -> None:
    model = lively(f"occlusion.drawing.order={order}")
    samples = pair_samples(3)
    batch = model.collator.collate(samples, generation=True)
    together = model.complete(batch, temperature=0.0, max_new_tokens=4)
    assert model.generate(batch, max_new_tokens=4) == [one.text for one in together]
    for sample, one in zip(samples, together, strict=True):
        alone = model.collator.collate([sample], generation=True)
        (own,) = model.complete(alone, temperature=0.0, max_new_tokens=4)
        assert own.text == one.text
        assert torch.equal(own.codes, one.codes)
        assert (own.image == one.image).all()


def test_pictures_follow_the_answer_where_codes_come_after_it() -> None:
    model = lively(AFTER)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in ("generation", "language"):
            for weight in model.host.parts[part].parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    batch = model.collator.collate(pair_samples(2), generation=True)
    one = model.complete(batch, texts=["red", "red"], temperature=1.0, seed=3)
    other = model.complete(batch, texts=["a large blue ring", "red"], temperature=1.0, seed=3)
    assert [found.text for found in other] == ["a large blue ring", "red"]
    assert not torch.equal(one[0].codes, other[0].codes)


def test_what_is_shown_of_a_pair() -> None:
    model = tiny_pair_model()
    batch = model.collator.collate(pair_samples(3), generation=True)
    assert batch.pairs is not None
    view = model.look(batch, detail=True)
    side = batch.pairs.original.shape[-1]
    assert view.alpha.shape == (3, 1, side, side)
    assert torch.all(view.alpha == 0.5)
    expected = (batch.pairs.original + batch.pairs.reconstruction) / 2
    torch.testing.assert_close(view.blended, expected, atol=1e-6, rtol=0)
    assert view.rules == (("given", "given"),) * 3
    assert torch.equal(view.boxes, batch.pairs.boxes)
    assert view.attention is not None
    assert view.attention.shape == (3, 2, 9, 9)
    assert len({tuple(box) for box in view.boxes[:, 0].tolist()}) == 3


def test_a_model_without_drawing_says_so() -> None:
    recipe = tiny_pair_recipe("occlusion.drawing=null", "objective={tokens: 1.0}")
    model = build_model(recipe, Path())
    assert isinstance(model, Occlusion)
    assert "complete" not in model.senses
    batch = model.collator.collate(pair_samples(1), generation=True)
    with pytest.raises(InputError, match="no generation branch, so it draws nothing"):
        model.complete(batch)
    assert len(model.generate(batch, max_new_tokens=2)) == 1


def test_a_batch_without_pairs_is_refused() -> None:
    model = tiny_pair_model()
    samples = [replace(sample, pair=None) for sample in pair_samples(2)]
    with pytest.raises(InputError, match="the batch has no pairs"):
        model(model.collator(samples))


@pytest.mark.parametrize("family", ["internvl", "llava, padded", "deepseek_vl"])
def test_hosts_that_only_read_understand_pairs(family: str) -> None:
    host = with_late_projector(build_tiny(family))
    if family == "internvl":
        host.image_processor.max_patches = 1
    model = Occlusion(
        host=host,
        blend=PixelBlendConfig(size=29).build(),
        attention=AlignedAttentionConfig(heads=2).build(width=host.token_width),
        drawing=None,
        collator=Collator(
            Prompter(host.tokenizer, host.image_token, host.image_text),
            host.preparer,
            pairs=frame_pairs(host, 1),
        ),
        scored={"tokens"},
    )
    outputs = model(model.collator(pair_samples(2)))
    assert isinstance(outputs.logits, Tensor)
    outputs.logits.sum().backward()
    weight = model.attention.output.weight if model.attention else None
    assert weight is not None
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0
    with pytest.raises(ConfigError, match="draws no pictures"):
        Drawing.of(host, "after_text")


def test_chat_reads_two_images() -> None:
    model = tiny_pair_model()
    image, other = (sample.images[0] for sample in pair_samples(2))
    content: list[dict[str, Any]] = [
        {"type": "image", "image": image},
        {"type": "image", "image": other},
        {"type": "text", "text": "What is hidden?"},
    ]
    answer = model.chat([{"role": "user", "content": content}], max_new_tokens=2)
    assert isinstance(answer, str)
