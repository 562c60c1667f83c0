"""Sharper masks: a Segment Anything model prompted by coarse logits, their box, and the phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.heads.sam import SamConfig
from chiasm.heads.sam_images import SamTransform
from chiasm.heads.segment_anything import (
    ImageEmbeddings,
    Prompts,
    Resolution,
    SegmentAnything,
)


class MaskRefinerConfig(Config):
    """Refinement as in F-LMM (Wu et al., 2024, arXiv:2406.05821).

    Attributes:
        sam: The model.
        use_mask: Whether the coarse logits are a prompt.
        use_box: Whether the tight box of the coarse mask is a prompt.
        use_text: Whether the phrase's tokens are prompts.
        multimask: Choose among the model's candidates the one most like the coarse mask, instead
            of its one answer.
        resolution: Size of the refined logits: that of the original `image`, or that of the
            `decoder`, which is smaller.
        at_once: Most phrases that are decoded together; bounds memory, changes no result.
    """

    sam: SamConfig
    use_mask: bool = True
    use_box: bool = True
    use_text: bool = True
    multimask: bool = False
    resolution: Resolution = "image"
    at_once: int = Field(default=64, gt=0)

    @model_validator(mode="after")
    def _some_prompt(self) -> MaskRefinerConfig:
        if not (self.use_mask or self.use_box or self.use_text):
            raise ValueError(
                "nothing would prompt the refiner; leave on one of `use_mask`, `use_box` and "
                "`use_text`, or leave out the refiner"
            )
        return self

    def build(self) -> MaskRefiner:
        """Load or initialise the refiner.

        Raises:
            CheckpointError: The checkpoint of `sam` cannot be read or does not fit.
            ConfigError: The architecture of `sam` is wrong.
        """
        return MaskRefiner(
            sam=SegmentAnything(self.sam.build()),
            use_mask=self.use_mask,
            use_box=self.use_box,
            use_text=self.use_text,
            multimask=self.multimask,
            resolution=self.resolution,
            at_once=self.at_once,
        )


@dataclass(frozen=True)
class Refined:
    """Refined masks of P phrases.

    Attributes:
        logits: For each phrase float32 (height, width) over the whole original image.
        scores: float (P,), the model's own guess of each mask's intersection over union.
    """

    logits: tuple[Tensor, ...]
    scores: Tensor


class MaskRefiner(nn.Module):
    """Prompts a Segment Anything model with what a coarse head found.

    The mask prompt keeps its gradient, so that what the refiner is scored by also teaches the
    coarse head; the box is cut by a threshold and has none.

    Args:
        sam: The model.
        use_mask: As in the configuration, like all that follow.
        use_box: Of the configuration.
        use_text: Of the configuration.
        multimask: Of the configuration.
        resolution: Of the configuration.
        at_once: Of the configuration.
    """

    def __init__(
        self,
        *,
        sam: SegmentAnything,
        use_mask: bool = True,
        use_box: bool = True,
        use_text: bool = True,
        multimask: bool = False,
        resolution: Resolution = "image",
        at_once: int = 64,
    ) -> None:
        super().__init__()
        self.sam = sam
        self.use_mask, self.use_box, self.use_text = use_mask, use_box, use_text
        self.multimask = multimask
        self.resolution = resolution
        self.at_once = at_once

    @property
    def parts(self) -> dict[str, nn.Module]:
        """`image_encoder`, `prompt_encoder` and `mask_decoder`: together all parameters."""
        return self.sam.parts

    @property
    def transform(self) -> SamTransform:
        """What prepares images for `embed`."""
        return self.sam.transform

    def embed(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> ImageEmbeddings:
        """Encode pictures once, for any number of phrases; see `SegmentAnything.embed`."""
        return self.sam.embed(images, sizes)

    def refine(
        self,
        embeddings: ImageEmbeddings,
        images: Tensor,
        coarse: Sequence[Tensor],
        text: Sequence[Tensor] = (),
    ) -> Refined:
        """Refine the masks of P phrases.

        What a phrase's mask is does not depend on the other phrases, up to rounding: phrases with
        equally many prompts are decoded together, and no prompt is ever padding.

        Args:
            embeddings: What `embed` returned.
            images: int64 (P,), the picture of each phrase.
            coarse: For each phrase float (h, w), logits over the whole original image.
            text: For each phrase float (its tokens, D), if the refiner uses text.

        Raises:
            InputError: Not one coarse mask, or not one text where text is used, a phrase.
        """
        self._check(images, coarse, text)
        if not coarse:
            return Refined((), embeddings.features.new_zeros(0))
        places, logits = images.tolist(), [one.float() for one in coarse]
        masks = [
            mask_prompt(one, embeddings.sizes[place], self.transform, self.sam.mask_side)
            for one, place in zip(logits, places, strict=True)
        ]
        prompts = [
            Prompts(
                images=images[index : index + 1],
                boxes=self._box(logits[index], embeddings.sizes[place]),
                masks=masks[index][None] if self.use_mask else None,
                tokens=text[index][None] if self.use_text else None,
            )
            for index, place in enumerate(places)
        ]
        decoded = self.sam.decode_each(
            embeddings, prompts, multimask=self.multimask, at_once=self.at_once
        )
        chosen = [_choose(*one, mask) for one, mask in zip(decoded, masks, strict=True)]
        return Refined(
            logits=tuple(
                self.sam.to_images(
                    [one for one, _ in chosen],
                    [embeddings.sizes[place] for place in places],
                    self.resolution,
                )
            ),
            scores=torch.stack([score for _, score in chosen]),
        )

    def _box(self, logits: Tensor, size: tuple[int, int]) -> Tensor | None:
        return box_prompt(logits, size, self.transform)[None] if self.use_box else None

    def _check(self, images: Tensor, coarse: Sequence[Tensor], text: Sequence[Tensor]) -> None:
        counts = [len(coarse), len(text)] if self.use_text else [len(coarse)]
        if any(count != len(images) for count in counts):
            raise InputError(
                f"refine received {len(images)} phrases, {len(coarse)} coarse masks and "
                f"{len(text)} texts; give one of each a phrase, or build the refiner with "
                "use_text false"
            )


def mask_prompt(
    logits: Tensor, size: tuple[int, int], transform: SamTransform, mask_side: int
) -> Tensor:
    """Bring logits over an image into the form of a mask prompt.

    They are resized to the image as the model sees it, padded as that is with min(-1, smallest
    logit), and resized to the size of a mask prompt. Gradients flow.

    Args:
        logits: float (h, w) over the whole original image.
        size: (height, width) of the original image.
        transform: What prepared the image.
        mask_side: Height and width of the result.

    Returns:
        float (mask_side, mask_side).
    """
    height, width = transform.resized(size)
    grown = nn.functional.interpolate(logits[None, None], (height, width), mode="bilinear")
    lowest = min(-1.0, float(logits.detach().amin()))
    margin = (0, transform.side - width, 0, transform.side - height)
    padded = nn.functional.pad(grown, margin, value=lowest)
    return nn.functional.interpolate(padded, (mask_side, mask_side), mode="bilinear")[0, 0]


@torch.no_grad()
def box_prompt(logits: Tensor, size: tuple[int, int], transform: SamTransform) -> Tensor:
    """Return the tight box of the mask that logits stand for.

    Args:
        logits: float (h, w) over the whole original image.
        size: (height, width) of the original image.
        transform: What prepared the image.

    Returns:
        float32 (4,), XYXY in pixels of the prepared image, the far edges one past the last pixel.
        The whole image where the mask is empty. It has no gradient.
    """
    shares = nn.functional.interpolate(logits.sigmoid()[None, None], size, mode="bilinear")[0, 0]
    mask = shares > 0.5
    top, bottom = _extent(mask.any(dim=1))
    left, right = _extent(mask.any(dim=0))
    height, width = transform.resized(size)
    scale = logits.new_tensor([width / size[1], height / size[0]] * 2, dtype=torch.float32)
    return torch.stack([left, top, right, bottom]) * scale


def _extent(shown: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first True and one past the last of bool (N,); (0, N) where there is none."""
    count = len(shown)
    places = torch.arange(count, device=shown.device)
    first = torch.where(shown, places, count).amin()
    last = torch.where(shown, places + 1, 0).amax()
    empty = ~shown.any()
    return first.masked_fill(empty, 0).float(), last.masked_fill(empty, count).float()


def _choose(logits: Tensor, scores: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    """Return, of candidates (M, m, m), the one most like the coarse logits (m, m), and its score.

    Likeness is intersection over union of the places above 0, in the frame of the prepared image.
    """
    wanted, found = coarse.detach() > 0, logits.detach() > 0
    shared = (wanted & found).sum(dim=(1, 2))
    best = (shared / (wanted | found).sum(dim=(1, 2)).clamp_min(1)).argmax()
    return logits[best], scores[best]
