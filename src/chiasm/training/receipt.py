"""The receipt: logits of fixed inputs, stored with a model and replayed when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from chiasm.core.errors import ReceiptError
from chiasm.core.protocols import Model
from chiasm.training.durable import read_tensors, write_tensors
from chiasm.training.randomness import undisturbed_generators

RECEIPT = "receipt.safetensors"
TOLERANCE = 1e-4
"""Largest difference of two logits, as a share of the largest logit (at least 1).

The same machine replays a receipt bit for bit. Another processor, thread count or GPU adds up in
another order: a few units in the last place a layer, some 1e-6 to 1e-5 in all. A weight that was
not loaded changes logits by far more, unless nothing depends on it yet.
"""


def write_receipt(path: Path, model: Model) -> None:
    """Store the model's probe in float32."""
    write_tensors(path, _probe(model))


def replay_receipt(path: Path, model: Model, tolerance: float = TOLERANCE) -> float:
    """Compare the model's probe with a stored one; return the largest difference of two logits.

    Raises:
        ReceiptError: An input is missing, has another shape, or differs by more than the tolerance.
        CheckpointError: The file is missing or damaged.
    """
    stored, _ = read_tensors(path)
    return compare_probes(stored, _probe(model), tolerance)


def compare_probes(
    stored: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: float
) -> float:
    """Return the largest difference between two probes.

    Raises:
        ReceiptError: Names or shapes differ, or a difference exceeds the tolerance, which is a
            share of the largest stored logit (at least 1).
    """
    if set(stored) != set(found):
        raise ReceiptError(
            f"the receipt holds {sorted(stored)}, the model's probe gives {sorted(found)}; load "
            "the model with the version of chiasm that wrote it"
        )
    largest = 0.0
    for name, expected in stored.items():
        if expected.shape != found[name].shape:
            raise ReceiptError(
                f"receipt {name!r}: stored shape {tuple(expected.shape)}, found "
                f"{tuple(found[name].shape)}; the host or its tokenizer is another one"
            )
        difference = float((expected - found[name]).abs().max())
        allowed = tolerance * max(1.0, float(expected.abs().max()))
        # Written so that a difference that is not a number fails too.
        if not difference <= allowed:
            raise ReceiptError(
                f"receipt {name!r}: the loaded model's logits differ by up to {difference:.3g}, "
                f"allowed are {allowed:.3g}. Its weights or its host are not those that were saved"
            )
        largest = max(largest, difference)
    return largest


def _probe(model: Model) -> dict[str, Tensor]:
    with undisturbed_generators(), torch.no_grad():
        probe = model.probe()
    return {name: tensor.detach().float().cpu() for name, tensor in probe.items()}
