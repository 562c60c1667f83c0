"""The phrases of all rows of a batch, with their tokens and masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chiasm.core.batch import PhraseBatch
from chiasm.core.errors import DataError
from chiasm.data.fitting import Row
from chiasm.data.locating import phrase_name
from chiasm.data.masks import read_mask
from chiasm.data.prompts import Prompt


def gather_phrases(
    rows: Sequence[Row], prompts: Sequence[Prompt], attention_mask: Tensor
) -> PhraseBatch | None:
    """Gather the phrases of rendered rows.

    Args:
        rows: The rows of the batch.
        prompts: What each was rendered to.
        attention_mask: int64 (B, S), 1 for a real token; tells on which side rows are filled.

    Returns:
        The phrases, in the order of rows and of `Sample.phrases`; None when there is none.

    Raises:
        DataError: A mask is broken, empty or of another size than its image, or some phrases of
            the batch have a mask and others none.
    """
    places: list[int] = []
    images: list[int] = []
    tokens: list[tuple[int, int]] = []
    masks: list[Tensor | None] = []
    names: list[str] = []
    titles: list[str] = []
    first_image = 0
    for place, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        # The first real token: filling on the left moves all of them.
        shift = int(attention_mask[place].argmax())
        for index, positions in prompt.phrases.items():
            phrase = row.sample.phrases[index]
            tokens += [(len(places), shift + position) for position in positions]
            places.append(place)
            images.append(first_image + phrase.image)
            names.append(phrase.identifier or f"{index}")
            titles.append(phrase_name(row.sample, index))
            image = row.images[phrase.image]
            masks.append(
                None
                if phrase.mask is None
                else torch.from_numpy(
                    read_mask(phrase.mask, image.height, image.width, titles[-1]).copy()
                )
            )
        first_image += len(row.images)
    if not places:
        return None
    return PhraseBatch(
        rows=torch.tensor(places),
        images=torch.tensor(images),
        tokens=torch.tensor(tokens),
        masks=_all_or_none(masks, titles),
        names=tuple(names),
    )


def _all_or_none(masks: Sequence[Tensor | None], titles: Sequence[str]) -> tuple[Tensor, ...]:
    known = tuple(mask for mask in masks if mask is not None)
    if known and len(known) < len(masks):
        lacking = titles[next(place for place, mask in enumerate(masks) if mask is None)]
        raise DataError(
            f"{lacking} has no mask, while {len(known)} of the batch's {len(masks)} phrases have "
            "one; a batch has masks for all phrases or for none: give the mask, or keep phrases "
            "without masks in a dataset of their own"
        )
    return known
