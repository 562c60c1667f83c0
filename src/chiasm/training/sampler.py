"""Which sample comes when: a pure function of seed and position, so that resuming skips nothing.

Positions count samples over the whole run, over all processes. Optimizer step s reads positions
s * G to (s + 1) * G - 1, where G = batch size * processes * accumulation; each micro-batch is cut
into one slice a process. So two processes with batch b read, sample for sample, what one process
with batch 2b reads, and accumulation k with batch b what batch k * b reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from chiasm.core.batch import Batch
from chiasm.core.errors import ConfigError
from chiasm.core.protocols import Collate, Dataset

_ROUNDS = 6
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Order:
    """The order of a dataset's samples.

    Attributes:
        length: Number of samples.
        seed: Of the order.
        shuffle: A new order each epoch; otherwise as they stand.
    """

    length: int
    seed: int
    shuffle: bool

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ConfigError("the dataset is empty; training needs at least one sample")

    def index(self, position: int) -> int:
        """Return the sample at a position of the run; each epoch has every sample once."""
        epoch, place = divmod(position, self.length)
        return permute(place, self.length, self.seed, epoch) if self.shuffle else place


def permute(place: int, length: int, seed: int, epoch: int) -> int:
    """Return where a pseudo-random permutation of [0, length) sends `place`.

    A Feistel network over the next power of four, walked until it lands inside (Black and Rogaway
    2002, "Ciphers with arbitrary finite domains", cycle walking). It needs no table, so any
    position costs the same, and it depends on no library's generator, so an order outlives an
    upgrade.
    """
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    key = _mix(_mix(seed) ^ epoch)
    value = place
    while True:
        left, right = value >> half, value & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mix(key ^ _mix((turn << 40) ^ right)) & mask)
        value = (left << half) | right
        if value < length:
            return value


def _mix(value: int) -> int:
    """Scatter 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@dataclass(frozen=True)
class Slices:
    """The micro-batches of one process.

    Attributes:
        order: Order of the samples.
        batch_size: Samples of one process in one micro-batch.
        accumulation: Micro-batches an optimizer step.
        processes: Number of processes.
        rank: This process, from 0.
    """

    order: Order
    batch_size: int
    accumulation: int
    processes: int
    rank: int

    @property
    def window(self) -> int:
        """Samples of an optimizer step, all processes together."""
        return self.batch_size * self.accumulation * self.processes

    def indices(self, step: int, turn: int) -> list[int]:
        """Return the samples of micro-batch `turn` of optimizer step `step`."""
        wide = self.batch_size * self.processes
        start = step * self.window + turn * wide + self.rank * self.batch_size
        return [self.order.index(start + offset) for offset in range(self.batch_size)]

    def starting_at(self, step: int) -> Iterator[list[int]]:
        """Yield micro-batches for ever, from an optimizer step on."""
        while True:
            for turn in range(self.accumulation):
                yield self.indices(step, turn)
            step += 1


def micro_batches(
    dataset: Dataset, collate: Collate, slices: Slices, *, step: int, workers: int, seed: int
) -> Iterator[Batch]:
    """Yield the micro-batches of one process for ever, on the CPU.

    Args:
        dataset: The samples.
        collate: Turns samples into a batch.
        slices: Which samples.
        step: First optimizer step.
        workers: Reading processes; 0 reads in this one. The batches are the same.
        seed: Base seed of the reading processes.
    """
    if workers == 0:
        for indices in slices.starting_at(step):
            yield collate([dataset[index] for index in indices])
        return
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=_Endless(slices, step),
        collate_fn=collate,
        num_workers=workers,
        # Its own generator: drawing the base seed from the global one would shift the model's
        # random draws by whether there are workers.
        generator=torch.Generator().manual_seed(seed),
    )
    yield from loader


@dataclass(frozen=True)
class _Endless:
    slices: Slices
    step: int

    def __iter__(self) -> Iterator[list[int]]:
        return self.slices.starting_at(self.step)
