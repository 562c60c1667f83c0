"""Reading videos by domain: found by a router, or said by each video."""

from __future__ import annotations

from torch import Tensor, nn

from chiasm.core.batch import VideoBatch
from chiasm.core.tokens import VisualTokens
from chiasm.language.parts import keep_only, leave_out
from chiasm.layers.domains import Domains
from chiasm.models.video_reading import VideoReading
from chiasm.objectives.routing import LOGITS, WEIGHTS


def read_by_domain(
    reading: VideoReading, domains: Domains | None, tokens: VisualTokens, videos: VideoBatch
) -> tuple[VisualTokens, dict[str, Tensor]]:
    """Read tokens, each row through what its domains have of their own.

    Args:
        reading: Reads.
        domains: On its reader; None reads all videos alike.
        tokens: Of the videos, one row each.
        videos: The videos; `VideoBatch.domains` counts where the domains have no router.

    Returns:
        The states, one row a video; and by name `router` and `router.logits`, float (V, domains),
        where there is a router.
    """
    if domains is None:
        return reading.think(tokens), {}
    routing = domains.choose(tokens.features, tokens.mask, tokens.sizes, videos.domains)
    with domains.through(routing):
        states = reading.think(tokens)
    refined = domains.refine(states.features, routing, states.mask)
    told = {} if routing.logits is None else {WEIGHTS: routing.weights, LOGITS: routing.logits}
    return states.with_features(refined), told


def parts_by_domain(reader: nn.Module, domains: Domains | None) -> dict[str, nn.Module]:
    """Return the parts `reader`, and `domains` where there are any.

    Adapters sit inside of the reader, and belong to `domains` with the experts and the router.
    """
    if domains is None:
        return {"reader": reader}
    own: dict[str, nn.Module] = dict(domains.named_children())
    if domains.adapters is None:
        return {"reader": reader, "domains": nn.ModuleDict(own)}
    sitting = domains.adapters.modules
    own["adapters"] = keep_only(reader, sitting)
    return {"reader": leave_out(reader, sitting), "domains": nn.ModuleDict(own)}
