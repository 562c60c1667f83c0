"""The heads that turn what a host reads into masks, coarse first and then refined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError, InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.outputs import Outputs
from chiasm.core.protocols import EncoderTransform
from chiasm.encoders.fingerprint import fingerprint
from chiasm.heads.colour_reading import ColourReading
from chiasm.heads.mask_refiner import MaskRefiner
from chiasm.heads.mask_unet import MaskUNet
from chiasm.heads.masks import masks_on_images
from chiasm.heads.segment_anything import ImageEmbeddings
from chiasm.heads.text_layers import TextLayers
from chiasm.language.phrase_maps import PhraseReading

REFINER = "refiner"
"""Name of the refiner's images in `Batch.encoder_images`."""

COLOURS = "colours"
"""Name there of what a head reads that looks at colours."""


class PhraseMasks(nn.Module):
    """Coarse masks from maps or from colours, and refined ones from pixels.

    Args:
        mask_head: Reads the maps (layers times heads of the host, times its grids), or the colours
            of the picture and the phrase's words.
        refiner: Sharpens masks, if there is one.
        text_layers: Makes prompts of phrase tokens; needed exactly when the refiner uses text.

    Raises:
        ConfigError: The parts do not belong together.
    """

    def __init__(
        self,
        *,
        mask_head: MaskUNet | ColourReading,
        refiner: MaskRefiner | None = None,
        text_layers: TextLayers | None = None,
    ) -> None:
        super().__init__()
        if (text_layers is not None) != (refiner is not None and refiner.use_text):
            raise ConfigError(
                "text layers and a refiner that uses text belong together: give both or neither"
            )
        self.mask_head = mask_head
        self.refiner = refiner
        self.text_layers = text_layers
        # Taken now: training moves the weights, and identity tells what was built on.
        known = refiner is not None and refiner.sam.pretrained
        self._weights = fingerprint(refiner) if known and refiner is not None else "random"

    @property
    def names(self) -> tuple[str, ...]:
        """`coarse`, and `refined` where there is a refiner; the best one last."""
        return ("coarse",) if self.refiner is None else ("coarse", "refined")

    @property
    def parts(self) -> dict[str, nn.Module]:
        """`mask_head`, and with a refiner `text_layers` and `refiner.<piece>`."""
        parts: dict[str, nn.Module] = {"mask_head": self.mask_head}
        if self.text_layers is not None:
            parts["text_layers"] = self.text_layers
        pieces = {} if self.refiner is None else self.refiner.parts
        return parts | {f"{REFINER}.{name}": piece for name, piece in pieces.items()}

    @property
    def new_parts(self) -> frozenset[str]:
        """What no checkpoint holds: all, but for a refiner that came from one."""
        known = self.refiner is not None and self.refiner.sam.pretrained
        return frozenset(n for n in self.parts if not (known and n.startswith(f"{REFINER}.")))

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the refiner was built on; empty without one."""
        if self.refiner is None:
            return {}
        return {REFINER: {"name": self.refiner.sam.source["name"], "weights": self._weights}}

    @property
    def transforms(self) -> dict[str, EncoderTransform]:
        """What prepares images for the refiner and for a head that reads colours."""
        found: dict[str, EncoderTransform] = {}
        if self.refiner is not None:
            found[REFINER] = self.refiner.transform
        if isinstance(self.mask_head, ColourReading):
            found[COLOURS] = self.mask_head.transform
        return found

    @property
    def wants_states(self) -> bool:
        """Whether hidden states of phrase tokens are read."""
        return self.text_layers is not None

    @property
    def wants_maps(self) -> bool:
        """Whether maps of attention are read."""
        return isinstance(self.mask_head, MaskUNet)

    def cells(self, geometry: ImageGeometry) -> ImageGeometry:
        """Return the cells that coarse masks are seen through: the host's, or the head's own."""
        if isinstance(self.mask_head, MaskUNet):
            return geometry
        return self.mask_head.geometry((geometry.original_height, geometry.original_width))

    @property
    def least(self) -> int:
        """Places that smaller grids are enlarged to, along the longer side."""
        head = self.mask_head
        return head.least if isinstance(head, MaskUNet) else head.side

    def pictures(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return what a head that looks at colours reads, one an image; empty for other heads."""
        return () if self.wants_maps else tuple(batch.encoder_images[COLOURS])

    def embed(self, batch: Batch) -> ImageEmbeddings | None:
        """Encode the pictures of a batch for the refiner; None where there is none."""
        if self.refiner is None:
            return None
        sizes = [(one.original_height, one.original_width) for one in batch.geometries]
        return self.refiner.embed(batch.encoder_images[REFINER], sizes)

    def predict(
        self,
        reading: PhraseReading,
        images: Tensor,
        geometries: Sequence[ImageGeometry],
        embeddings: ImageEmbeddings | None,
        pictures: Sequence[Tensor] = (),
    ) -> Outputs:
        """Predict masks.

        Args:
            reading: What the host's reading says of P phrases.
            images: int64 (P,), the image of each phrase.
            geometries: One an image.
            embeddings: What `embed` returned; None for coarse masks alone.
            pictures: What `pictures` returned.

        Returns:
            `masks["coarse"]`, and with embeddings `masks["refined"]` and
            `named["refined.scores"]`, float (P,).
        """
        owners = images.tolist()
        if isinstance(self.mask_head, ColourReading):
            seen = [pictures[image] for image in owners]
            coarse = self.mask_head.predict(seen, reading.words)
        else:
            views = [geometries[image] for image in owners]
            coarse = masks_on_images(self.mask_head.predict(reading.maps), views)
        if embeddings is None:
            return Outputs(masks={"coarse": coarse})
        refined, scores = self.refine(reading, images, coarse, embeddings)
        masks = {"coarse": coarse, "refined": refined}
        return Outputs(masks=masks, named={"refined.scores": scores})

    def refine(
        self,
        reading: PhraseReading,
        images: Tensor,
        coarse: Sequence[Tensor],
        embeddings: ImageEmbeddings | None,
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Refine given coarse logits, one float (h, w) a phrase over the whole image.

        Returns:
            Logits, and the refiner's guess of each mask's intersection over union.

        Raises:
            InputError: There is no refiner.
        """
        if self.refiner is None or embeddings is None:
            raise InputError(
                "this model has no refiner, so its masks are coarse; train one with "
                "`grounding.refiner` in the recipe"
            )
        text = [] if self.text_layers is None else self.text_layers.predict(reading.states)
        refined = self.refiner.refine(embeddings, images, coarse, text)
        return refined.logits, refined.scores
