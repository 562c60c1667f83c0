"""Named results of a forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """What a model's forward returns.

    Attributes:
        logits: float (P, V), one row for each supervised position of the batch: the scores of the
            token that follows. None when the batch supervises no text.
        targets: int64 (P,), the token each row of `logits` should predict.
        named: Everything else, by name: `gate` float (I, encoders), `gate_map` float
            (I, tokens, encoders), `cells.shape` float (I, rows, columns, classes), ...
        masks: Logits of masks by the head that made them (`coarse`, `refined`): one float (h, w) a
            phrase of the batch, of any size, which covers the whole original image.
    """

    logits: Tensor | None = None
    targets: Tensor | None = None
    named: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
