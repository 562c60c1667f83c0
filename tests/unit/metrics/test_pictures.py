"""Peak signal-to-noise ratio against numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.metrics.pictures import peak_signal_to_noise


def test_it_is_ten_decibels_for_each_power_of_ten() -> None:
    truth = np.full((3, 5, 7), 0.5)
    assert peak_signal_to_noise(truth + 0.1, truth) == pytest.approx(20.0)
    assert peak_signal_to_noise(truth - 0.01, truth) == pytest.approx(40.0)
    assert peak_signal_to_noise(truth, truth) == math.inf


def test_a_mask_says_which_pixels_count() -> None:
    truth = np.zeros((3, 5, 7))
    drawn, mask = truth.copy(), np.zeros((5, 7), np.bool_)
    drawn[:, 2, 3], mask[2, 3], mask[2, 4] = 0.1, True, True
    assert peak_signal_to_noise(drawn, truth, mask) == pytest.approx(20 + 10 * math.log10(2))
    assert peak_signal_to_noise(drawn, truth, ~mask) == math.inf
    assert peak_signal_to_noise(drawn, truth) == pytest.approx(20 + 10 * math.log10(35))


def test_what_cannot_be_compared_is_named() -> None:
    truth = np.zeros((3, 5, 7))
    with pytest.raises(InputError, match=r"shapes \(3, 5, 6\) and \(3, 5, 7\)"):
        peak_signal_to_noise(truth[..., :6], truth)
    for mask in (np.zeros((5, 7), np.bool_), np.ones((7, 5), np.bool_)):
        with pytest.raises(InputError, match="give \\(H, W\\) with at least one pixel"):
            peak_signal_to_noise(truth, truth, mask)
