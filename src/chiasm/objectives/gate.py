"""Terms on the shares of a gated fusion: keep both eyes in use, or decide between them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from chiasm.core.batch import Batch
from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs

Reading = Literal["entropy", "batch"]


class DiversityConfig(Config):
    """Diversity of the gate.

    Attributes:
        reading: `entropy` pulls the shares of each image towards equal parts. `batch` wants shares
            that are decided for each image and balanced over the images.
    """

    reading: Reading = "entropy"

    def build(self) -> Diversity:
        """Build the objective."""
        return Diversity(self.reading)


class Diversity:
    """Term `diversity`, from `Outputs.named["gate"]`, float (I, S) with rows that sum to 1.

    With H the entropy in nats of S shares (of two: the binary entropy of alpha):

    - `entropy`: minus the mean of H(shares of an image). In [-ln S, 0].
    - `batch`: the mean of H(shares of an image), minus H(mean shares), which is minus the mutual
      information of image and stream. In [-ln S, 0]. The mean runs over the images of the
      micro-batch at hand, so this reading depends on how a batch is cut, and on one image it is 0.

    Args:
        reading: `entropy` or `batch`.
    """

    terms = ("diversity",)

    def __init__(self, reading: Reading = "entropy") -> None:
        self.reading = reading

    def count(self, batch: Batch) -> dict[str, float]:
        """Return the number of images."""
        return {"diversity": float(len(batch.geometries))}

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the term summed over images.

        Raises:
            InputError: The model has no gate.
        """
        if not batch.geometries:
            return {"diversity": torch.zeros((), device=batch.input_ids.device)}
        if "gate" not in outputs.named:
            raise InputError(
                "the objective 'diversity' reads the shares of a gate, and the model has none; "
                "use the fusion 'gated' or leave the objective out"
            )
        gate = outputs.named["gate"].float()
        own = entropy(gate).sum()
        if self.reading == "entropy":
            return {"diversity": -own}
        return {"diversity": own - len(gate) * entropy(gate.mean(dim=0))}


def entropy(shares: Tensor) -> Tensor:
    """Return the entropy in nats of shares, float (..., S) that sum to 1, to float (...).

    A share of 0 adds nothing and has the finite gradient of the smallest normal number.
    """
    smallest = torch.finfo(shares.dtype).tiny
    return -(shares * shares.clamp_min(smallest).log()).sum(dim=-1)
