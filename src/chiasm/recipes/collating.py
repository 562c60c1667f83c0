"""The collator of a recipe's model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chiasm.core.protocols import EncoderTransform
from chiasm.data.collate import Collator
from chiasm.data.pairs import PairFraming
from chiasm.data.prompts import Prompter
from chiasm.language.host import Host
from chiasm.recipes.schema import Recipe


def build_collator(
    recipe: Recipe,
    host: Host,
    encoders: Mapping[str, Any],
    further: Mapping[str, EncoderTransform] | None = None,
    pairs: PairFraming | None = None,
) -> Collator:
    """Build what turns samples into batches.

    Args:
        recipe: Says how long rows may be.
        host: Whose prompts and images they are.
        encoders: Extra encoders by name, each with its `transform`.
        further: Transforms of what else reads images.
        pairs: How pairs are framed, for a model that reads them.
    """
    transforms = {name: encoder.transform for name, encoder in encoders.items()}
    return Collator(
        Prompter(host.tokenizer, host.image_token, host.image_text),
        host.preparer,
        {**transforms, **(further or {})},
        max_length=recipe.data.max_length,
        over_long=recipe.data.over_long,
        pairs=pairs,
    )


def frame_pairs(host: Host, target_side: int) -> PairFraming:
    """Return how pairs are framed for a host.

    Args:
        host: Whose tower reads them.
        target_side: Side in pixels of the pictures to be drawn.

    Raises:
        InputError: The host's tower does not read one square a picture.
    """
    processor = host.image_processor
    mean, deviation = (tuple(values) for values in (processor.image_mean, processor.image_std))
    return PairFraming(host.preparer, mean, deviation, target_side)
