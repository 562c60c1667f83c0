"""The sizes of a recipe's model, from configurations alone: no weights are read or held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    Qwen2VLImageProcessor,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from chiasm.core.config import lookup
from chiasm.core.errors import CheckpointError, ChiasmError, InputError
from chiasm.core.protocols import ImagePreparer
from chiasm.data.prompts import Prompter
from chiasm.encoders import EncoderConfig
from chiasm.encoders.image import TransformersEncoderConfig
from chiasm.encoders.loading import build_tower
from chiasm.fusion.gated import GatedFusion
from chiasm.heads.cells import CellHead
from chiasm.heads.words import background_classifiers
from chiasm.language.hosts import HOSTS, family_of
from chiasm.language.loading import load_image_processor, load_tokenizer
from chiasm.layers.attention.performer import PerformerAttention
from chiasm.layers.reader import Reader
from chiasm.recipes.build import DTYPES, build_attributes, build_host, run_with_eyes
from chiasm.recipes.loading import load_recipe
from chiasm.recipes.mask_outline import outline_masks, outline_segmenter, picture_places
from chiasm.recipes.pair_models import codes_of, outline_levels
from chiasm.recipes.places import RECIPE_FILE, encoder_folder, host_folder
from chiasm.recipes.schema import GroundingChoice, Recipe
from chiasm.recipes.tokenizers import outline_tokenizer
from chiasm.recipes.video_language import outline_watching
from chiasm.recipes.video_models import build_video


@dataclass(frozen=True)
class Tower:
    """An extra encoder without weights.

    Attributes:
        module: The tower, on the meta device.
        width: Width of a token that leaves it.
        patches: Patches it reads for each cell of the host.
    """

    module: nn.Module
    width: int
    patches: int


@dataclass(frozen=True)
class Outline:
    """A model without weights.

    Attributes:
        parts: The parts by name as the model itself has them, on the meta device; `host_adapter`
            is not among them.
        towers: The extra encoders by name.
        targets: Linear layers of the decoder by dotted name, for low-rank adapters.
        vocabulary: Scores for each supervised token.
        preparer: The host's image preparer; None for a family without a host.
        prompter: Renders conversations; None where the host's tokenizer is not at hand.
        notes: What had to be assumed.
        places: Places that a refiner or segmenter makes of a picture.
        values: By part how many numbers it computes for one picture, where that was counted.
        codes: Codes of a picture that are written into a row.
        budget: Most states of a video that the host reads.
    """

    parts: Mapping[str, nn.Module]
    towers: Mapping[str, Tower]
    targets: Mapping[str, nn.Linear]
    vocabulary: int
    preparer: ImagePreparer | None
    prompter: Prompter | None
    notes: tuple[str, ...]
    places: int = 0
    values: Mapping[str, int] = field(default_factory=dict)
    codes: int = 0
    budget: int = 0


def can_recompute(outline: Outline) -> bool:
    """Whether a model has layers that gradient checkpointing can work on.

    See `chiasm.training.recomputation.recompute_layers`, which refuses others.
    """
    domains = outline.parts.get("domains")
    if isinstance(domains, nn.ModuleDict) and "adapters" in domains:
        return False
    towers = (tower.module for tower in outline.towers.values())
    modules = [module for part in (*outline.parts.values(), *towers) for module in part.modules()]
    redrawn = (isinstance(m, PerformerAttention) and m.redraw_every is not None for m in modules)
    return not any(redrawn) and any(
        isinstance(module, GradientCheckpointingLayer | Reader) for module in modules
    )


def outline_recipe(recipe: Recipe, base: Path) -> Outline:
    """Build a recipe's model without weights.

    A checkpoint directory needs its `config.json` only.

    Args:
        recipe: The recipe.
        base: Folder that relative paths start from.

    Raises:
        CheckpointError: A configuration cannot be read.
        InputError: An encoder is of a kind whose size only its weights tell.
    """
    if recipe.segmenter is not None:
        sam = outline_segmenter(recipe.segmenter.sam, base)
        return Outline(sam.parts, {}, {}, 0, None, None, (), picture_places(sam))
    if recipe.tokenizer is not None:
        codebook, values = outline_tokenizer(recipe.tokenizer, base)
        places = codebook.grid[0] * codebook.grid[1]
        return Outline(codebook.parts, {}, {}, 0, None, None, (), places, values)
    if recipe.family == "long_video":
        with torch.device("meta"):
            video = build_video(recipe.video_parts, recipe.objective)
        cells = recipe.video_parts.cells
        return Outline(video.parts, {}, {}, 0, None, None, (), cells[0] * cells[1])
    if recipe.family == "grounding" and (eyes := _run_with_eyes(recipe, base)) is not None:
        host = _host(eyes, base, [])
        return _with_masks(recipe, host, outline_recipe(eyes, base), base)
    notes: list[str] = []
    host = _host(recipe, base, notes)
    model, adapter = host.model, host.adapter
    towers = {name: _tower(name, config, base) for name, config in recipe.encoders.items()}
    if recipe.family == "cell_classifier":
        ((_, tower),) = towers.items()
        head = CellHead(width=tower.width, attributes=build_attributes(recipe.objective))
        parts: dict[str, nn.Module] = {"tower": tower.module, "head": head}
        return Outline(parts, towers, {}, 0, host.preparer, host.prompter, tuple(notes))
    config = model.config.get_text_config()
    parts = {f"host_{name}": part for name, part in adapter.parts(model).items()}
    parts |= {f"encoder.{name}": tower.module for name, tower in towers.items()}
    if recipe.family == "occlusion":
        parts |= outline_levels(recipe, model.config, adapter)
    places = budget = 0
    if recipe.family == "video_language":
        watching = outline_watching(recipe, adapter.token_width(model.config), base)
        parts |= watching.parts
        places, budget = watching.places, watching.budget
    if recipe.fusion is not None:
        widths = {name: tower.width for name, tower in towers.items()}
        fusion = recipe.fusion.build(
            host_width=adapter.token_width(model.config), encoder_widths=widths
        )
        parts |= _fusion_parts(fusion)
    if recipe.dense_head:
        parts["head"] = background_classifiers(config.hidden_size, tuple(recipe.objective.cells))
    decoder = model.get_submodule(adapter.decoder_name)
    targets = {n: m for n, m in decoder.named_modules() if isinstance(m, nn.Linear)}
    outline = Outline(
        parts,
        towers,
        targets,
        config.vocab_size,
        host.preparer,
        host.prompter,
        tuple(notes),
        places=places,
        codes=codes_of(recipe, model.config),
        budget=budget,
    )
    return outline if recipe.family != "grounding" else _with_masks(recipe, host, outline, base)


def _with_masks(recipe: Recipe, host: _HostOutline, outline: Outline, base: Path) -> Outline:
    choice = recipe.grounding or GroundingChoice()
    masks = outline_masks(choice, host.model.config, host.adapter, base)
    places = 0 if masks.refiner is None else picture_places(masks.refiner.sam)
    # Nothing is scored but masks.
    return replace(outline, parts={**outline.parts, **masks.parts}, vocabulary=0, places=places)


def _run_with_eyes(recipe: Recipe, base: Path) -> Recipe | None:
    """Return the recipe of the run that answers, where it has further eyes."""
    folder = run_with_eyes(recipe.base_host, base)
    return None if folder is None else load_recipe(folder / RECIPE_FILE)


def _fusion_parts(fusion: Any) -> dict[str, nn.Module]:
    """Cut a fusion as the dual encoder does: a gated one in pieces, any other whole."""
    if not isinstance(fusion, GatedFusion):
        return {"fusion": fusion}
    return {f"fusion.{name}": piece for name, piece in fusion.named_children()}


@dataclass(frozen=True)
class _HostOutline:
    model: Any
    adapter: Any
    preparer: ImagePreparer
    prompter: Prompter | None


def _host(recipe: Recipe, base: Path, notes: list[str]) -> _HostOutline:
    choice = recipe.base_host.model_copy(update={"lora": None})
    if choice.scratch is not None:
        # Not all hosts from scratch are small: HTFA's sizes are those of real ones.
        with torch.device("meta"):
            host = build_host(choice, base)
        own = Prompter(host.tokenizer, host.image_token, host.image_text)
        return _HostOutline(host.model, host.adapter, host.preparer, own)
    folder, _ = host_folder(choice.path or "", base)
    try:
        config = AutoConfig.from_pretrained(str(folder), revision=choice.revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"no config.json of the host {choice.path!r} can be read ({_first(error)}); a plan "
            "needs no weights, but that file: give a directory that holds it as host.path"
        ) from error
    adapter = lookup(HOSTS, family_of(config.to_dict()), "host model type")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=DTYPES[choice.dtype])
    try:
        processor = load_image_processor(str(folder), revision=choice.revision)
    except CheckpointError:
        notes.append(
            f"{choice.path} brings no preprocessor_config.json: image sizes are limited as the "
            "library's defaults say"
        )
        processor = _usual_processor(config)
    prompter: Prompter | None = None
    try:
        tokenizer = load_tokenizer(str(folder), revision=choice.revision)
        token = tokenizer.convert_ids_to_tokens(adapter.image_token_id(config))
        prompter = Prompter(tokenizer, token, partial(adapter.image_text, token))
    except ChiasmError:
        notes.append(f"{choice.path} brings no tokenizer: lengths of texts are assumed")
    return _HostOutline(model, adapter, adapter.preparer(config, processor), prompter)


def _usual_processor(config: Any) -> Any:
    vision = config.vision_config
    if config.model_type == "llava":
        side = vision.image_size
        return CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
    return Qwen2VLImageProcessor(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
    )


def _tower(name: str, config: EncoderConfig, base: Path) -> Tower:
    if not isinstance(config, TransformersEncoderConfig):
        raise InputError(
            f"encoder {name!r} is of a kind whose size only its weights tell; plan with one of "
            "transformers (`kind: dinov2`, `siglip`, ...)"
        )
    if config.path is not None:
        folder = encoder_folder(config.path, base)
        architecture = _architecture(name, config, str(folder))
    else:
        architecture = dict(config.architecture or {})
    with torch.device("meta"):
        loaded = build_tower(config.family, architecture, torch.float32)
    blocks = loaded.model.get_submodule(loaded.tower.layers)
    assert isinstance(blocks, nn.ModuleList)
    if config.layer < -1:
        keep = len(blocks) + 1 + config.layer
        loaded.model.set_submodule(loaded.tower.layers, blocks[:keep])
        if loaded.tower.norm:
            loaded.model.set_submodule(loaded.tower.norm, nn.Identity())
    patches = config.oversample**2
    hidden: int = loaded.model.config.hidden_size  # type: ignore[union-attr, assignment]
    return Tower(loaded.model, hidden * (patches if config.pooling == "unshuffle" else 1), patches)


def _architecture(name: str, config: TransformersEncoderConfig, folder: str) -> dict[str, Any]:
    """Return the values of a checkpoint's tower as `build_tower` takes them."""
    try:
        found = AutoConfig.from_pretrained(folder, revision=config.revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"no config.json of the encoder {name!r} can be read from {config.path!r} "
            f"({_first(error)}); give a directory that holds it as encoders.{name}.path"
        ) from error
    tower = lookup(config.family.towers, found.model_type, f"model_type of encoder {name}")
    values = found if isinstance(found, tower.config) else found.vision_config
    return {**values.to_dict(), "model_type": found.model_type}


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
