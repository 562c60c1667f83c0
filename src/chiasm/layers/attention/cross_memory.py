"""Cross-memory attention: queries from the tokens, keys and values from a few memory slots.

After Perceiver (Jaegle et al. 2021, arXiv:2103.03206), Transformer-XL (Dai et al. 2019,
arXiv:1901.02860) and the compressive transformer (Rae et al. 2020, arXiv:1911.05507, section 3).

Not causal: the memory of a row is the row itself, its real tokens averaged in `slots` pieces of
equal length (slots or fewer tokens: each is a slot, which is dense attention).

Causal: the row is read in segments. A token sees itself and what is before it in its segment, and
the memory: a queue of the latest `slots` slots, into which every finished segment writes one slot
for each `pool` tokens. Gradients flow through the memory inside a row, and stop where a stream is
cut. With pool 1 and as many slots as tokens this is dense causal attention.

A slot counts as many tokens as it averages: log(size) is added to its scores. `learned` slots stand
before the others; a memory of learned slots alone would show no token another.

Cost: N slots products (causal: N (slots + segment)).
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from chiasm.core.errors import InputError
from chiasm.layers.attention.dense import softmax_attention
from chiasm.layers.attention.rows import (
    MASKED,
    AttentionConfig,
    Projections,
    log_weights,
    open_rows,
    open_step,
)
from chiasm.layers.precision import sums_in


class CrossMemoryAttentionConfig(AttentionConfig):
    """Cross-memory attention.

    Attributes:
        slots: Memory slots.
        learned: Slots that are learned and always there, besides.
        segment: Tokens of a segment (causal).
        pool: Tokens a slot averages when a segment is written (causal); it divides the segment.
    """

    slots: int = Field(default=64, ge=1)
    learned: int = Field(default=0, ge=0)
    segment: int = Field(default=64, ge=1)
    pool: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _whole_slots(self) -> Self:
        if self.segment % self.pool:
            raise ValueError(
                f"segments of {self.segment} tokens cannot be written in slots of {self.pool}; "
                "give a pool that divides the segment"
            )
        return self

    def build(self) -> CrossMemoryAttention:
        """Build the module."""
        return CrossMemoryAttention(
            width=self.width,
            heads=self.heads,
            causal=self.causal,
            slots=self.slots,
            learned=self.learned,
            segment=self.segment,
            pool=self.pool,
        )


class MemoryState(NamedTuple):
    """What a causal stream keeps.

    Attributes:
        keys: float (B, H, slots, D / H), of the memory, oldest first.
        values: As `keys`.
        bias: float32 (B, slots), log of the tokens in each slot; MASKED for an empty one.
        open_keys: float (B, H, less than a segment, D / H), of the unfinished segment.
        open_values: As `open_keys`.
        open_weights: float32 (B, less than a segment), sizes.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    open_keys: Tensor
    open_values: Tensor
    open_weights: Tensor


class CrossMemoryAttention(nn.Module):
    """Attention to memory slots with its projections; a `Mixer`.

    Args:
        width: Width D of a token.
        heads: Attention heads.
        causal: Whether a token sees itself and earlier tokens only.
        slots: As in the configuration.
        learned: As in the configuration.
        segment: As in the configuration.
        pool: As in the configuration.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        causal: bool,
        slots: int,
        learned: int,
        segment: int,
        pool: int,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.slots = slots
        self.segment = segment
        self.pool = pool
        self.projections = Projections(width=width, heads=heads)
        self.learned = nn.Parameter(torch.randn(learned, width)) if learned else None

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        sizes: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """Mix float (B, N, D), as `Mixer` says.

        Args:
            x: As for `Mixer`.
            mask: As for `Mixer`.
            sizes: As for `Mixer`.
            memory: float (B, M, D), tokens that are the memory in place of the row's own: plain
                cross attention. Not for causal attention, whose memory comes from its stream.

        Raises:
            InputError: A shape does not fit, or a memory was given to a causal module.
        """
        weight, width = self.projections.out.weight, self.projections.width
        rows = open_rows(x, mask, sizes, weight=weight, width=width)
        if memory is not None and (
            self.causal or memory.shape != (x.shape[0], memory.shape[1], width)
        ):
            raise InputError(
                f"memory of shape {tuple(memory.shape)} for tokens of shape {tuple(x.shape)}, "
                f"causal={self.causal}; give (batch, slots, {width}) to a module that is not causal"
            )
        if self.causal:
            state = self.initial_state(x.shape[0])
            y, _ = self._stream(rows.x, rows.weights, state)
            return rows.close(self.projections.join(y), x)
        if memory is None:
            source, bias = pool_rows(rows.x, rows.weights, self.slots)
        else:
            source, bias = memory.to(rows.x.dtype), None
        if self.learned is not None:
            shown = self.learned.to(source.dtype).expand(x.shape[0], -1, -1)
            source = torch.cat([shown, source], 1)
            bias = None if bias is None else pad(bias, (len(self.learned), 0))
        y = softmax_attention(
            self.projections.queries(rows.x), *self.projections.memory(source), bias=bias
        )
        return rows.close(self.projections.join(y), x)

    def initial_state(self, batch: int) -> MemoryState:
        """Return the state before the first token."""
        weight, heads = self.projections.out.weight, self.projections.heads
        width = self.projections.width // heads
        slots = weight.new_zeros(batch, heads, self.slots, width)
        bias = torch.full((batch, self.slots), MASKED, device=weight.device)
        return MemoryState(slots, slots, bias, slots[:, :, :0], slots[:, :, :0], bias[:, :0])

    def step(
        self, x: Tensor, state: MemoryState, sizes: Tensor | None = None
    ) -> tuple[Tensor, MemoryState]:
        """Go on with float (B, n, D), as `Mixer` says."""
        weight, width = self.projections.out.weight, self.projections.width
        rows, weights = open_step(x, sizes, weight=weight, width=width, causal=self.causal)
        y, following = self._stream(rows.x, weights, state)
        return rows.close(self.projections.join(y), x), following

    def _stream(
        self, x: Tensor, weights: Tensor | None, state: MemoryState
    ) -> tuple[Tensor, MemoryState]:
        """Read some tokens of a stream: (B, H, n, D / H) before the last projection."""
        queries, keys, values = self.projections(x)
        if weights is None:
            weights = torch.ones_like(x[..., 0], dtype=torch.float32)
        begun = state.open_keys.shape[2]
        keys = torch.cat([state.open_keys, keys], 2)
        values = torch.cat([state.open_values, values], 2)
        weights = torch.cat([state.open_weights, weights], 1)
        count = keys.shape[2]
        finished = count // self.segment * self.segment
        # Queries of tokens that were read before have been answered; zeros stand for them.
        queries = _segments(pad(queries, (0, 0, begun, 0)), self.segment)
        memory = [
            torch.cat([old, new], 2)
            for old, new in zip(
                (state.keys, state.values),
                self._written(keys[:, :, :finished], values[:, :, :finished], weights),
                strict=True,
            )
        ]
        sums = weights[:, :finished].unflatten(1, (-1, self.pool)).sum(2)
        logs = log_weights(sums)
        assert logs is not None
        bias = torch.cat([state.bias, logs], 1)
        y = self._attend(queries, keys, values, weights, memory, bias)
        y = y[:, :, begun:count]
        kept = (*(t[:, :, -self.slots :] for t in memory), bias[:, -self.slots :])
        unfinished = (keys[:, :, finished:], values[:, :, finished:], weights[:, finished:])
        return y, MemoryState(*(t.detach().clone() for t in (*kept, *unfinished)))

    def _written(self, keys: Tensor, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of finished segments averaged in slots (B, H, n / pool, D / H)."""
        share = weights[:, : keys.shape[2]].to(sums_in(keys.dtype))
        share = share.unflatten(1, (-1, self.pool))
        share = share / share.sum(2, keepdim=True).clamp(min=1e-6)
        share = share.to(keys.dtype)[:, None, :, None]
        split = (t.unflatten(2, (-1, self.pool)) for t in (keys, values))
        first, second = ((share @ t).squeeze(3) for t in split)
        return first, second

    def _attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        weights: Tensor,
        memory: list[Tensor],
        bias: Tensor,
    ) -> Tensor:
        """Attend segment by segment: queries (B, T, H, segment, D) to own tokens and memory."""
        batch, segments = queries.shape[:2]
        each = self.segment // self.pool
        log = log_weights(weights)
        assert log is not None
        own_bias = pad(log, (0, segments * self.segment - log.shape[1]), value=MASKED)
        biases = [
            bias.unfold(1, self.slots, each)[:, :segments],
            own_bias.unflatten(1, (segments, self.segment)),
        ]
        sources = []
        for own, slots in zip((keys, values), memory, strict=True):
            # Segment t sees the slots that were there before it.
            seen = slots.unfold(2, self.slots, each)[:, :, :segments].permute(0, 2, 1, 4, 3)
            sources.append([seen, _segments(own, self.segment)])
        if self.learned is not None:
            fixed = self.projections.memory(self.learned[None].to(keys.dtype))
            for source, learned in zip(sources, fixed, strict=True):
                source.insert(0, learned[:, None].expand(batch, segments, -1, -1, -1))
            biases.insert(0, bias.new_zeros(batch, segments, len(self.learned)))
        late = torch.ones(self.segment, self.segment, dtype=torch.bool, device=keys.device).triu(1)
        shown = torch.cat(biases, 2)[:, :, None, :]
        late = pad(late, (shown.shape[-1] - self.segment, 0))
        masks = shown.masked_fill(late, MASKED).flatten(0, 1)[:, None]
        flat_keys, flat_values = (torch.cat(source, 3).flatten(0, 1) for source in sources)
        y = scaled_dot_product_attention(
            queries.flatten(0, 1), flat_keys, flat_values, masks.to(queries.dtype)
        )
        return y.unflatten(0, (batch, segments)).transpose(1, 2).flatten(2, 3)


def _segments(x: Tensor, length: int) -> Tensor:
    """Return (B, H, n, D) in whole segments, zeros at the end: (B, T, H, length, D)."""
    x = pad(x, (0, 0, 0, -x.shape[2] % length))
    return x.unflatten(2, (-1, length)).transpose(1, 2)


def pool_rows(x: Tensor, weights: Tensor | None, slots: int) -> tuple[Tensor, Tensor | None]:
    """Average the real tokens of each row in pieces of equal length.

    Args:
        x: float (B, N, D).
        weights: float32 (B, N), the size of each token, zero for padding; None for one each.
        slots: Pieces of a row. A row of fewer real tokens has one a token, and empty ones.

    Returns:
        float (B, min(slots, N), D), and the log of the sizes float32 (B, min(slots, N)), `MASKED`
        for an empty piece; None where all are equal.
    """
    count = x.shape[1]
    if slots >= count:
        return x, log_weights(weights)
    if weights is None and count % slots == 0:
        return x.unflatten(1, (slots, -1)).mean(2), None
    if weights is None:
        weights = torch.ones_like(x[..., 0], dtype=torch.float32)
    real = weights > 0
    length = real.sum(1, keepdim=True)
    rank = real.cumsum(1) - 1
    piece = torch.where(length > slots, rank * slots // length.clamp(min=1), rank)
    chosen = piece[:, None, :] == torch.arange(slots, device=x.device)[None, :, None]
    share = chosen * weights[:, None, :].to(sums_in(x.dtype))
    total = share.sum(2)
    pooled = (share / total.clamp(min=1e-6)[..., None]).to(x.dtype) @ x
    return pooled, log_weights(total)
