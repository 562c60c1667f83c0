"""Samples to one typed batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from chiasm.core.batch import IGNORE, IMAGE_TOKEN, TEXT_TOKEN, Batch
from chiasm.core.config import lookup
from chiasm.core.errors import DataError, InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import EncoderTransform, ImagePreparer
from chiasm.core.samples import ImageSource, Sample
from chiasm.data.conversation import name_of
from chiasm.data.fitting import OVER_LONG, OverLong, Row, Tally, fit_rows
from chiasm.data.media import load_image
from chiasm.data.pairs import PairFraming, gather_pairs
from chiasm.data.phrase_batch import gather_phrases
from chiasm.data.prompts import Prompt, Prompter

Side = Literal["right", "left"]
Loader = Callable[[ImageSource], Image.Image]


class Collator:
    """Turns samples into a `Batch`.

    Rows may hold no image, one, or several, and all kinds may stand in one batch. Each image is
    decoded once. The order of samples, and of the images in them, is kept.

    Dense truth: `truth["cells"]` maps a name to labels int (rows, columns) on the host's grid, or
    to one such array (or None) for each image of the sample. It becomes `targets["cells.NAME"]`,
    int64 (I, most rows, most columns) over all I images of the batch; images without this label,
    and cells beyond a smaller grid, hold `IGNORE`.

    Phrases: those of the rendered turns become `Batch.phrases`, in the order of rows and of
    `Sample.phrases`, with their masks in original pixels. A batch has masks for all of its phrases
    or for none. Prompts for generation leave out the phrases of the turn they leave out.

    Pairs: with a framing, `Sample.pair` of every row becomes `Batch.pairs`; a batch has pairs in
    all of its rows or in none. Without a framing reconstructions are not read.

    Args:
        prompter: Renders the conversations.
        preparer: Prepares images for the host's own tower.
        transforms: The extra encoders' own preprocessing, by encoder name.
        padding: Where short rows are filled when training; generation always pads on the left.
        max_length: Most tokens in a row; None for no limit.
        over_long: What happens to a longer row: `error`, `drop` the row, `shrink_image` or
            `shorten_text`. Whatever happened is counted in `tally`.
        dense: Whether `truth["cells"]` is turned into targets.
        loader: Reads one image as RGB.
        pairs: How the pictures of pairs are framed, for models that read reconstructions; its
            preparer is `preparer`.
    """

    def __init__(
        self,
        prompter: Prompter,
        preparer: ImagePreparer,
        transforms: Mapping[str, EncoderTransform] | None = None,
        *,
        padding: Side = "right",
        max_length: int | None = None,
        over_long: OverLong = "error",
        dense: bool = True,
        loader: Loader = load_image,
        pairs: PairFraming | None = None,
    ) -> None:
        if padding not in ("right", "left"):
            raise InputError(f"padding {padding!r} is not allowed; allowed: 'right', 'left'")
        if max_length is not None and max_length < 1:
            raise InputError(f"max_length {max_length} is not allowed; give 1 or more, or None")
        lookup(OVER_LONG, over_long, "policy for over-long rows")
        if pairs is not None and pairs.preparer is not preparer:
            raise InputError(
                "the framing of pairs has another preparer than the collator; give both the host's "
                "own, so that image and reconstruction are framed alike"
            )
        self.prompter = prompter
        self.preparer = preparer
        self.transforms = dict(transforms or {})
        self.padding: Side = padding
        self.max_length = max_length
        self.over_long: OverLong = over_long
        self.dense = dense
        self.loader = loader
        self.pairs = pairs
        self.tally = Tally()

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate for training; see `collate`."""
        return self.collate(samples)

    def collate(self, samples: Sequence[Sample], generation: bool = False) -> Batch:
        """Collate samples.

        Args:
            samples: At least one.
            generation: Leave out the last assistant turn, end with the template's prompt for it,
                label nothing, pad on the left.

        Raises:
            DataError: A sample is malformed or too long, or about a video; no row is left, the mask
                of a phrase is broken, empty or of another size than its image, or a pair is not
                as `gather_pairs` needs it.
            MediaError: An image cannot be read.
        """
        if not samples:
            raise DataError("an empty list of samples; give at least one")
        watched = next((sample for sample in samples if sample.video is not None), None)
        if watched is not None:
            raise DataError(
                f"{name_of(watched)}: is about a video, and this collator shows pictures alone; "
                "give the batch to a collator of videos"
            )
        rows = [Row(sample, tuple(map(self.loader, sample.images))) for sample in samples]
        fitted = fit_rows(
            rows,
            self.prompter,
            self.preparer,
            max_length=self.max_length,
            policy=self.over_long,
            tally=self.tally,
            generation=generation,
        )
        prompts, rows = fitted.prompts, fitted.rows
        input_ids, mask, labels, types = pad_prompts(
            prompts, self.prompter.pad_id, "left" if generation else self.padding
        )
        images = [image for row in rows for image in row.images]
        geometries = fitted.prepared.geometries
        counts = torch.tensor([len(row.images) for row in rows], dtype=torch.long)
        kept = tuple(row.sample for row in rows)
        return Batch(
            input_ids=input_ids,
            attention_mask=mask,
            labels=labels,
            token_types=types,
            host_images=dict(fitted.prepared.tensors) if images else {},
            encoder_images={
                name: tuple(map(transform, images, geometries))
                for name, transform in self.transforms.items()
            },
            image_rows=torch.arange(len(rows)).repeat_interleave(counts),
            geometries=geometries,
            targets=_dense_targets(kept, geometries) if self.dense else {},
            samples=kept,
            phrases=gather_phrases(rows, prompts, mask),
            pairs=(
                None
                if self.pairs is None
                else gather_pairs(rows, fitted.prepared, self.pairs, self.loader)
            ),
        )


def pad_prompts(
    prompts: Sequence[Prompt], pad_id: int, side: Side
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bring prompts to one length.

    Args:
        prompts: At least one.
        pad_id: Fills short rows.
        side: Where they are filled.

    Returns:
        `input_ids`, `attention_mask`, `labels` and `token_types` of a `Batch`, int64 (B, S) each.
    """
    size = (len(prompts), max(map(len, prompts)))
    input_ids = torch.full(size, pad_id, dtype=torch.long)
    mask = torch.zeros(size, dtype=torch.long)
    labels = torch.full(size, IGNORE, dtype=torch.long)
    types = torch.full(size, TEXT_TOKEN, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        start = 0 if side == "right" else size[1] - len(prompt)
        place = slice(start, start + len(prompt))
        input_ids[row, place] = prompt.input_ids
        mask[row, place] = 1
        labels[row, place] = prompt.labels
        for first, last in prompt.image_spans:
            types[row, start + first : start + last] = IMAGE_TOKEN
    return input_ids, mask, labels, types


def _dense_targets(
    samples: Sequence[Sample], geometries: Sequence[ImageGeometry]
) -> dict[str, Tensor]:
    """Gather `truth["cells"]` of all images; see `Collator` for the form."""
    names = sorted({name for sample in samples for name in sample.truth.get("cells", {})})
    if not names:
        return {}
    rows = max(geometry.rows for geometry in geometries)
    columns = max(geometry.columns for geometry in geometries)
    targets = {
        f"cells.{name}": torch.full((len(geometries), rows, columns), IGNORE, dtype=torch.long)
        for name in names
    }
    first = 0
    for sample in samples:
        for name, given in sample.truth.get("cells", {}).items():
            for offset, labels in enumerate(_per_image(sample, name, given)):
                if labels is not None:
                    geometry = geometries[first + offset]
                    cells = _check_cells(sample, name, labels, geometry)
                    targets[f"cells.{name}"][
                        first + offset, : geometry.rows, : geometry.columns
                    ] = cells
        first += len(sample.images)
    return targets


def _per_image(sample: Sample, name: str, given: Any) -> list[Any]:
    """Return one entry an image; a single array is that of the only image."""
    several = isinstance(given, list | tuple) and (
        not given or given[0] is None or np.ndim(given[0]) == 2
    )
    entries = list(given) if several else [given]
    if len(entries) != len(sample.images):
        raise DataError(
            f"{name_of(sample)}: truth['cells'][{name!r}] has labels for {len(entries)} images, "
            f"the sample has {len(sample.images)}; give one array (or None) an image"
        )
    return entries


def _check_cells(sample: Sample, name: str, labels: Any, geometry: ImageGeometry) -> Tensor:
    array = np.asarray(labels)
    if array.shape != (geometry.rows, geometry.columns) or array.dtype.kind not in "iub":
        raise DataError(
            f"{name_of(sample)}: truth['cells'][{name!r}] is {array.dtype} {array.shape}, the "
            f"host's grid is {geometry.rows} x {geometry.columns} cells; give integers on that "
            "grid"
        )
    return torch.from_numpy(array.astype(np.int64))
