"""Random number generators: seeding, saving as plain tensors, and leaving them undisturbed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor


def seed_generators(seed: int, rank: int) -> None:
    """Seed Python, NumPy and torch; each process differently, or their dropout would agree."""
    own = int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint32)[0])
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)


def capture_generators() -> dict[str, Tensor]:
    """Return the states of all generators of this process as uint8 tensors by name."""
    kind, keys, *rest = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    states = {
        "python": _from_json(random.getstate()),
        "numpy": _from_json([kind, keys.tolist(), *rest]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: Mapping[str, Tensor]) -> None:
    """Restore what `capture_generators` returned."""
    version, internal, gauss = _to_json(states["python"])
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = _to_json(states["numpy"])
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu())


@contextmanager
def undisturbed_generators() -> Iterator[None]:
    """Whatever is drawn inside, the generators stand afterwards as they stood before."""
    states = capture_generators()
    try:
        yield
    finally:
        restore_generators(states)


def _from_json(value: object) -> Tensor:
    # bytearray, because torch warns of memory that cannot be written.
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).clone()


def _to_json(tensor: Tensor) -> Any:
    return json.loads(bytes(tensor.cpu().numpy()).decode())
