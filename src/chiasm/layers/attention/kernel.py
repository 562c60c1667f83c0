"""Kernel attention in chunks: softmax replaced by products of features, linear in the row's length.

    out_i = sum_j phi(q_i) . phi(k_j) v_j / sum_j phi(q_i) . phi(k_j)          over j, or j <= i

(Katharopoulos et al. 2020, arXiv:2006.16236, eqs. 5 and 10.) Features exist for one chunk at a time
and are computed again in the backward pass. Causal rows are read chunk by chunk: pairs inside a
chunk directly, everything before it through the running sums, which are also the state of a stream.

Features of keys come with a logarithm of their scale. Sums are kept relative to the largest scale
so far: of all keys, or, where causal, of those up to each query, so that no later key can push an
earlier answer below what a float holds.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from chiasm.layers.attention.rows import MASKED
from chiasm.layers.precision import sums_in

_CHUNK_CPU, _CHUNK_DEVICE, _CAUSAL_CHUNK = 128, 1024, 128
"""Tokens whose features exist at a time: a core's cache holds them; a GPU is asked less often."""


class FeatureMap(Protocol):
    """Non-negative features of queries and keys, and their derivatives."""

    @property
    def count(self) -> int:
        """Features of a token."""
        ...

    def of_queries(self, x: Tensor) -> Tensor:
        """Map float (..., n, D) to features (..., n, M); each row may have a scale of its own."""
        ...

    def of_keys(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map float (..., n, D) to features (..., n, M) and log scale (..., n, 1); None is 0."""
        ...

    def to_queries(self, x: Tensor, features: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of `x` given that of its features, which may be overwritten."""
        ...

    def to_keys(self, x: Tensor, features: Tensor, gradient: Tensor) -> Tensor:
        """As `to_queries`; the gradient of the log scale belongs to it."""
        ...


class KernelState(NamedTuple):
    """The running sums of a stream.

    Attributes:
        sums: float32 (B, H, M, D), features times values, divided by exp(scale).
        norms: float32 (B, H, M, 1), features, divided likewise.
        scale: float32 (B, H, 1, 1), the largest log scale so far.
    """

    sums: Tensor
    norms: Tensor
    scale: Tensor


def empty_state(
    batch: int, heads: int, features: int, width: int, like: Tensor, kind: torch.dtype | None = None
) -> KernelState:
    """Return the sums over no keys, in float32 unless `kind` says otherwise."""
    kind = kind or torch.float32
    return KernelState(
        torch.zeros(batch, heads, features, width, device=like.device, dtype=kind),
        torch.zeros(batch, heads, features, 1, device=like.device, dtype=kind),
        # As float32 has it, like the bias of padding: in float64 the two would differ.
        torch.full((batch, heads, 1, 1), MASKED, device=like.device).to(kind),
    )


def kernel_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    features: FeatureMap,
    *,
    bias: Tensor | None = None,
    causal: bool = False,
    state: KernelState | None = None,
) -> tuple[Tensor, KernelState]:
    """Attend by features.

    Sums are in float32 (float64 for float64), whatever the type of the input.

    Args:
        queries: float (B, H, N, D).
        keys: float (B, H, N, D).
        values: float (B, H, N, D).
        features: The feature map.
        bias: float32 (B, N), log of what the features of each key are multiplied with, or None.
        causal: Whether a query sees only keys up to its own place.
        state: Sums over earlier keys of a causal stream. No gradient flows into them.

    Returns:
        float (B, H, N, D) of the type of `queries`, and the sums after the last key.
    """
    kind = sums_in(queries.dtype)
    q, k, v = (t.to(kind) for t in (queries, keys, values))
    batch, heads, _, width = v.shape
    if state is None:
        state = empty_state(batch, heads, features.count, width, v, kind)
    shown = None if bias is None else bias.to(kind)[:, None, :, None]
    way = _CausalKernel if causal else _Kernel
    with torch.autocast(q.device.type, enabled=False):
        out, *after = way.apply(q, k, v, shown, features, *(t.detach().to(kind) for t in state))
    return out.to(queries.dtype), KernelState(*after)


def _scaled_keys(
    features: FeatureMap, keys: Tensor, bias: Tensor | None, start: int, stop: int
) -> tuple[Tensor, Tensor | None]:
    """Return features (B, H, n, M) of some keys, and log scale with bias, or None for zero."""
    found, scale = features.of_keys(keys[:, :, start:stop])
    if bias is not None:
        piece = bias[:, :, start:stop]
        scale = piece.expand(*found.shape[:-1], 1) if scale is None else scale + piece
    return found, scale


def _chunk(x: Tensor) -> int:
    return _CHUNK_CPU if x.device.type == "cpu" else _CHUNK_DEVICE


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        q, k, v, bias, features, sums, norms, scale = inputs
        sums, norms, count, chunk = sums.clone(), norms.clone(), k.shape[2], _chunk(k)
        for start in range(0, count, chunk):
            stop = start + chunk
            found, own = _scaled_keys(features, k, bias, start, stop)
            values = v[:, :, start:stop]
            turned = found.transpose(-1, -2)
            if own is None:
                scale = torch.zeros_like(scale)
                sums += turned @ values
                norms += turned.sum(-1, keepdim=True)
                continue
            larger = torch.maximum(scale, own.amax(-2, keepdim=True))
            fade, own = (scale - larger).exp(), (own - larger).exp_()
            sums.mul_(fade).add_(turned @ (values * own))
            norms.mul_(fade).add_(turned @ own)
            scale = larger
        out = torch.empty_like(q)
        for start in range(0, count, chunk):
            found = features.of_queries(q[:, :, start : start + chunk])
            torch.div(found @ sums, found @ norms, out=out[:, :, start : start + chunk])
        ctx.features = features
        ctx.save_for_backward(q, k, v, bias, sums, norms, scale, out)
        ctx.mark_non_differentiable(sums, norms, scale)
        return out, sums, norms, scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, bias, sums, norms, scale, out = ctx.saved_tensors
        features, given, chunk = ctx.features, grads[0], _chunk(k)
        to_q, to_k, to_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        to_sums, to_norms = torch.zeros_like(sums), torch.zeros_like(norms)
        with torch.autocast(q.device.type, enabled=False):
            for start in range(0, q.shape[2], chunk):
                piece = slice(start, start + chunk)
                x = q[:, :, piece]
                found = features.of_queries(x)
                share = given[:, :, piece] / (found @ norms)
                inner = (share * out[:, :, piece]).sum(-1, keepdim=True)
                to_sums += found.transpose(-1, -2) @ share
                to_norms -= found.transpose(-1, -2) @ inner
                pull = (share @ sums.transpose(-1, -2)).sub_(inner @ norms.transpose(-1, -2))
                to_q[:, :, piece] = features.to_queries(x, found, pull)
            for start in range(0, k.shape[2], chunk):
                piece = slice(start, start + chunk)
                found, own = _scaled_keys(features, k, bias, start, start + chunk)
                reach = found @ to_sums
                pull = (v[:, :, piece] @ to_sums.transpose(-1, -2)).add_(to_norms.transpose(-1, -2))
                if own is not None:
                    own = (own - scale).exp_()
                    reach, pull = reach.mul_(own), pull.mul_(own)
                to_v[:, :, piece] = reach
                to_k[:, :, piece] = features.to_keys(k[:, :, piece], found, pull)
        return to_q, to_k, to_v, None, None, None, None, None


class _Inside(NamedTuple):
    """One causal chunk.

    Attributes:
        queries: Features (B, H, n, M).
        keys: Features (B, H, n, M).
        weights: (B, H, n, n), what each pair is multiplied with: zero for later keys.
        past: (B, H, n, 1), what earlier sums are multiplied with for each query.
        own: (B, H, n, 1), what each key is multiplied with in the sums after the chunk.
        fade: (B, H, 1, 1), what earlier sums are multiplied with in the sums after the chunk.
        scale: (B, H, 1, 1), the log scale after the chunk.
    """

    queries: Tensor
    keys: Tensor
    weights: Tensor
    past: Tensor
    own: Tensor
    fade: Tensor
    scale: Tensor


def _inside(
    features: FeatureMap, q: Tensor, k: Tensor, bias: Tensor | None, start: int, before: Tensor
) -> _Inside:
    stop = start + _CAUSAL_CHUNK
    queries = features.of_queries(q[:, :, start:stop])
    keys, own = _scaled_keys(features, k, bias, start, stop)
    if own is None:
        own = keys.new_zeros(*keys.shape[:-1], 1)
    largest = torch.maximum(before, own.cummax(-2).values)
    # Earlier keys have at most the scale of the query; later ones are cut off below. Exponentials
    # that underflow take ten times as long on CPU.
    weights = (own.transpose(-1, -2) - largest).clamp_(-80, 0).exp_().tril_()
    # A copy: the state of a stream must not keep the chunk alive.
    last = largest[:, :, -1:].clone()
    return _Inside(
        queries,
        keys,
        weights,
        (before - largest).exp_(),
        (own - last).exp_(),
        (before - last).exp_(),
        last,
    )


class _CausalKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        q, k, v, bias, features, sums, norms, scale = inputs
        out = torch.empty_like(q)
        before: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, q.shape[2], _CAUSAL_CHUNK):
            before.append((sums, norms, scale))
            chunk = _inside(features, q, k, bias, start, scale)
            values = v[:, :, start : start + _CAUSAL_CHUNK]
            pairs = (chunk.queries @ chunk.keys.transpose(-1, -2)).mul_(chunk.weights)
            top = (chunk.queries @ sums).mul_(chunk.past).add_(pairs @ values)
            bottom = (chunk.queries @ norms).mul_(chunk.past).add_(pairs.sum(-1, keepdim=True))
            torch.div(top, bottom, out=out[:, :, start : start + _CAUSAL_CHUNK])
            turned = chunk.keys.transpose(-1, -2)
            sums = (sums * chunk.fade).add_(turned @ (values * chunk.own))
            norms = (norms * chunk.fade).add_(turned @ chunk.own)
            scale = chunk.scale
        ctx.features = features
        ctx.chunks = len(before)
        ctx.save_for_backward(q, k, v, bias, out, *(t for state in before for t in state))
        ctx.mark_non_differentiable(sums, norms, scale)
        return out, sums, norms, scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, bias, out, *before = ctx.saved_tensors
        to = (torch.empty_like(q), torch.empty_like(k), torch.empty_like(v))
        to_sums, to_norms = torch.zeros_like(before[0]), torch.zeros_like(before[1])
        with torch.autocast(q.device.type, enabled=False):
            for index in reversed(range(ctx.chunks)):
                sums, norms, scale = before[3 * index : 3 * index + 3]
                start = index * _CAUSAL_CHUNK
                piece = slice(start, start + _CAUSAL_CHUNK)
                chunk = _inside(ctx.features, q, k, bias, start, scale)
                found = _chunk_gradients(
                    chunk, v[:, :, piece], sums, norms, out[:, :, piece], grads[0][:, :, piece],
                    to_sums, to_norms,
                )  # fmt: skip
                to_queries, to_keys, to_values, to_sums, to_norms = found
                to[0][:, :, piece] = ctx.features.to_queries(
                    q[:, :, piece], chunk.queries, to_queries
                )
                to[1][:, :, piece] = ctx.features.to_keys(k[:, :, piece], chunk.keys, to_keys)
                to[2][:, :, piece] = to_values
        return *to, None, None, None, None, None


def _chunk_gradients(
    chunk: _Inside,
    values: Tensor,
    sums: Tensor,
    norms: Tensor,
    out: Tensor,
    given: Tensor,
    to_sums: Tensor,
    to_norms: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of query features, key features, values, earlier sums and norms."""
    pairs = (chunk.queries @ chunk.keys.transpose(-1, -2)).mul_(chunk.weights)
    bottom = (chunk.queries @ norms).mul_(chunk.past).add_(pairs.sum(-1, keepdim=True))
    share = given / bottom
    inner = (share * out).sum(-1, keepdim=True)
    to_values = (chunk.keys @ to_sums).mul_(chunk.own).add_(pairs.transpose(-1, -2) @ share)
    to_pairs = (share @ values.transpose(-1, -2)).sub_(inner).mul_(chunk.weights)
    past, past_inner = share * chunk.past, inner * chunk.past
    to_queries = (past @ sums.transpose(-1, -2)).sub_(past_inner @ norms.transpose(-1, -2))
    to_queries += to_pairs @ chunk.keys
    to_keys = (values @ to_sums.transpose(-1, -2)).add_(to_norms.transpose(-1, -2))
    to_keys = to_keys.mul_(chunk.own).add_(to_pairs.transpose(-1, -2) @ chunk.queries)
    turned = chunk.queries.transpose(-1, -2)
    to_sums = (to_sums * chunk.fade).add_(turned @ past)
    to_norms = (to_norms * chunk.fade).sub_(turned @ past_inner)
    return to_queries, to_keys, to_values, to_sums, to_norms
