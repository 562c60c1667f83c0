"""Mamba: a selective state space in place of attention.

Gu and Dao (2023, arXiv:2312.00752), figure 3 and section 3.4. With E = expand * D channels:

    x, z = Linear(u);    x = SiLU(causal depthwise convolution of width 4 over x)
    dt, B, C = Linear(x);    dt = softplus(Linear(dt))
    y = selective scan of x;    out = Linear(y * SiLU(z))

Not causal: the row is read in both directions, each with a convolution and a scan of its own, and
the two are added before the gate (Zhu et al. 2024, arXiv:2401.09417, section 3.2).

A token that stands for n tokens takes a step n times as long: its factor exp(n dt A) is that of n
equal steps, and its input counts n times. Padding is a step of length 0, which changes nothing.

Cost: N times E times state, and no more memory than the row. The state of a causal stream is one
(state, E) matrix and the last inputs of the convolution, flat in length.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import conv1d, silu, softplus

from chiasm.layers.attention.rows import AttentionConfig, open_rows, open_step
from chiasm.layers.precision import sums_in
from chiasm.layers.scan import selective_scan


class MambaConfig(AttentionConfig):
    """Mamba.

    Attributes:
        heads: Not used: every channel is a head of its own. Given, so that all types are asked
            for in the same way.
        state: State S of a channel.
        expand: Channels E, in widths of a token.
        convolution: Width of the convolution, in tokens.
        shortest: Shortest step at the start.
        longest: Longest step at the start; steps are log-uniform between the two.
    """

    state: int = Field(default=16, ge=1)
    expand: int = Field(default=2, ge=1)
    convolution: int = Field(default=4, ge=1)
    shortest: float = Field(default=1e-3, gt=0)
    longest: float = Field(default=0.1, gt=0)

    def build(self) -> MambaMixer:
        """Build the module."""
        return MambaMixer(
            width=self.width,
            causal=self.causal,
            state=self.state,
            expand=self.expand,
            convolution=self.convolution,
            shortest=self.shortest,
            longest=self.longest,
        )


class MambaState(NamedTuple):
    """What a causal stream keeps.

    Attributes:
        inputs: float (B, convolution - 1, E), the last inputs of the convolution.
        state: float32 (B, S, E), the state of the scan.
    """

    inputs: Tensor
    state: Tensor


class SelectiveScan(nn.Module):
    """Convolution and scan in one direction.

    Args:
        channels: Channels E.
        rank: Width that step sizes are computed from.
        state: State S of a channel.
        convolution: Width of the convolution, in tokens.
        shortest: Shortest step at the start.
        longest: Longest step at the start.
    """

    def __init__(
        self,
        *,
        channels: int,
        rank: int,
        state: int,
        convolution: int,
        shortest: float,
        longest: float,
    ) -> None:
        super().__init__()
        self.rank = rank
        self.state = state
        self.convolution = nn.Conv1d(channels, channels, convolution, groups=channels)
        self.select = nn.Linear(channels, rank + 2 * state, bias=False)
        self.step_size = nn.Linear(rank, channels)
        self.log_decay = nn.Parameter(
            torch.arange(1, state + 1, dtype=torch.float32).log().repeat(channels, 1)
        )
        self.skip = nn.Parameter(torch.ones(channels))
        with torch.no_grad():
            nn.init.uniform_(self.step_size.weight, -(rank**-0.5), rank**-0.5)
            span = math.log(longest) - math.log(shortest)
            steps = torch.exp(torch.rand(channels) * span + math.log(shortest))
            # The inverse of softplus.
            self.step_size.bias.copy_(steps + torch.log(-torch.expm1(-steps)))

    def forward(
        self, x: Tensor, weights: Tensor | None, past: MambaState | None = None
    ) -> tuple[Tensor, MambaState]:
        """Read a row.

        Args:
            x: float (B, N, E), zero at padding.
            weights: float32 (B, N), what steps are multiplied with, or None.
            past: What came before the row; None is nothing.

        Returns:
            float (B, N, E), and what comes before the next row.
        """
        width = self.convolution.kernel_size[0]
        before = x.new_zeros(x.shape[0], width - 1, x.shape[2]) if past is None else past.inputs
        inputs = torch.cat([before.to(x.dtype), x], 1)
        if not x.shape[1]:
            state = x.new_zeros(len(x), self.state, x.shape[2], dtype=sums_in(x.dtype))
            return x, MambaState(inputs, state if past is None else past.state)
        mixed = conv1d(
            inputs.transpose(1, 2),
            self.convolution.weight,
            self.convolution.bias,
            groups=x.shape[2],
        )
        x = silu(mixed.transpose(1, 2))
        low, b, c = self.select(x).split([self.rank, self.state, self.state], -1)
        # Steps in float32: half precision would overflow and round small steps away.
        kind = sums_in(x.dtype)
        dt = softplus(self.step_size(low).to(kind))
        if weights is not None:
            dt = dt * weights[..., None]
        decay = -self.log_decay.to(kind).exp()
        y, state = selective_scan(x, dt, decay, b, c, self.skip, past.state if past else None)
        return y, MambaState(inputs[:, inputs.shape[1] - width + 1 :].detach().clone(), state)


class MambaMixer(nn.Module):
    """A Mamba block without its norm and residual; a `Mixer`.

    Args:
        width: Width D of a token.
        causal: Whether the row is read forwards only.
        state: As in the configuration.
        expand: As in the configuration.
        convolution: As in the configuration.
        shortest: As in the configuration.
        longest: As in the configuration.
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        state: int,
        expand: int,
        convolution: int,
        shortest: float,
        longest: float,
    ) -> None:
        super().__init__()
        self.width = width
        self.causal = causal
        self.channels = expand * width
        self.inner = nn.Linear(width, 2 * self.channels, bias=False)
        self.scans = nn.ModuleList(
            SelectiveScan(
                channels=self.channels,
                rank=math.ceil(width / 16),
                state=state,
                convolution=convolution,
                shortest=shortest,
                longest=longest,
            )
            for _ in range(1 if causal else 2)
        )
        self.out = nn.Linear(self.channels, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """Mix float (B, N, D), as `Mixer` says; steps are multiplied by sizes."""
        rows = open_rows(x, mask, sizes, weight=self.out.weight, width=self.width)
        channels, gate = self.inner(rows.x).chunk(2, -1)
        y, _ = self.scans[0](channels, rows.weights)
        if not self.causal:
            turned = None if rows.weights is None else rows.weights.flip(1)
            y = y + self.scans[1](channels.flip(1), turned)[0].flip(1)
        return rows.close(self.out(y * silu(gate)), x)

    def initial_state(self, batch: int) -> MambaState:
        """Return the state before the first token."""
        scan, weight = self.scans[0], self.out.weight
        assert isinstance(scan, SelectiveScan)
        kept = scan.convolution.kernel_size[0] - 1
        return MambaState(
            weight.new_zeros(batch, kept, self.channels),
            torch.zeros(batch, scan.state, self.channels, device=weight.device),
        )

    def step(
        self, x: Tensor, state: MambaState, sizes: Tensor | None = None
    ) -> tuple[Tensor, MambaState]:
        """Go on with float (B, n, D), as `Mixer` says."""
        rows, weights = open_step(
            x, sizes, weight=self.out.weight, width=self.width, causal=self.causal
        )
        channels, gate = self.inner(rows.x).chunk(2, -1)
        y, following = self.scans[0](channels, None if sizes is None else weights, state)
        return rows.close(self.out(y * silu(gate)), x), following
