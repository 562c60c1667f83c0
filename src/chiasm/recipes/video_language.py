"""From a recipe to a host that answers about videos."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from chiasm.core.errors import ConfigError
from chiasm.data.prompts import Prompter
from chiasm.data.video_collate import VideoCollator
from chiasm.data.video_prompts import VideoPromptCollator
from chiasm.data.vocabulary import Vocabulary
from chiasm.language.host import Host, hash_weights
from chiasm.models.long_video import LongVideo, VideoHeads
from chiasm.models.video_language import VideoLanguage
from chiasm.recipes.places import RECIPE_FILE, shipped_models
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


def language_parts(names: Collection[str]) -> set[str]:
    """Return the parts that train where a stage says nothing: what is new to the host."""
    return {name for name in names if name in ("video_projector", "host_adapter")}


def _watcher(
    recipe: Recipe, choice: VideoLanguageChoice, base: Path
) -> tuple[LongVideo, dict[str, Any] | None]:
    """Return what watches, without heads, and what it was built on."""
    if choice.path is None:
        parts = recipe.video_parts.model_copy(
            update={"answer_head": None, "action_head": None, "memory": choice.budget}
        )
        return _headless(build_video(parts, recipe.objective), choice.budget), None
    # Loading a run builds its model.
    from chiasm.recipes.loading import load_run

    shipped = shipped_models().get(choice.path)
    own = base / choice.path
    found = shipped or (own if (own / RECIPE_FILE).is_file() else Path(choice.path))
    run = load_run(found)
    if not isinstance(run, LongVideo):
        raise ConfigError(
            f"video_language.path {choice.path!r} is a {type(run).__name__}; give a run of the "
            "family long_video"
        )
    watcher = _headless(run, choice.budget)
    return watcher, {"name": found.name, "sha256": hash_weights(watcher)}


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
        ),
        domains=model.domains,
        by_domain=by_domain,
    )
