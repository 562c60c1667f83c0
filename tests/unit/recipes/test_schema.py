"""What a recipe may say: all faults at once, the nearest names, one spelling back and forth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from chiasm.core.config import Config, read_config
from chiasm.core.errors import ConfigError, UnknownNameError
from chiasm.encoders.image import Dinov2Config
from chiasm.fusion import FUSIONS
from chiasm.fusion.gated import GatedFusionConfig
from chiasm.recipes.loading import load_recipe, recipe_text
from chiasm.recipes.places import shipped_recipes
from chiasm.recipes.schema import Recipe
from chiasm.training.settings import StageSettings

SHIPPED = sorted(shipped_recipes())


def values(**changes: Any) -> dict[str, Any]:
    return {
        "family": "dual_encoder",
        "host": {"path": "somewhere"},
        "data": {"train": [{"path": "train.json"}]},
        "objective": {"tokens": 1.0},
        "training": {"stages": [{"name": "all", "steps": 3}]},
        **changes,
    }


def read(**changes: Any) -> Recipe:
    return read_config(Recipe, values(**changes), "my.yaml")


def faults(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(**changes)
    return str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_survives_being_written(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "again.yaml").write_text(recipe_text(recipe), encoding="utf-8")
    again = load_recipe(tmp_path / "again.yaml")
    assert again == recipe
    assert recipe_text(again) == recipe_text(recipe)


def test_values_off_their_defaults_survive_too(tmp_path: Path) -> None:
    recipe = read(
        host={"path": "x", "lora": {"rank": 5}, "dtype": "bfloat16"},
        encoders={
            "a": {"kind": "siglip", "path": "y", "layer": -2},
            "b": {"kind": "dinov3", "path": "z"},
        },
        fusion={"kind": "interleave"},
        freeze={"freeze_llm": True},
        freeze_config={"freeze_dinov2": False},
        objective={"tokens": 1.0, "diversity": 0.5, "diversity_reading": {"reading": "batch"}},
        seed=7,
    )
    (tmp_path / "again.yaml").write_text(recipe_text(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_the_order_of_encoders_survives(tmp_path: Path) -> None:
    encoders = {name: {"kind": "dinov2", "path": "x"} for name in ("zebra", "ant", "mole")}
    recipe = read(encoders=encoders, fusion={"kind": "concat"})
    (tmp_path / "again.yaml").write_text(recipe_text(recipe), encoding="utf-8")
    assert list(load_recipe(tmp_path / "again.yaml").encoders) == ["zebra", "ant", "mole"]


def test_all_faults_come_at_once_with_the_nearest_names(tmp_path: Path) -> None:
    text = yaml.safe_dump(
        values(
            seed=-1,
            trainig={},
            data={"train": [{"path": "a.json", "wieght": 2}]},
            training={"stages": [{"name": "all", "steps": 0, "epoch": 1}], "learning_rates": 1},
        )
    )
    (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(tmp_path / "my.yaml")
    told = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 6
    assert "trainig: unknown key; did you mean 'training'?" in told
    assert "data.train.0.wieght: unknown key; did you mean 'weight'?" in told
    assert "training.stages.0.epoch: unknown key; did you mean 'epochs'?" in told
    assert "training.learning_rates: unknown key; did you mean 'learning_rate'?" in told
    assert "training.stages.0.steps: 0 is not allowed" in told
    assert "seed: -1 is not allowed" in told


def test_unknown_kinds_and_values_inside_them_are_named() -> None:
    told = faults(encoders={"eye": {"kind": "dinov22", "path": "x"}}, fusion={"kind": "gated"})
    assert "encoders: " in told
    assert "unknown encoder kind 'dinov22'; known: dinov2, dinov2_registers, dinov3" in told
    assert "encoder without `kind`; known kinds: dinov2" in faults(
        encoders={"eye": {"path": "x"}}, fusion={"kind": "gated"}
    )
    told = faults(
        encoders={"eye": {"kind": "dinov2", "path": "x"}}, fusion={"kind": "gated", "widht": 3}
    )
    assert "widht" in told


def test_an_entry_in_the_table_is_a_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class OwnConfig(Config):
        strength: float = 1.0

    monkeypatch.setitem(FUSIONS, "own", OwnConfig)  # type: ignore[arg-type]
    eye = {"eye": {"kind": "dinov2", "path": "x"}}
    recipe = read(encoders=eye, fusion={"kind": "own", "strength": 0.5})
    assert recipe.fusion == OwnConfig(strength=0.5)
    assert recipe.to_plain()["fusion"] == {"kind": "own", "strength": 0.5}
    (tmp_path / "again.yaml").write_text(recipe_text(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_a_program_may_give_configurations_themselves() -> None:
    eye = Dinov2Config(path="x")
    recipe = read(encoders={"eye": eye}, fusion=GatedFusionConfig(width=31))
    assert recipe.encoders["eye"] == eye
    assert recipe == read(
        encoders={"eye": {"kind": "dinov2", "path": "x"}}, fusion={"kind": "gated", "width": 31}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": 3}, "3 is no fusion; write {kind: ...} with one of: gated, concat"),
        ({"fusion": ["gated"]}, "['gated'] is no fusion; write {kind: ...}"),
        ({"encoders": {"eye": "dinov2"}}, "'dinov2' is no encoder; write {kind: ...}"),
        ({"encoders": ["dinov2"]}, "encoders: "),
        ({"host": {}}, "give exactly one of `path` and `scratch`"),
        ({"host": {"path": "x", "scratch": {}}}, "give exactly one of `path` and `scratch`"),
        ({"fusion": {"kind": "gated"}}, "`encoders` and `fusion` belong together"),
        ({"control": "null_eye"}, "the control `null_eye` needs extra encoders"),
        ({"family": "cell_classifier"}, "trains one encoder; 0 given"),
        ({"data": {"train": []}}, "data.train"),
        ({"data": {"train": [{"path": "a", "world": "shapes"}]}}, "one of `path` and `world`"),
        ({"data": {"train": [{"world": "shapes"}]}}, "a world has no end: give `count`"),
        ({"data": {"train": [{"world": "shape", "count": 1}]}}, "unknown world; known: "),
        ({"objective": {}}, "give at least one of `tokens`, `codes`"),
        ({"training_mode": "ful"}, "unknown training mode; known: full, encoders_only"),
        ({"freeze": {"freeze_lm": True}}, r"unknown flags ['freeze_lm']; known: "),
        ({"freeze_config": {"llm": True}}, r"unknown flags ['llm']; known: "),
        (
            {"training": {"stages": [{"name": "a"}]}},
            "give exactly one of `steps` and `epochs`",
        ),
        (
            {"training": {"stages": [{"name": "a", "steps": 1, "mode": "full", "train": ["x"]}]}},
            "give `mode` or `train`, not both",
        ),
        (
            {"training": {"stages": [{"name": "a", "steps": 1}], "patience": 2}},
            "`training.patience` waits for evaluations: give `data.validation`",
        ),
    ],
)
def test_contradictions_are_said(changes: dict[str, Any], message: str) -> None:
    assert message in faults(**changes)


def test_what_picks_the_best_checkpoint() -> None:
    validation = [{"path": "val.json"}]
    train = [{"path": "train.json"}]
    stages = {"stages": [{"name": "all", "steps": 3}]}
    assert read().metric is None
    assert read(data={"train": train, "validation": validation}).metric == "exact_match"
    data = {"train": train, "validation": validation, "measure": ["captions", "loss"]}
    assert read(data=data).metric == "rouge_l"
    assert read(data=data, training={**stages, "metric": "loss"}).metric == "loss"
    assert read(data={**data, "measure": ["loss"]}).metric == "loss"


@pytest.mark.parametrize(
    ("metric", "mode"), [("loss", "min"), ("exact_match", "max"), (None, "max")]
)
def test_the_loss_should_fall_and_all_else_rise(metric: str | None, mode: str) -> None:
    stage = StageSettings(name="all", steps=3, train=("fusion",), learning_rate=0.1)
    settings = read().training.settings((stage,), 5, metric)
    assert (settings.metric, settings.mode, settings.seed) == (metric, mode, 5)


def test_no_such_recipe() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown recipe .* 'fusion-lerning'.*Did you mean"):
        load_recipe("fusion-lerning")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1, 2]", "a recipe is a mapping"), ("a: [", "is no YAML"), ("", "holds NoneType")],
)
def test_files_that_are_no_recipe(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_recipe(tmp_path / "bad.yaml")


def test_what_is_left_out_stays_out_when_a_recipe_is_written() -> None:
    for name in ("attention", "drawing"):
        changes = [f"occlusion.{name}=null", "objective={tokens: 1.0}"]
        recipe = load_recipe("htfa-debug", changes)
        again = read_config(Recipe, recipe.to_plain(), "again")
        assert again == recipe
        assert getattr(again.occlusion, name) is None


def guided(**values: Any) -> dict[str, Any]:
    """Merging by importance, as a recipe has it."""
    return {"kind": "guided", **values}


WATCHED: dict[str, Any] = {"family": "long_video", "host": None, "objective": {"answers": 1.0}}


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ({"cycle": True}, "`cycle` says that a `curriculum` begins again, and there is none"),
        ({"features": {"features": 3}, "sampling": {"kind": "rate", "rate": 1}}, "all are read"),
        ({"size": [0, 0]}, "size (0, 0); give (height, width) above 0"),
        ({"size": [-64, 64]}, "size (-64, 64); give"),
        ({"answers": ["Red", "blue", " no"]}, "`answers`: ['Red', ' no'] will never be right"),
        ({"answers": ["red", "red"]}, "`answers`: 2 names, ['red'] more than once"),
        ({"answers": []}, "`answers`: 0 names, [] more than once"),
        ({"domains": ["sea", " "]}, "`domains`: 2 names, [] more than once"),
        (
            {"reader": {"attention": "mamba", "options": {"window": 3}}},
            "`options` of mamba: window",
        ),
        ({"reader": {"options": {"causal": True}}}, "`options` give causal, which the reader"),
        (
            {"caption_head": {}, "caption_words": ["a", "a"]},
            "`caption_words`: 2 names, ['a'] more than once",
        ),
        ({"caption_head": {}, "caption_words": []}, "`caption_words`: 0 names"),
        ({"caption_head": {}, "caption_requests": [""]}, "`caption_requests`: 1 names"),
        (
            {"caption_head": {}, "caption_requests": [" Tell. ", "Say."]},
            "`caption_requests`: [' Tell. '] will never be met",
        ),
        (
            {"compression": guided(importance={"saliency": {}})},
            "cells are merged before any is paid: give 0 for it",
        ),
        (
            {"compression": guided(importance={"motion": {"kind": "raft", "path": "raft.pth"}})},
            "needs frames of at least 128 pixels a side, and `size` is (64, 64)",
        ),
        (
            {
                "compression": guided(budget={"spread": "shared"}),
                "reader": {"causal": True},
                "frames": {"offsets": [-1]},
            },
            "a stream has one clip at a time; give `even` or `content`",
        ),
        ({"features": {"features": 3}, "augment": {"flip": 0.5}}, "`augment` changes frames"),
        ({"answer_head": None}, "`objective.answers` needs `video.answer_head`: give it"),
    ],
)
def test_contradictions_about_videos_are_said(video: dict[str, Any], message: str) -> None:
    assert message in faults(**WATCHED, video=video)


@pytest.mark.parametrize(
    ("term", "part"),
    [
        ({"actions": {"classes": 1.0}}, "action_head"),
        ({"captions": 1.0}, "caption_head"),
        ({"router": {"domain": 1.0}}, "by_domain.router"),
    ],
)
def test_a_term_about_videos_needs_its_part(term: dict[str, Any], part: str) -> None:
    objective = {"answers": 1.0, **term}
    assert f"needs `video.{part}`" in faults(**{**WATCHED, "objective": objective})
    cells = {"objective": {"cells": {"act": 1.0}}, "video": {"features": {"features": 3}}}
    assert "`objective.cells` are of frames" in faults(**{**WATCHED, **cells})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"captions": 1.0}, "family dual_encoder: `objective` has captions, of which nothing"),
        (
            {"family": "video_language", "answers": 1.0, "cells": {"act": 1.0}},
            "has answers, cells, of which nothing in it learns; leave out what is none of its "
            "terms (tokens)",
        ),
        (
            {"family": "long_video", "host": None, "answers": 1.0},
            "has tokens, of which nothing in it learns; leave out what is none of its terms "
            "(answers, captions, actions, router, cells)",
        ),
        (
            {"family": "grounding", "masks": {"refined.dice": 1.0}, "mask_quality": 1.0},
            "`objective` has refined.dice, mask_quality, and nothing refines masks: give",
        ),
        (
            {"family": "grounding", "masks": {"coarse.bce": 1.0}, "masks_inside": 0.6},
            "`masks_inside` is of the terms `coarse.balanced` and `refined.balanced`",
        ),
    ],
)
def test_terms_that_would_count_nothing_are_said(changes: dict[str, Any], message: str) -> None:
    own = {name: value for name, value in changes.items() if name in ("family", "host")}
    terms = {name: value for name, value in changes.items() if name not in own}
    assert message in faults(**own, objective={"tokens": 1.0, **terms})


@pytest.mark.parametrize("period", [0.0, -1.0, float("nan"), float("inf")])
def test_times_have_periods(period: float) -> None:
    projector = {"projector": {"periods": [1.0, period]}}
    message = "a period is a number of seconds above 0"
    assert message in faults(family="video_language", video_language=projector)
