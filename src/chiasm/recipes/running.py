"""Runs a recipe from its first step to a directory that loads."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from chiasm.core.protocols import Evaluate
from chiasm.core.samples import Sample
from chiasm.evaluation.grounding import numbers_of_masks
from chiasm.evaluation.grounding_model import ModelGrounder
from chiasm.models.cell_classifier import CellClassifier
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.dual_encoder_modes import TRAINING_MODES, parts_to_train
from chiasm.models.grounding import Grounding
from chiasm.models.long_video import LongVideo
from chiasm.models.occlusion import Occlusion
from chiasm.models.segmenter import Segmenter
from chiasm.models.tokenizer import Tokenizer
from chiasm.models.video_language import VideoLanguage
from chiasm.recipes.build import (
    Family,
    build_model,
    build_objective,
    build_training,
    model_preparer,
)
from chiasm.recipes.cells import cell_accuracy
from chiasm.recipes.loading import recipe_text
from chiasm.recipes.places import (
    ENCODER_FOLDER,
    HOST_FOLDER,
    RECIPE_FILE,
    SEGMENTER_FOLDER,
    TOKENIZER_FOLDER,
)
from chiasm.recipes.schema import Recipe
from chiasm.recipes.segmenters import segment_quality
from chiasm.recipes.sources import list_samples
from chiasm.recipes.tokenizers import picture_quality
from chiasm.recipes.validation import measure_model
from chiasm.recipes.video_models import video_quality
from chiasm.training.durable import read_tensors
from chiasm.training.freezing import PartRow, match_parts, part_rate, parts_table
from chiasm.training.loop import Trainer
from chiasm.training.state import TrainingReport
from chiasm.training.weights import WEIGHTS, load_parts

WITH_HOST = DualEncoder | Grounding | Occlusion | VideoLanguage
"""Models that save a host which began at random."""


@dataclass(frozen=True)
class Prepared:
    """A run that is built and not begun.

    Attributes:
        recipe: The resolved recipe.
        model: Its model.
        tables: For each stage its name and the parts table.
        trainer: The trainer, or None for a dry run.
    """

    recipe: Recipe
    model: Family
    tables: tuple[tuple[str, list[PartRow]], ...]
    trainer: Trainer | None


def prepare(recipe: Recipe, output: Path | None, base: Path, resume: bool = False) -> Prepared:
    """Build everything of a run.

    Args:
        recipe: The recipe.
        output: The run directory; None builds no trainer and writes nothing.
        base: Folder that relative paths in the recipe start from.
        resume: Go on from the newest checkpoint.

    Raises:
        ChiasmError: The recipe, its data or its checkpoints are wrong.
    """
    model = build_model(recipe, base)
    settings, samples = build_training(recipe, model, base)
    tables = tuple(
        (
            stage.name,
            parts_table(
                model,
                match_parts(stage.train, model.parts),
                {
                    name: part_rate(name, stage.learning_rate, stage.learning_rates)
                    for name in model.parts
                },
            ),
        )
        for stage in settings.stages
    )
    if output is None:
        return Prepared(recipe, model, tables, None)
    validation = list_samples(recipe.data.validation, model_preparer(model), base)
    trainer = Trainer(
        model=model,
        objective=build_objective(recipe.objective),
        dataset=samples,
        collate=model.collator,
        settings=settings,
        output=output,
        evaluate=_evaluator(recipe, model, validation) if validation else None,
        resume=resume,
        describe={RECIPE_FILE: recipe_text(recipe)},
        modes=_modes(recipe, model),
    )
    return Prepared(recipe, model, tables, trainer)


def run(prepared: Prepared, output: Path) -> TrainingReport:
    """Train, and write the host or encoder that a run brought forth beside its weights."""
    trainer, model = prepared.trainer, prepared.model
    assert trainer is not None
    if isinstance(model, WITH_HOST) and _from_scratch(prepared.recipe):
        # At once, so that a checkpoint of a run that was cut short has what it needs beside it.
        if trainer.processes.is_main and not (output / HOST_FOLDER).exists():
            model.host.save(output / HOST_FOLDER)
    report = trainer.train()
    if trainer.processes.is_main and not report.interrupted:
        finish(prepared, output)
    return report


def finish(prepared: Prepared, output: Path) -> None:
    """Write the pieces that other recipes can name: `host/` and `encoder/`."""
    model = prepared.model
    load_parts(output / WEIGHTS, model, *read_tensors(output / WEIGHTS))
    if isinstance(model, WITH_HOST) and _from_scratch(prepared.recipe):
        model.host.save(output / HOST_FOLDER)
    if isinstance(model, CellClassifier):
        model.tower.save(output / ENCODER_FOLDER)  # type: ignore[attr-defined]
    if isinstance(model, Segmenter):
        (output / SEGMENTER_FOLDER).mkdir(exist_ok=True)
        model.save(output / SEGMENTER_FOLDER)
    if isinstance(model, Tokenizer):
        model.save(output / TOKENIZER_FOLDER)


def _from_scratch(recipe: Recipe) -> bool:
    return recipe.host is not None and recipe.host.scratch is not None


def _evaluator(recipe: Recipe, model: Family, samples: list[Sample]) -> Evaluate:
    if isinstance(model, CellClassifier):
        return functools.partial(cell_accuracy, model, samples)
    if isinstance(model, Segmenter):
        return functools.partial(segment_quality, model, samples)
    if isinstance(model, Tokenizer):
        return functools.partial(picture_quality, model, samples)
    if isinstance(model, LongVideo):
        return functools.partial(video_quality, model, samples)
    if isinstance(model, Grounding):
        size = recipe.training.batch_size
        return functools.partial(numbers_of_masks, ModelGrounder(model), samples, size)
    return functools.partial(
        measure_model, model, samples, recipe.data.measure, recipe.training.batch_size
    )


def _modes(recipe: Recipe, model: Family) -> dict[str, frozenset[str]]:
    if not isinstance(model, DualEncoder):
        return {}
    return {
        mode: parts_to_train(model.parts, mode, recipe.freeze_config, recipe.freeze)
        for mode in TRAINING_MODES
    }
