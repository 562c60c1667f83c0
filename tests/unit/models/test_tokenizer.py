"""The tokenizer: a model for the trainer, whose codes live, and that resumes to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError, InputError
from chiasm.core.protocols import Model
from chiasm.data.world.worlds import WorldDataset
from chiasm.encoders.codebook import CodebookConfig
from chiasm.encoders.codebook_start import start_from_components
from chiasm.encoders.codebook_use import RevivalConfig
from chiasm.encoders.fingerprint import fingerprint
from chiasm.models.tokenizer import Tokenizer, TokenizerConfig
from chiasm.objectives.codebook import PictureCodes
from chiasm.objectives.weighted import WeightedSum
from chiasm.recipes.tokenizers import outline_tokenizer, picture_quality
from chiasm.training.audit import fingerprints
from chiasm.training.loop import Trainer
from chiasm.training.settings import StageSettings, TrainingSettings
from tests.tiny_codebooks import ARCHITECTURE, ONE_LEVEL, SIDE, tiny_codebook

TERMS = ("absolute", "codebook", "commitment")


def tokenizer(
    revival: Any = "default",
    seed: int = 0,
    start: str = "spread",
    architecture: dict[str, Any] = ARCHITECTURE,
) -> Tokenizer:
    torch.manual_seed(seed)
    values: dict[str, Any] = {"codebook": {"architecture": architecture}, "start": start}
    values["revival"] = {"every": 2} if revival == "default" else revival
    return TokenizerConfig.model_validate(values).build().eval()


def world(count: int = 5) -> WorldDataset:
    return WorldDataset(world="occluded", count=count)


def samples(count: int = 5) -> list[Any]:
    data = world(count)
    return [data[index] for index in range(count)]


def trainer(output: Path, steps: int, model: Tokenizer, **more: Any) -> Trainer:
    stage = StageSettings(
        name="one", steps=steps, train=tuple(model.parts), learning_rate=0.003, schedule="constant"
    )
    settings = TrainingSettings(
        stages=(stage,), batch_size=2, seed=3, checkpoint_every=3, order="sequential"
    )
    return Trainer(
        model=model,
        objective=WeightedSum([PictureCodes(TERMS)], {"pictures.commitment": 0.25}),
        dataset=world(60),
        collate=model.collator,
        settings=settings,
        output=output,
        console=Console(quiet=True),
        **more,
    )


def test_it_is_a_model_of_three_parts() -> None:
    model = tokenizer()
    assert isinstance(model, Model)
    assert list(model.parts) == ["picture_encoder", "codes", "picture_decoder"]
    assert model.new_parts == set(model.parts)
    assert model.identity == {"tokenizer": {"name": "random", "weights": "random"}}
    assert model.revived == 0 and tokenizer(revival=None).revived == 0


def test_it_draws_from_codes() -> None:
    model = tokenizer()
    batch = model.collator(samples(2))
    named = model(batch).named
    pixels = batch.targets["pictures"]
    assert pixels.shape == named["pictures"].shape == (6, 3, SIDE, SIDE)
    codes = model.codebook.encode(pixels)
    assert torch.equal(named["codes"], codes.indices)
    assert torch.equal(named["pictures"].clamp(-1, 1), model.codebook.decode(codes.indices))
    with pytest.raises(InputError, match=r"no 'pictures'; it has no targets\. Collate"):
        model(Batch(batch.input_ids, batch.input_ids, batch.input_ids, batch.input_ids))


def test_evaluation_neither_counts_nor_revives() -> None:
    model = tokenizer()
    before = fingerprints(model)
    model(model.collator(samples(2)))
    assert fingerprints(model) == before


def test_it_draws_from_latents_until_codes_begin() -> None:
    model = tokenizer(revival={"begin": 1, "every": 2}).train()
    batch = model.collator(samples(2))
    first, second = model(batch).named, model(batch).named
    assert torch.equal(first["codes.used"], first["codes.latents"])
    assert torch.equal(second["codes.used"], second["codes.chosen"])
    assert model.revived == 53
    # Codes that are latents of the batch: all but latents that were not drawn find themselves.
    found = (second["codes.latents"] - second["codes.chosen"]).norm(dim=-1) < 1e-6
    assert int(found.sum()) >= 53


def test_revival_brings_codes_into_use_and_is_reported() -> None:
    batch = tokenizer().collator(samples(60))
    use = {}
    for name, revival in (("dead", None), ("revived", {"every": 2})):
        model = tokenizer(revival=revival)
        with torch.no_grad():
            # All codes are one, and the first of equals is taken.
            model.codebook.weight.fill_(1.0)
        before = model.codebook.weight.detach().clone()
        model.train()
        with torch.no_grad():
            model(batch)
        model.eval()
        found = picture_quality(model, samples(60))
        use[name] = found["codebook_use"]
        assert found["revived"] == model.revived == (0 if revival is None else 53)
        assert torch.equal(before, model.codebook.weight) == (revival is None)
    assert use["revived"] > 0.6 > use["dead"]


def test_the_first_pictures_start_it_from_components_once() -> None:
    model = tokenizer(start="components", architecture=ONE_LEVEL).train()
    batch = model.collator(samples(5))
    evaluated = tokenizer(start="components", architecture=ONE_LEVEL)
    evaluated(batch)
    expected = tokenizer(architecture=ONE_LEVEL)
    assert fingerprints(evaluated) == fingerprints(expected)
    start_from_components(expected.codebook, batch.targets["pictures"])
    named = model(batch).named
    assert torch.equal(named["codes.latents"], expected.codebook.look(batch.targets["pictures"]))
    conv = model.codebook.model.encoder.conv_in.weight
    before = conv.detach().clone()
    model(model.collator(samples(9)[5:]))
    assert torch.equal(conv, before)


def test_components_need_an_architecture_of_one_level_unless_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"starts from components.*\n.*channel_multiplier: \[1, 2\]"
    ):
        tokenizer(start="components")
    with pytest.raises(ValueError, match=r"components, without `revival`.*give it"):
        tokenizer(None, start="components", architecture=ONE_LEVEL)
    tokenizer().save(tmp_path)
    loaded = TokenizerConfig(
        codebook=CodebookConfig(path=str(tmp_path)),
        start="components",
        revival=RevivalConfig(begin=1),
    )
    model = loaded.build().train()
    before = fingerprint(model.codebook)
    model(model.collator(samples(2)))
    assert fingerprint(model.codebook) == before


def test_a_frozen_codebook_is_left_alone() -> None:
    model = tokenizer().train()
    model.parts["codes"].eval()
    model(model.collator(samples(2)))
    assert model.revived == 0


def test_a_run_resumes_to_the_last_bit(tmp_path: Path) -> None:
    lively = {"begin": 1, "every": 2, "decay": 0.5, "floor": 0.9}
    straight = tokenizer(lively)
    trainer(tmp_path / "straight", 8, straight).train()
    trainer(tmp_path / "cut", 8, tokenizer(lively)).train(steps=4)
    resumed = tokenizer(lively, seed=1)
    trainer(tmp_path / "cut", 8, resumed, resume=True).train()
    assert straight.revived > 53
    assert fingerprints(resumed) == fingerprints(straight)


def test_a_saved_one_starts_the_next_run(tmp_path: Path) -> None:
    tokenizer().save(tmp_path / "tokenizer")
    config = CodebookConfig(path=str(tmp_path / "tokenizer"))
    model = TokenizerConfig(codebook=config).build()
    assert model.new_parts == frozenset()
    assert model.identity["tokenizer"]["name"] == "tokenizer"
    assert len(model.identity["tokenizer"]["weights"]) == 64


def test_the_receipt_does_not_hang_on_which_code_is_nearest() -> None:
    probe = tokenizer().probe()
    assert sorted(probe) == ["checker.drawn", "checker.seen", "gradient.drawn", "gradient.seen"]
    assert probe["checker.drawn"].shape == (3, SIDE, SIDE)
    moved = tokenizer()
    with torch.no_grad():
        moved.codebook.weight.add_(0.001 * torch.randn(53, 7))
    assert torch.equal(moved.probe()["checker.seen"], probe["checker.seen"])
    assert (moved.probe()["checker.drawn"] - probe["checker.drawn"]).abs().max() < 0.1


def test_training_draws_better(tmp_path: Path) -> None:
    model = tokenizer()
    before = picture_quality(model, samples())["psnr"]
    trainer(tmp_path / "run", 25, model).train()
    assert picture_quality(model.eval(), samples())["psnr"] > before + 3


def test_an_outline_counts_what_layers_give() -> None:
    config = TokenizerConfig(codebook=CodebookConfig(architecture=ARCHITECTURE))
    outline, values = outline_tokenizer(config, Path())
    assert list(values) == list(outline.parts)
    counted = dict.fromkeys(values, 0)
    codebook = tiny_codebook()

    def note(part: str) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            counted[part] += output.numel()

        return hook

    for part in ("picture_encoder", "picture_decoder"):
        for leaf in codebook.parts[part].modules():
            if not list(leaf.children()):
                leaf.register_forward_hook(note(part))
    codes = codebook.encode(torch.zeros(1, 3, SIDE, SIDE))
    codebook.decode(codes.indices)
    for part in ("picture_encoder", "picture_decoder"):
        assert values[part] == counted[part] > 0
    assert values["codes"] == 9 * (53 + 3 * 7)
