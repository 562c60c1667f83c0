"""Textures: mean 0, equal strength, and for the fine ones nothing left at half the size."""

import numpy as np
import pytest
from PIL import Image

from chiasm.data.world.scene import COLOURS
from chiasm.data.world.textures import CONTRAST, FINE_PERIOD, PEAK, TEXTURES, modulation

PATTERNED = [name for name in TEXTURES if name != "plain"]
FILTERS = [Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]
FILTERS += [Image.Resampling.LANCZOS]


def patch(name: str, period: int, shift: tuple[int, int] = (0, 0), side: int = 80) -> np.ndarray:
    return modulation(name, period, np.arange(side) + shift[0], np.arange(side) + shift[1])


@pytest.mark.parametrize("period", [2, 8, 10])
@pytest.mark.parametrize("name", PATTERNED)
def test_mean_is_zero_over_every_period_and_strength_is_equal(name: str, period: int) -> None:
    change = patch(name, period, shift=(-37, 11))
    for row in range(3):
        window = change[row : row + period, 5 : 5 + period]
        assert window.mean() == pytest.approx(0, abs=1e-6)
        assert np.sqrt((window**2).mean()) == pytest.approx(CONTRAST, rel=1e-5)
    assert np.abs(change).max() <= PEAK + 1e-6


def test_plain_changes_nothing() -> None:
    assert not patch("plain", 8).any()


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("kernel", FILTERS)
@pytest.mark.parametrize("name", PATTERNED)
def test_halving_removes_a_fine_texture_and_keeps_a_coarse_one(
    name: str, kernel: Image.Resampling, shift: tuple[int, int]
) -> None:
    def halved(period: int) -> np.ndarray:
        picture = Image.fromarray(100 * (1 + patch(name, period, shift)).astype(np.float32))
        return np.asarray(picture.resize((40, 40), kernel))[4:-4, 4:-4]

    assert np.abs(halved(FINE_PERIOD) - 100).max() < 1e-3
    if shift == (0, 0):
        assert np.abs(halved(8) - 100).mean() > 10


def test_words_mean_what_they_say() -> None:
    striped, banded = patch("striped", 8), patch("banded", 8)
    assert (striped == striped[0]).all(), "stripes are vertical"
    assert np.ptp(striped[0]) > 0
    assert (banded == banded[:, :1]).all(), "bands are horizontal"
    assert np.ptp(banded[:, 0]) > 0
    checkered, dotted = patch("checkered", 8), patch("dotted", 8)
    assert np.allclose(checkered, -np.roll(checkered, 4, axis=1))
    assert (dotted > 0).mean() == pytest.approx(0.25)


def test_colours_leave_room_for_texture_and_light() -> None:
    # Light is between 0.85 * 0.92 and 1.08, see sample_scene; noise goes to 4 intensities.
    for name, colour in COLOURS.items():
        assert max(colour) * 1.08 * (1 + PEAK) + 3 * 4 <= 255, name
        assert min(colour) * 0.85 * 0.92 * (1 - CONTRAST) - 3 * 4 >= 0, name


def test_colours_are_far_from_each_other() -> None:
    values = {name: np.array(rgb, float) for name, rgb in COLOURS.items()}
    for one in values:
        for other in values:
            assert one == other or np.linalg.norm(values[one] - values[other]) > 45, (one, other)
