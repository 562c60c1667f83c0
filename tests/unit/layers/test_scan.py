"""The selective scan against the recurrence, step by step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, silu, softplus

from chiasm.layers.attention.mamba import MambaConfig, SelectiveScan
from chiasm.layers.scan import selective_scan

BATCH, CHANNELS, STATE = 2, 7, 3


def inputs(count: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(count)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.double, generator=generator)

    made = (
        drawn(BATCH, count, CHANNELS),
        drawn(BATCH, count, CHANNELS).abs() * 0.3,
        -drawn(CHANNELS, STATE).abs() - 0.1,
        drawn(BATCH, count, STATE),
        drawn(BATCH, count, STATE),
        drawn(CHANNELS),
    )
    return tuple(t.requires_grad_() for t in made)


def step_by_step(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    h = x.new_zeros(BATCH, CHANNELS, STATE) if state is None else state.transpose(1, 2)
    ys = []
    steps = zip(x.unbind(1), dt.unbind(1), b.unbind(1), c.unbind(1), strict=True)
    for x_t, dt_t, b_t, c_t in steps:
        h = (dt_t[..., None] * a).exp() * h + (dt_t * x_t)[..., None] * b_t[:, None]
        ys.append((h * c_t[:, None]).sum(-1) + d * x_t)
    return torch.stack(ys, 1), h.transpose(1, 2)


@pytest.mark.parametrize("count", [1, 5, 64, 65, 150])
@pytest.mark.parametrize("begun", [False, True])
def test_values_and_gradients_are_those_of_the_recurrence(count: int, begun: bool) -> None:
    given = inputs(count)
    state = torch.randn(BATCH, STATE, CHANNELS, dtype=torch.double) if begun else None
    found, after = selective_scan(*given, state)
    expected, last = step_by_step(*given, state)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after, last.detach(), rtol=1e-10, atol=1e-10)
    weights = torch.randn(found.shape, dtype=torch.double)
    first = torch.autograd.grad(found, given, weights)
    second = torch.autograd.grad(expected, given, weights)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_finite_differences() -> None:
    given = inputs(67)
    assert torch.autograd.gradcheck(lambda *t: selective_scan(*t)[0], given, fast_mode=True)


def test_a_step_of_length_zero_changes_nothing() -> None:
    x, dt, a, b, c, d = inputs(11)
    dt = dt.detach().clone()
    dt[:, 4:] = 0
    _, after = selective_scan(x, dt, a, b, c, d)
    _, short = selective_scan(x[:, :4], dt[:, :4], a, b[:, :4], c[:, :4], d)
    assert torch.equal(after, short)


def test_half_precision_is_summed_in_float32() -> None:
    x, dt, a, b, c, d = (t.detach() for t in inputs(1500))
    exact, _ = selective_scan(x, dt, a, b, c, d)
    found, state = selective_scan(*(t.bfloat16() for t in (x, dt, a, b, c, d)))
    assert found.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    rounded = [t.bfloat16().double() for t in (x, dt, a, b, c, d)]
    near, _ = selective_scan(*rounded)
    # Only the last rounding is bfloat16's, 2^-9; summed in bfloat16 the state would stall.
    assert ((found.double() - near).abs() / (near.abs() + 0.1)).max() < 2**-8
    assert exact.isfinite().all()


def test_the_first_steps_are_log_uniform_and_factors_at_most_one() -> None:
    torch.manual_seed(0)
    module = MambaConfig(width=640, heads=5, causal=True, state=5).build()
    scan = module.scans[0]
    assert isinstance(scan, SelectiveScan)
    steps = softplus(scan.step_size.bias.detach())
    assert 1e-3 * 0.999 <= float(steps.min()) < 2e-3
    assert 0.05 < float(steps.max()) <= 0.1 * 1.001
    # Log-uniform: a quarter of the steps in each quarter of the range.
    place = (steps.log() - math.log(1e-3)) / math.log(100)
    shares = torch.histc(place, bins=4, min=0, max=1) / len(steps)
    assert (shares - 0.25).abs().max() < 0.05
    decay = -scan.log_decay.detach().exp()
    torch.testing.assert_close(decay[0], -torch.arange(1.0, 6.0))
    factors = (steps[:, None] * decay).exp()
    assert float(factors.min()) > 0
    assert float(factors.max()) <= 1


def test_the_module_is_the_published_block() -> None:
    """In float64, from the formulas, with a plain loop."""
    torch.manual_seed(1)
    module = MambaConfig(width=22, heads=2, causal=True, state=3).build().double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    scan = module.scans[0]
    assert isinstance(scan, SelectiveScan)
    u = torch.randn(2, 19, 22, dtype=torch.double)
    x, z = module.inner(u).split(44, -1)
    padded = torch.cat([torch.zeros(2, 3, 44).double(), x], 1).transpose(1, 2)
    x = silu(
        conv1d(padded, scan.convolution.weight, scan.convolution.bias, groups=44).transpose(1, 2)
    )
    low, b, c = scan.select(x).split([2, 3, 3], -1)
    dt = softplus(scan.step_size(low))
    h, ys = torch.zeros(2, 44, 3).double(), []
    for t in range(19):
        h = (dt[:, t, :, None] * -scan.log_decay.exp()).exp() * h
        h = h + (dt[:, t] * x[:, t])[..., None] * b[:, t, None]
        ys.append((h * c[:, t, None]).sum(-1) + scan.skip * x[:, t])
    expected = module.out(torch.stack(ys, 1) * silu(z))
    torch.testing.assert_close(module(u), expected, rtol=1e-9, atol=1e-9)


def test_a_size_lengthens_the_step() -> None:
    """A token of size n decays the past as n steps do, and counts n times."""
    torch.manual_seed(1)
    module = MambaConfig(width=22, heads=2, causal=True, convolution=1).build().double()
    scan = module.scans[0]
    u = torch.randn(1, 5, 44, dtype=torch.double)
    sizes = torch.tensor([[1.0, 3, 1, 2, 1]])
    seen = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        seen.append(output)

    hook = scan.step_size.register_forward_hook(keep)
    y, _ = scan(u, sizes.double())
    hook.remove()
    x = silu(scan.convolution(u.transpose(1, 2)).transpose(1, 2))
    _, b, c = scan.select(x).split([2, 16, 16], -1)
    dt = softplus(seen[0]) * sizes[..., None].double()
    expected, _ = selective_scan(x, dt, -scan.log_decay.exp(), b, c, scan.skip)
    torch.testing.assert_close(y, expected)


def test_rows_read_in_both_directions_mirror() -> None:
    """With the same weights in both scans, a mirrored row has mirrored answers."""
    torch.manual_seed(1)
    module = MambaConfig(width=22, heads=2).build().double()
    module.scans[1].load_state_dict(module.scans[0].state_dict())
    x = torch.randn(2, 13, 22, dtype=torch.double)
    torch.testing.assert_close(module(x.flip(1)), module(x).flip(1))
