"""The rules for boxes, one by one and against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chiasm.core.errors import GeometryError
from chiasm.core.grid import ImageGeometry
from chiasm.fusion.object_boxes import WHOLE, object_boxes
from chiasm.layers.warp import box_affine
from tests.unit.fusion.pairs import SIDE, Cells, pair_batch, parts, photo, plain

HERE: Cells = (3, 5, 10, 16)
THERE: Cells = (7, 2, 14, 13)
ELSEWHERE: Cells = (1, 1, 4, 4)


def tensor(*boxes: object) -> torch.Tensor:
    return torch.tensor(boxes)


def test_given_boxes_come_first() -> None:
    pairs = pair_batch(
        [plain(ELSEWHERE)], [plain(ELSEWHERE)], hidden=[ELSEWHERE], boxes=[(HERE, THERE)]
    )
    found = object_boxes(pairs)
    assert found.rules == (("given", "given"),)
    torch.testing.assert_close(found.boxes[0], tensor(parts(HERE), parts(THERE)))


def test_the_mask_comes_before_the_background() -> None:
    pairs = pair_batch([plain(ELSEWHERE)], [plain(THERE)], hidden=[(12, 4, 16, 6)])
    found = object_boxes(pairs)
    assert found.rules == (("mask", "background"),)
    # The box in the reconstruction moves right by 2 to hold the hidden part, and not down.
    torch.testing.assert_close(found.boxes[0], tensor(parts((9, 2, 16, 13)), parts(THERE)))


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        ((8, 3, 13, 12), THERE),  # inside: nothing contradicts, nothing moves
        ((2, 3, 5, 6), (2, 2, 9, 13)),  # to the left
        ((8, 11, 10, 17), (7, 6, 14, 17)),  # down
        ((1, 4, 19, 6), (1, 2, 19, 13)),  # longer than the thing: grown along X alone
        ((0, 0, 2, 19), (0, 0, 7, 19)),  # moved along X and grown along Y
    ],
)
def test_a_mask_is_a_lower_bound(hidden: Cells, expected: Cells) -> None:
    found = object_boxes(pair_batch([photo()], [plain(THERE)], hidden=[hidden]))
    torch.testing.assert_close(found.boxes[0], tensor(parts(expected), parts(THERE)))
    if expected == THERE:
        affine = box_affine(found.boxes[:, 1], found.boxes[:, 0])
        assert torch.equal(affine[0], torch.eye(2, 3))


def test_a_mask_that_hides_nothing_says_nothing() -> None:
    pairs = pair_batch([plain(HERE)], [plain(THERE)])
    pairs = replace(pairs, hidden_known=torch.tensor([True]))
    assert object_boxes(pairs).rules == (("background", "background"),)


def test_a_mask_nobody_knows_says_nothing() -> None:
    pairs = pair_batch([plain(HERE)], [plain(THERE)], hidden=[ELSEWHERE])
    pairs = replace(pairs, hidden_known=torch.tensor([False]))
    assert object_boxes(pairs).rules == (("background", "background"),)


@pytest.mark.parametrize("background", [0.0, 0.5, 1.0])
def test_a_plain_background_of_any_colour_shows_the_thing(background: float) -> None:
    pairs = pair_batch([plain(HERE, background)], [plain(THERE, background)])
    found = object_boxes(pairs)
    assert found.rules == (("background", "background"),)
    torch.testing.assert_close(found.boxes[0], tensor(parts(HERE), parts(THERE)))


def test_a_photo_has_no_box_and_nothing_is_aligned() -> None:
    pairs = pair_batch([photo(), plain(HERE)], [plain(THERE), photo()])
    found = object_boxes(pairs)
    assert found.rules == (("identity", "identity"),) * 2
    assert torch.equal(found.boxes, tensor(*[[WHOLE, WHOLE]] * 2))
    affine = box_affine(found.boxes[:, 1], found.boxes[:, 0])
    assert torch.equal(affine, torch.eye(2, 3).repeat(2, 1, 1))


def test_nearly_whole_needs_both_sides() -> None:
    # 19 of 20 pixels are 0.95 of a side. The edge is mostly background all the same.
    whole = plain(None)
    whole[:, 1:, 1:] = torch.eye(19) + torch.eye(19).flip(0)
    one_side = plain((0, 8, 19, 12))
    pairs = pair_batch([whole, one_side], [plain(THERE)] * 2)
    found = object_boxes(pairs)
    assert found.rules == (("identity", "identity"), ("background", "background"))
    loose = object_boxes(pairs, nearly_whole=0.96)
    assert loose.rules == (("background", "background"),) * 2
    torch.testing.assert_close(loose.boxes[0, 0], torch.tensor([0.05, 0.05, 1.0, 1.0]))


def test_an_empty_picture_has_no_box() -> None:
    found = object_boxes(pair_batch([plain(None)], [plain(THERE)]))
    assert found.rules == (("identity", "identity"),)


def test_the_threshold_decides_what_is_background() -> None:
    pairs = pair_batch([plain(HERE, colour=0.03)], [plain(THERE)])
    assert object_boxes(pairs).rules[0][0] == "identity"
    assert object_boxes(pairs, threshold=0.02).rules[0][0] == "background"


def test_one_rule_a_row_and_a_given_box_beside_a_found_one() -> None:
    pairs = pair_batch(
        [photo(1), photo(2), plain(HERE), photo(3)],
        [plain(THERE), plain(THERE), plain(ELSEWHERE), plain(THERE)],
        hidden=[None, (8, 3, 9, 4), None, None],
        boxes=[(HERE, None), (None, None), (None, THERE), (None, None)],
    )
    found = object_boxes(pairs)
    assert found.rules == (
        ("given", "background"),
        ("mask", "background"),
        ("background", "given"),
        ("identity", "identity"),
    )
    expected = [(HERE, THERE), (THERE, THERE), (HERE, THERE)]
    for row, both in enumerate(expected):
        torch.testing.assert_close(found.boxes[row], tensor(*[parts(box) for box in both]))
    assert torch.equal(found.boxes[3], tensor(WHOLE, WHOLE))
    for row in range(4):
        alone = replace(
            pairs,
            **{
                name: getattr(pairs, name)[row : row + 1]
                for name in ("original", "reconstruction", "hidden", "hidden_known", "boxes")
            },
        )
        alone = replace(alone, target=alone.target[:1], target_known=alone.target_known[:1])
        single = object_boxes(alone)
        assert torch.equal(single.boxes[0], found.boxes[row])
        assert single.rules[0] == found.rules[row]


def test_padding_is_no_background() -> None:
    """A picture of 40 x 24 pixels in a view of 20: four rows of padding above and below."""
    frame = ImageGeometry(24, 40, 0.5, 0.5, 0.0, 4.0, 5.0, 5.0, 4, 4)
    padded = photo()
    padded[:, :4] = padded[:, 16:] = 0.5
    pairs = pair_batch([padded], [plain(THERE)])
    # Without the frame, the picture itself stands out from its padding.
    without = object_boxes(pairs)
    torch.testing.assert_close(without.boxes[0, 0], tensor(0.0, 0.2, 1.0, 0.8))
    assert object_boxes(pairs, [frame]).rules == (("identity", "identity"),)

    rendered = plain(None, background=0.5)
    rendered[:, 4:16] = 0.0
    rendered[:, 6:15, 2:7] = 0.9
    found = object_boxes(pair_batch([plain(HERE)], [rendered], frames=[frame]))
    torch.testing.assert_close(found.boxes[0, 1], tensor(*parts((2, 6, 7, 15))))


def test_faults_are_named() -> None:
    pairs = pair_batch([photo()], [plain(THERE)], boxes=[((9, 2, 4, 5), None)])
    with pytest.raises(GeometryError, match=r"pair 0: the box .* in the original has no area"):
        object_boxes(pairs)
    half = pair_batch([photo()], [plain(THERE)], boxes=[(None, THERE)])
    half.boxes[0, 1, 2] = float("nan")
    with pytest.raises(
        GeometryError, match=r"in the reconstruction has no area.*leave the box out"
    ):
        object_boxes(half)
    frame = ImageGeometry(SIDE, SIDE, 1.0, 1.0, 0.0, 0.0, 5.0, 5.0, 4, 4)
    with pytest.raises(GeometryError, match="2 geometries for 1 pairs"):
        object_boxes(pair_batch([photo()], [photo()]), [frame, frame])
