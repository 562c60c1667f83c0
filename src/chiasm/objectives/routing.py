"""Terms on a router of domains: even use of all choices, and the domain where it is known."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from chiasm.core.batch import IGNORE, Batch, VideoBatch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.layers.routing import load_balance

WEIGHTS, LOGITS = "router", "router.logits"
"""Names among a model's outputs: the shares that were used, and the scores before any was left
out, float (videos, domains)."""

DOMAIN, BALANCE = "router.domain", "router.balance"


class RouterTerms:
    """Terms on the routes of the videos of a batch.

    `router.balance` is `load_balance` times the number of videos: 1 a video where even. It is taken
    over the videos of the micro-batch at hand, so it depends on how a batch is cut; with one video
    all that is chosen counts as uneven. `router.domain` is the cross-entropy in nats of each
    video's domain, where it is known.
    """

    terms: tuple[str, ...] = (DOMAIN, BALANCE)

    def count(self, batch: Batch) -> dict[str, float]:
        """Return how many videos have a known domain, and how many there are."""
        videos = _videos(batch)
        return {DOMAIN: float((videos.domains != IGNORE).sum()), BALANCE: float(len(videos))}

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return both terms, summed over videos.

        Raises:
            InputError: The model has no router, or routed other videos or domains.
        """
        domains = _videos(batch).domains
        logits, weights = outputs.named.get(LOGITS), outputs.named.get(WEIGHTS)
        if logits is None or weights is None or len(logits) != len(domains):
            found = sorted(outputs.named) if logits is None else tuple(logits.shape)
            raise InputError(
                f"routes of {len(domains)} videos are needed; found {found}. Give the model "
                "domains with a router, or leave the router's terms out of the objective"
            )
        if int(domains.max()) >= logits.shape[1]:
            raise InputError(
                f"domain {int(domains.max())} of a batch, and the router knows {logits.shape[1]}; "
                "give the model the domains of its data"
            )
        loss = F.cross_entropy(logits.float(), domains, ignore_index=IGNORE, reduction="sum")
        return {DOMAIN: loss, BALANCE: len(domains) * load_balance(logits, weights)}


def _videos(batch: Batch) -> VideoBatch:
    if batch.videos is None:
        raise InputError("the batch has no videos; collate with VideoCollator")
    return batch.videos
