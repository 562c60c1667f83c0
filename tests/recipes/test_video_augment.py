"""Augmentations of videos, from a recipe to the batches of training; what is measured on stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from chiasm.core.errors import ConfigError
from chiasm.data.video_changing import ChangedVideo
from chiasm.data.world import write
from chiasm.recipes.build import build_model, build_training
from chiasm.recipes.loading import load_recipe
from chiasm.recipes.running import prepare, run
from tests.recipes.small import tiny_strategy

NAME = "video-curriculum"
AUGMENT = "video.augment={seconds: [0.6, 0.9], speed: [0.8, 1.25], area: [0.7, 1.0], flip: 0.5}"


def changes(augment: str = AUGMENT) -> list[str]:
    told = ("video_qa", "action_detection")
    data = [
        f"data.{part}=[{', '.join(f'{{path: world/{folder}/annotations/{n}.json}}' for n in told)}]"
        for part, folder in (("train", "training"), ("validation", "validation"))
    ]
    small = [one for one in tiny_strategy(NAME) if not one.startswith("data.")]
    return [*small, *data, "objective.cells={}", augment]


def test_training_sees_changed_videos_and_the_measure_does_not(tmp_path: Path) -> None:
    write.make("motion", tmp_path / "world", 5, 3, questions_per_image=2)
    recipe = load_recipe(NAME, changes())
    _, samples = build_training(recipe, build_model(recipe, tmp_path), tmp_path)
    drawn = [samples[position] for position in range(4)]
    assert all(isinstance(one.video, ChangedVideo) for one in drawn)
    assert len({one.video.times[-1] for one in drawn}) > 1  # type: ignore[union-attr]
    output = tmp_path / "run"
    prepared = prepare(recipe, output, tmp_path)
    assert run(prepared, output).finished
    told = (output / "metrics.jsonl").read_text(encoding="utf-8")
    assert '"accuracy"' in told and '"map"' in told
    plain = load_recipe(NAME, changes("video.augment=null"))
    _, samples = build_training(plain, build_model(plain, tmp_path), tmp_path)
    assert not isinstance(samples[0].video, ChangedVideo)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("video.augment={size: [3, 3]}", "leave out `augment.frames` and `augment.size`"),
        ("video.augment={frames: 3}", "leave out `augment.frames` and `augment.size`"),
        ("video.augment={speed: [0, 1]}", "is no range above 0"),
        ("objective.cells={shape: 1.0}", "as worlds paint them"),
    ],
)
def test_what_no_augmentation_can_do_is_told(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(NAME, [*changes(), override])


def test_a_mirror_needs_the_names_of_what_is_seen_in_it() -> None:
    actions = ["turn clockwise", "turn left", "turn right"]
    told = [*changes(), f"video.actions={actions}"]
    with pytest.raises(ConfigError, match=r"there are \['turn counterclockwise'\]"):
        load_recipe(NAME, told)
    load_recipe(NAME, [*told, f"video.actions={[*actions, 'turn counterclockwise']}"])
    load_recipe(NAME, [*told, "video.augment.flip=0"])
    answers = [*changes(), "video.answers=[left, red]"]
    with pytest.raises(ConfigError, match=r"there are \['right'\], which are none of `answers`"):
        load_recipe(NAME, answers)
    words = [
        *changes(),
        "video.caption_head={width: 8, heads: 2}",
        "video.caption_words=[leftmost]",
    ]
    with pytest.raises(ConfigError, match=r"\['rightmost'\], which are none of `caption_words`"):
        load_recipe(NAME, words)
