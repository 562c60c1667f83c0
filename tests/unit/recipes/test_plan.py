"""Plans: sizes equal to those of real models, states equal to those of the real optimizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLConfig

from chiasm.core.errors import CheckpointError, ConfigError, InputError
from chiasm.fusion import FUSIONS
from chiasm.recipes import build
from chiasm.recipes.build import build_model, build_training
from chiasm.recipes.loading import load_recipe
from chiasm.recipes.measuring import assume_tokens, count_tokens, measure_activations
from chiasm.recipes.outline import can_recompute, outline_recipe
from chiasm.recipes.plan import (
    CERTAINTY,
    RESERVE,
    StageMemory,
    changed,
    find_knobs,
    list_parts,
    peak,
    plan_stages,
)
from chiasm.recipes.running import prepare, run
from chiasm.recipes.schema import Recipe
from chiasm.recipes.sources import world_corpus
from chiasm.training.freezing import freeze_all_but, match_parts, parts_table
from chiasm.training.optimiser import build_optimizer, optimizer_tensors
from chiasm.training.recomputation import recompute_layers
from tests.recipes.small import furnish, tiny_overrides, tiny_pointing
from tests.tiny import TINY_HOSTS
from tests.tiny_eyes import ARCHITECTURES
from tests.tiny_sams import ARCHITECTURES as SAMS

EXPERTS = "video.by_domain.experts={hidden: 13}"
PERFORMER = "video.reader={attention: performer, options: {features: 7, redraw_every: 5}, heads: 2}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("home"))


def recipe_of(home: Path, name: str = "progressive", *more: str) -> Recipe:
    stages = 3 if name == "progressive" else 1
    return load_recipe(name, [*tiny_overrides(home, stages), *more])


def sizes(recipe: Recipe) -> dict[str, int]:
    outline = outline_recipe(recipe, Path.cwd())
    return {part.name: part.parameters for part in list_parts(recipe, outline)}


def real_sizes(recipe: Recipe) -> dict[str, int]:
    return {row.name: row.total for row in parts_table(build_model(recipe, Path.cwd()), ())}


@pytest.mark.parametrize("family", sorted(TINY_HOSTS))
def test_parts_are_those_of_the_real_model(family: str, tmp_path: Path) -> None:
    recipe = recipe_of(furnish(tmp_path, family))
    assert sizes(recipe) == real_sizes(recipe)


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_parts_of_every_fusion(fusion: str, home: Path) -> None:
    # Mining looks at several features of each cell.
    fine = ("fusion.side=2", "encoders.dinov2.oversample=2", "encoders.dinov2.pooling=unshuffle")
    recipe = recipe_of(
        home,
        "progressive",
        f"fusion={{kind: {fusion}}}",
        "objective.diversity=null",
        *(fine if fusion == "mining" else ()),
    )
    assert sizes(recipe) == real_sizes(recipe)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
@pytest.mark.parametrize("settings", [{}, {"layer": -2, "oversample": 2, "pooling": "unshuffle"}])
def test_parts_of_every_encoder(kind: str, settings: dict[str, Any], home: Path) -> None:
    eye = {"kind": kind, "architecture": ARCHITECTURES[kind], **settings}
    recipe = recipe_of(home)
    plain = recipe.to_plain() | {"encoders": {"eye": eye}}
    recipe = Recipe.model_validate(plain)
    assert sizes(recipe) == real_sizes(recipe)


def test_parts_with_adapters(home: Path) -> None:
    recipe = recipe_of(
        home, "language-adaptation", "host.lora={rank: 5, targets: [q_proj, up_proj]}"
    )
    assert sizes(recipe) == real_sizes(recipe)
    (stage,) = plan_stages(recipe, outline_recipe(recipe, Path.cwd()), tokens_of(recipe))
    assert stage.trains == ("host_adapter",)


@pytest.mark.parametrize("name", ["tiny-host", "tiny-eye"])
def test_parts_of_other_recipes(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tokenizer of a host from scratch is trained twice here; a short text is enough for sizes.
    monkeypatch.setattr(build, "world_corpus", lambda names: world_corpus(names, count=5))
    recipe = load_recipe(name)
    if recipe.host.path is not None:
        recipe = load_recipe(name, [f"host.path={home / 'host'}"])
    assert sizes(recipe) == real_sizes(recipe)


def test_a_host_of_published_size_from_its_configuration_alone(tmp_path: Path, home: Path) -> None:
    write_three_billion(tmp_path)
    recipe = recipe_of(home, "fusion-learning", f"host.path={tmp_path}", "fusion.width=1024")
    outline = outline_recipe(recipe, Path.cwd())
    found = {part.name: part.parameters for part in list_parts(recipe, outline)}
    host = [found[f"host_{name}"] for name in ("vision", "projector", "language")]
    # 3,754,622,976 is what the published checkpoint holds.
    assert sum(host) == 3_754_622_976
    assert [part.number for part in list_parts(recipe, outline)][:3] == [2, 2, 2]
    assert len(outline.notes) == 2
    tokens = assume_tokens(outline, (720, 1280), 256)
    assert (tokens.cells, tokens.patches, tokens.text) == (26 * 46, 52 * 92, 26 * 46 + 256)
    with pytest.raises(Exception, match="tokenizer is not at hand"):
        count_tokens(recipe, outline, Path.cwd())


def write_three_billion(folder: Path) -> None:
    """The configuration of Qwen2.5-VL-3B, without weights, tokenizer or image processor."""
    Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
        },
        tie_word_embeddings=True,
    ).save_pretrained(folder)


def tokens_of(recipe: Recipe) -> Any:
    outline = outline_recipe(recipe, Path.cwd())
    return count_tokens(recipe, outline, Path.cwd())


def test_tokens_are_those_of_the_longest_sample(home: Path) -> None:
    recipe = recipe_of(home)
    model = build_model(recipe, Path.cwd())
    _, samples = build_training(recipe, model, Path.cwd())
    batch = model.collator([samples[index] for index in range(7)])
    tokens = tokens_of(recipe)
    assert tokens.certainty == "exact"
    assert tokens.text == batch.input_ids.shape[1]
    assert tokens.cells == max(geometry.count for geometry in batch.geometries)
    assert tokens.patches == int(batch.host_images["image_grid_thw"].prod(-1).max())
    assert tokens.supervised == int((batch.labels != -100).sum(1).max())


def test_exact_lines_are_those_of_a_real_optimizer(home: Path) -> None:
    # The last stage freezes what the others trained: its states stay in memory.
    recipe = recipe_of(home, "progressive", "training.ema=0.9", "training.stages.2.mode=llm_only")
    outline = outline_recipe(recipe, Path.cwd())
    stages = plan_stages(recipe, outline, tokens_of(recipe))
    model = build_model(recipe, Path.cwd())
    settings, _ = build_training(recipe, model, Path.cwd())
    optimizer = build_optimizer(model, settings)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    for stage, planned in zip(settings.stages, stages, strict=True):
        freeze_all_but(model, match_parts(stage.train, model.parts))
        gradients = 0
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
                gradients += parameter.grad.numel() * parameter.grad.element_size()
        optimizer.step()
        states = optimizer_tensors(optimizer).values()
        assert planned.name == stage.name
        assert planned.weights == held
        assert planned.gradients == gradients
        assert planned.optimizer == sum(s.numel() * s.element_size() for s in states)
        assert planned.average * 2 == sum(
            s.numel() * s.element_size() for s in states if s.numel() > 1
        ) + _scalar_states(states)


def _scalar_states(states: Any) -> int:
    """Moments of parameters with one element, which look like step counts."""
    single = [s for s in states if s.numel() == 1 and s.dim() > 0]
    return sum(s.element_size() for s in single)


def plan_of(home: Path, *more: str, **options: Any) -> list[StageMemory]:
    recipe = recipe_of(home, "progressive", *more)
    return plan_stages(recipe, outline_recipe(recipe, Path.cwd()), tokens_of(recipe), **options)


def test_sharing_divides_what_it_says_it_divides(home: Path) -> None:
    alone = peak(plan_of(home))
    plain, two, three = (peak(plan_of(home, gpus=4, zero=level)) for level in (0, 2, 3))
    assert (plain.weights, plain.gradients, plain.optimizer) == (
        alone.weights,
        alone.gradients,
        alone.optimizer,
    )
    assert (alone.exchange, plain.exchange, two.exchange) == (0, plain.gradients, 0)
    assert two.weights == alone.weights
    assert two.gradients == -(-alone.gradients // 4)
    assert two.optimizer == three.optimizer == -(-alone.optimizer // 4)
    assert three.weights == -(-alone.weights // 4)


def test_what_does_not_train_keeps_nothing(home: Path) -> None:
    fusion, vision, everything = plan_of(home)
    assert fusion.gradients < vision.gradients < everything.gradients
    assert fusion.activations < vision.activations < everything.activations
    # Gradients pass through the frozen language model, but its layers keep no inputs.
    (language,) = plan_stages(
        (recipe := recipe_of(home, "language-adaptation")),
        outline_recipe(recipe, Path.cwd()),
        tokens_of(recipe),
    )
    assert language.trains == ("host_language",)
    assert language.activations < everything.activations


def test_activations_follow_the_batch_the_arithmetic_and_recomputation(home: Path) -> None:
    base = ["training.gradient_checkpointing=false", "training.precision=fp32"]
    one = peak(plan_of(home, *base, "training.batch_size=1"))
    three = peak(plan_of(home, *base, "training.batch_size=3"))
    assert three.activations == 3 * one.activations
    assert three.scores == 3 * one.scores
    half = peak(plan_of(home, base[0], "training.batch_size=3"))
    assert half.activations < three.activations
    # All weights are float32 and either train or pass gradients on.
    assert (three.copies, half.copies * 2) == (0, half.weights)
    less = peak(plan_of(home, "training.precision=fp32", "training.batch_size=3"))
    assert less.activations < three.activations


def test_measured_and_formula_are_of_one_size(home: Path) -> None:
    more = ("training.gradient_checkpointing=false", "training.precision=fp32")
    recipe = recipe_of(home, "progressive", *more)
    outline = outline_recipe(recipe, Path.cwd())
    measured = measure_activations(recipe, outline, Path.cwd())
    assert measured is not None
    for stage in plan_stages(recipe, outline, tokens_of(recipe)):
        estimate = stage.activations + stage.scores
        assert 0.6 < estimate / measured[stage.name] < 1.4, stage.name
    given = plan_stages(recipe, outline, tokens_of(recipe), measured=measured)
    assert [stage.activations for stage in given] == list(measured.values())
    assert [stage.scores for stage in given] == [0, 0, 0]


@pytest.mark.parametrize(
    "more", ["training.gradient_checkpointing=true", "training.precision=bf16"]
)
def test_what_a_count_would_not_show_is_not_measured(more: str, home: Path) -> None:
    changes = ["training.gradient_checkpointing=false", "training.precision=fp32", more]
    recipe = recipe_of(home, "progressive", *changes)
    outline = outline_recipe(recipe, Path.cwd())
    assert measure_activations(recipe, outline, Path.cwd()) is None


def test_every_knob_lowers_the_peak_as_it_says(home: Path) -> None:
    off = ["training.gradient_checkpointing=false", "training.precision=fp32"]
    recipe = recipe_of(home, "progressive", *off)
    outline, tokens = outline_recipe(recipe, Path.cwd()), tokens_of(recipe)
    now = peak(plan_stages(recipe, outline, tokens)).total
    knobs = find_knobs(recipe, outline, tokens)
    changes = [" ".join(knob.change) for knob in knobs]
    assert "training.batch_size=1 training.accumulation=2" in changes
    assert "training.gradient_checkpointing=true" in changes
    assert "host.lora.rank=16" in changes
    assert "freeze.freeze_llm=true" in changes
    assert any("training_mode=fusion_only" in change for change in changes)
    for knob in knobs:
        assert knob.total < now
        other = changed(recipe, knob.change)
        again = peak(plan_stages(other, outline_recipe(other, Path.cwd()), tokens)).total
        assert again == knob.total, knob.change


@pytest.mark.parametrize(
    ("name", "change", "advised"),
    [
        ("video-domain-aware", [], False),
        ("video-domain-aware", ["video.by_domain.adapters=null", EXPERTS], True),
        ("video-domain-aware", [PERFORMER, "video.by_domain=null", "objective.router={}"], False),
        ("tiny-pair-tokenizer", [], False),
        ("tiny-eye", [], True),
    ],
)
def test_no_recomputation_is_advised_that_training_refuses(
    name: str, change: list[str], advised: bool
) -> None:
    recipe = load_recipe(name, change)
    assert can_recompute(outline_recipe(recipe, Path.cwd())) == advised
    model = build_model(recipe, Path.cwd())
    if advised:
        assert recompute_layers(model) > 0
        return
    with pytest.raises(ConfigError, match="gradient_checkpointing"):
        recompute_layers(model)


def test_a_frozen_host_may_be_held_in_half_precision(home: Path) -> None:
    recipe = recipe_of(home, "fusion-learning", "host.dtype=float32")
    outline, tokens = outline_recipe(recipe, Path.cwd()), tokens_of(recipe)
    changes = [knob.change for knob in find_knobs(recipe, outline, tokens)]
    assert ("host.dtype=bfloat16",) in changes
    vision = recipe_of(home, "vision-finetuning")
    changes = [knob.change for knob in find_knobs(vision, outline, tokens)]
    assert ("host.dtype=bfloat16",) not in changes


def test_the_lines_add_up_and_each_is_called_something(home: Path) -> None:
    stage = peak(plan_of(home))
    lines = {name: getattr(stage, name) for name in CERTAINTY}
    assert sum(lines.values()) == stage.total
    assert stage.reserve == RESERVE


def test_missing_configurations_are_named(home: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, "progressive", f"host.path={tmp_path}")
    with pytest.raises(CheckpointError, match=r"no config.json of the host .* as host.path"):
        outline_recipe(recipe, Path.cwd())
    recipe = recipe_of(home, "progressive", f"encoders.dinov2.path={tmp_path}")
    with pytest.raises(CheckpointError, match=r"of the encoder 'dinov2'.* as encoders.dinov2.path"):
        outline_recipe(recipe, Path.cwd())
    recipe = recipe_of(home, "progressive", "encoders.dinov2={kind: timm, model: vit_tiny}")
    with pytest.raises(InputError, match="only its weights tell"):
        outline_recipe(recipe, Path.cwd())


@pytest.fixture(scope="module")
def pointing(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The recipe of the shipped mask heads on a tiny host and a tiny segmenter."""
    return load_recipe("tiny-grounding", tiny_pointing(home, tmp_path_factory.mktemp("sam")))


def test_parts_of_mask_heads(pointing: Recipe, home: Path) -> None:
    assert sizes(pointing) == real_sizes(pointing)
    plain = pointing.to_plain()
    plain["grounding"].pop("refiner")
    plain["objective"] = {"masks": {"coarse.bce": 1.0}}
    assert sizes(Recipe.model_validate(plain)) == real_sizes(Recipe.model_validate(plain))
    random = {"sam": {"architecture": SAMS["sam2"]}, "use_text": False}
    plain["grounding"]["refiner"] = random
    assert sizes(Recipe.model_validate(plain)) == real_sizes(Recipe.model_validate(plain))


@pytest.mark.parametrize("family", sorted(TINY_HOSTS))
def test_mask_heads_have_the_channels_of_their_host(family: str, tmp_path: Path) -> None:
    recipe = load_recipe("tiny-grounding", tiny_pointing(furnish(tmp_path, family), tmp_path))
    assert sizes(recipe) == real_sizes(recipe)


def test_parts_of_mask_heads_on_a_run_with_two_eyes(home: Path, tmp_path: Path) -> None:
    recipe = recipe_of(home, "fusion-learning")
    run(prepare(recipe, tmp_path / "run", Path.cwd()), tmp_path / "run")
    overrides = [*tiny_pointing(home, tmp_path), f"host.path={tmp_path / 'run'}"]
    pointing = load_recipe("tiny-grounding", overrides)
    found = sizes(pointing)
    assert found == real_sizes(pointing)
    assert {"encoder.dinov2", "fusion.gate", "mask_head"} <= set(found)
    (stage,) = plan_stages(pointing, outline_recipe(pointing, Path.cwd()), tokens_of(pointing))
    assert not any(name.startswith(("encoder.", "fusion", "host_")) for name in stage.trains)


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_parts_of_a_segmenter(name: str) -> None:
    plain = load_recipe("tiny-sam").to_plain()
    plain["segmenter"]["sam"] = {"architecture": SAMS[name]}
    recipe = Recipe.model_validate(plain)
    assert sizes(recipe) == real_sizes(recipe)


def test_what_mask_heads_keep_goes_with_their_phrases(pointing: Recipe) -> None:
    outline = outline_recipe(pointing, Path.cwd())
    tokens = tokens_of(pointing)
    assert tokens.certainty == "exact" and tokens.phrases == 3
    (stage,) = plan_stages(pointing, outline, tokens)
    trained = {"mask_head", "text_layers", "refiner.prompt_encoder", "refiner.mask_decoder"}
    assert set(stage.trains) == trained and stage.scores == 0
    model = build_model(pointing, Path.cwd())
    settings, _ = build_training(pointing, model, Path.cwd())
    freeze_all_but(model, match_parts(settings.stages[0].train, model.parts))
    held = [p for p in model.parameters() if p.requires_grad]
    assert stage.gradients == sum(p.numel() * p.element_size() for p in held)
    (more,) = plan_stages(pointing, outline, replace(tokens, phrases=6))
    assert stage.activations < more.activations <= 2 * stage.activations
    measured = measure_activations(pointing, outline, Path.cwd())
    assert measured is not None and stage.activations > 0
    # The formula leaves out what masks are carried and resized by.
    assert 0.1 < stage.activations / measured["masks"] < 10
    knobs = find_knobs(pointing, outline, tokens)
    assert any("training.batch_size=1" in knob.change for knob in knobs)


def test_a_segmenter_is_planned_without_a_host() -> None:
    plain = load_recipe("tiny-sam").to_plain()
    plain["segmenter"]["sam"] = {"architecture": SAMS["sam"]}
    recipe = Recipe.model_validate(plain)
    outline = outline_recipe(recipe, Path.cwd())
    tokens = tokens_of(recipe)
    assert (tokens.cells, tokens.text, tokens.phrases) == (25, 0, 3)
    assert assume_tokens(outline).cells == 25
    stages = plan_stages(recipe, outline, tokens)
    assert [stage.name for stage in stages] == ["one thing", "several things"]
    assert all(stage.activations > 0 and stage.scores == 0 for stage in stages)
    measured = measure_activations(recipe, outline, Path.cwd())
    assert measured is not None and all(measured.values())
    assert find_knobs(recipe, outline, tokens)
