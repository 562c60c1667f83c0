"""Outlines: each fits its disc, is centred on its area, and is unlike the others."""

import numpy as np
import pytest

from chiasm.data.world.outlines import SHAPES

STEP = 0.01
AXIS = np.arange(-1.2, 1.2, STEP, dtype=np.float32) + np.float32(STEP / 2)
X, Y = np.meshgrid(AXIS, AXIS)


def inside(name: str) -> np.ndarray:
    return SHAPES[name](X, Y) <= 0


@pytest.mark.parametrize("name", SHAPES)
def test_fits_the_disc_and_nearly_fills_its_height_or_width(name: str) -> None:
    mask = inside(name)
    reach = np.hypot(X[mask], Y[mask]).max()
    assert reach <= 1.15, f"{name} reaches {reach}; a scene keeps no room for that"
    extent = max(np.ptp(X[mask]), np.ptp(Y[mask]))
    assert extent >= 1.55, f"{name} is only {extent} of 2 across, so its size would look smaller"


@pytest.mark.parametrize("name", SHAPES)
def test_the_centre_is_the_centroid(name: str) -> None:
    mask = inside(name)
    assert abs(X[mask].mean()) < 0.01
    assert abs(Y[mask].mean()) < 0.01


@pytest.mark.parametrize("name", SHAPES)
def test_distance_grows_at_most_one_for_one(name: str) -> None:
    # Steeper than a true distance would make edges thinner than a pixel, that is, not antialiased.
    distance = SHAPES[name](X, Y)
    near = np.abs(distance[:-1, :-1]) < 0.1
    slope = np.hypot(np.diff(distance, axis=0)[:, :-1], np.diff(distance, axis=1)[:-1, :]) / STEP
    assert np.quantile(slope[near], 0.95) <= 1.05
    assert np.quantile(slope[near], 0.5) >= 0.9


def test_no_two_outlines_overlap_too_much() -> None:
    masks = {name: inside(name) for name in SHAPES}
    for one in masks:
        for other in masks:
            shared = (masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum()
            assert one == other or shared < 0.85, (one, other, shared)
