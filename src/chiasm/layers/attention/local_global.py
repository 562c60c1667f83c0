"""Local windows and global tokens.

Longformer (Beltagy et al. 2020, arXiv:2004.05150, section 3.1) and BigBird (Zaheer et al. 2020,
arXiv:2007.14062): a token sees the `window` tokens on either side of it and itself; the first
`global_tokens` tokens of a row see all tokens and are seen by all.

Causal: a token sees itself, the `window` tokens before it, and those global tokens that do not come
after it. Global tokens then see what is before them, as all tokens do. The state of a stream is the
last `window` keys and the global ones, flat in length (the attention sinks of Xiao et al. 2023,
arXiv:2309.17453).

Cost: N (2 window + global_tokens) products. Scores exist for one block at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.layers.attention.dense import empty_cache, softmax_attention
from chiasm.layers.attention.near_far import Far, Near, near_far_attention
from chiasm.layers.attention.rows import (
    MASKED,
    AttentionConfig,
    Projections,
    log_weights,
    open_rows,
    open_step,
)


class LocalGlobalAttentionConfig(AttentionConfig):
    """Local windows and global tokens.

    Attributes:
        window: How many tokens on either side a token sees; with N or more, this is dense.
        global_tokens: How many tokens at the start of a row see all and are seen by all.
    """

    window: int = Field(default=64, ge=1)
    global_tokens: int = Field(default=4, ge=0)

    def build(self) -> LocalGlobalAttention:
        """Build the module."""
        return LocalGlobalAttention(
            width=self.width,
            heads=self.heads,
            causal=self.causal,
            window=self.window,
            global_tokens=self.global_tokens,
        )


class LocalGlobalState(NamedTuple):
    """What a causal stream keeps.

    Attributes:
        keys: float (B, H, at most window, D / H), the latest.
        values: As `keys`.
        bias: float32 (B, at most window), added to their scores; MASKED for global tokens.
        global_keys: float (B, H, at most global_tokens, D / H), the first of the stream.
        global_values: As `global_keys`.
        global_bias: float32 (B, at most global_tokens).
        seen: int64 (), tokens read so far.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    global_keys: Tensor
    global_values: Tensor
    global_bias: Tensor
    seen: Tensor


class LocalGlobalAttention(nn.Module):
    """Window and global attention with its projections; a `Mixer`.

    Args:
        width: Width D of a token.
        heads: Attention heads.
        causal: Whether a token sees itself and earlier tokens only.
        window: As in the configuration.
        global_tokens: As in the configuration.
    """

    def __init__(
        self, *, width: int, heads: int, causal: bool, window: int, global_tokens: int
    ) -> None:
        super().__init__()
        self.causal = causal
        self.window = window
        self.global_tokens = global_tokens
        self.projections = Projections(width=width, heads=heads)

    def forward(self, x: Tensor, mask: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """Mix float (B, N, D), as `Mixer` says."""
        weight, width = self.projections.out.weight, self.projections.width
        rows = open_rows(x, mask, sizes, weight=weight, width=width)
        queries, keys, values = self.projections(rows.x)
        y = local_global_attention(
            queries,
            keys,
            values,
            window=self.window,
            global_tokens=self.global_tokens,
            causal=self.causal,
            bias=log_weights(rows.weights),
        )
        return rows.close(self.projections.join(y), x)

    def initial_state(self, batch: int) -> LocalGlobalState:
        """Return the state before the first token."""
        empty = empty_cache(self.projections, batch)
        return LocalGlobalState(*empty, *empty, torch.zeros((), dtype=torch.long))

    def step(
        self, x: Tensor, state: LocalGlobalState, sizes: Tensor | None = None
    ) -> tuple[Tensor, LocalGlobalState]:
        """Go on with float (B, n, D), as `Mixer` says."""
        weight, width = self.projections.out.weight, self.projections.width
        rows, weights = open_step(x, sizes, weight=weight, width=width, causal=self.causal)
        queries, keys, values = self.projections(rows.x)
        bias = log_weights(weights)
        assert bias is not None
        seen, wanted = int(state.seen), self.global_tokens - state.global_keys.shape[2]
        global_keys = torch.cat([state.global_keys, keys[:, :, :wanted]], 2)
        global_values = torch.cat([state.global_values, values[:, :, :wanted]], 2)
        global_bias = torch.cat([state.global_bias, bias[:, :wanted]], 1)
        # Global tokens are seen as such; in the window they would count twice.
        bias = torch.cat([bias[:, :wanted] + MASKED, bias[:, wanted:]], 1)
        before = state.keys.shape[2]
        keys = torch.cat([state.keys, keys], 2)
        values = torch.cat([state.values, values], 2)
        bias = torch.cat([state.bias, bias], 1)
        near = Near(keys, values, bias, before=self.window, after=0, first=before)
        y = near_far_attention(
            queries, near, _shared(global_keys, global_values, global_bias, causal=True, seen=seen)
        )
        latest = slice(-self.window, None)
        latest_keys = (keys[:, :, latest], values[:, :, latest], bias[:, latest])
        firsts = (global_keys, global_values, global_bias)
        kept = (*latest_keys, *firsts, state.seen + x.shape[1])
        following = LocalGlobalState(*(t.detach().clone() for t in kept))
        return rows.close(self.projections.join(y), x), following


def local_global_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    window: int,
    global_tokens: int,
    causal: bool = False,
    bias: Tensor | None = None,
) -> Tensor:
    """Attend to windows and to the first tokens.

    Args:
        queries: float (B, H, N, D).
        keys: float (B, H, N, D).
        values: float (B, H, N, D).
        window: Tokens on either side.
        global_tokens: Tokens at the start that see all and are seen by all.
        causal: Whether nothing sees what comes after it.
        bias: float32 (B, N), added to the scores of each key, or None.

    Returns:
        float (B, H, N, D).
    """
    count = queries.shape[2]
    if window >= count - 1:
        return softmax_attention(queries, keys, values, bias=bias, causal=causal)
    first = min(global_tokens, count)
    far = None
    if first:
        shown = None if bias is None else bias[:, :first]
        far = _shared(keys[:, :, :first], values[:, :, :first], shown, causal=causal)
    after = 0 if causal else window
    near = Near(keys, values, bias, before=window, after=after, hidden=first)
    y = near_far_attention(queries, near, far)
    if causal or not first:
        return y
    overview = softmax_attention(queries[:, :, :first], keys, values, bias=bias)
    return torch.cat([overview, y[:, :, first:]], 2)


def _shared(
    keys: Tensor, values: Tensor, bias: Tensor | None, *, causal: bool, seen: int = 0
) -> Far | None:
    """Return the global tokens as far keys of one class; None where there are none."""
    if keys.shape[2] == 0:
        return None
    shown = None if bias is None else bias[:, None]
    return Far(keys[:, :, None], values[:, :, None], shown, causal=causal, first=-seen)
