import random

import numpy as np
import torch

from chiasm.training.randomness import (
    capture_generators,
    restore_generators,
    seed_generators,
    undisturbed_generators,
)


def draw() -> list[float]:
    # A normal draw leaves NumPy and Python with a second one in hand, which is state too.
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.normal()),
        float(torch.rand(())),
        float(torch.randn(())),
    ]


def test_what_was_captured_comes_back() -> None:
    seed_generators(3, 0)
    draw()
    states = capture_generators()
    assert all(state.dtype == torch.uint8 for state in states.values())
    first = draw()
    draw()
    restore_generators(states)
    assert draw() == first


def test_processes_draw_differently_and_repeatably() -> None:
    draws = []
    for seed, rank in ((3, 0), (3, 1), (4, 0), (3, 0)):
        seed_generators(seed, rank)
        draws.append(draw())
    assert draws[0] == draws[3]
    for index in range(6):
        assert len({values[index] for values in draws[:3]}) == 3


def test_draws_inside_leave_no_trace() -> None:
    seed_generators(5, 0)
    expected = draw()
    seed_generators(5, 0)
    with undisturbed_generators():
        draw()
    assert draw() == expected
