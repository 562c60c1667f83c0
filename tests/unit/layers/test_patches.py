"""The cosine start of a patch embedding, against the transform itself."""

from __future__ import annotations

import numpy as np
import torch

from chiasm.layers.patches import start_from_cosines


def started(width: int, side: int = 5, frames: int = 1, scale: float = 0.3) -> torch.Tensor:
    weight = torch.full((width, 3, frames, side, side), 7.0)
    start_from_cosines(weight, scale)
    return weight


def transform(patch: np.ndarray) -> dict[tuple[int, int], float]:
    """The orthonormal cosine transform, term by term (Ahmed, Natarajan and Rao, 1974, eq. 1)."""
    side = len(patch)
    found = {}
    for u in range(side):
        for v in range(side):
            total = 0.0
            for i in range(side):
                for j in range(side):
                    wave = np.cos((2 * i + 1) * u * np.pi / 2 / side)
                    wave *= np.cos((2 * j + 1) * v * np.pi / 2 / side)
                    total += patch[i, j] * wave
            scale = (1 if u else 2**-0.5) * (1 if v else 2**-0.5)
            found[u, v] = 2 / side * scale * total
    return found


def test_a_grey_patch_gives_its_cosine_transform() -> None:
    side = 5
    weight = started(side * side, side)[:, :, 0]
    patch = np.random.default_rng(3).normal(size=(side, side))
    found = torch.einsum("wcij,ij->w", weight, torch.tensor(patch, dtype=torch.float32))
    expected = transform(patch)
    pairs = sorted(
        ((row, column) for row in range(side) for column in range(side)),
        key=lambda pair: pair[0] ** 2 + pair[1] ** 2,
    )
    gains = [0.3 * (0.15 + np.hypot(*pair)) * 3**0.5 for pair in pairs]
    wanted = [expected[pair] * gain for pair, gain in zip(pairs, gains, strict=True)]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_brightness_comes_first_then_colours_and_all_are_orthogonal() -> None:
    side = 3
    rows = started(3 * side * side, side).flatten(1)
    products = rows @ rows.T
    off = products - torch.diag(products.diagonal())
    assert float(off.abs().max()) < 1e-6
    grey = torch.ones(3, 1, side, side)
    answers = (started(3 * side * side, side) * grey).sum((1, 2, 3, 4))
    # Only the mean of brightness answers to a grey patch: filter 0.
    assert float(answers[0]) > 0.1 and float(answers[1:].abs().max()) < 1e-6


def test_frames_share_a_filter_and_what_is_left_stays() -> None:
    one, two = started(4), started(4, frames=2)
    torch.testing.assert_close(one[:, :, 0], two.sum(2))
    more = started(3 * 25 + 2)
    assert bool((more[75:] == 7).all()) and not bool((more[:75] == 7).any())
    torch.testing.assert_close(started(4, scale=0.6), 2 * one)


def test_it_is_written_without_gradient() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 3, 1, 5, 5))
    start_from_cosines(weight)
    assert weight.grad_fn is None and weight.requires_grad
