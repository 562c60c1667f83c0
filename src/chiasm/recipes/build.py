"""From a recipe to the objects of a run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from chiasm.core.config import lookup
from chiasm.core.errors import ConfigError
from chiasm.core.protocols import Dataset, ImagePreparer
from chiasm.data.video_changing import ChangedVideos
from chiasm.data.world.cells import LABELS
from chiasm.data.world.worlds import WORLDS
from chiasm.encoders import EncoderConfig
from chiasm.encoders.null import NullEye
from chiasm.encoders.protocol import Encoder
from chiasm.heads.cells import CellHead
from chiasm.heads.words import WordHead
from chiasm.language.host import Host
from chiasm.language.scratch import ScratchHostConfig
from chiasm.language.scratch_janus import ScratchJanusConfig
from chiasm.models.cell_classifier import CellClassifier
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.dual_encoder_modes import parts_to_train
from chiasm.models.grounding import Grounding
from chiasm.models.long_video import LongVideo
from chiasm.models.occlusion import Occlusion
from chiasm.models.segmenter import Segmenter
from chiasm.models.tokenizer import Tokenizer
from chiasm.models.video_language import VideoLanguage
from chiasm.objectives.actions import ActionSmoothness
from chiasm.objectives.answers import Answers
from chiasm.objectives.captions import Captions
from chiasm.objectives.cells import Cells
from chiasm.objectives.codebook import PictureCodes
from chiasm.objectives.codes import NextCodes
from chiasm.objectives.gate import Diversity
from chiasm.objectives.masks import MaskQuality, Masks
from chiasm.objectives.routing import RouterTerms
from chiasm.objectives.tokens import NextTokens
from chiasm.objectives.weighted import NamedObjective, WeightedSum
from chiasm.recipes.collating import build_collator
from chiasm.recipes.host_choice import HostChoice
from chiasm.recipes.mask_models import build_grounding, build_segmenter, grounding_parts
from chiasm.recipes.objective_choice import ROUTER_TERMS, ObjectiveChoice
from chiasm.recipes.own_host import is_own_host, load_own_host
from chiasm.recipes.pair_models import build_occlusion, give_pictures, occlusion_parts
from chiasm.recipes.places import RECIPE_FILE, encoder_folder, host_folder, shipped_models
from chiasm.recipes.schema import Recipe
from chiasm.recipes.sources import StagedSamples, build_mixture, world_corpus
from chiasm.recipes.tokenizers import build_tokenizer
from chiasm.recipes.training_choice import Stage
from chiasm.recipes.video_language import build_video_language, language_parts
from chiasm.recipes.video_models import build_video
from chiasm.training.processes import launched_processes
from chiasm.training.settings import StageSettings, TrainingSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

UNEVEN_TERMS = frozenset({"captions", "actions"})
"""Terms about videos of which a batch may hold nothing, so that a head gets no gradient there."""

Family = (
    DualEncoder
    | CellClassifier
    | Grounding
    | Segmenter
    | Tokenizer
    | Occlusion
    | LongVideo
    | VideoLanguage
)


def build_model(recipe: Recipe, base: Path, host: Host | None = None) -> Family:
    """Build the model of a recipe.

    Args:
        recipe: What to build.
        base: Folder that relative paths start from.
        host: Used in place of building the recipe's own, when a run is loaded again.

    Raises:
        ChiasmError: A checkpoint is missing or does not fit.
    """
    torch.manual_seed(recipe.seed)
    if recipe.segmenter is not None:
        return build_segmenter(recipe.segmenter, base, recipe.seed)
    if recipe.tokenizer is not None:
        return build_tokenizer(recipe.tokenizer, base)
    if recipe.family == "long_video":
        return build_video(recipe.video_parts, recipe.objective, recipe.training.accumulation)
    if recipe.family == "grounding":
        answering = _eyes_of_a_run(recipe.base_host, base) if host is None else None
        return build_grounding(recipe, answering or _build_answering(recipe, base, host), base)
    if recipe.family == "occlusion":
        return build_occlusion(recipe, host or build_host(recipe.base_host, base))
    if recipe.family == "video_language":
        return build_video_language(recipe, host or build_host(recipe.base_host, base), base)
    if recipe.family == "cell_classifier":
        return _build_classifier(recipe, base, host or build_host(recipe.base_host, base))
    return _build_answering(recipe, base, host)


def _build_answering(recipe: Recipe, base: Path, host: Host | None) -> DualEncoder:
    host = host or build_host(recipe.base_host, base)
    encoders = _build_encoders(recipe, base)
    fusion = None
    if recipe.fusion is not None:
        widths = {name: encoder.width for name, encoder in encoders.items()}
        fusion = recipe.fusion.build(host_width=host.token_width, encoder_widths=widths)
    return DualEncoder(
        host=host,
        encoders=encoders,
        fusion=fusion,
        collator=build_collator(recipe, host, encoders),
        head=_build_head(recipe, host) if recipe.dense_head else None,
    )


def _build_classifier(recipe: Recipe, base: Path, host: Host) -> CellClassifier:
    encoders = _build_encoders(recipe, base)
    ((name, tower),) = encoders.items()
    head = CellHead(width=tower.width, attributes=build_attributes(recipe.objective))
    collator = build_collator(recipe, host, encoders)
    return CellClassifier(tower=tower, name=name, head=head, collator=collator)


def _build_encoders(recipe: Recipe, base: Path) -> dict[str, Encoder]:
    return {
        name: _build_encoder(config, base, recipe.control)
        for name, config in recipe.encoders.items()
    }


def _eyes_of_a_run(choice: HostChoice, base: Path) -> DualEncoder | None:
    """Load the run of a host with further eyes, if the recipe names one."""
    # Loading a run builds its model, which is this module's work.
    from chiasm.recipes.loading import load_run

    folder = run_with_eyes(choice, base)
    model = None if folder is None else load_run(folder)
    if not isinstance(model, DualEncoder):
        return None
    if choice.pixels is not None:
        model.host.set_pixels(*choice.pixels)
    return model


def run_with_eyes(choice: HostChoice, base: Path) -> Path | None:
    """Return the folder of the run that a recipe names as its host, if it has further eyes."""
    from chiasm.recipes.loading import load_recipe

    if choice.path is None:
        return None
    for folder in (shipped_models().get(choice.path), base / choice.path):
        if folder is not None and (folder / RECIPE_FILE).is_file():
            recipe = load_recipe(folder / RECIPE_FILE)
            if recipe.family == "dual_encoder" and recipe.encoders:
                return folder
    return None


def build_host(choice: HostChoice, base: Path) -> Host:
    """Build or load the host that is extended."""
    if choice.scratch is not None:
        host = choice.scratch.build(world_corpus(_worlds_told(choice.scratch)))
    else:
        host = load_base_host(choice, base)
    if choice.pixels is not None:
        host.set_pixels(*choice.pixels)
    if choice.pictures is not None:
        give_pictures(host, choice.pictures, base)
    if choice.lora is not None:
        choice.lora.build(host)
    return host


def _worlds_told(scratch: ScratchHostConfig | ScratchJanusConfig) -> tuple[str, ...]:
    """Return the worlds whose words a host learns: a world made later changes no host before it."""
    told = isinstance(scratch, ScratchJanusConfig)
    return tuple(sorted(n for n, world in WORLDS.items() if told or world.occlusion is None))


def load_base_host(choice: HostChoice, base: Path) -> Host:
    """Load the host that a recipe names: a shipped one, a run's, a directory's or the hub's."""
    folder, name = host_folder(choice.path or "", base)
    if isinstance(folder, Path) and is_own_host(folder):
        return load_own_host(
            folder, known_as=name, dtype=DTYPES[choice.dtype], attention=choice.attention
        )
    return Host.from_pretrained(
        folder,
        dtype=DTYPES[choice.dtype],
        revision=choice.revision,
        attention=choice.attention,
        known_as=name,
    )


def build_objective(choice: ObjectiveChoice) -> WeightedSum:
    """Build the loss of a recipe."""
    terms: list[NamedObjective] = []
    weights: dict[str, float] = {}
    if choice.tokens is not None:
        terms.append(NextTokens())
        weights["tokens"] = choice.tokens
    if choice.codes is not None:
        terms.append(NextCodes())
        weights["codes"] = choice.codes
    if choice.cells:
        terms.append(Cells(tuple(choice.cells)))
        weights |= {f"cells.{name}": weight for name, weight in choice.cells.items()}
    if choice.masks:
        heads = tuple(dict.fromkeys(term.split(".")[0] for term in choice.masks))
        balanced = [head for head in heads if f"{head}.balanced" in choice.masks]
        masks = Masks(heads, balanced, choice.masks_inside)
        terms.append(masks)
        weights |= {term: choice.masks.get(term, 0.0) for term in masks.terms}
    if choice.mask_quality is not None:
        terms.append(MaskQuality())
        weights["refined.quality"] = choice.mask_quality
    if choice.pictures:
        pictures = PictureCodes(tuple(choice.pictures))
        terms.append(pictures)
        weights |= {f"pictures.{name}": weight for name, weight in choice.pictures.items()}
    if choice.answers is not None:
        terms.append(Answers())
        weights["answers"] = choice.answers
    if choice.captions is not None:
        terms.append(Captions())
        weights["captions"] = choice.captions
    if choice.actions:
        actions = choice.actions_reading.build()
        terms.append(actions)
        if "smoothness" in choice.actions:
            terms.append(ActionSmoothness())
        weights |= {f"actions.{name}": weight for name, weight in choice.actions.items()}
    if choice.router:
        terms.append(RouterTerms())
        weights |= {f"router.{name}": choice.router.get(name, 0.0) for name in ROUTER_TERMS}
    if choice.diversity is not None:
        terms.append(Diversity(choice.diversity_reading.reading))
        weights["diversity"] = choice.diversity
    return WeightedSum(terms, weights)


def build_training(recipe: Recipe, model: Family, base: Path) -> tuple[TrainingSettings, Dataset]:
    """Resolve the stages of a recipe to parts, steps and samples.

    Raises:
        ConfigError: A stage trains nothing or names an unknown part.
    """
    training = recipe.training
    window = training.batch_size * training.accumulation * launched_processes()
    mixtures, stages, positions = [], [], []
    if training.patience is not None and any(stage.data for stage in training.stages):
        raise ConfigError(
            "patience ends a stage early, and stages with data of their own have fixed lengths; "
            "leave out `patience` or the stages' `data`"
        )
    for index, stage in enumerate(training.stages):
        sources = stage.data or recipe.data.train
        mixture = build_mixture(sources, model_preparer(model), base, recipe.seed + index)
        settings = _stage_settings(recipe, stage, model, len(mixture), window)
        mixtures.append(mixture)
        stages.append(settings)
        positions.append((settings.steps or 0) * window)
    uneven = recipe.family == "long_video" and bool(UNEVEN_TERMS & recipe.objective.given)
    resolved = training.settings(tuple(stages), recipe.seed, recipe.metric, uneven)
    samples: Dataset = StagedSamples(mixtures, positions)
    if recipe.video is not None and recipe.video.augment is not None:
        augment, decoder = recipe.video.augment.build(), recipe.video.file_decoder
        samples = ChangedVideos(samples, augment, recipe.seed, decoder)
    return resolved, samples


def stage_parts(recipe: Recipe, stage: Stage, names: Collection[str]) -> tuple[str, ...]:
    """Return the patterns or names of the parts that a stage trains.

    Args:
        recipe: The recipe.
        stage: One of its stages.
        names: The parts of its model.
    """
    if stage.train is not None:
        return stage.train
    if recipe.family in ("cell_classifier", "segmenter", "tokenizer", "long_video"):
        return tuple(sorted(names))
    if recipe.family == "grounding" and (stage.mode or recipe.training_mode) is None:
        return tuple(sorted(grounding_parts(names)))
    if recipe.family == "occlusion":
        return tuple(sorted(occlusion_parts(names)))
    if recipe.family == "video_language":
        return tuple(sorted(language_parts(names)))
    mode = stage.mode or recipe.training_mode
    return tuple(sorted(parts_to_train(names, mode, recipe.freeze_config, recipe.freeze)))


def model_preparer(model: Family) -> ImagePreparer | None:
    """Return the image preparer of a model's host; None where there is no host."""
    if isinstance(model, Segmenter | Tokenizer | LongVideo | VideoLanguage):
        return None
    return model.collator.preparer


def _stage_settings(
    recipe: Recipe, stage: Stage, model: Family, samples: int, window: int
) -> StageSettings:
    steps = stage.steps
    if steps is None:
        steps = max(1, -(-int((stage.epochs or 0) * samples) // window))
    own = stage.model_dump(exclude={"description", "mode", "train", "data", "steps", "epochs"})
    own["learning_rate"] = stage.learning_rate or recipe.training.learning_rate
    return StageSettings(steps=steps, train=stage_parts(recipe, stage, model.parts), **own)


def _build_head(recipe: Recipe, host: Host) -> WordHead:
    words = {
        name: [_spellings(host, word) for word in lookup(LABELS, name, "dense attribute")]
        for name in recipe.objective.cells
    }
    return WordHead(
        width=host.width,
        words=words,
        embeddings=lambda: host.model.get_input_embeddings().weight,
    )


def _spellings(host: Host, word: str) -> list[int]:
    """Return the token ids of a word at the start of a text and inside it."""
    return [token for text in (word, f" {word}") for token in host.tokenizer(text)["input_ids"]]


def _build_encoder(config: EncoderConfig, base: Path, control: str) -> Encoder:
    path = config.path
    if path is not None:
        config = config.model_copy(update={"path": str(encoder_folder(path, base))})
    encoder: Encoder = config.build()
    return NullEye(encoder) if control == "null_eye" else encoder


def build_attributes(objective: ObjectiveChoice) -> dict[str, int]:
    """Return the number of classes of each attribute that a dense head scores, 0 included."""
    return {name: len(lookup(LABELS, name, "dense attribute")) + 1 for name in objective.cells}
