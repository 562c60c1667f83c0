"""What the gate of a dual encoder said about one conversation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.fusion.gated import GatedFusion


@dataclass(frozen=True)
class ImageGate:
    """The gate on one image.

    Attributes:
        weights: Share of each stream by encoder name, `host` for the host's own; they sum to 1.
        contributions: By name, the mean norm of what the stream adds to the fused token. A share
            says how a stream is weighed, this says how much it speaks.
        maps: By name the share at each cell, rows from top to bottom, each in [0, 1].
    """

    weights: Mapping[str, float]
    contributions: Mapping[str, float]
    maps: Mapping[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True)
class GateReport:
    """The gate over all images of a conversation.

    Attributes:
        weights: Mean share of each stream by encoder name, `host` for the host's own.
        dominant: The stream with the largest share; of two it has at least one half.
        confidence: How far the shares are from equal, 0 (equal) to 1 (one stream alone). Of two
            streams 2 * |alpha - 0.5|; in general (largest share - 1 / S) / (1 - 1 / S).
        images: One entry an image, in the order of the conversation.
    """

    weights: Mapping[str, float]
    dominant: str
    confidence: float
    images: tuple[ImageGate, ...]


def read_gate(
    names: Sequence[str], named: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
) -> GateReport:
    """Turn what a gated fusion put into `named` into a report.

    Args:
        names: Names of the streams, the host first.
        named: `gate` float (I, S), `gate_map` float (I, N, S), `stream_norms` float (I, S).
        geometries: One geometry an image.
    """
    gates = named["gate"].float().tolist()
    norms = named["stream_norms"].float().tolist()
    maps = named["gate_map"].float().tolist()
    images = tuple(
        ImageGate(
            weights=dict(zip(names, gate, strict=True)),
            contributions=dict(zip(names, norm, strict=True)),
            maps={
                name: _to_rows([cell[index] for cell in cells], geometry)
                for index, name in enumerate(names)
            },
        )
        for gate, norm, cells, geometry in zip(gates, norms, maps, geometries, strict=True)
    )
    weights = {
        name: math.fsum(image.weights[name] for image in images) / len(images) for name in names
    }
    dominant = max(weights, key=lambda name: weights[name])
    equal = 1 / len(names)
    return GateReport(
        weights=weights,
        dominant=dominant,
        confidence=(weights[dominant] - equal) / (1 - equal),
        images=images,
    )


def gated(fusion: object) -> GatedFusion:
    """Return a fusion that has a gate.

    Raises:
        InputError: It has none.
    """
    if not isinstance(fusion, GatedFusion):
        raise InputError(
            f"the fusion is {type(fusion).__name__}, which has no gate; train a model with the "
            "fusion 'gated' to see and force shares"
        )
    return fusion


def compare_streams(fusion: GatedFusion, answer: Callable[[], str]) -> dict[str, str]:
    """Return the answer with the learned gate (`learned`), and with each stream alone by name."""
    answers = {"learned": answer()}
    for name in fusion.names:
        with fusion.forced({name: 1.0}):
            answers[name] = answer()
    return answers


def _to_rows(cells: Sequence[float], geometry: ImageGeometry) -> tuple[tuple[float, ...], ...]:
    return tuple(
        tuple(cells[row * geometry.columns : (row + 1) * geometry.columns])
        for row in range(geometry.rows)
    )
