"""What a gate report says about known shares."""

from __future__ import annotations

import pytest
import torch

from chiasm.models.gate_report import read_gate
from tests.tiny_eyes import stretched

GEOMETRIES = (stretched(61, 83, 2, 3), stretched(97, 43, 2, 1))


def report(gates: list[list[float]], names: tuple[str, ...] = ("host", "dinov2")):  # type: ignore[no-untyped-def]
    gate = torch.tensor(gates)
    maps = gate[:, None].repeat(1, 6, 1)
    maps[0, 4, 0] = 0.125
    named = {"gate": gate, "gate_map": maps, "stream_norms": gate * 10}
    return read_gate(names, named, GEOMETRIES)


def test_two_streams() -> None:
    found = report([[0.9, 0.1], [0.5, 0.5]])
    assert found.weights == pytest.approx({"host": 0.7, "dinov2": 0.3})
    assert found.dominant == "host"
    # The source: 2 * |alpha - 0.5|.
    assert found.confidence == pytest.approx(2 * abs(0.7 - 0.5))
    assert [image.weights["host"] for image in found.images] == pytest.approx([0.9, 0.5])
    assert found.images[0].contributions == pytest.approx({"host": 9.0, "dinov2": 1.0})


def test_maps_have_the_rows_and_columns_of_their_image() -> None:
    first, second = report([[0.9, 0.1], [0.5, 0.5]]).images
    assert [len(row) for row in first.maps["host"]] == [3, 3]
    assert [len(row) for row in second.maps["dinov2"]] == [1, 1]
    assert first.maps["host"][1][1] == 0.125


@pytest.mark.parametrize(
    ("gates", "dominant", "confidence"),
    [
        ([[1 / 3, 1 / 3, 1 / 3]] * 2, None, 0.0),
        ([[0.0, 0.0, 1.0]] * 2, "siglip", 1.0),
        ([[0.2, 0.5, 0.3]] * 2, "dinov2", 0.25),
    ],
)
def test_three_streams(gates: list[list[float]], dominant: str | None, confidence: float) -> None:
    found = report(gates, ("host", "dinov2", "siglip"))
    assert dominant in (None, found.dominant)
    assert found.confidence == pytest.approx(confidence, abs=1e-6)
