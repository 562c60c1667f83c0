"""Segment Anything as a part: pictures to embeddings, embeddings and prompts to masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.sampling import image_size, view_to_image
from chiasm.heads.sam import LoadedSam
from chiasm.heads.sam_images import SamTransform

Resolution = Literal["image", "decoder"]
"""The size of predicted masks: that of the original image, or that at which they are decoded."""


@dataclass(frozen=True)
class ImageEmbeddings:
    """What the image encoder made of I pictures; reused for any number of prompts.

    Attributes:
        features: float (I, D, e, e).
        finer: Maps of higher resolution that the decoder of SAM 2 adds: float (I, D', e', e').
        sizes: (height, width) of each original image.
    """

    features: Tensor
    finer: tuple[Tensor, ...]
    sizes: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.sizes)

    def of(self, index: int) -> ImageEmbeddings:
        """Return the embeddings of one picture."""
        one = slice(index, index + 1)
        return ImageEmbeddings(
            self.features[one], tuple(m[one] for m in self.finer), (self.sizes[index],)
        )


@dataclass(frozen=True)
class Prompts:
    """Prompts of P masks, all of the same kinds. Coordinates are pixels of the prepared image.

    Attributes:
        images: int64 (P,), the picture of each.
        points: float (P, K, 2), (X, Y).
        labels: int64 (P, K): 1 on the object, 0 beside it.
        boxes: float (P, 4), XYXY.
        masks: float (P, m, m), logits at the size `SegmentAnything.mask_side`, over the prepared
            image.
        tokens: float (P, T, D), further sparse prompts, such as text.
    """

    images: Tensor
    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None
    tokens: Tensor | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def kinds(self) -> tuple[int, ...]:
        """What must agree for prompts to be decoded together: how many of each kind there are."""
        given = (self.points, self.boxes, self.masks, self.tokens)
        return tuple(-1 if one is None else one.shape[1] for one in given)

    @classmethod
    def gather(cls, prompts: Sequence[Prompts]) -> Prompts:
        """Join prompts of the same kinds."""
        return cls(
            images=torch.cat([one.images for one in prompts]),
            points=_join([one.points for one in prompts]),
            labels=_join([one.labels for one in prompts]),
            boxes=_join([one.boxes for one in prompts]),
            masks=_join([one.masks for one in prompts]),
            tokens=_join([one.tokens for one in prompts]),
        )


class SegmentAnything(nn.Module):
    """The image encoder, the prompt encoder and the mask decoder of a SAM or SAM 2.

    Nothing is frozen here; that belongs to the trainer. Where no weight of the image encoder asks
    for a gradient, nothing is stored for its backward pass.

    Args:
        loaded: The model.
    """

    def __init__(self, loaded: LoadedSam) -> None:
        super().__init__()
        self.model: Any = loaded.model
        self.transform: SamTransform = loaded.transform
        self.source = dict(loaded.source)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """`image_encoder`, `prompt_encoder` and `mask_decoder`: together all parameters."""
        return {
            "image_encoder": self.model.vision_encoder,
            "prompt_encoder": self.model.prompt_encoder,
            "mask_decoder": self.model.mask_decoder,
        }

    @property
    def pretrained(self) -> bool:
        """Whether a checkpoint holds these weights; if not, they must be saved with the model."""
        return "path" in self.source

    @property
    def width(self) -> int:
        """Width D of a prompt."""
        return int(self.model.prompt_encoder.hidden_size)

    @property
    def mask_side(self) -> int:
        """Height and width of mask prompts and of predicted masks."""
        return 4 * int(self.model.prompt_encoder.image_embedding_size[0])

    def embed(
        self, images: Sequence[Tensor] | Tensor, sizes: Sequence[tuple[int, int]]
    ) -> ImageEmbeddings:
        """Encode pictures.

        Args:
            images: For each picture float (3, side, side), as `transform` returns it.
            sizes: (height, width) of each original image.

        Raises:
            InputError: There is no picture, one has another shape, or not one size a picture.
        """
        side = self.transform.side
        shapes = {tuple(image.shape) for image in images}
        if shapes != {(3, side, side)} or len(images) != len(sizes):
            raise InputError(
                f"embed received {len(images)} images of the shapes {sorted(shapes)} and "
                f"{len(sizes)} sizes; prepare each by `transform`, to (3, {side}, {side}), and "
                "give one size each"
            )
        pixels = images if isinstance(images, Tensor) else torch.stack(list(images))
        encoder = self.model.vision_encoder
        learns = any(parameter.requires_grad for parameter in encoder.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            seen = encoder(pixels.to(next(encoder.parameters()).dtype))
        if not self.transform.stretch:
            return ImageEmbeddings(seen.last_hidden_state, (), tuple(sizes))
        return self._with_finer(seen.fpn_hidden_states, tuple(sizes))

    def decode(
        self, embeddings: ImageEmbeddings, prompts: Prompts, multimask: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Predict masks for prompts.

        Args:
            embeddings: Of the pictures that `prompts.images` counts.
            prompts: At least one.
            multimask: Whether to return the model's several candidates, or its one answer.

        Returns:
            float (P, M, m, m), logits over the prepared image; float (P, M), the model's guess of
            each mask's intersection over union.

        Raises:
            InputError: Candidates are asked of a model that has none.
        """
        if multimask and not self.model.mask_decoder.num_multimask_outputs:
            raise InputError(
                "this model has one answer and no candidates (num_multimask_outputs is 0); leave "
                "`multimask` off"
            )
        sparse, dense = self._encode_prompts(prompts)
        positions = self.model.get_image_wide_positional_embeddings()
        chosen = {"high_resolution_features": [m[prompts.images] for m in embeddings.finer]}
        logits, scores, *_ = self.model.mask_decoder(
            image_embeddings=embeddings.features[prompts.images],
            image_positional_embeddings=positions.expand(len(prompts), -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            **(chosen if self.transform.stretch else {}),
        )
        return logits[:, 0], scores[:, 0]

    def decode_each(
        self,
        embeddings: ImageEmbeddings,
        prompts: Sequence[Prompts],
        *,
        multimask: bool = False,
        at_once: int = 64,
    ) -> list[tuple[Tensor, Tensor]]:
        """Predict masks for prompts of different kinds.

        What one gets does not depend on the others, up to rounding: those with equally many
        prompts of each kind are decoded together, and no prompt is ever padding.

        Args:
            embeddings: Of the pictures that the prompts count.
            prompts: For each mask, `Prompts` of one.
            multimask: As for `decode`.
            at_once: Most masks decoded together; bounds memory, changes no result.

        Returns:
            For each mask float (M, m, m), logits, and float (M,), scores.
        """
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for members in _alike([one.kinds for one in prompts], at_once):
            gathered = Prompts.gather([prompts[index] for index in members])
            logits, scores = self.decode(embeddings, gathered, multimask)
            found.update(zip(members, zip(logits, scores, strict=True), strict=True))
        return [found[index] for index in range(len(prompts))]

    def to_images(
        self,
        logits: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        resolution: Resolution = "image",
    ) -> list[Tensor]:
        """Bring decoded logits to their original images.

        Args:
            logits: For each mask float (m, m) over the prepared image.
            sizes: For each mask (height, width) of its original image.
            resolution: Of the result.

        Returns:
            For each mask float32 (height, width) over the whole original image.
        """
        found: dict[int, Tensor] = {}
        for members in _alike(list(sizes), len(sizes)):
            size = sizes[members[0]]
            geometry = self.transform.geometry(size, cells=self.mask_side)
            stacked = torch.stack([logits[index] for index in members]).float()
            decoded = (stacked.shape[1], stacked.shape[2])
            target = size if resolution == "image" else image_size(decoded, geometry)
            found.update(zip(members, view_to_image(stacked, geometry, target), strict=True))
        return [found[index] for index in range(len(logits))]

    def _with_finer(
        self, levels: Sequence[Tensor], sizes: tuple[tuple[int, int], ...]
    ) -> ImageEmbeddings:
        """Project the finer maps of SAM 2, with gradients: their projections are the decoder's."""
        decoder = self.model.mask_decoder
        finer = (decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]))
        memory = self.model.no_memory_embedding.permute(0, 2, 1)[..., None]
        return ImageEmbeddings(levels[2] + memory, finer, sizes)

    def _encode_prompts(self, prompts: Prompts) -> tuple[Tensor | None, Tensor]:
        """Return sparse float (P, 1, N, D), None if there is none, and dense (P or 1, D, e, e)."""
        points, labels = prompts.points, prompts.labels
        encoder = self.model.prompt_encoder
        masks = None if prompts.masks is None else prompts.masks[:, None]
        sparse, dense = encoder(
            input_points=None if points is None else points[:, None],
            input_labels=None if labels is None else labels[:, None],
            input_boxes=None if prompts.boxes is None else prompts.boxes[:, None],
            input_masks=None if masks is None else masks.to(encoder.no_mask_embed.weight.dtype),
        )
        if prompts.tokens is not None:
            more = prompts.tokens[:, None].to(dense.dtype)
            sparse = more if sparse is None else torch.cat([sparse, more], dim=2)
        if sparse is None:
            # SAM 2 has no decoding without sparse prompts; none at all is the same sum.
            sparse = dense.new_zeros(len(prompts), 1, 0, self.width)
        return sparse, dense


def _join(tensors: Sequence[Tensor | None]) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(given) if given else None


def _alike(kinds: Sequence[tuple[int, ...]], most: int) -> Iterator[list[int]]:
    """Yield positions of equal kinds, at most `most` together."""
    by_kind: dict[tuple[int, ...], list[int]] = {}
    for index, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(index)
    for members in by_kind.values():
        for start in range(0, len(members), most):
            yield members[start : start + most]
