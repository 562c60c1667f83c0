"""Grounding: masks for any phrase of what a frozen host reads or says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from chiasm.core.batch import Batch, PhraseBatch
from chiasm.core.errors import ConfigError, InputError
from chiasm.core.outputs import Outputs
from chiasm.core.protocols import Fused, Fusion
from chiasm.data.collate import Collator
from chiasm.data.world.worlds import POINTING_REQUEST
from chiasm.language.attention_rows import Merge
from chiasm.language.host import Host
from chiasm.language.phrase_maps import PhraseReading
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.phrase_masks import PhraseMasks
from chiasm.models.phrase_reading import read_batch
from chiasm.models.picture_reading import Reading, Seen, read_picture
from chiasm.models.pointing import Found, decide, point_at, point_in_text
from chiasm.models.probes import build_phrase_probe_samples, probing


class Grounding(nn.Module):
    """A host that answers as before, and points at what its words mean (F-LMM, arXiv:2406.05821).

    The way of a batch with phrases:

    1. see: the base model encodes, fuses and splices, as it does to answer
    2. read: the host reads, and a tap keeps the attention of phrase tokens over visual tokens
    3. predict: the mask head turns each phrase's maps into a coarse mask on the original image,
       and a segmentation model, prompted by mask, box and phrase, sharpens it on the pixels

    Args:
        base: What answers: a host alone or with further eyes. It is not changed.
        masks: The heads.
        collator: Turns samples into batches; it also prepares the refiner's images.
        merge: How the attention of a phrase's tokens becomes one map: `mean` or `max`.
        request: What the user asks, where phrases are pointed at outside a conversation.

    Raises:
        ConfigError: The collator does not prepare what the model reads.
    """

    senses = frozenset({"ask", "image", "point"})

    def __init__(
        self,
        *,
        base: DualEncoder,
        masks: PhraseMasks,
        collator: Collator,
        merge: Merge = "mean",
        request: str = POINTING_REQUEST,
    ) -> None:
        super().__init__()
        images = {*base.encoders, *masks.transforms}
        if set(collator.transforms) != images:
            raise ConfigError(
                f"the collator prepares images for {sorted(collator.transforms) or 'none'}, the "
                f"model reads {sorted(images) or 'none'}; give the collator their transforms"
            )
        self.base = base
        self.masks = masks
        self.collator = collator
        self.merge: Merge = merge
        self.request = request

    @property
    def host(self) -> Host:
        """The host of the base."""
        return self.base.host

    @property
    def encoders(self) -> nn.ModuleDict:
        """The further eyes of the base."""
        return self.base.encoders

    @property
    def fusion(self) -> Fusion | None:
        """The fusion of the base."""
        return self.base.fusion

    @property
    def mask_heads(self) -> tuple[str, ...]:
        """`coarse`, and `refined` where there is a refiner; the best one last."""
        return self.masks.names

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Those of the base, and of the mask heads."""
        return self.base.parts | self.masks.parts

    @property
    def new_parts(self) -> frozenset[str]:
        """What no checkpoint holds."""
        return self.base.new_parts | self.masks.new_parts

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the model was built on: the base's identity, and the refiner's."""
        return {**self.base.identity, **self.masks.identity}

    def forward(self, batch: Batch) -> Outputs:
        """Predict the masks of a batch's phrases; see `PhraseMasks.predict`.

        Raises:
            InputError: The batch has no phrase.
        """
        images = _phrases(batch).images
        embeddings, pictures = self.masks.embed(batch), self.masks.pictures(batch)
        read = self.read(batch)
        return self.masks.predict(read, images, batch.geometries, embeddings, pictures)

    def read(self, batch: Batch) -> PhraseReading:
        """See and read; without gradient, where nothing in the base trains."""
        trains = any(parameter.requires_grad for parameter in self.base.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            return read_batch(self, batch)

    def refine(self, batch: Batch, coarse: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Pass given coarse logits, one float (h, w) a phrase of the batch, through the refiner."""
        images, embeddings = _phrases(batch).images, self.masks.embed(batch)
        return self.masks.refine(self.read(batch), images, coarse, embeddings)[0]

    def predict(self, batch: Batch, mask: str = "") -> Found:
        """Return for each phrase a mask bool (H, W) in original pixels, and a score in [0, 1]."""
        images = _phrases(batch).images.tolist()
        geometries = [batch.geometries[image] for image in images]
        with probing(self):
            return decide(self(batch), mask or self.mask_heads[-1], geometries)

    def read_picture(self, image: Image.Image, seen: Seen | None = None) -> Reading:
        """Read a picture once, for any number of phrases; `seen` is what `see` made of it."""
        return read_picture(self, image, seen)

    def point_at(self, reading: Reading, phrases: Sequence[str], mask: str = "") -> Found:
        """Point at phrases in a picture that was read."""
        return point_at(self, reading, phrases, mask or self.mask_heads[-1])

    def point(self, image: Image.Image, phrases: Sequence[str]) -> Found:
        """Return for each phrase a mask bool (H, W) in original pixels, and a score in [0, 1]."""
        return self.point_at(self.read_picture(image), phrases)

    def ground_text(
        self,
        image: Image.Image,
        messages: Sequence[Mapping[str, Any]],
        text: str,
        spans: Sequence[tuple[int, int]],
        mask: str = "",
    ) -> Found:
        """Point at pieces of a text that follows a conversation; see `models.pointing`."""
        return point_in_text(self, image, messages, text, spans, mask or self.mask_heads[-1])

    def generate(self, batch: Batch, **generation: Any) -> list[str]:
        """Answer as the base does."""
        return self.base.generate(batch, **generation)

    def chat(self, messages: Sequence[Mapping[str, Any]], **generation: Any) -> str:
        """Answer a conversation as the base does."""
        return self.base.chat(messages, **generation)

    def look(self, batch: Batch) -> Fused:
        """Encode and fuse, as the base does."""
        return self.base.look(batch)

    def see(self, batch: Batch) -> tuple[Fused, Any]:
        """Encode and fuse, as the base does, with what the host's family adds."""
        return self.base.see(batch)

    def probe(self) -> Mapping[str, Tensor]:
        """Return the mask logits of two fixed inputs by `<input>.<head>`, float32 (P, h, w)."""
        found: dict[str, Tensor] = {}
        with probing(self):
            for sample in build_phrase_probe_samples():
                masks = self(self.collator([sample]).to(self.host.device)).masks
                found |= {f"{sample.identifier}.{n}": torch.stack(m) for n, m in masks.items()}
        return found


def _phrases(batch: Batch) -> PhraseBatch:
    if batch.phrases is None:
        raise InputError(
            "the batch has no phrase to point at; give samples with `phrases`, such as those of a "
            "grounding format or a world with phrases"
        )
    return batch.phrases
