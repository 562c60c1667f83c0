"""A learned router: which of several adapters or experts each row goes through, and how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.batch import IGNORE
from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.layers.mlp import MLP
from chiasm.layers.precision import sums_in


@dataclass(frozen=True)
class Routing:
    """How much of each choice every row takes.

    Attributes:
        weights: float (B, choices), at least 0; a row sums to 1, or is zero where it takes none.
        chosen: bool (B, choices), the choices that are computed for a row; None where all are.
        logits: float (B, choices), what a router said before anything was left out; None where
            nobody was asked.
    """

    weights: Tensor
    chosen: Tensor | None = None
    logits: Tensor | None = None

    @classmethod
    def known(cls, indices: Tensor, choices: int) -> Routing:
        """Send each row through one choice that is known.

        Args:
            indices: int64 (B,), in [0, choices), or `IGNORE` for a row that takes none.
            choices: How many there are.

        Raises:
            InputError: An index is out of range.
        """
        wrong = (indices != IGNORE) & ((indices < 0) | (indices >= choices))
        if bool(wrong.any()):
            raise InputError(
                f"choices {sorted(set(indices[wrong].tolist()))} of {choices}; allowed: 0 to "
                f"{choices - 1}, or {IGNORE} for none"
            )
        chosen = indices[:, None] == torch.arange(choices, device=indices.device)
        return cls(chosen.float(), chosen)

    def mix(self, base: Tensor, x: Tensor, parts: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
        """Return base + sum over choices of weight * part(x).

        Only rows that chose a part go through it, so what a row gets does not depend on what the
        others chose.

        Args:
            base: float (B, ..., E).
            x: float (B, ..., D).
            parts: One a choice, float (b, ..., D) to float (b, ..., E).

        Raises:
            InputError: There are more rows, or other choices, than were routed.
        """
        if len(x) != len(self.weights) or len(parts) != self.weights.shape[1]:
            raise InputError(
                f"{len(x)} rows and {len(parts)} choices were to be mixed by a routing of "
                f"{len(self.weights)} rows and {self.weights.shape[1]} choices; route the batch "
                "that is read"
            )
        shape = (-1,) + (1,) * (x.dim() - 1)
        for choice, part in enumerate(parts):
            weights = self.weights[:, choice].view(shape)
            if self.chosen is None:
                base = base + (part(x) * weights).to(base.dtype)
                continue
            rows = self.chosen[:, choice].nonzero().squeeze(1)
            if len(rows):
                base = base.index_add(0, rows, (part(x[rows]) * weights[rows]).to(base.dtype))
        return base


class RouterConfig(Config):
    """A router.

    Attributes:
        hidden: Width of the inner layer; 0 for a single linear layer.
        top: How many choices a row takes, those with the largest shares, whose shares are divided
            by their sum (GShard, arXiv:2006.16668, section 2.2); None for all of them ("soft").
    """

    hidden: int = Field(default=0, ge=0)
    top: int | None = Field(default=None, ge=1)

    def build(self, *, width: int, choices: int) -> Router:
        """Build a router for rows of tokens of a width.

        Raises:
            InputError: More is to be taken than there is.
        """
        return Router(width=width, choices=choices, hidden=self.hidden, top=self.top)


class Router(nn.Module):
    """Reads a row's tokens, averaged, and says how much of each choice the row takes.

    Args:
        width: Width D of a token.
        choices: How many choices there are.
        hidden: Width of the inner layer; 0 for none.
        top: How many choices a row takes; None for all.
    """

    def __init__(
        self, *, width: int, choices: int, hidden: int = 0, top: int | None = None
    ) -> None:
        super().__init__()
        if top is not None and not 1 <= top <= choices:
            raise InputError(f"top {top} of {choices} choices; give 1 to {choices}, or none")
        self.top = top
        self.norm = nn.LayerNorm(width)
        self.score = MLP(width=width, hidden=hidden, output=choices, depth=2 if hidden else 1)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, sizes: Tensor | None = None
    ) -> Routing:
        """Route rows of tokens.

        Args:
            x: float (B, N, D).
            mask: bool (B, N), True for a real token; None where all are.
            sizes: (B, N), how many original tokens each stands for, so that a merged row is
                averaged as before; None for one each.
        """
        # The sizes of a long video sum to more than half precision holds.
        exact = x.to(sums_in(x.dtype))
        weights = torch.ones_like(exact[..., 0]) if sizes is None else sizes.to(exact.dtype)
        if mask is not None:
            weights = weights.masked_fill(~mask, 0.0)
            exact = exact.masked_fill(~mask[..., None], 0.0)
        total = weights.sum(1, keepdim=True).clamp(min=torch.finfo(exact.dtype).tiny)
        mean = (exact * (weights / total)[..., None]).sum(1)
        return self.route(self.score(self.norm(mean.to(x.dtype))))

    def route(self, logits: Tensor) -> Routing:
        """Turn scores float (B, choices) into shares; float32 inside."""
        logits = logits.float()
        shares = logits.softmax(-1)
        if self.top is None:
            return Routing(shares, None, logits)
        places = logits.topk(self.top, -1).indices
        chosen = torch.zeros_like(shares, dtype=torch.bool).scatter(-1, places, True)
        kept = shares.masked_fill(~chosen, 0.0)
        if self.top < shares.shape[-1]:
            kept = kept / kept.sum(-1, keepdim=True)
        return Routing(kept, chosen, logits)


def load_balance(logits: Tensor, weights: Tensor) -> Tensor:
    """Return how unevenly rows are spread over choices: 1 where evenly, at most their number.

    E * sum_i f_i P_i over E choices (Switch Transformer, arXiv:2101.03961, eq. 4; GShard,
    arXiv:2006.16668, eq. 4 of section 2.2): P_i is the mean share of choice i before any is left
    out. f_i is the part of the work that it does: of the places that rows took, those that are i.
    Where all choices are taken, that is P_i itself, and the term is 1 + the squared coefficient of
    variation of the P_i (arXiv:1701.06538, eq. 6 and 7), smallest where they are even. Where `top`
    of them are, f_i has no gradient, and rows of equal choices with unequal shares can take the
    term a little below 1.

    Args:
        logits: float (B, E), before anything was left out.
        weights: float (B, E), zero where a choice was left out.

    Returns:
        float scalar.
    """
    shares = F.softmax(logits.float(), -1).mean(0)
    taken = weights > 0
    if bool(taken.all()):
        work = shares
    else:
        work = (taken.float() / taken.sum(-1, keepdim=True).clamp(min=1)).mean(0)
    return len(shares) * (work * shares).sum()
