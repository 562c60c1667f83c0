"""Prompts that a batch brings along, in the form that Segment Anything reads."""

from __future__ import annotations

from torch import Tensor

from chiasm.core.batch import Batch
from chiasm.core.errors import InputError
from chiasm.core.sampling import view_to_image
from chiasm.heads.mask_refiner import mask_prompt
from chiasm.heads.sam_images import SamTransform
from chiasm.heads.segment_anything import Prompts

NEEDED = (
    "prompts.kinds",
    "prompts.coarse",
    "prompts.boxes",
    "prompts.points",
    "prompts.labels",
)
"""Names in `Batch.targets`; what they hold is told by `chiasm.data.segmenting.SegmentCollator`."""


def given_prompts(batch: Batch, transform: SamTransform, mask_side: int) -> list[Prompts]:
    """Return the prompts of each mask of a batch, of one each.

    Args:
        batch: With phrases, and with prompts in `targets`.
        transform: What prepared the images.
        mask_side: Height and width of a mask prompt.

    Raises:
        InputError: The batch has no phrases or no prompts.
    """
    lacking = [name for name in NEEDED if name not in batch.targets]
    if batch.phrases is None or lacking:
        raise InputError(
            f"the batch has {'no phrases' if batch.phrases is None else 'no ' + ', '.join(lacking)}"
            "; a segmenter reads batches of SegmentCollator"
        )
    kinds = batch.targets["prompts.kinds"].tolist()
    images = batch.phrases.images
    return [
        _one(batch, index, images[index : index + 1], kinds[index], transform, mask_side)
        for index in range(len(kinds))
    ]


def coarse_on_images(batch: Batch) -> list[Tensor | None]:
    """Return the coarse mask that each mask of a batch is prompted with, on its image.

    Returns:
        For each mask float32 (H, W), logits over the original image; None where none is given.
    """
    assert batch.phrases is not None
    kinds = batch.targets["prompts.kinds"][:, 0].tolist()
    found: list[Tensor | None] = []
    for index, image in enumerate(batch.phrases.images.tolist()):
        geometry = batch.geometries[image]
        size = (geometry.original_height, geometry.original_width)
        logits = batch.targets["prompts.coarse"][index : index + 1]
        found.append(view_to_image(logits, geometry, size)[0] if kinds[index] else None)
    return found


def _one(
    batch: Batch,
    index: int,
    image: Tensor,
    kinds: list[int],
    transform: SamTransform,
    mask_side: int,
) -> Prompts:
    coarse, box, count = kinds
    geometry = batch.geometries[int(image)]
    size = (geometry.original_height, geometry.original_width)
    height, width = transform.resized(size)
    scale = batch.targets["prompts.boxes"].new_tensor([width / size[1], height / size[0]])
    here = slice(index, index + 1)
    given = {name: batch.targets[name][here] for name in NEEDED}
    masks = given["prompts.coarse"][0]
    # Points are middles of pixels here; the library counts pixels and adds the half itself.
    points = given["prompts.points"][:, :count] * scale - 0.5
    return Prompts(
        images=image,
        points=points if count else None,
        labels=given["prompts.labels"][:, :count] if count else None,
        boxes=given["prompts.boxes"] * scale.repeat(2) if box else None,
        masks=mask_prompt(masks, size, transform, mask_side)[None] if coarse else None,
    )
