"""A vision tower with a dense head: how a tower learns to see before it joins a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.data.collate import Collator
from chiasm.encoders.protocol import Encoder, as_modules
from chiasm.heads.cells import CellHead
from chiasm.models.probes import build_probe_samples, probing


class CellClassifier(nn.Module):
    """Says for each cell of the host's grid what it shows.

    1. encode: the tower reads the images, one token a cell
    2. predict: the head scores every attribute of every cell

    Args:
        tower: The encoder to train.
        name: The name under which batches carry its images (`Batch.encoder_images`).
        head: The dense head.
        collator: Turns samples into batches; used by `probe` only.
    """

    senses: frozenset[str] = frozenset()

    def __init__(self, *, tower: Encoder, name: str, head: CellHead, collator: Collator) -> None:
        super().__init__()
        self.tower = tower
        self.name = name
        self.head = head
        self.collator = collator

    @property
    def parts(self) -> dict[str, nn.Module]:
        """`tower` and `head`."""
        return {**as_modules({"tower": self.tower}), "head": self.head}

    @property
    def new_parts(self) -> frozenset[str]:
        """The head, and the tower when it began with random weights."""
        return frozenset({"head"} if self.tower.pretrained else {"head", "tower"})

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the model was built on."""
        return {"tower": self.tower.identity}

    def forward(self, batch: Batch) -> Outputs:
        """Score the cells of a batch's images.

        Returns:
            `named["cells.<attribute>"]`: float (I, rows, columns, classes).

        Raises:
            InputError: The batch carries no images for the tower.
        """
        if not batch.encoder_images.get(self.name):
            raise InputError(
                f"the batch has no images for the tower {self.name!r}; it has "
                f"{sorted(batch.encoder_images) or 'none'}. Give the collator its transform"
            )
        tokens = self.tower.encode(batch.encoder_images[self.name], batch.geometries)
        return Outputs(named=self.head.predict(tokens))

    def probe(self) -> Mapping[str, Tensor]:
        """Return the scores of two fixed inputs by `<input>.<attribute>`, float32."""
        found = {}
        device = next(self.parameters()).device
        with probing(self):
            for sample in build_probe_samples():
                outputs = self(self.collator([sample]).to(device))
                for name, scores in outputs.named.items():
                    found[f"{sample.identifier}.{name}"] = scores.float()
        return found
