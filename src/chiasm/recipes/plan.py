"""How much memory a recipe needs, before anything is downloaded or allocated.

Counted exactly, from shapes: parameters, weights, gradients, AdamW's states, the averaged weights.
Estimated: activations (`recipes.activations`), scores, half-precision copies of float32 weights
under autocast, the buckets in which processes exchange gradients. Assumed: what the driver and the
allocator take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from chiasm.core.config import read_config
from chiasm.heads.colour_reading import FEATURES, ColourReading
from chiasm.heads.mask_unet import MaskUNet
from chiasm.recipes.activations import find_blocks, other_bytes_per_token
from chiasm.recipes.build import stage_parts
from chiasm.recipes.mask_outline import head_values
from chiasm.recipes.outline import Outline, can_recompute
from chiasm.recipes.overrides import apply_overrides
from chiasm.recipes.schema import Recipe
from chiasm.training.freezing import match_parts

GIB = 1024**3
RESERVE = GIB
"""Assumed for driver, kernels and gaps of the allocator."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ARITHMETIC = {"fp32": 4, "bf16": 2, "fp16": 2}

MASK_HEADS = ("mask_head", "text_layers")
"""Parts of the family `grounding` that the refiner comes after."""

Certainty = Literal["exact", "estimated", "assumed", "measured"]


@dataclass(frozen=True)
class Tokens:
    """How much one sample holds.

    Attributes:
        text: Tokens of a row, those of images included.
        supervised: Tokens of it that carry a label.
        cells: Visual tokens of its images.
        patches: Patches that the host's tower reads for them.
        source: Where the numbers come from, in words.
        certainty: How far they can be relied on.
        phrases: Phrases of it that are pointed at.
    """

    text: int
    supervised: int
    cells: int
    patches: int
    source: str
    certainty: Certainty
    phrases: int = 1


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        name: Its name.
        parameters: How many numbers it holds.
        tensors: In how many tensors.
        number: Bytes of one of them.
    """

    name: str
    parameters: int
    tensors: int
    number: int

    @property
    def bytes(self) -> int:
        """Bytes of the part's weights."""
        return self.parameters * self.number


@dataclass(frozen=True)
class StageMemory:
    """What one GPU holds at the peak of a step, in bytes.

    Attributes:
        name: Of the stage.
        trains: Names of the parts that train.
        weights: Exact.
        gradients: Exact.
        optimizer: Exact; states of parts that earlier stages have trained stay.
        average: Exact; the exponential average, if there is one.
        exchange: Estimated; buckets of gradients between processes.
        copies: Estimated; half-precision copies of float32 weights that gradients pass through.
        activations: Estimated, or measured on the model itself.
        scores: Estimated; scores of supervised tokens, in three forms.
        reserve: Assumed.
    """

    name: str
    trains: tuple[str, ...]
    weights: int
    gradients: int
    optimizer: int
    average: int
    exchange: int
    copies: int
    activations: int
    scores: int
    reserve: int = RESERVE

    @property
    def total(self) -> int:
        """Bytes in all."""
        values = asdict(self)
        return sum(value for value in values.values() if isinstance(value, int))


CERTAINTY: dict[str, Certainty] = {
    "weights": "exact",
    "gradients": "exact",
    "optimizer": "exact",
    "average": "exact",
    "exchange": "estimated",
    "copies": "estimated",
    "activations": "estimated",
    "scores": "estimated",
    "reserve": "assumed",
}
"""Of each line of `StageMemory`; activations are `measured` where the model could be run."""


@dataclass(frozen=True)
class Knob:
    """A change of the recipe that saves memory.

    Attributes:
        change: Overrides, as `chiasm train` takes them.
        cost: What it costs, in words.
        total: Bytes at the peak with it.
    """

    change: tuple[str, ...]
    cost: str
    total: int


def list_parts(recipe: Recipe, outline: Outline) -> list[Part]:
    """Return the parts of a recipe's model with their sizes."""
    parts = []
    for name, module in outline.parts.items():
        numbers = [parameter.numel() for parameter in module.parameters()]
        parts.append(Part(name, sum(numbers), len(numbers), _number(recipe, name)))
    if recipe.host is not None and recipe.host.lora is not None:
        wanted = recipe.host.lora.targets
        chosen = [m for n, m in outline.targets.items() if n.rpartition(".")[2] in wanted]
        rank = recipe.host.lora.rank
        size = sum(rank * (linear.in_features + linear.out_features) for linear in chosen)
        # PEFT keeps adapters in float32, whatever the type of the weights below.
        parts.append(Part("host_adapter", size, 2 * len(chosen), 4))
    return parts


def plan_stages(
    recipe: Recipe,
    outline: Outline,
    tokens: Tokens,
    *,
    gpus: int = 1,
    zero: int = 0,
    measured: Mapping[str, int] | None = None,
) -> list[StageMemory]:
    """Return what one GPU holds in each stage.

    Args:
        recipe: The recipe.
        outline: Its model without weights.
        tokens: Of one sample.
        gpus: How many GPUs share the work.
        zero: ZeRO stage (Rajbhandari et al., 2020, arXiv:1910.02054): 0 shares nothing, 2 divides
            gradients and optimizer states, 3 the weights too.
        measured: Bytes of activations and scores by stage, where they were measured.
    """
    parts = {part.name: part for part in list_parts(recipe, outline)}
    if recipe.family == "occlusion":
        # The tower reads original, reconstruction and blend; codes have a token that begins them.
        text = tokens.text + outline.codes + bool(outline.codes)
        tokens = replace(tokens, text=text, patches=3 * tokens.patches)
    ever: set[str] = set()
    stages = []
    for stage in recipe.training.stages:
        trains = match_parts(stage_parts(recipe, stage, parts), parts)
        ever |= trains
        now = [parts[name] for name in sorted(trains)]
        before = [parts[name] for name in sorted(ever)]
        gradients = sum(part.bytes for part in now)
        # Two moments in the weights' type, and a float32 step count a tensor.
        states = sum(2 * part.bytes + 4 * part.tensors for part in before)
        reached = _reached(parts, trains)
        if measured is None:
            activations = _activations(recipe, outline, tokens, trains, reached)
            scores = _scores(recipe, outline, tokens)
        else:
            activations, scores = measured[stage.name], 0
        stages.append(
            StageMemory(
                name=stage.name,
                trains=tuple(sorted(trains)),
                weights=_share(sum(p.bytes for p in parts.values()), gpus if zero > 2 else 1),
                gradients=_share(gradients, gpus if zero > 1 else 1),
                optimizer=_share(states, gpus if zero > 1 else 1),
                average=sum(4 * p.parameters for p in before) if recipe.training.ema else 0,
                exchange=gradients if gpus > 1 and zero == 0 else 0,
                copies=_copies(recipe, [parts[name] for name in sorted(reached | trains)]),
                activations=activations,
                scores=scores,
            )
        )
    return stages


def peak(stages: Sequence[StageMemory]) -> StageMemory:
    """Return the stage that needs most."""
    return max(stages, key=lambda stage: stage.total)


def find_knobs(recipe: Recipe, outline: Outline, tokens: Tokens, gpus: int = 1) -> list[Knob]:
    """Return changes that lower the peak, each by itself, those that cost least first."""
    now = peak(plan_stages(recipe, outline, tokens, gpus=gpus))
    knobs = []
    for change, cost in _changes(recipe, now.trains, can_recompute(outline)):
        total = peak(plan_stages(changed(recipe, change), outline, tokens, gpus=gpus)).total
        if total < now.total:
            knobs.append(Knob(change, cost, total))
    return knobs


def changed(recipe: Recipe, change: Sequence[str]) -> Recipe:
    """Return a recipe with overrides applied."""
    values: dict[str, Any] = recipe.to_plain()
    apply_overrides(values, change)
    return read_config(Recipe, values, "changed recipe")


def _changes(
    recipe: Recipe, trains: Sequence[str], recomputes: bool
) -> list[tuple[tuple[str, ...], str]]:
    training = recipe.training
    found: list[tuple[tuple[str, ...], str]] = []
    if training.precision == "fp32":
        found.append((("training.precision=bf16",), "arithmetic in half precision"))
    if training.batch_size > 1:
        whole = training.batch_size * training.accumulation
        smaller = ("training.batch_size=1", f"training.accumulation={whole}")
        found.append((smaller, "slower; the optimizer sees the same batch"))
    if recomputes and not training.gradient_checkpointing:
        found.append((("training.gradient_checkpointing=true",), "slower by about a third"))
    if len(found) > 1:
        together = tuple(step for change, _ in found for step in change)
        found.append((together, "all that leaves what is learned as it is"))
    host_trains = any(name in trains for name in ("host_vision", "host_projector", "host_language"))
    host = recipe.host
    if host is not None and host.dtype == "float32" and not host.scratch and not host_trains:
        found.append((("host.dtype=bfloat16",), "a frozen host in half precision"))
    if "host_language" in trains:
        if host is not None and host.lora is None:
            found.append((("host.lora.rank=16",), "adapters of low rank in place of all weights"))
        found.append((("freeze.freeze_llm=true",), "the language model stays as it is"))
    if host_trains or any(name.startswith("encoder.") for name in trains):
        frozen = tuple(
            f"training.stages.{index}.mode=null" for index in range(len(training.stages))
        )
        change = (*frozen, "training_mode=fusion_only", "host.dtype=bfloat16")
        if recipe.fusion is not None and all(stage.train is None for stage in training.stages):
            found.append((change, "only the fusion learns"))
    return found


def _number(recipe: Recipe, part: str) -> int:
    """Return the bytes of a weight."""
    if part.startswith("host_") and recipe.base_host.scratch is None:
        return BYTES[recipe.base_host.dtype]
    if part.startswith("encoder.") and part.removeprefix("encoder.") in recipe.encoders:
        return BYTES[recipe.encoders[part.removeprefix("encoder.")].dtype]
    if part == "tower":
        return BYTES[next(iter(recipe.encoders.values())).dtype]
    if recipe.segmenter is not None:
        return BYTES[recipe.segmenter.sam.dtype]
    if recipe.tokenizer is not None:
        return BYTES[recipe.tokenizer.codebook.dtype]
    refiner = None if recipe.grounding is None else recipe.grounding.refiner
    return BYTES[refiner.sam.dtype] if refiner and part.startswith("refiner.") else 4


def _reached(parts: Mapping[str, Part], trains: frozenset[str]) -> frozenset[str]:
    """Return the parts that gradients pass through on their way to what trains."""
    masks = {name for name in parts if name in MASK_HEADS or name.startswith("refiner.")}
    before = {n for n in parts if n not in ("host_language", "host_adapter", "head")} - masks
    reached = set()
    if trains & {*before, "host_adapter"}:
        reached.add("host_language")
    if trains - masks:
        reached |= masks
    if trains & set(MASK_HEADS):
        reached |= masks - set(MASK_HEADS)
    reached.discard("refiner.image_encoder")
    if trains & {"frame_encoder", "reader"}:
        reached |= {"reader", "video_projector"}
    if "host_vision" in trains:
        reached.add("host_projector")
    if any(name in trains or name in reached for name in ("host_vision", "host_projector")):
        reached |= {name for name in parts if name.startswith("fusion")}
    if any(name in trains for name in parts if name.startswith("encoder.")):
        reached |= {name for name in parts if name.startswith("fusion")}
    return frozenset(reached & set(parts))


def _activations(
    recipe: Recipe,
    outline: Outline,
    tokens: Tokens,
    trains: frozenset[str],
    reached: frozenset[str],
) -> int:
    """Estimate the bytes that the forward pass of one micro-batch keeps."""
    number = ARITHMETIC[recipe.training.precision]
    total = 0
    for name, module in outline.parts.items():
        if name not in trains and name not in reached:
            continue
        if name in outline.values:
            total += number * outline.values[name] * tokens.phrases
            continue
        if isinstance(module, MaskUNet):
            # The arithmetic of a head works on the cells of one picture for each phrase.
            side = max(1, round(tokens.cells**0.5))
            total += number * head_values(module, side) * tokens.phrases
            continue
        if isinstance(module, ColourReading):
            # What describes the cells of the picture is kept for each phrase, with its scores.
            total += number * (FEATURES + 1) * module.side**2 * tokens.phrases
            continue
        count = _tokens_of(name, tokens, outline)
        each = other_bytes_per_token(module, name in trains, number)
        blocks = find_blocks(module)
        if name == "host_language":
            # The output layer runs on supervised tokens alone; its scores are counted apart.
            each = 0
        if blocks is not None:
            recompute = recipe.training.gradient_checkpointing
            each += blocks.bytes_per_token(name in trains, number, recompute)
        total += each * count
    return total * recipe.training.batch_size


def _tokens_of(part: str, tokens: Tokens, outline: Outline) -> int:
    if part in ("host_language", "text_layers"):
        return tokens.text
    if part.rpartition(".")[2] in ("prompt_encoder", "mask_decoder"):
        return outline.places * tokens.phrases
    if part.rpartition(".")[2] == "image_encoder":
        return outline.places
    if part == "host_vision":
        return tokens.patches
    if part == "video_projector":
        return outline.budget
    if part == "tower":
        return tokens.cells * next(iter(outline.towers.values())).patches
    if part.startswith("encoder."):
        return tokens.cells * outline.towers[part.removeprefix("encoder.")].patches
    return tokens.cells


def _copies(recipe: Recipe, parts: Sequence[Part]) -> int:
    """Estimate what autocast keeps of float32 weights in half precision."""
    if recipe.training.precision == "fp32":
        return 0
    return sum(2 * part.parameters for part in parts if part.number == 4)


def _scores(recipe: Recipe, outline: Outline, tokens: Tokens) -> int:
    """Estimate scores: as they leave the model, in float32, and their gradient."""
    each = ARITHMETIC[recipe.training.precision] + 4 + 4
    return tokens.supervised * recipe.training.batch_size * outline.vocabulary * each


def _share(size: int, among: int) -> int:
    return -(-size // among)
