"""The linear block: a pre-norm layer whose mixer costs linear time.

    x = x + mixer(LayerNorm(x));    x = x + MLP(LayerNorm(x))

The mixer is kernel attention with features elu(x) + 1 (Katharopoulos et al. 2020,
arXiv:2006.16236, eq. 7), FAVOR+ or a selective scan. The state of a causal stream is that of the
mixer, flat in length.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import elu

from chiasm.layers.attention.kernel import KernelState, empty_state, kernel_attention
from chiasm.layers.attention.mamba import MambaConfig, MambaMixer
from chiasm.layers.attention.performer import PerformerAttention, PerformerAttentionConfig
from chiasm.layers.attention.rows import (
    AttentionConfig,
    Projections,
    log_weights,
    open_rows,
    open_step,
)
from chiasm.layers.mlp import MLP

_FLOOR = 1e-6


class LinearBlockConfig(AttentionConfig):
    """The linear block.

    Attributes:
        mixer: `elu`: kernel attention with elu(x) + 1; `performer`: FAVOR+; `mamba`: selective
            scan.
        expansion: Width of the MLP's inner layer, in widths of a token.
        features: Random features of the mixer `performer`.
        state: State of a channel of the mixer `mamba`.
        expand: Inner width of the mixer `mamba`, in widths of a token.
    """

    mixer: Literal["elu", "performer", "mamba"] = "elu"
    expansion: int = Field(default=4, ge=1)
    features: int = Field(default=256, ge=1)
    state: int = Field(default=16, ge=1)
    expand: int = Field(default=2, ge=1)

    def build(self) -> LinearBlock:
        """Build the module."""
        shape = {"width": self.width, "heads": self.heads, "causal": self.causal}
        mixer: EluAttention | PerformerAttention | MambaMixer
        if self.mixer == "elu":
            mixer = EluAttention(width=self.width, heads=self.heads, causal=self.causal)
        elif self.mixer == "performer":
            mixer = PerformerAttentionConfig(**shape, features=self.features).build()
        else:
            mixer = MambaConfig(**shape, state=self.state, expand=self.expand).build()
        return LinearBlock(width=self.width, mixer=mixer, expansion=self.expansion)


class EluFeatures:
    """The map elu(x) + 1; a `FeatureMap`.

    Args:
        count: Width of a head, which is the number of features.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def of_queries(self, x: Tensor) -> Tensor:
        """Return (..., n, D)."""
        # The floor keeps sums from vanishing where all entries are far below zero.
        return elu(x).add_(1 + _FLOOR)

    def of_keys(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (..., n, D), without a scale."""
        return self.of_queries(x), None

    def to_queries(self, x: Tensor, features: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of queries: exp(x) below zero, 1 above."""
        return gradient.mul_((features - _FLOOR).clamp_(max=1.0))

    def to_keys(self, x: Tensor, features: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of keys."""
        return self.to_queries(x, features, gradient)


class EluAttention(nn.Module):
    """Kernel attention with elu(x) + 1 and its projections; a `Mixer`.

    Args:
        width: Width D of a token.
        heads: Attention heads.
        causal: Whether a token sees itself and earlier tokens only.
    """

    def __init__(self, *, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.projections = Projections(width=width, heads=heads)
        self.features = EluFeatures(width // heads)

    def forward(self, x: Tensor, mask: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """Mix float (B, N, D), as `Mixer` says; features of keys are multiplied by sizes."""
        weight, width = self.projections.out.weight, self.projections.width
        rows = open_rows(x, mask, sizes, weight=weight, width=width)
        queries, keys, values = self.projections(rows.x)
        y, _ = kernel_attention(
            queries,
            keys,
            values,
            self.features,
            bias=log_weights(rows.weights),
            causal=self.causal,
        )
        return rows.close(self.projections.join(y), x)

    def initial_state(self, batch: int) -> KernelState:
        """Return the state before the first token."""
        heads, count = self.projections.heads, self.features.count
        return empty_state(batch, heads, count, count, self.projections.out.weight)

    def step(
        self, x: Tensor, state: KernelState, sizes: Tensor | None = None
    ) -> tuple[Tensor, KernelState]:
        """Go on with float (B, n, D), as `Mixer` says."""
        weight, width = self.projections.out.weight, self.projections.width
        rows, weights = open_step(x, sizes, weight=weight, width=width, causal=self.causal)
        queries, keys, values = self.projections(rows.x)
        y, state = kernel_attention(
            queries,
            keys,
            values,
            self.features,
            bias=log_weights(weights),
            causal=True,
            state=state,
        )
        return rows.close(self.projections.join(y), x), state


class LinearBlock(nn.Module):
    """A pre-norm layer around a linear mixer; a `Mixer` itself.

    Args:
        width: Width D of a token.
        mixer: The mixer, built.
        expansion: Width of the MLP's inner layer, in widths of a token.
    """

    def __init__(
        self,
        *,
        width: int,
        mixer: EluAttention | PerformerAttention | MambaMixer,
        expansion: int,
    ) -> None:
        super().__init__()
        self.width = width
        self.mixer_norm = nn.LayerNorm(width)
        self.mixer = mixer
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width=width, hidden=expansion * width, output=width)

    def forward(self, x: Tensor, mask: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        """Mix float (B, N, D), as `Mixer` says."""
        weight = self.mlp_norm.weight
        rows = open_rows(x, mask, sizes, weight=weight, width=self.width)
        y = rows.x + self.mixer(self.mixer_norm(rows.x), mask, sizes)
        return rows.close(y + self.mlp(self.mlp_norm(y)), x)

    def initial_state(self, batch: int) -> tuple[Any, ...]:
        """Return the state before the first token: that of the mixer."""
        return self.mixer.initial_state(batch)

    def step(
        self, x: Tensor, state: Any, sizes: Tensor | None = None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Go on with float (B, n, D), as `Mixer` says."""
        rows = open_rows(x, None, sizes, weight=self.mlp_norm.weight, width=self.width)
        mixed, following = self.mixer.step(self.mixer_norm(rows.x), state, sizes)
        y = rows.x + mixed
        return rows.close(y + self.mlp(self.mlp_norm(y)), x), following
