"""The selective scan: a linear recurrence whose coefficients depend on the input.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t;    y_t = C_t . h_t + D x_t

Gu and Dao (2023, arXiv:2312.00752), eq. 2 with the discretisation of section 3.6 (zero-order hold
for A, Euler for B). With A < 0 and dt >= 0 every factor exp(dt A) lies in (0, 1].

Exponentials are taken for a chunk of steps at once; the recurrence runs in place. States are kept
at the ends of chunks only, and the backward pass, written by hand, computes the others again.
States are laid out (state, channel), so that every operation runs along the channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from chiasm.layers.precision import sums_in

_CHUNK = 64


def selective_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence along a row.

    All sums are in float32 (float64 for float64), whatever the type of the input.

    Args:
        x: float (B, L, E), the input.
        dt: float (B, L, E), step sizes, at least 0. With 0 a step leaves the state as it is.
        a: float (E, S), below 0.
        b: float (B, L, S).
        c: float (B, L, S).
        d: float (E,).
        state: float32 (B, S, E) before the first step; None is zero. No gradient flows into it.

    Returns:
        float (B, L, E) of the type of `x`, and the state (B, S, E) after the last step.
    """
    kind = sums_in(x.dtype)
    inputs = [t.to(kind) for t in (x, dt, a, b, c, d)]
    if state is None:
        state = inputs[0].new_zeros(x.shape[0], a.shape[1], x.shape[2])
    with torch.autocast(x.device.type, enabled=False):
        y, after = _Scan.apply(*inputs, state.detach().to(kind))
    return y.to(x.dtype), after


class _Steps(NamedTuple):
    """One chunk of T steps: inputs (T, B, ...), factors and states (T, B, S, E)."""

    x: Tensor
    dt: Tensor
    b: Tensor
    c: Tensor
    factors: Tensor
    states: Tensor


def _run(
    x: Tensor, dt: Tensor, turned: Tensor, b: Tensor, c: Tensor, piece: slice, state: Tensor
) -> _Steps:
    """Run some steps; `turned` is A as (S, E)."""
    x, dt, b, c = (t[:, piece].transpose(0, 1) for t in (x, dt, b, c))
    factors = (dt[:, :, None, :] * turned).exp_()
    states = (dt * x)[:, :, None, :] * b[..., None]
    # Views taken once: indexing step by step would cost more than the arithmetic.
    for own, factor in zip(states.unbind(0), factors.unbind(0), strict=True):
        state = torch.addcmul(own, factor, state, out=own)
    return _Steps(x, dt, b, c, factors, states)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        x, dt, a, b, c, d, state = inputs
        turned = a.T.contiguous()
        y = torch.empty_like(x)
        before = []
        for start in range(0, x.shape[1], _CHUNK):
            before.append(state)
            piece = slice(start, start + _CHUNK)
            steps = _run(x, dt, turned, b, c, piece, state)
            y[:, piece] = (steps.c[:, :, None, :] @ steps.states).squeeze(2).transpose(0, 1)
            state = steps.states[-1].clone()
        y.addcmul_(x, d)
        ctx.save_for_backward(x, dt, a, b, c, d, *before)
        ctx.mark_non_differentiable(state)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, dt, a, b, c, d, *before = ctx.saved_tensors
        given, turned = grads[0], a.T.contiguous()
        to_x = given * d
        to_dt, to_b, to_c = (torch.empty_like(t) for t in (dt, b, c))
        to_a = torch.zeros_like(turned)
        carry = x.new_zeros(x.shape[0], a.shape[1], x.shape[2])
        with torch.autocast(x.device.type, enabled=False):
            for index in reversed(range(len(before))):
                piece = slice(index * _CHUNK, (index + 1) * _CHUNK)
                steps = _run(x, dt, turned, b, c, piece, before[index])
                own = given[:, piece].transpose(0, 1)
                to_c[:, piece] = (steps.states @ own[..., None]).squeeze(-1).transpose(0, 1)
                pull = own[:, :, None, :] * steps.c[..., None]
                for here, factor in zip(
                    reversed(pull.unbind(0)), reversed(steps.factors.unbind(0)), strict=True
                ):
                    here += carry
                    torch.mul(here, factor, out=carry)
                drive = (steps.b[:, :, None, :] @ pull).squeeze(2)
                to_b[:, piece] = (
                    (pull @ (steps.dt * steps.x)[..., None]).squeeze(-1).transpose(0, 1)
                )
                # What the exponents receive: pull times factor times the state before the step.
                pull.mul_(steps.factors)
                pull[1:].mul_(steps.states[:-1])
                pull[0].mul_(before[index])
                to_a += (pull * steps.dt[:, :, None, :]).sum((0, 1))
                along = pull.mul_(turned).sum(2).addcmul_(drive, steps.x)
                to_dt[:, piece] = along.transpose(0, 1)
                to_x[:, piece].addcmul_(drive.transpose(0, 1), steps.dt.transpose(0, 1))
        return to_x, to_dt, to_a.T, to_b, to_c, (given * x).sum((0, 1)), None
