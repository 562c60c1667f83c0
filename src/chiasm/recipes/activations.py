"""What a forward pass keeps for the backward pass: counted on a small model, or by formula.

The formula counts, for each transformer block and token, the tensors that autograd saves with a
fused attention kernel (which keeps queries, keys, values, output and one number a head, but no
scores), in the manner of Korthikanti et al. (2022, arXiv:2205.05198, section 4.1). With h the width
of a block, a that of its attention, i that inside its MLP, c the bytes of a number in the
arithmetic:

    RMS norms and a gated MLP, trains:     c (4 h + 4 a + 4 i) + 8 h   (norms work in float32)
    the same, frozen, gradient passes:     c (4 a + 3 i) + 8 h         (no inputs of linear layers)
    layer norms and a plain MLP, trains:   c (5 h + 4 a + 2 i)
    the same, frozen, gradient passes:     c (2 h + 4 a + i)

Each norm beyond two (of queries and keys) adds c a. Keys and values are counted at full width: the
library repeats them for groups of heads. With recomputation a block keeps its input, and one block
at a time keeps all. On tiny models of every family this is within a quarter of what is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Blocks:
    """The transformer blocks of a part.

    Attributes:
        count: How many there are.
        width: Width h of a token.
        attention: Width a of all heads together.
        inside: Width i inside the MLP.
        gated: Whether the MLP multiplies by a gate; such blocks have RMS norms.
        norms: Norms in a block.
    """

    count: int
    width: int
    attention: int
    inside: int
    gated: bool
    norms: int

    def bytes_per_token(self, trains: bool, number: int, recompute: bool) -> int:
        """Return the bytes that all blocks keep for one token.

        Args:
            trains: Whether the blocks' weights train; otherwise gradients only pass.
            number: Bytes c of a number in the arithmetic.
            recompute: Whether blocks are recomputed.
        """
        h, a, i = self.width, self.attention, self.inside
        if self.gated:
            each = number * (4 * h + 4 * a + 4 * i if trains else 4 * a + 3 * i) + 8 * h
        else:
            each = number * (5 * h + 4 * a + 2 * i if trains else 2 * h + 4 * a + i)
        each += number * a * max(0, self.norms - 2)
        return number * h * self.count + each if recompute else each * self.count


def find_blocks(part: nn.Module) -> Blocks | None:
    """Return the transformer blocks of a part: its heaviest list of modules with attention and MLP.

    None where there is no such list.
    """
    lists = [m for m in part.modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        return None
    stack = max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))
    named = [(n.split("."), m) for n, m in stack[0].named_modules()]
    linears = [(steps, m) for steps, m in named if isinstance(m, nn.Linear)]
    mlp = [m for steps, m in linears if "mlp" in steps]
    attention = [m for steps, m in linears if "mlp" not in steps]
    if not mlp or not attention:
        return None
    # Output layers come last in both.
    width, inside = mlp[-1].out_features, mlp[-1].in_features
    return Blocks(
        count=len(stack),
        width=width,
        attention=attention[-1].in_features,
        inside=inside,
        gated=sum(m.out_features for m in mlp[:-1]) == 2 * inside,
        norms=sum("norm" in steps[-1] for steps, _ in named),
    )


def other_bytes_per_token(part: nn.Module, trains: bool, number: int) -> int:
    """Return the bytes that linear and patch layers outside of blocks keep for one token.

    Their inputs where they train, and what leaves linear layers, which a nonlinearity reads.
    """
    lists = [m for m in part.modules() if isinstance(m, nn.ModuleList)]
    stacked = {id(inner) for m in lists for inner in m.modules()}
    kept = 0
    for layer in part.modules():
        if id(layer) in stacked:
            continue
        if isinstance(layer, nn.Linear):
            kept += layer.out_features + (layer.in_features if trains else 0)
        if isinstance(layer, nn.Conv2d | nn.Conv3d) and trains:
            kept += layer.weight[0].numel()
    return number * kept


class SavedBytes:
    """Counts what autograd saves inside `counting`, weights and buffers left out.

    Args:
        model: Whose weights do not count.
    """

    def __init__(self, model: nn.Module) -> None:
        own = [*model.parameters(), *model.buffers()]
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in own}
        self._kept: dict[int, Tensor] = {}

    @property
    def total(self) -> int:
        """Bytes of all different storages that were saved."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is saved inside; what is counted is held until this object goes."""

        def pack(tensor: Tensor) -> Tensor:
            place = tensor.untyped_storage().data_ptr()
            if place not in self._weights:
                self._kept.setdefault(place, tensor)
            return tensor

        def unpack(tensor: Any) -> Any:
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield


def line_through(points: Mapping[int, int]) -> tuple[float, float]:
    """Return (start, slope) of the line through two points, tokens to bytes."""
    (few, low), (many, high) = sorted(points.items())
    slope = (high - low) / (many - few)
    return low - slope * few, slope
