"""A small model with real parts, its data and its objective: what the trainer's tests train.

Sizes are distinct primes: vocabulary 13, width 7, hidden 11, rows of 3 to 8 tokens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chiasm.core.batch import IGNORE, Batch
from chiasm.core.outputs import Outputs
from chiasm.core.samples import Sample, Turn

VOCABULARY, WIDTH, HIDDEN = 13, 7, 11


class SmallModel(nn.Module):
    """Embedding, a gated fusion of two encoders with dropout, and a head that reads tokens."""

    def __init__(
        self,
        dropout: float = 0.17,
        seed: int = 5,
        zero_start: bool = False,
        jitter: bool = False,
    ) -> None:
        """Jitter draws from Python's and NumPy's generators in each training pass."""
        super().__init__()
        self.jitter = jitter
        generator = torch.get_rng_state()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.left = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Dropout(dropout))
        self.right = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Linear(2 * HIDDEN, 1)
        self.output = nn.Linear(HIDDEN, WIDTH)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY))
        if zero_start:
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)
        torch.set_rng_state(generator)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {
            "host": self.embedding,
            "encoder.left": self.left,
            "encoder.right": self.right,
            "fusion.gate": self.gate,
            "fusion.output": self.output,
            "head": self.head,
        }

    @property
    def new_parts(self) -> frozenset[str]:
        return frozenset({"fusion.gate", "fusion.output"})

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"name": "small", "revision": None, "hash": "5"}

    def forward(self, batch: Batch) -> Outputs:
        tokens = self.embedding(batch.input_ids)
        if self.jitter and self.training:
            tokens = tokens * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))
        left, right = self.left(tokens), self.right(tokens)
        gate = torch.sigmoid(self.gate(torch.cat([left, right], dim=-1)))
        logits = self.head(tokens + self.output(gate * left + (1 - gate) * right))
        chosen, real = batch.labels[:, 1:] != IGNORE, batch.attention_mask
        return Outputs(
            logits=logits[:, :-1][chosen],
            targets=batch.labels[:, 1:][chosen],
            # Over real tokens only: a row's gate must not depend on its neighbours' length.
            named={"gate": (gate.squeeze(-1) * real).sum(1) / real.sum(1)},
        )

    def probe(self) -> Mapping[str, Tensor]:
        training = self.training
        modes = {module: module.training for module in self.modules()}
        self.eval()
        with torch.no_grad():
            logits = {
                "first": self(collate([sample(1)])).logits,
                "second": self(collate([sample(2)])).logits,
            }
        for module, mode in modes.items():
            module.training = mode
        assert self.training == training
        return {name: value for name, value in logits.items() if value is not None}


def sample(index: int) -> Sample:
    """Sample `index`: 3 to 8 tokens, of which a varying number is supervised."""
    length = 3 + (index * 5) % 6
    ids = [(index * 7 + place * place * 3 + place) % VOCABULARY for place in range(length)]
    return Sample(
        identifier=f"sample-{index}",
        turns=(Turn("assistant", ("x",), supervised=True),),
        truth={"ids": ids, "supervised": 1 + index % (length - 1)},
    )


class SmallData:
    """The first `length` samples."""

    def __init__(self, length: int = 29) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return sample(index)


def collate(samples: Sequence[Sample]) -> Batch:
    longest = max(len(one.truth["ids"]) for one in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for row, one in enumerate(samples):
        values, count = torch.tensor(one.truth["ids"]), one.truth["supervised"]
        ids[row, : len(values)] = values
        mask[row, : len(values)] = 1
        labels[row, len(values) - count : len(values)] = values[-count:]
    return Batch(ids, mask, labels, torch.zeros_like(ids), samples=tuple(samples))


class SmallObjective:
    """Next tokens, and the gate's distance from one half, counted in rows."""

    def count(self, batch: Batch) -> dict[str, float]:
        return {"tokens": float(batch.supervised_tokens), "gate": float(len(batch))}

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        assert outputs.logits is not None
        loss = nn.functional.cross_entropy(outputs.logits, outputs.targets, reduction="sum")
        return {"tokens": loss, "gate": (outputs.named["gate"] - 0.5).square().sum()}
