"""Token counts of a recipe's data, and activations counted on the model where it is small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from chiasm.core.errors import ChiasmError
from chiasm.core.protocols import PreparedImages
from chiasm.core.samples import Sample
from chiasm.data.collate import Collator
from chiasm.data.prompts import Prompter
from chiasm.data.video_prompts import VideoPromptCollator
from chiasm.models.long_video import LongVideo
from chiasm.recipes.activations import SavedBytes, line_through
from chiasm.recipes.build import build_model, build_objective, stage_parts
from chiasm.recipes.outline import Outline
from chiasm.recipes.plan import Certainty, Tokens, list_parts
from chiasm.recipes.schema import Recipe
from chiasm.recipes.sources import build_mixture
from chiasm.recipes.training_choice import Stage
from chiasm.recipes.video_language import outline_watching
from chiasm.recipes.video_models import build_video
from chiasm.training.freezing import freeze_all_but, match_parts

LOOKED_AT = 16
"""Samples whose longest stands for the data."""

SMALL = 30_000_000
"""Most parameters of a model that is run to count its activations."""

ASSUMED_IMAGE = (720, 1280)
ASSUMED_TEXT, ASSUMED_SUPERVISED = 256, 64


def assume_tokens(
    outline: Outline, image: tuple[int, int] = ASSUMED_IMAGE, text: int = ASSUMED_TEXT
) -> Tokens:
    """Return the tokens of one image and an assumed text.

    Args:
        outline: Whose image preparer counts the image's tokens.
        image: (height, width) of the image in pixels.
        text: Tokens of text.
    """
    if outline.budget:
        told = f"one frame of a video, {outline.budget} states and {text} tokens of text a sample"
        supervised = min(text, ASSUMED_SUPERVISED)
        return Tokens(outline.budget + text, supervised, outline.places, 0, told, "assumed")
    if outline.preparer is None:
        return _picture_tokens(outline, 1, "one mask of a picture", "assumed")
    height, width = image
    prepared = outline.preparer.prepare([Image.new("RGB", (width, height))])
    cells = sum(prepared.token_counts)
    return Tokens(
        text=cells + text,
        supervised=min(text, ASSUMED_SUPERVISED),
        cells=cells,
        patches=_patches(prepared),
        source=f"one image of {width} x {height} and {text} tokens of text a sample",
        certainty="assumed",
    )


def count_tokens(recipe: Recipe, outline: Outline, base: Path) -> Tokens:
    """Return the tokens of the longest of the first samples of a recipe's training data.

    Raises:
        ChiasmError: The data cannot be read, or the host has no tokenizer here.
    """
    samples = [
        sample
        for stage in recipe.training.stages
        for sample in _first_samples(recipe, stage, outline, base)
    ]
    if recipe.family == "long_video":
        return count_video(build_video(recipe.video_parts, recipe.objective), samples)
    phrases = max(1, *(len(sample.phrases) for sample in samples))
    if outline.preparer is None:
        told = f"the most masks of the first {LOOKED_AT} samples of each stage"
        return _picture_tokens(outline, phrases, told, "exact")
    if outline.prompter is None:
        raise ChiasmError("the host's tokenizer is not at hand, which counts the tokens of texts")
    if recipe.family == "video_language":
        return _count_told(recipe, outline, outline.prompter, samples, base)
    collator = Collator(
        outline.prompter,
        outline.preparer,
        max_length=recipe.data.max_length,
        over_long=recipe.data.over_long,
        dense=False,
    )
    batches = [collator.collate([sample]) for sample in samples]
    return Tokens(
        text=max(batch.input_ids.shape[1] for batch in batches),
        supervised=max(batch.supervised_tokens for batch in batches),
        cells=max(sum(geometry.count for geometry in batch.geometries) for batch in batches),
        patches=max(
            _patches(PreparedImages(batch.host_images, batch.geometries, ())) for batch in batches
        ),
        source=f"the longest of the first {LOOKED_AT} samples of each stage",
        certainty="exact",
        phrases=phrases,
    )


def measure_activations(recipe: Recipe, outline: Outline, base: Path) -> dict[str, int] | None:
    """Count what each stage's forward pass keeps, on batches of one and two samples.

    Both points lie on a line in the tokens of the batch, which is followed to the recipe's batch
    size.

    Returns:
        Bytes by stage, scores included. None where the count would not be the peak: for a model of
        more than `SMALL` parameters, arithmetic other than float32, or layers that are recomputed.

    Raises:
        ChiasmError: Weights or data cannot be read.
    """
    size = sum(part.parameters for part in list_parts(recipe, outline))
    training = recipe.training
    if size > SMALL or training.gradient_checkpointing or training.precision != "fp32":
        return None
    model = build_model(recipe, base)
    objective = build_objective(recipe.objective)
    points_at = recipe.family in ("grounding", "segmenter", "tokenizer", "long_video")
    found = {}
    for stage in training.stages:
        samples = _first_samples(recipe, stage, outline, base)
        # What mask heads keep goes with the phrases, not with the text.
        samples.sort(key=lambda sample: -len(sample.phrases))
        freeze_all_but(model, match_parts(stage_parts(recipe, stage, model.parts), model.parts))
        points = {}
        for count in (1, 2):
            batch = model.collator((samples * 2)[:count])
            saved = SavedBytes(model)
            with saved.counting():
                objective.score(model(batch), batch)
            points[count if points_at else batch.input_ids.numel()] = saved.total
        start, slope = line_through(points)
        longest = max(model.collator([sample]).input_ids.shape[1] for sample in samples)
        longest = 1 if points_at else longest
        found[stage.name] = round(start + slope * longest * training.batch_size)
    return found


def _picture_tokens(outline: Outline, phrases: int, source: str, certainty: Certainty) -> Tokens:
    """Return the tokens of a segmenter's or tokenizer's picture, whatever size it had."""
    places = outline.places
    return Tokens(0, 0, places, places, source, certainty, phrases)


def _count_told(
    recipe: Recipe, outline: Outline, prompter: Prompter, samples: Sequence[Sample], base: Path
) -> Tokens:
    """Return the tokens of the longest conversation about a video, and of the longest video."""
    watcher = outline_watching(recipe, 1, base).watcher
    collator = VideoPromptCollator(
        prompter,
        watcher.collator,
        budget=outline.budget,
        max_length=recipe.data.max_length,
        over_long=recipe.data.over_long,
    )
    batches = [collator.write([sample]) for sample in samples]
    seen = count_video(watcher, [replace(one, turns=(), segments=None) for one in samples])
    return replace(
        seen,
        text=max(batch.input_ids.shape[1] for batch in batches),
        supervised=max(batch.supervised_tokens for batch in batches),
        cells=seen.cells * outline.places,
        patches=0,
    )


def count_video(model: LongVideo, samples: Sequence[Sample]) -> Tokens:
    """Return the tokens of the longest of some videos, before anything is merged."""
    found = [model.collator([sample]) for sample in samples]
    lengths = [
        len(times) for batch in found if batch.videos is not None for times in batch.videos.times
    ]
    rows, columns = model.collator.cells or (1, 1)
    cells = max(lengths) * rows * columns
    told = f"the longest of the first {LOOKED_AT} videos of each stage"
    words = max(batch.input_ids.shape[1] for batch in found)
    return Tokens(words, 0, cells, cells, told, "exact")


def _first_samples(recipe: Recipe, stage: Stage, outline: Outline, base: Path) -> list[Sample]:
    mixture = build_mixture(stage.data or recipe.data.train, outline.preparer, base, recipe.seed)
    return [mixture.sample_at(index) for index in range(min(LOOKED_AT, len(mixture)))]


def _patches(prepared: PreparedImages) -> int:
    """Return how many patches the host's tower reads."""
    if "image_grid_thw" in prepared.tensors:
        return int(prepared.tensors["image_grid_thw"].prod(-1).sum())
    return sum(geometry.count for geometry in prepared.geometries)
