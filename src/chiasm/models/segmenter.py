"""A Segment Anything model on its own: how a refiner learns to see before it refines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.data.mask_prompts import PromptDrawing
from chiasm.data.segmenting import NAME, SegmentCollator
from chiasm.encoders.fingerprint import fingerprint
from chiasm.heads.given_prompts import coarse_on_images, given_prompts
from chiasm.heads.sam import SamConfig, save_sam
from chiasm.heads.segment_anything import SegmentAnything
from chiasm.models.probes import build_mask_probe_samples, probing


class SegmenterConfig(Config):
    """A segmenter and how its prompts are drawn.

    Attributes:
        sam: The model.
        prompts: How prompts are drawn.
        further: How often, for each picture, a union of masks and the background are added.
    """

    sam: SamConfig
    prompts: PromptDrawing = PromptDrawing()
    further: float = Field(default=0.25, ge=0, le=1)

    def build(self, *, seed: int = 0) -> Segmenter:
        """Load or initialise the segmenter.

        Args:
            seed: Of the prompts.

        Raises:
            CheckpointError: The checkpoint of `sam` cannot be read or does not fit.
            ConfigError: The architecture of `sam` is wrong.
        """
        sam = SegmentAnything(self.sam.build())
        collator = SegmentCollator(sam.transform, self.prompts, further=self.further, seed=seed)
        return Segmenter(sam=sam, collator=collator)


class Segmenter(nn.Module):
    """Predicts the masks that drawn prompts stand for.

    1. encode: the image encoder reads each picture once
    2. predict: the decoder reads each mask's prompts
    3. the mask is carried to the original image

    Args:
        sam: The model.
        collator: Turns samples into batches, prompts included.
    """

    senses: frozenset[str] = frozenset()

    def __init__(self, *, sam: SegmentAnything, collator: SegmentCollator) -> None:
        super().__init__()
        self.sam = sam
        self.collator = collator
        # Taken now: training moves the weights, and identity tells what was built on.
        self._weights = fingerprint(sam) if sam.pretrained else "random"

    @property
    def parts(self) -> dict[str, nn.Module]:
        """`image_encoder`, `prompt_encoder` and `mask_decoder`."""
        return self.sam.parts

    @property
    def new_parts(self) -> frozenset[str]:
        """All parts, unless the model came from a checkpoint."""
        return frozenset() if self.sam.pretrained else frozenset(self.parts)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the model was built on."""
        return {"segmenter": {"name": self.sam.source["name"], "weights": self._weights}}

    def forward(self, batch: Batch) -> Outputs:
        """Predict the masks of a batch of `SegmentCollator`.

        Returns:
            `masks["refined"]`, one float32 (H, W) a phrase in original pixels, and
            `named["refined.scores"]`, float (P,).

        Raises:
            InputError: The batch has no images or no prompts for a segmenter.
        """
        if not batch.encoder_images.get(NAME):
            raise InputError(
                f"the batch has no images {NAME!r}; it has {sorted(batch.encoder_images)}. "
                "Collate with SegmentCollator"
            )
        prompts = given_prompts(batch, self.sam.transform, self.sam.mask_side)
        sizes = [(one.original_height, one.original_width) for one in batch.geometries]
        embeddings = self.sam.embed(batch.encoder_images[NAME], sizes)
        decoded = self.sam.decode_each(embeddings, prompts)
        masks = self.sam.to_images(
            [logits[0] for logits, _ in decoded], [sizes[int(one.images)] for one in prompts]
        )
        scores = torch.cat([scores for _, scores in decoded])
        return Outputs(masks={"refined": tuple(masks)}, named={"refined.scores": scores})

    def coarse_masks(self, batch: Batch) -> list[Tensor | None]:
        """Return for each mask the coarse logits it was prompted with, float32 (H, W), if any."""
        return coarse_on_images(batch)

    def probe(self) -> Mapping[str, Tensor]:
        """Return the logits of two fixed inputs by `<input>.<mask>`, float32."""
        found: dict[str, Tensor] = {}
        device = next(self.parameters()).device
        with probing(self):
            for sample in build_mask_probe_samples():
                masks = self(self.collator([sample]).to(device)).masks["refined"]
                found |= {f"{sample.identifier}.{i}": mask for i, mask in enumerate(masks)}
        return found

    def save(self, directory: Path) -> None:
        """Write a checkpoint that `SamConfig.path` and transformers can read."""
        save_sam(self.sam.model, self.sam.transform, directory)
