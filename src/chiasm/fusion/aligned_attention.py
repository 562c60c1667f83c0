"""Attention of an image to its reconstruction, moved to where the thing stands in the image.

    q = W_q LayerNorm(original)
    k = W_k LayerNorm(aligned reconstruction)
    v = W_v LayerNorm(fused)
    out = original + W_o Attention(q, k, v),  W_o = 0 at the start

The reconstruction's features are moved on their grid by the same affine map as its pixels. Keys
that nothing of the reconstruction reaches are shut; a sample without any open key has nothing added
to its tokens. Each value stands at the cell of its key, in the original's frame.

The source of the method normalises the sum, LayerNorm(original + out). That changes the tokens
before anything is learned, and a tower's tokens have a scale that the layers behind it were trained
on; `post_norm` gives that form.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import ConfigError, GeometryError, InputError
from chiasm.core.protocols import Fused
from chiasm.core.tokens import VisualTokens
from chiasm.layers.mlp import zero_linear
from chiasm.layers.warp import warp

Value = Literal["fused", "reconstruction", "both"]


class AlignedAttentionConfig(Config):
    """Attention of an image to its aligned reconstruction.

    Attributes:
        heads: Number of heads; divides the inner width.
        inner_width: Width of queries, keys and values over all heads; that of the tokens if None.
        align: Whether the reconstruction's features are moved before they are read.
        multi_scale: Whether keys and values also stand at half the grid (means of 2 x 2 cells).
        value: Whose features the values are: those of the blend, as in the source, those of the
            aligned reconstruction itself, or the sum of both, each with a projection of its own.
        decline: Whether a learned key without a value stands beside the reconstruction's, so that a
            token to which nothing of it fits takes nothing over. Softmax without it must choose.
        post_norm: Whether the sum is normalised, as in the source; the start is then no identity.
    """

    heads: int = Field(default=8, ge=1)
    inner_width: int | None = Field(default=None, ge=1)
    align: bool = True
    multi_scale: bool = False
    value: Value = "fused"
    decline: bool = False
    post_norm: bool = False

    def build(self, *, width: int) -> AlignedAttention:
        """Build the attention for tokens of a width.

        Raises:
            ConfigError: Heads do not divide the inner width.
        """
        inner = self.inner_width or width
        if inner % self.heads:
            raise ConfigError(
                f"aligned attention: {self.heads} heads do not divide the width {inner}; choose "
                "other heads, or an inner_width that is a multiple"
            )
        return AlignedAttention(
            width=width,
            inner_width=inner,
            heads=self.heads,
            align=self.align,
            multi_scale=self.multi_scale,
            value=self.value,
            decline=self.decline,
            post_norm=self.post_norm,
        )


class AlignedAttention(nn.Module):
    """Lets each token of the original attend to the aligned reconstruction.

    Args:
        width: Width of the tokens, in and out.
        inner_width: Width of queries, keys and values over all heads.
        heads: Number of heads.
        align: As in the configuration.
        multi_scale: As in the configuration.
        value: As in the configuration.
        decline: As in the configuration.
        post_norm: As in the configuration.
    """

    def __init__(
        self,
        *,
        width: int,
        inner_width: int,
        heads: int,
        align: bool,
        multi_scale: bool,
        value: Value,
        decline: bool,
        post_norm: bool,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.align = align
        self.multi_scale = multi_scale
        self.value = value
        self.query = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner_width))
        # A bias on keys shifts all scores of a query alike, which softmax does not see.
        self.key = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner_width, bias=False))
        self.values = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner_width))
        self.own_values = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner_width))
            if value == "both"
            else None
        )
        self.nothing = nn.Parameter(torch.zeros(inner_width)) if decline else None
        self.output = nn.Linear(inner_width, width)
        zero_linear(self.output)
        self.norm = nn.LayerNorm(width) if post_norm else None

    def fuse(
        self,
        original: VisualTokens,
        reconstruction: VisualTokens,
        fused: VisualTokens | None,
        affine: Tensor | None,
        detail: bool = False,
    ) -> Fused:
        """Fuse the tokens of a batch of pairs.

        Args:
            original: One token a cell, the same grid in every row, float (B, N, width).
            reconstruction: The reconstruction's tokens on the same grid.
            fused: The blend's tokens on the same grid; read only where they are the values.
            affine: float (B, 2, 3), what carries the reconstruction onto the original, as parts of
                the view's side (see `box_affine`); read only with `align`.
            detail: Whether to compute attention weights for people; the result is the same.

        Returns:
            The original's tokens with new features. In `named`: `coverage` bool (B, N), the cells
            that the reconstruction reaches; with `detail` also `attention` float32
            (B, heads, N, N) over the cells of the original's frame and, with `multi_scale`,
            `attention_half` (B, heads, N, cells of the half grid). Weights of a query over both
            sum to 1 (with `decline` to 1 less what it leaves), or are all 0 where no key is open.
            They carry no gradient.

        Raises:
            GeometryError: Tokens were compressed, or grids differ.
            InputError: The affine maps or the blend's tokens are missing.
        """
        dtype = self.output.weight.dtype
        rows, columns = _grid(original, "original")
        keys, covered = self._aligned(reconstruction, affine, (rows, columns))
        values = keys if self.value == "reconstruction" else self._blend(fused, (rows, columns))
        if self.multi_scale:
            keys, values, covered = _with_half_grid(keys, values, covered)
        else:
            keys, values, covered = keys.flatten(2), values.flatten(2), covered.flatten(1)
        query = self._split(self.query(original.features.to(dtype)))
        shown = keys.transpose(1, 2).to(dtype)
        key = self._split(self.key(shown))
        value = self.values(values.transpose(1, 2).to(dtype))
        if self.own_values is not None:
            value = value + self.own_values(shown)
        value = self._split(value)
        open_rows = covered.any(dim=1)
        # A row without any open key attends to all, and is dropped below: no empty softmax.
        mask = (covered | ~open_rows[:, None])[:, None, None]
        if self.nothing is not None:
            nothing = self.nothing.expand(len(key), 1, -1)
            key = torch.cat([key, self._split(nothing)], dim=2)
            value = nn.functional.pad(value, (0, 0, 0, 1))
            mask = nn.functional.pad(mask, (0, 1), value=True)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        update = self.output(seen.transpose(1, 2).flatten(2)).to(original.features.dtype)
        update = update.masked_fill(~open_rows[:, None, None], 0.0)
        named = {"coverage": covered[:, : rows * columns]}
        if detail:
            weights = _weights(query, key, mask).masked_fill(~open_rows[:, None, None, None], 0.0)
            named["attention"] = weights[..., : rows * columns]
            if self.multi_scale:
                named["attention_half"] = weights[..., rows * columns : covered.shape[1]]
        features = original.features + update
        if self.norm is not None:
            features = self.norm(features.to(dtype)).to(features.dtype)
        return Fused(tokens=original.with_features(features), named=named)

    def _aligned(
        self, tokens: VisualTokens, affine: Tensor | None, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the reconstruction's maps float (B, D, rows, columns), moved, and coverage."""
        maps = _maps(tokens, "reconstruction", grid)
        if not self.align:
            return maps, maps.new_ones(len(maps), *grid, dtype=torch.bool)
        if affine is None:
            raise InputError(
                "aligned attention: no affine maps were given; give `affine` (B, 2, 3), or build "
                "with align=False"
            )
        moved, coverage = warp(maps, affine)
        return moved, coverage[:, 0]

    def _blend(self, fused: VisualTokens | None, grid: tuple[int, int]) -> Tensor:
        if fused is None:
            raise InputError(
                "aligned attention: its values are the tokens of the blend, and none were given; "
                "give `fused`, or build with value='reconstruction'"
            )
        return _maps(fused, "fused", grid)

    def _split(self, features: Tensor) -> Tensor:
        return features.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _grid(tokens: VisualTokens, name: str) -> tuple[int, int]:
    """Return (rows, columns) of tokens that fill one grid in every row."""
    grids = sorted({(geometry.rows, geometry.columns) for geometry in tokens.geometries})
    count = tokens.features.shape[1]
    if len(grids) != 1:
        raise GeometryError(
            f"aligned attention: the {name} tokens stand on the grids {grids}; give pairs that are "
            "framed to one square view, so that all share a grid"
        )
    rows, columns = grids[0]
    if count != rows * columns or not bool(tokens.mask.all()) or bool((tokens.sizes != 1).any()):
        raise GeometryError(
            f"aligned attention: {count} {name} tokens for a grid of {rows} x {columns} = "
            f"{rows * columns} cells, or tokens that stand for several cells; features are "
            "moved on their grid, so fuse before any compression"
        )
    return rows, columns


def _maps(tokens: VisualTokens, name: str, grid: tuple[int, int]) -> Tensor:
    """Return tokens as maps float (B, D, rows, columns)."""
    found = _grid(tokens, name)
    if found != grid:
        raise GeometryError(
            f"aligned attention: the {name} tokens stand on {found[0]} x {found[1]} cells, the "
            f"original's on {grid[0]} x {grid[1]}; encode both pictures of a pair alike"
        )
    return tokens.features.transpose(1, 2).unflatten(-1, grid)


def _with_half_grid(keys: Tensor, values: Tensor, covered: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add means of 2 x 2 cells: two of (B, D, rows, columns) to (B, D, K), and bool (B, K).

    Keys are averaged over covered cells alone. At an odd edge a mean has fewer cells.
    """
    share = covered[:, None].to(keys.dtype)
    # Uncovered cells hold zeros already, so the mean over covered ones is a quotient of means.
    shares = _halved(share)
    half_covered = shares > 0
    half_keys = _halved(keys) / torch.where(half_covered, shares, 1.0)
    half_values = half_keys if values is keys else _halved(values)
    return (
        torch.cat([keys.flatten(2), half_keys.flatten(2)], dim=2),
        torch.cat([values.flatten(2), half_values.flatten(2)], dim=2),
        torch.cat([covered.flatten(1), half_covered.flatten(1)], dim=1),
    )


def _halved(maps: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(maps, 2, ceil_mode=True, count_include_pad=False)


def _weights(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """Return attention weights float32 (B, heads, N, K), without gradient."""
    with torch.no_grad():
        scores = query.float() @ key.float().transpose(-1, -2) / query.shape[-1] ** 0.5
        return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
