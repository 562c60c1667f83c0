"""The four strategies of training on videos: their figures, a few steps of each, and a dry run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.data.world import write
from chiasm.models.long_video import LongVideo
from chiasm.recipes.build import build_model, build_training
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.places import shipped_recipes
from chiasm.recipes.running import prepare, run
from chiasm.recipes.validation import LOWER_IS_BETTER
from tests.recipes.small import tiny_strategy

STRATEGIES = (
    "video-domain-aware",
    "video-multi-task",
    "video-curriculum",
    "video-progressive-merging",
)


def test_the_figures_are_those_of_the_strategies() -> None:
    domains = load_recipe("video-domain-aware").video_parts.by_domain
    assert domains is not None and domains.adapters is not None and domains.router is not None
    assert (domains.adapters.rank, domains.adapters.alpha) == (8, 16)
    tasks = load_recipe("video-multi-task").objective
    assert tasks.answers == pytest.approx(0.33)
    parts = {name: weight for name, weight in tasks.actions.items() if name != "smoothness"}
    assert sum(parts.values()) == pytest.approx(0.33)
    assert tasks.captions == pytest.approx(0.34)
    assert tasks.actions["smoothness"] > 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_first_line_is_a_command_that_runs_it(name: str) -> None:
    line = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()[0]
    assert line == f"# chiasm train {name} --output runs/{name}"


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_few_steps_give_a_run_that_loads(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, tiny_strategy(name))
    output = tmp_path / "run"
    assert run(prepare(recipe, output, tmp_path), output).finished
    model = load_run(output)
    assert isinstance(model, LongVideo)
    captions = {"caption"} if name == "video-multi-task" else set()
    assert model.senses == {"video", "ask", "watch"} | captions
    parts = json.loads((output / "parts.json").read_text(encoding="utf-8"))["stages"]
    trained = {
        name: {row["name"] for row in stage["parts"] if row["trainable"]}
        for name, stage in parts.items()
    }
    shared = {"frame_encoder", "reader", "cell_head", "answer_head", "action_head", "frame_pool"}
    shared |= {f"{caption}_head" for caption in captions}
    if name == "video-domain-aware":
        assert trained == {"shared": shared, "domains": {"domains"}}
    else:
        assert list(trained.values()) == [shared]


@pytest.mark.parametrize(
    ("changes", "uneven"),
    [
        ([], True),
        (["objective={answers: 1.0, captions: 1.0}", "video.action_head=null"], True),
        (["objective={answers: 1.0, actions: {classes: 1.0}}", "video.caption_head=null"], True),
        (["objective={answers: 1.0}", "video.action_head=null", "video.caption_head=null"], None),
        (["training.uneven_gradients=false"], False),
    ],
)
def test_processes_wait_for_no_batch_without_captions_or_actions(
    changes: list[str], uneven: bool | None, tmp_path: Path
) -> None:
    """A head that a batch holds nothing for has no gradient there, on that process alone."""
    name = "video-multi-task"
    small = [one for one in tiny_strategy(name) if not one.startswith("video.caption_head")]
    head = ["video.caption_head={width: 26, heads: 2, layers: 1, longest: 64}"]
    recipe = load_recipe(name, [*small, *head, *changes])
    settings, _ = build_training(recipe, build_model(recipe, tmp_path), tmp_path)
    assert settings.uneven_gradients is uneven


def test_domains_are_learned_last_and_alone(tmp_path: Path) -> None:
    """The second stage moves adapters and router, and not a bit of what all domains share."""
    recipe = load_recipe(
        "video-domain-aware", [*tiny_strategy("video-domain-aware"), "data.validation=[]"]
    )
    short = [
        *tiny_strategy("video-domain-aware"),
        "data.validation=[]",
        "training.stages.1.steps=1",
    ]
    states = []
    for index, one in enumerate((recipe, load_recipe("video-domain-aware", short))):
        output = tmp_path / str(index)
        run(prepare(one, output, tmp_path), output)
        states.append(load_run(output).state_dict())
    differing = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    differing -= {name for name in differing if name.endswith("progress.seen")}
    assert differing
    assert all("lora_" in name or name.startswith("by_domain.") for name in differing), differing


RATIOS = {
    "video-curriculum": [1.0, 1.0, 0.625, 0.25, 0.25],
    "video-progressive-merging": [0.5] * 5,
}
WEIGHTS = {
    "video-curriculum": [(0.5, 0.5)] * 5,
    "video-progressive-merging": [(1.0, 0.0)] * 2 + [(0.5, 0.5)] * 3,
}


@pytest.mark.parametrize("name", sorted(RATIOS))
def test_what_is_merged_follows_the_schedule(name: str) -> None:
    recipe = load_recipe(name)
    compression = recipe.video_parts.compression
    assert compression is not None and compression.schedule is not None
    schedule = compression.schedule.build()
    found = [schedule.at(part / 4) for part in range(5)]
    assert [setting.ratio for setting in found] == pytest.approx(RATIOS[name])
    assert [(setting.motion, setting.saliency) for setting in found] == WEIGHTS[name]
    assert recipe.video_parts.curriculum == recipe.training.stages[0].steps


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_curriculum_lasts_as_long_however_its_batches_are_cut(accumulation: int) -> None:
    told = [f"training.accumulation={accumulation}", "video.curriculum=4"]
    model = build_model(load_recipe("video-curriculum", told), Path())
    assert isinstance(model, LongVideo)
    progress, parts = model.reading.progress, []
    for _ in range(5):
        for _ in range(accumulation):
            progress.move(training=True)
        parts.append(progress.part(training=True))
    # What the last pass of each batch sees.
    assert [int(4 * part) / 4 for part in parts] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_model_learns_from_videos_and_annotations_on_disk(tmp_path: Path) -> None:
    """What asks for actions has no place in the closed set, and its segments are learned."""
    write.make("motion", tmp_path / "world", 5, 3, questions_per_image=2)
    told = ("video_qa", "action_detection")
    data = [
        f"data.{part}=[{', '.join(f'{{path: world/{folder}/annotations/{n}.json}}' for n in told)}]"
        for part, folder in (("train", "training"), ("validation", "validation"))
    ]
    data.append("objective.cells={}")
    small = [one for one in tiny_strategy("video-curriculum") if not one.startswith("data.")]
    recipe = load_recipe("video-curriculum", [*small, *data])
    output = tmp_path / "run"
    assert run(prepare(recipe, output, tmp_path), output).finished
    told = (output / "metrics.jsonl").read_text(encoding="utf-8")
    assert '"accuracy"' in told and '"map"' in told


def test_captions_are_learned_from_files_and_their_loss_is_measured(tmp_path: Path) -> None:
    """A head of captions alone: its loss falls, picks the checkpoint, and the receipt holds it."""
    write.make("motion", tmp_path / "world", 5, 3)
    small = [one for one in tiny_strategy("video-multi-task") if not one.startswith("data.")]
    changes = [
        *(f"data.{part}=[{{path: world/{folder}/annotations/video_captioning.json}}]"
          for part, folder in (("train", "training"), ("validation", "validation"))),
        "objective={captions: 1.0}",
        "video.answer_head=null",
        "video.action_head=null",
        "training.stages.0.steps=12",
        "training.evaluate_every=6",
        "training.checkpoint_every=6",
    ]  # fmt: skip
    recipe = load_recipe("video-multi-task", [*small, *changes])
    assert recipe.metric == "caption_loss" and recipe.metric in LOWER_IS_BETTER
    output = tmp_path / "run"
    assert run(prepare(recipe, output, tmp_path), output).finished
    lines = [json.loads(one) for one in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
    told = [line["evaluation"]["caption_loss"] for line in lines if "evaluation" in line]
    # 33 words and marks, of which nothing is known at first.
    assert len(told) == 2 and told[1] < told[0] < math.log(33)
    model = load_run(output)
    assert isinstance(model, LongVideo)
    assert model.senses == {"video", "caption"}
    assert set(model.probe()) == {"moving.captions.logits", "blinking.captions.logits"}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_dry_run_tells_the_configuration_and_the_parameters(name: str) -> None:
    done = CliRunner().invoke(app, ["train", name, *tiny_strategy(name), "--dry-run"])
    assert done.exit_code == 0, done.stderr
    told = " ".join((done.stdout + done.stderr).split())
    assert "family: long_video" in told
    for part in ("frame_encoder", "reader", "answer_head", "action_head"):
        assert part in told
    if name == "video-domain-aware":
        assert "domains" in told
