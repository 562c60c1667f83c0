"""From a recipe to a host that answers about videos."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from chiasm.core.errors import ConfigError
from chiasm.data.prompts import Prompter
from chiasm.data.video_collate import VideoCollator
from chiasm.data.video_prompts import VideoPromptCollator
from chiasm.data.vocabulary import Vocabulary
from chiasm.language.host import Host, hash_weights
from chiasm.models.long_video import LongVideo
from chiasm.models.video_heads import VideoHeads
from chiasm.models.video_language import VideoLanguage
from chiasm.recipes.places import RECIPE_FILE, run_folder, shipped_models
from chiasm.recipes.schema import Recipe
from chiasm.recipes.video_language_choice import VideoLanguageChoice
from chiasm.recipes.video_models import build_video


def build_video_language(recipe: Recipe, host: Host, base: Path) -> VideoLanguage:
    """Build a host that answers about videos.

    Args:
        recipe: The recipe.
        host: The model that answers.
        base: Folder that relative paths start from.

    Raises:
        CheckpointError: The run that watches cannot be loaded.
        ConfigError: It is of another family.
        UnknownNameError: The host has no place for a video.
    """
    choice = recipe.video_language or VideoLanguageChoice()
    watcher, watched = _watcher(recipe, choice, base)
    return VideoLanguage(
        host=host,
        watcher=watcher,
        projector=choice.projector.build(
            width=watcher.reading.encoder.width, output=host.token_width
        ),
        collator=VideoPromptCollator(
            Prompter(host.tokenizer, host.image_token, host.image_text),
            watcher.collator,
            budget=choice.budget,
            max_length=recipe.data.max_length,
            over_long=recipe.data.over_long,
        ),
        watched=watched,
    )


class Watching(NamedTuple):
    """What a recipe adds to a host, without weights.

    Attributes:
        watcher: What watches.
        parts: Its parts, and the projector.
        places: Tokens of a frame before anything is merged.
        budget: Most states of a video that the host reads.
    """

    watcher: LongVideo
    parts: dict[str, nn.Module]
    places: int
    budget: int


def outline_watching(recipe: Recipe, width: int, base: Path) -> Watching:
    """Return what a recipe adds to a host, on the meta device.

    Args:
        recipe: The recipe.
        width: Of the host's tokens.
        base: Folder that relative paths start from.

    Raises:
        CheckpointError: The run that watches is not there.
    """
    from chiasm.recipes.loading import load_recipe

    choice = recipe.video_language or VideoLanguageChoice()
    watching = recipe
    if choice.path is not None:
        watching = load_recipe(run_folder(_run_place(choice.path, base)) / RECIPE_FILE)
    with torch.device("meta"):
        built = build_video(watching.video_parts, watching.objective)
        watcher = _headless(built, choice.budget)
        projector = choice.projector.build(width=watcher.reading.encoder.width, output=width)
    rows, columns = watching.video_parts.cells if watching.video_parts.features is None else (1, 1)
    parts = {**watcher.parts, "video_projector": projector}
    return Watching(watcher, parts, rows * columns, choice.budget)


def language_parts(names: Collection[str]) -> set[str]:
    """Return the parts that train where a stage says nothing: what is new to the host."""
    return {name for name in names if name in ("video_projector", "host_adapter")}


def _watcher(
    recipe: Recipe, choice: VideoLanguageChoice, base: Path
) -> tuple[LongVideo, dict[str, Any] | None]:
    """Return what watches, without heads, and what it was built on."""
    if choice.path is None:
        passes = recipe.training.accumulation
        built = build_video(recipe.video_parts, recipe.objective, passes)
        return _headless(built, choice.budget), None
    # Loading a run builds its model.
    from chiasm.recipes.loading import load_run

    found = _run_place(choice.path, base)
    run = load_run(found)
    if not isinstance(run, LongVideo):
        raise ConfigError(
            f"video_language.path {choice.path!r} is a {type(run).__name__}; give a run of the "
            "family long_video"
        )
    watcher = _headless(run, choice.budget)
    return watcher, {"name": found.name, "sha256": hash_weights(watcher)}


def _run_place(path: str, base: Path) -> Path:
    """Return the folder of a shipped model, or of a run under `base`, or as it is named."""
    own = base / path
    return shipped_models().get(path) or (own if (own / RECIPE_FILE).is_file() else Path(path))


def _headless(model: LongVideo, budget: int) -> LongVideo:
    """Return a model that watches and says nothing, with a memory of the budget."""
    collator, reading = model.collator, model.reading
    reading.memory = budget
    by_domain = model.by_domain
    return LongVideo(
        reading=reading,
        heads=VideoHeads(),
        collator=VideoCollator(
            Vocabulary(()),
            domains=() if by_domain is None else tuple(collator.domains),
            sampling=collator.sampling,
            size=collator.size,
            feature_rate=collator.feature_rate,
            decoder=collator.decoder,
        ),
        domains=model.domains,
        by_domain=by_domain,
    )
