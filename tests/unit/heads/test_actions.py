"""The action head: points where the states stand, positive reach, masks, one row or many."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.heads.actions import ActionHead, ActionHeadConfig

WIDTH, HIDDEN, CLASSES, FRAMES = 5, 7, 3, 23
BORDERS = (2.0, 5.0, 11.0)


def build(borders: tuple[float, ...] = BORDERS, **changes: float) -> ActionHead:
    torch.manual_seed(2)
    config = ActionHeadConfig(borders=borders, hidden=HIDDEN, **changes)
    return config.build(width=WIDTH, classes=CLASSES)


def states(*lengths: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of these lengths, padded with noise that must not be read."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    x = torch.randn(len(lengths), longest, WIDTH, generator=generator)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    times = torch.arange(longest) * torch.linspace(0.5, 1.0, len(lengths))[:, None] + 0.25
    return x, mask, times


def test_points_stand_where_states_stand() -> None:
    x, mask, times = states(FRAMES)
    named = build().predict(x, mask, times)
    points = named["actions.points"][0]
    counts = [23, 12, 6, 3]
    assert len(points) == sum(counts)
    edges = [0.0, *BORDERS, math.inf]
    for level, own in enumerate(points.split(counts)):
        assert own[:, 0].tolist() == times[0, :: 2**level].tolist()
        assert own[:, 1].tolist() == pytest.approx([0.5 * 2**level] * counts[level])
        assert own[:, 2].tolist() == pytest.approx([0.5 * edges[level]] * counts[level])
        assert own[:, 3].tolist() == pytest.approx([0.5 * edges[level + 1]] * counts[level])
    assert named["actions.classes"].shape == (1, 44, CLASSES)
    assert named["actions.centres"].shape == (1, 44)
    assert named["actions.offsets"].shape == (1, 44, 2)
    assert bool((named["actions.offsets"] > 0).all())


def test_strides_are_mean_distances_in_time() -> None:
    """The clock of the frames may be uneven; padding after them tells nothing."""
    x, mask, _ = states(5, 3)
    times = torch.tensor([[1.0, 1.5, 4.0, 6.0, 7.0], [2.0, 2.5, 5.0, 0.0, 0.0]])
    points = build(()).predict(x, mask, times)["actions.points"]
    assert points[:, 0, 1].tolist() == pytest.approx([1.5, 1.5])
    assert points[0, :, 0].tolist() == times[0].tolist()


@pytest.mark.parametrize("depth", [0, 2])
def test_a_row_alone_says_what_it_says_in_a_batch(depth: int) -> None:
    """Measured: at most 2e-7 apart."""
    head = build(depth=depth)
    x, mask, times = states(FRAMES, 13, 2)
    together = head.predict(x, mask, times)
    for row, length in enumerate((FRAMES, 13, 2)):
        cut = slice(row, row + 1), slice(0, length)
        alone = head.predict(x[cut], mask[cut], times[cut])
        real = together["actions.mask"][row]
        assert int(real.sum()) == alone["actions.mask"].sum()
        for name in ("classes", "centres", "offsets", "points"):
            found, wanted = together[f"actions.{name}"][row][real], alone[f"actions.{name}"][0]
            torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)


def test_padding_gets_no_gradient() -> None:
    x, mask, times = states(FRAMES, 13)
    x.requires_grad_()
    named = build().predict(x, mask, times)
    real = named["actions.mask"]
    sums = [named[f"actions.{name}"][real].sum() for name in ("classes", "centres", "offsets")]
    torch.stack(sums).sum().backward()
    assert x.grad is not None
    assert bool((x.grad[~mask] == 0).all())
    assert bool((x.grad[mask].abs().sum(-1) > 0).all())


def test_classes_start_at_the_prior() -> None:
    named = build(prior=0.03).predict(*states(FRAMES))
    assert named["actions.classes"].sigmoid().mean().item() == pytest.approx(0.03, rel=0.5)
    half = build(prior=0.5).predict(*states(FRAMES))
    assert half["actions.classes"].sigmoid().mean().item() == pytest.approx(0.5, rel=0.3)


def test_every_weight_learns() -> None:
    head = build()
    named = head.predict(*states(FRAMES))
    total = sum(named[f"actions.{name}"].square().sum() for name in ("classes", "centres"))
    (total + named["actions.offsets"].square().sum()).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_states_of_half_precision_give_answers_in_float() -> None:
    head = build().to(torch.bfloat16)
    x, mask, times = states(FRAMES)
    named = head.predict(x.to(torch.bfloat16), mask, times)
    assert {t.dtype for n, t in named.items() if n != "actions.mask"} == {torch.float32}


def test_wrong_input_is_told() -> None:
    head = build()
    x, mask, times = states(FRAMES, 1)
    with pytest.raises(InputError, match=r"row 1 has 1 state\(s\); two or more"):
        head.predict(x, mask, times)
    with pytest.raises(InputError, match=r"times \(2, 22\)"):
        head.predict(x, mask, times[:, 1:])
    with pytest.raises(InputError, match="0 classes; name at least one"):
        ActionHeadConfig().build(width=WIDTH, classes=0)
    for borders in ((4.0, 4.0), (0.0,), (-1.0, 2.0), (3.0, math.inf)):
        with pytest.raises(ValidationError, match="and ascend"):
            ActionHeadConfig(borders=borders)
