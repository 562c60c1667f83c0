"""A config.json of the published form becomes a recipe, and what cannot be translated is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chiasm.core.config import read_config
from chiasm.core.errors import ConfigError
from chiasm.models.dual_encoder_modes import parts_to_train
from chiasm.recipes.convert import REASONS, SPECIAL, VALUES, convert
from chiasm.recipes.loading import load_recipe
from chiasm.recipes.schema import Recipe

PARTS = (
    "host_vision",
    "host_projector",
    "host_language",
    "encoder.dinov2",
    "fusion.projections",
    "fusion.gate",
    "fusion.output",
)

FLAT: dict[str, Any] = {
    "qwen_model_name": "Qwen/Qwen2.5-VL-7B-Instruct",
    "dinov2_model_name": "facebook/dinov2-large",
    "common_dim": 512,
    "dropout": 0.2,
    "use_flash_attention": False,
    "learning_rate": 3e-4,
    "num_epochs": 7,
    "batch_size": 3,
    "diversity_loss_weight": 0.3,
    "train_data_path": "a/train.json",
    "val_data_path": "a/val.json",
    "image_root": "a/images",
    "freeze_config": {
        "freeze_qwen_vision": False,
        "freeze_dinov2": True,
        "freeze_llm": True,
        "freeze_fusion_layers": False,
        "freeze_projections": False,
    },
}
"""Every key that the documentation of the form lists, each off its default."""


def recipe_of(config: dict[str, Any]) -> Recipe:
    return read_config(Recipe, convert(config).values, "config.json")


def test_every_documented_key_reaches_its_place() -> None:
    converted = convert(FLAT)
    assert (converted.left_out, converted.unknown) == ([], [])
    recipe = recipe_of(FLAT)
    assert recipe.host.path == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert recipe.host.attention == "sdpa"
    plain = recipe.to_plain()
    assert plain["encoders"] == {"dinov2": {"kind": "dinov2", "path": "facebook/dinov2-large"}}
    assert plain["fusion"] | {"initial_host_share": 0} == {
        "kind": "gated",
        "scope": "global",
        "width": 512,
        "dropout": 0.2,
        "initial_host_share": 0,
    }
    assert recipe.training.learning_rate == 3e-4
    assert recipe.training.batch_size == 3
    assert [(s.name, s.epochs, s.mode) for s in recipe.training.stages] == [("all", 7, None)]
    assert recipe.objective.diversity == 0.3
    assert recipe.data.train[0].path == "a/train.json"
    assert recipe.data.validation[0].path == "a/val.json"
    assert recipe.data.train[0].media_root == recipe.data.validation[0].media_root == "a/images"
    assert recipe.metric == "loss"
    assert parts_to_train(PARTS, None, recipe.freeze_config, recipe.freeze) == {
        "host_vision",
        "host_projector",
        "fusion.projections",
        "fusion.gate",
        "fusion.output",
    }


def test_an_empty_configuration_is_the_form_with_its_defaults() -> None:
    recipe = recipe_of({})
    assert recipe.host.path == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert recipe.training.stages[0].epochs == 10
    assert (recipe.training.learning_rate, recipe.training.batch_size) == (1e-4, 4)
    assert recipe.objective.diversity == 0.1
    assert recipe.training_mode is None


def test_sections_are_the_same_as_a_flat_file() -> None:
    model = ("qwen_model_name", "dinov2_model_name", "common_dim", "dropout", "use_flash_attention")
    data = ("train_data_path", "val_data_path", "image_root")
    training = ("learning_rate", "num_epochs", "batch_size", "diversity_loss_weight")
    sections = {
        "model_config": {key: FLAT[key] for key in model},
        "data_config": {key: FLAT[key] for key in data},
        "training_config": {key: FLAT[key] for key in training},
        "freeze_config": FLAT["freeze_config"],
    }
    assert recipe_of(sections) == recipe_of(FLAT)


def test_the_top_level_counts_before_a_section() -> None:
    config = {"training_config": {"learning_rate": 1e-4}, "learning_rate": 5e-4}
    assert recipe_of(config).training.learning_rate == 5e-4


def test_sections_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        convert(
            {
                "training_config": {"diversity_loss_weight": 0.1},
                "loss_config": {"diversity_loss_weight": 0.2},
                "data_config": [],
            }
        )
    told = str(caught.value)
    assert "diversity_loss_weight: 0.1 in training_config and 0.2 in loss_config" in told
    assert "data_config: []; a section is an object" in told


def test_a_mode_counts_before_the_freeze_config_and_a_flag_before_both() -> None:
    recipe = recipe_of({**FLAT, "training_mode": "full"})
    assert parts_to_train(PARTS, recipe.training_mode, recipe.freeze_config, {}) == set(PARTS)
    flags = {"freeze_llm": True}
    assert "host_language" not in parts_to_train(
        PARTS, recipe.training_mode, recipe.freeze_config, flags
    )


CURRICULUM = {
    "enabled": True,
    "stages": [
        {"mode": "fusion_only", "epochs": 3, "description": "First train only fusion layers"},
        {"mode": "encoders_only", "epochs": 4, "description": "Then train encoders with fusion"},
        {"mode": "full", "epochs": 3, "description": "Finally train everything"},
    ],
}


def test_the_curriculum_says_how_long_the_run_is() -> None:
    converted = convert({"num_epochs": 99, "curriculum_training": CURRICULUM, "min_lr": 1e-6})
    stages = read_config(Recipe, converted.values, "x").training.stages
    assert [(s.mode, s.epochs) for s in stages] == [
        ("fusion_only", 3),
        ("encoders_only", 4),
        ("full", 3),
    ]
    assert stages[0].description == "First train only fusion layers"
    assert {s.minimum_ratio for s in stages} == {0.01}
    assert converted.left_out == ["num_epochs (99): the curriculum's stages take 10 epochs"]
    assert convert({"num_epochs": 10, "curriculum_training": CURRICULUM}).left_out == []


def test_a_curriculum_that_is_not_enabled_is_told() -> None:
    converted = convert({"curriculum_training": {**CURRICULUM, "enabled": False}})
    assert len(converted.values["training"]["stages"]) == 1
    assert converted.left_out == ["curriculum_training.stages: not enabled"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"curriculum_training": {"enabled": True}}, "enabled and has no stages"),
        ({"curriculum_training": {"enabled": True, "stages": [3]}}, "a list of objects is needed"),
        ({"curriculum_training": 3}, "curriculum_training: 3; a section is an object"),
        ({"dataset_config": {"type": "multi", "datasets": {}, "weights": [1]}}, "1 weights"),
    ],
)
def test_malformed_sections_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(config)


def test_what_has_no_counterpart_is_named_with_the_reason() -> None:
    config = dict.fromkeys(REASONS, 1)
    converted = convert(config)
    assert [line.split(" ")[0] for line in converted.left_out] == list(REASONS)
    assert all(": " in line for line in converted.left_out)
    assert converted.unknown == []
    assert recipe_of(config) == recipe_of({})


def test_unknown_keys_are_named_with_the_nearest() -> None:
    converted = convert(
        {
            "learning_rte": 1e-3,
            "training_config": {"zebra": 2},
            "curriculum_training": {"enabled": True, "stages": [{"epochs": 1, "mod": "full"}]},
            "dataset_config": {"kind": 1},
        }
    )
    assert converted.unknown == [
        "zebra (2): unknown key",
        "learning_rte (0.001): unknown key; did you mean 'learning_rate'?",
        "dataset_config.kind: unknown key",
        'curriculum_training.stages.0.mod ("full"): unknown key; known: mode, epochs, description, '
        "learning_rate, name",
    ]


def test_no_key_stands_in_two_tables() -> None:
    keys = [*VALUES, *SPECIAL, *REASONS]
    assert len(keys) == len(set(keys))


def test_several_datasets_become_a_mixture() -> None:
    converted = convert(
        {
            "image_root": "pictures",
            "train_data_path": "unused.json",
            "dataset_config": {
                "type": "multi",
                "datasets": [
                    {"type": "vqa", "args": {"data_path": "vqa.json"}},
                    {"type": "medical", "args": {"data_path": "m.json", "image_root": "scans"}},
                ],
                "weights": [0.7, 0.3],
            },
        }
    )
    assert converted.values["data"]["train"] == [
        {"path": "vqa.json", "media_root": "pictures", "weight": 0.7},
        {"path": "m.json", "media_root": "scans", "format": "medical", "weight": 0.3},
    ]
    assert converted.left_out == [
        'train_data_path ("unused.json"): dataset_config names several datasets'
    ]


def test_flash_attention_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    converted = convert({"use_flash_attention": True})
    assert "attention" not in converted.values["host"]
    assert converted.left_out == [
        "use_flash_attention (true): the package flash_attn is not installed; sdpa is used"
    ]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert convert({"use_flash_attention": True}).values["host"]["attention"] == "flash_attention_2"


def test_a_file_is_read_as_a_recipe_and_strictly(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(FLAT), encoding="utf-8")
    assert load_recipe(file, ["training.batch_size=11"]).training.batch_size == 11
    file.write_text(json.dumps({**FLAT, "learning_rte": 1}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"1 key\(s\) mean nothing here.*\n.*'learning_rate'"):
        load_recipe(file)
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds list; a configuration is an object"):
        load_recipe(file)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="is no JSON"):
        load_recipe(file)
