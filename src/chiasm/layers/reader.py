"""A reader of visual tokens: pre-norm layers of any attention type, told where and when.

    x = x + attention(norm(x));    x = x + MLP(norm(x))

Places and times enter as sines and cosines, times of several periods, so that a long video looks
nowhere different from a short one. Attention counts a merged token as often as what it stands for.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from pydantic import Field, ValidationError, field_validator, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chiasm.core.config import Config, lookup
from chiasm.core.errors import InputError
from chiasm.layers.attention import ATTENTION
from chiasm.layers.attention.linear import LinearBlock
from chiasm.layers.attention.performer import PerformerAttention
from chiasm.layers.attention.rows import Mixer
from chiasm.layers.mlp import MLP

PLACES = 2
"""Frequencies along each axis of a frame."""


class ReaderConfig(Config):
    """The reader.

    Attributes:
        attention: Name in `ATTENTION`, of any type; of `linear`, which is a whole layer, the mixer.
        options: What that type is told besides width, heads and direction.
        causal: Whether a token sees earlier tokens only, so that the reader can follow a stream.
        depth: Layers.
        heads: Attention heads.
        expansion: Width of the MLP's inner layer, in widths of a token.
        periods: Of the sines of time, in seconds. None should be longer than the videos learned
            from: a phase that was never seen means nothing.
    """

    attention: str = "local_global"
    options: dict[str, Any] = Field(default_factory=lambda: {"window": 96, "global_tokens": 0})
    causal: bool = False
    depth: int = Field(default=3, ge=1)
    heads: int = Field(default=4, ge=1)
    expansion: int = Field(default=2, ge=1)
    periods: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)

    @model_validator(mode="before")
    @classmethod
    def _own_options(cls, values: Any) -> Any:
        # The default options are those of the default type.
        if isinstance(values, dict) and "attention" in values and "options" not in values:
            own = cls.model_fields["attention"].default
            return values if values["attention"] == own else {**values, "options": {}}
        return values

    @model_validator(mode="after")
    def _options_fit(self) -> ReaderConfig:
        shape = {"width": self.heads, "heads": self.heads, "causal": self.causal}
        twice = sorted(set(shape) & set(self.options))
        if twice:
            raise ValueError(
                f"`options` give {', '.join(twice)}, which the reader gives its attention; leave "
                "them out"
            )
        if not all(0 < period < math.inf for period in self.periods):
            raise ValueError(f"periods {self.periods} of sines; give seconds above 0")
        kind = lookup(ATTENTION, self.attention, "attention type")
        try:
            kind(**shape, **self.options)
        except ValidationError as error:
            told = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'all'}: {one['msg']}" for one in error.errors()
            )
            raise ValueError(f"`options` of {self.attention}: {told}") from None
        return self

    @field_validator("attention")
    @classmethod
    def _known(cls, name: str) -> str:
        lookup(ATTENTION, name, "attention type")
        return name

    def build(self, *, width: int) -> Reader:
        """Build the reader for tokens of a width."""
        shape = {"width": width, "heads": self.heads, "causal": self.causal, **self.options}
        kind = lookup(ATTENTION, self.attention, "attention type")
        built = [kind(**shape).build() for _ in range(self.depth)]
        mixers = [one.mixer if isinstance(one, LinearBlock) else one for one in built]
        return Reader(width=width, mixers=mixers, expansion=self.expansion, periods=self.periods)


class Reader(nn.Module):
    """Reads rows of tokens, whole or piece by piece.

    Args:
        width: Width of a token.
        mixers: The attention of each layer.
        expansion: As in the configuration.
        periods: As in the configuration.
    """

    def __init__(
        self,
        *,
        width: int,
        mixers: list[Any],
        expansion: int,
        periods: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.periods = periods
        self._recomputes = False
        self.place = nn.Linear(2 * len(periods) + 4 * PLACES + 1, width)
        self.mixers = nn.ModuleList(mixers)
        self.mixer_norms = nn.ModuleList(nn.LayerNorm(width) for _ in mixers)
        self.mlps = nn.ModuleList(
            MLP(width=width, hidden=expansion * width, output=width) for _ in mixers
        )
        self.mlp_norms = nn.ModuleList(nn.LayerNorm(width) for _ in mixers)
        self.norm = nn.LayerNorm(width)

    @property
    def causal(self) -> bool:
        """Whether a token sees itself and earlier tokens only, as `step` needs."""
        return all(mix[1].causal for mix, _ in self._layers())

    def forward(
        self, x: Tensor, times: Tensor, places: Tensor, sizes: Tensor, mask: Tensor
    ) -> Tensor:
        """Read rows.

        Args:
            x: float (B, N, D).
            times: float32 (B, N), seconds.
            places: float32 (B, N, 2), middle of each token's cell, X and Y in parts of the frame.
            sizes: int64 (B, N), how many original tokens each stands for.
            mask: bool (B, N), True for a real token.

        Returns:
            float (B, N, D), zero at padding.
        """
        x = x + self._where(times, places, sizes, x)
        for mix, mlp in self._layers():
            if self._recomputes and torch.is_grad_enabled():
                x = checkpoint(_read_layer, mix, mlp, x, mask, sizes, use_reentrant=False)
            else:
                x = _read_layer(mix, mlp, x, mask, sizes)
        return cast("Tensor", self.norm(x)).masked_fill(~mask[..., None], 0.0)

    def recompute_layers(self) -> int:
        """From now on compute activations of layers again in the backward pass, and keep none.

        Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174): a third more time.

        Returns:
            The number of layers.

        Raises:
            InputError: The attention draws new random features while it trains, which a second
                computation would not see.
        """
        for mixer in self.mixers:
            if isinstance(mixer, PerformerAttention) and mixer.redraw_every is not None:
                raise InputError(
                    f"layers whose random features are drawn anew (redraw_every="
                    f"{mixer.redraw_every}) cannot be computed twice; leave redraw_every out, or "
                    "keep activations"
                )
        self._recomputes = True
        return len(self.mixers)

    def initial_state(self, batch: int) -> tuple[Any, ...]:
        """Return the state of each layer before the first token."""
        return tuple(mix[1].initial_state(batch) for mix, _ in self._layers())

    def step(
        self, x: Tensor, times: Tensor, places: Tensor, sizes: Tensor, state: tuple[Any, ...]
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Go on with n further tokens of each row; arguments as for `forward`, without padding.

        Raises:
            InputError: The reader is not causal.
        """
        if len(state) != len(self.mixers):
            raise InputError(
                f"a state of {len(state)} layers for a reader of {len(self.mixers)}; begin with "
                "initial_state"
            )
        x = x + self._where(times, places, sizes, x)
        following = []
        for (mix, mlp), before in zip(self._layers(), state, strict=True):
            mixed, after = mix[1].step(mix[0](x), before, sizes)
            following.append(after)
            x = x + mixed
            x = x + mlp[1](mlp[0](x))
        return self.norm(x), tuple(following)

    def _layers(self) -> list[tuple[tuple[nn.Module, Mixer], tuple[nn.Module, nn.Module]]]:
        mixers = [cast("Mixer", mixer) for mixer in self.mixers]
        mixing = zip(self.mixer_norms, mixers, strict=True)
        mapping = zip(self.mlp_norms, self.mlps, strict=True)
        return list(zip(mixing, mapping, strict=True))

    def _where(self, times: Tensor, places: Tensor, sizes: Tensor, like: Tensor) -> Tensor:
        """Return what is added to tokens for their time, place and size, float (B, N, D)."""
        periods = torch.tensor(self.periods, device=times.device)
        phases = [2 * math.pi * times[..., None] / periods]
        phases += [math.pi * (1 << k) * places for k in range(PLACES)]
        angles = torch.cat(phases, -1)
        size = sizes.clamp(min=1).float().log()[..., None]
        found = torch.cat([angles.sin(), angles.cos(), size], -1)
        return self.place(found.to(like.dtype))


def _read_layer(
    mix: tuple[nn.Module, Mixer],
    mlp: tuple[nn.Module, nn.Module],
    x: Tensor,
    mask: Tensor,
    sizes: Tensor,
) -> Tensor:
    x = x + mix[1](mix[0](x), mask, sizes)
    return cast("Tensor", x + mlp[1](mlp[0](x)))
