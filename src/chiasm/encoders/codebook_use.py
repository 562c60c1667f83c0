"""Which codes of a codebook are used, and how those that are not come back to life."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, distributed, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class CodebookUse:
    """Counts codes over any number of pictures.

    Args:
        size: How many codes the codebook has.
    """

    def __init__(self, size: int) -> None:
        self.counts = torch.zeros(size, dtype=torch.long)

    def add(self, indices: Tensor) -> None:
        """Count codes, int64 of any shape.

        Raises:
            InputError: An index is not in [0, size).
        """
        found = count_codes(indices.cpu(), len(self.counts))
        self.counts += found

    @property
    def share(self) -> float:
        """Share of the codes that occurred at least once, in [0, 1]."""
        return float((self.counts > 0).float().mean())

    @property
    def perplexity(self) -> float:
        """How many codes are used, if all alike: exp of their entropy, in [1, size].

        Raises:
            InputError: Nothing was counted.
        """
        total = int(self.counts.sum())
        if not total:
            raise InputError("perplexity of no codes; add the codes of a picture first")
        shares = self.counts.double() / total
        return float(torch.special.entr(shares).sum().exp())


class RevivalConfig(Config):
    """When codes are used at all, when they count as dead, and are replaced.

    Attributes:
        begin: Training steps before any code is chosen: the decoder draws from latents as they
            are. An encoder from random weights says almost the same of every cell, and codes that
            settle there never spread (Lancucki et al., 2020, arXiv:2005.08520, section 4, begin
            with latents for the same reason).
        every: Training steps between two looks.
        decay: Of the running average of use, a step; 0.98 looks back some 50 steps.
        floor: Codes whose average use is below this part of a fair share (1 / size) are dead.
        until: Steps after which nothing is replaced any more, so that the decoder can settle; None
            for no end.
    """

    begin: int = Field(default=0, ge=0)
    every: int = Field(default=50, gt=0)
    decay: float = Field(default=0.98, gt=0, lt=1)
    floor: float = Field(default=0.05, ge=0, lt=1)
    until: int | None = Field(default=None, gt=0)

    def build(self, *, size: int) -> CodeRevival:
        """Build for a codebook of `size` codes."""
        return CodeRevival(size=size, **self.model_dump())


class CodeRevival(nn.Module):
    """Replaces codes that fell out of use by latents of the batch at hand.

    The first look comes when codes are first chosen: none has been used, so all become latents of
    that batch, which is how the codebook starts. (Dhariwal et al., 2020, arXiv:2005.00341, section
    3.1, restart codes in the same way.)

    All that it remembers are persistent buffers, and all that it draws comes from torch's global
    generator, so a resumed run does the same to the last bit. Several processes add up what they
    count and take the latents of the first.

    Args:
        size: How many codes the codebook has.
        begin: Steps before any code is chosen.
        every: Steps between two looks.
        decay: Of the running average, a step.
        floor: Part of a fair share below which a code is dead.
        until: Steps after which nothing is replaced; None for no end.
    """

    average: Tensor
    steps: Tensor
    revived: Tensor

    def __init__(
        self,
        *,
        size: int,
        begin: int,
        every: int,
        decay: float,
        floor: float,
        until: int | None,
    ) -> None:
        super().__init__()
        self.size, self.begin, self.every = size, begin, every
        self.decay, self.floor, self.until = decay, floor, until
        self.register_buffer("average", torch.zeros(size))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("revived", torch.zeros((), dtype=torch.long))

    @property
    def count(self) -> int:
        """How many codes have been replaced so far, the start of the codebook included."""
        return int(self.revived)

    @property
    def fresh(self) -> bool:
        """Whether no step has been taken yet."""
        return int(self.steps) == 0

    @property
    def waiting(self) -> bool:
        """Whether no code is chosen yet."""
        return int(self.steps) < self.begin

    @torch.no_grad()
    def revive(self, rows: Tensor, latents: Tensor) -> int:
        """Replace dead codes, if it is time; call before the codes of a step are chosen.

        Args:
            rows: float (size, d), the codebook; changed in place.
            latents: float (B, n, d) of the step.

        Returns:
            How many were replaced.
        """
        step = int(self.steps)
        over = self.until is not None and step >= self.until
        if self.waiting or over or (step - self.begin) % self.every:
            return 0
        dead = (self.average < self.floor / self.size).nonzero().flatten()
        if not len(dead):
            return 0
        fresh = _draw(latents.flatten(0, -2), len(dead))
        rows[dead] = _of_first(fresh).to(rows)
        # A fair share is a period of grace.
        self.average[dead] = 1.0 / self.size
        self.revived += len(dead)
        return len(dead)

    @torch.no_grad()
    def note(self, indices: Tensor) -> None:
        """Take note of the codes of a step, int64 of any shape; of none while they wait."""
        self.steps += 1
        if int(self.steps) <= self.begin:
            return
        counts = _summed(count_codes(indices, self.size))
        shares = counts.to(self.average) / counts.sum()
        self.average.lerp_(shares, 1.0 - self.decay)


def count_codes(indices: Tensor, size: int) -> Tensor:
    """Return how often each code occurs, int64 (size,).

    Raises:
        InputError: An index is not in [0, size).
    """
    counts = torch.bincount(indices.flatten(), minlength=size)
    if len(counts) > size:
        raise InputError(f"code {len(counts) - 1} of a codebook with codes from 0 to {size - 1}")
    return counts


@torch.no_grad()
def start_as_first(
    start: Callable[[ModuleT, Tensor], None], module: ModuleT, pixels: Tensor
) -> None:
    """Start weights from pictures; of several processes, the first one's pictures decide for all.

    Gradients alone are averaged over processes: weights that begin apart would stay apart.

    Args:
        start: Changes the weights in place.
        module: Whose weights; the same in all processes before.
        pixels: Those of this process.
    """
    start(module, pixels)
    if _several():
        for parameter in module.parameters():
            parameter.copy_(_of_first(parameter.detach()))


def _draw(latents: Tensor, count: int) -> Tensor:
    """Draw `count` latents, none twice as long as there are enough."""
    places = torch.cat([torch.randperm(len(latents)) for _ in range(-(-count // len(latents)))])
    return latents[places[:count].to(latents.device)]


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _summed(counts: Tensor) -> Tensor:
    """Return counts added over processes."""
    if _several():
        distributed.all_reduce(counts)
    return counts


def _of_first(values: Tensor) -> Tensor:
    """Return the values of the first process, on all."""
    if _several():
        values = values.contiguous()
        distributed.broadcast(values, src=0)
    return values
