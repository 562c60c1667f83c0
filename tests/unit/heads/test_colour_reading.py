"""Masks read from colours, places and words: what each number of a cell means, and the score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.heads.colour_reading import FEATURES, ColourReading, ColourReadingConfig, look

WIDTH, SIDE, DETAIL = 11, 7, 3


def build(random: bool = True) -> ColourReading:
    torch.manual_seed(2)
    head = ColourReadingConfig(width=WIDTH, side=SIDE, detail=DETAIL).build()
    if random:
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
    return head


def pictures(count: int, seed: int = 3) -> list[Tensor]:
    torch.manual_seed(seed)
    return list(torch.rand(count, 3, SIDE * DETAIL, SIDE * DETAIL))


def words(*counts: int) -> list[Tensor]:
    torch.manual_seed(4)
    return [torch.randn(count, WIDTH) for count in counts]


def test_a_new_head_says_nothing_and_has_few_weights() -> None:
    head = build(random=False)
    assert sum(p.numel() for p in head.parameters()) == FEATURES * (1 + WIDTH)
    (logits,) = head.predict(pictures(1), words(2))
    assert logits.shape == (SIDE, SIDE) and not logits.any()


def test_the_numbers_of_a_cell_by_hand() -> None:
    """A picture of one colour in each cell, so that what a cell holds can be written down."""
    torch.manual_seed(5)
    cells = torch.rand(1, 3, SIDE, SIDE)
    found = look(cells.repeat_interleave(DETAIL, 2).repeat_interleave(DETAIL, 3), DETAIL)
    assert found.shape == (1, FEATURES, SIDE, SIDE)
    row, column = 3, 2
    y, x = (2 * row + 1) / SIDE - 1, (2 * column + 1) / SIDE - 1
    red, green, blue = colour = [(float(v) - 0.45) / 0.27 for v in cells[0, :, row, column]]
    # Seven cells around the middle row are all rows; columns -1 to 5 repeat the first one.
    reach = [0, 0, 1, 2, 3, 4, 5]
    near = [(float(cells[0, c][:, reach].mean()) - 0.45) / 0.27 for c in range(3)]
    values = found[0, :, row, column].tolist()
    assert values[:7] == pytest.approx([1, *colour, *near], abs=1e-5)
    # Cells of one colour are not rough, up to the rounding of a root of a difference.
    assert values[7:9] == pytest.approx([-0.5, -0.5], abs=1e-2) and values[9] > 0
    products = [red**2 - 1, green**2 - 1, blue**2 - 1, red * green - 1, green * blue - 1]
    assert values[10:15] == pytest.approx(products, abs=1e-5)
    places = [3**0.5 * value for value in (y, y * y, x * x, x * x * y, y**3)]
    assert values[15:20] == pytest.approx(places, abs=1e-5)
    assert values[20:] == pytest.approx([3**0.5 * y * v for v in (*colour, *near)], abs=1e-5)


def test_roughness_is_the_deviation_within_a_cell() -> None:
    picture = torch.zeros(1, 3, SIDE * 2, SIDE * 2)
    picture[..., ::2] = 0.4
    found = look(picture, 2)
    assert torch.allclose(found[:, 7:9], torch.tensor(10 * 0.2 - 0.5), atol=1e-5)


def test_roughness_is_averaged_over_the_cells_around() -> None:
    """One cell of stripes in a grey picture: what 25 cells around each have of it."""
    picture = torch.full((1, 3, SIDE * 2, SIDE * 2), 0.2)
    picture[..., 6:8, 6] = 0.6
    own, near = (look(picture, 2)[0, 7:9] + 0.5) / 10
    # The root of a difference of nothing is not quite nothing in single precision.
    assert own[3, 3] == pytest.approx(0.2, abs=1e-4) and own.sum() == pytest.approx(0.2, abs=0.03)
    around = torch.zeros(SIDE, SIDE)
    around[1:6, 1:6] = 0.2 / 25
    torch.testing.assert_close(near, around, atol=1e-3, rtol=0)


def test_how_unlike_its_surroundings_a_cell_is_is_averaged_over_those_around() -> None:
    picture = torch.zeros(1, 3, SIDE, SIDE)
    picture[:, 0, 3, 3] = 0.49
    # The seven by seven cells around each of 25 middle ones hold the one red cell: 0.49 / 49.
    found = (look(picture, 1)[0, 9, 3, 3] + 0.5) / 10
    unlike = torch.full((5, 5), 0.01)
    unlike[2, 2] = 0.48
    assert float(found) == pytest.approx(float(unlike.mean()) / 3, abs=1e-5)


def test_a_mirrored_picture_has_mirrored_masks_and_one_upside_down_has_not() -> None:
    head, (one,), said = build(), pictures(1), words(2)
    (straight,) = head.predict([one], said)
    (mirrored,) = head.predict([one.flip(2)], said)
    torch.testing.assert_close(mirrored.flip(1), straight, atol=1e-4, rtol=1e-4)
    (turned,) = head.predict([one.flip(1)], said)
    assert not torch.allclose(turned.flip(0), straight, atol=0.1)


def test_phrases_of_many_pictures_at_once_are_those_of_each_alone() -> None:
    head, seen, said = build(), pictures(2), words(2, 1, 3)
    owners = [seen[1], seen[0], seen[1]]
    together = head.predict(owners, said)
    for place in range(3):
        (alone,) = head.predict([owners[place].clone()], [said[place]])
        torch.testing.assert_close(alone, together[place], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[0], together[2], atol=0.1)  # Another word.
    assert head.predict([], []) == ()


def test_scores_are_linear_in_the_cell_and_in_the_mean_word() -> None:
    head, (one,), (said,) = build(), pictures(1), words(3)
    (found,) = head.predict([one], [said])
    mean = said.mean(0)
    named = (mean - mean.mean()) / (mean.var(correction=0) + 1e-5).sqrt()
    weights = head.shared.weight[0] + head.words.weight @ named
    wanted = (look(one[None], DETAIL)[0] * weights[:, None, None]).sum(0)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_gradients_reach_all_weights_from_the_start_and_the_words() -> None:
    head, said = build(random=False), words(2)
    head.predict(pictures(1), said)[0].square().sum().backward()
    head.zero_grad()
    head.predict(pictures(1), said)[0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    later = [one.requires_grad_() for one in words(2)]
    build().predict(pictures(1), later)[0].square().sum().backward()
    assert later[0].grad is not None and later[0].grad.abs().sum() > 0


def test_the_transform_stretches_the_whole_picture_and_the_cells_lie_on_it() -> None:
    """The right half of a wide picture is white, so is the right half of what is read."""
    values = np.zeros((20, 60, 3), dtype=np.uint8)
    values[:, 30:] = 255
    head = ColourReadingConfig(width=WIDTH, side=4, detail=DETAIL).build()
    seen = head.transform(Image.fromarray(values))
    assert seen.shape == (3, 12, 12)
    cells = look(seen[None], DETAIL)[0, 1]
    assert (cells[:, :2] < 0).all() and (cells[:, 2:] > 0).all()
    geometry = head.geometry((20, 60))
    corners = torch.tensor([[0.0, 0.0], [4.0, 4.0], [2.0, 1.0]])
    wanted = torch.tensor([[0.0, 0.0], [60.0, 20.0], [30.0, 5.0]])
    torch.testing.assert_close(geometry.to_pixels(corners), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("seen", "said", "message"),
    [
        (pictures(2), words(1), "2 pictures for 1 phrases; give each phrase its picture"),
        ([torch.rand(3, 5, 21)], words(1), r"\(3, 5, 21\), the head reads \(3, 21, 21\); prepare"),
        (pictures(1), [torch.randn(0, WIDTH)], r"phrase 0 have the shape \(0, 11\)"),
        (pictures(1), [torch.randn(2, 5)], r"give \(tokens, 11\) with at least one token"),
    ],
)
def test_what_does_not_fit_is_refused(seen: list[Tensor], said: list[Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build().predict(seen, said)
