"""Cross-entropy of the codes of a picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.outputs import Outputs


class NextCodes:
    """Term `codes`: cross-entropy of a drawn picture's codes in nats, their mean over a picture.

    Reads `codes.logits`, float (B, n, K), and `codes.targets`, int64 (B, n).
    """

    terms = ("codes",)

    def count(self, batch: Batch) -> dict[str, float]:
        """Return the number of pictures."""
        return {"codes": 0.0 if batch.pairs is None else float(len(batch.pairs))}

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy summed over pictures."""
        if "codes.logits" not in outputs.named:
            return {"codes": torch.zeros((), device=batch.input_ids.device)}
        scores, targets = outputs.named["codes.logits"], outputs.named["codes.targets"]
        each = nn.functional.cross_entropy(
            scores.flatten(0, 1).float(), targets.flatten(), reduction="none"
        )
        return {"codes": each.view_as(targets).mean(dim=1).sum()}
