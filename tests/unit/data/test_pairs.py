"""Pairs in batches: framed as the host frames, checked, and made of chat messages."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, JanusImageProcessor

from chiasm.core.batch import Batch, PairBatch
from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Pair, Sample, Turn
from chiasm.data.chat import read_messages
from chiasm.data.collate import Collator
from chiasm.data.masks import ArrayMask
from chiasm.data.pairs import PairFraming, as_pair
from chiasm.data.prompts import Prompter
from chiasm.language.host import Host
from chiasm.language.hosts.padded_images import PaddedImages
from chiasm.language.hosts.square_images import SquareImages
from tests.tiny import picture, tiny_llava, tiny_qwen2_5_vl

SIDE = 35


@pytest.fixture(scope="module")
def host() -> Host:
    return tiny_llava()


def framing(host: Host, **changes: Any) -> PairFraming:
    processor = host.preparer.image_processor  # type: ignore[attr-defined]
    values = {
        "preparer": host.preparer,
        "mean": tuple(processor.image_mean),
        "std": tuple(processor.image_std),
        "target_size": 21,
        **changes,
    }
    return PairFraming(**values)


def collate(host: Host, *samples: Sample, **changes: Any) -> Batch:
    made = framing(host, **changes)
    return Collator(Prompter(host.tokenizer, host.image_token), host.preparer, pairs=made)(samples)


def pairs_of(host: Host, *samples: Sample, **changes: Any) -> PairBatch:
    found = collate(host, *samples, **changes).pairs
    assert found is not None
    return found


def plain(height: int, width: int, red: int) -> Image.Image:
    return Image.new("RGB", (width, height), (red, 20, 40))


def pair(name: str = "a", image: Image.Image | None = None, **known: Any) -> Sample:
    shown = {"reconstruction": plain(53, 71, 90), **known}
    turns = (Turn("user", (0, "What?")), Turn("assistant", ("Red.",), True))
    return Sample(
        name, turns, (image or plain(61, 83, 200),), origin=f"{name}:1", pair=Pair(**shown)
    )


def test_views_are_the_pictures_in_their_own_colours(host: Host) -> None:
    found = pairs_of(host, pair())
    assert found.original.shape == found.reconstruction.shape == (1, 3, SIDE, SIDE)
    assert found.original.dtype == torch.float32
    for view, red in ((found.original, 200), (found.reconstruction, 90)):
        colour = torch.tensor([red, 20, 40]) / 255
        assert torch.allclose(view, colour.view(1, 3, 1, 1).expand_as(view), atol=1e-6)


def test_nothing_that_is_not_told_is_taken_as_known(host: Host) -> None:
    found = pairs_of(host, pair())
    assert not found.hidden.any() and not found.hidden_known.any()
    assert found.boxes.isnan().all() and found.boxes.shape == (1, 2, 4)
    assert not found.target.any() and not found.target_known.any()
    assert found.target.shape == (1, 3, 21, 21)


def test_masks_and_boxes_follow_the_pixels_of_their_pictures(host: Host) -> None:
    """A white block drawn in each picture stands where its mask and its box say."""
    image, shown = np.zeros((61, 83, 3), np.uint8), np.zeros((97, 59, 3), np.uint8)
    mask = np.zeros((61, 83), bool)
    image[20:50, 30:60], mask[20:50, 30:60], shown[40:70, 10:50] = 255, True, 255
    sample = pair(
        image=Image.fromarray(image),
        reconstruction=Image.fromarray(shown),
        hidden=ArrayMask(mask),
        image_box=(30.0, 20.0, 60.0, 50.0),
        reconstruction_box=(10.0, 40.0, 50.0, 70.0),
    )
    found = pairs_of(host, pair("first"), sample)
    assert found.hidden_known.tolist() == [False, True]
    assert (found.original[1, 0] > 0.5).logical_xor(found.hidden[1]).float().mean() < 0.03
    assert found.boxes[0].isnan().all()
    places = (torch.arange(SIDE) + 0.5) / SIDE
    for view, (left, top, right, bottom) in zip(
        (found.original[1, 0], found.reconstruction[1, 0]), found.boxes[1].tolist(), strict=True
    ):
        across, down = (places > left) & (places < right), (places > top) & (places < bottom)
        inside = down[:, None] & across[None, :]
        assert (view > 0.5).logical_xor(inside).float().mean() < 0.03
        assert inside.any()
    frame = found.frames[1]
    assert (frame.original_height, frame.original_width) == (97, 59)


def test_a_box_cut_off_by_the_crop_ends_at_the_view(host: Host) -> None:
    found = pairs_of(host, pair(image_box=(0.0, 0.0, 83.0, 61.0)))
    assert found.boxes[0, 0].tolist() == [0, 0, 1, 1]
    assert found.boxes[0, 1].isnan().all()


@pytest.mark.parametrize(
    "box",
    [(0.0, 10.0, 5.0, 20.0), (40.0, 10.0, 30.0, 20.0), (float("nan"), 10.0, 40.0, 20.0)],
    ids=["cropped away", "turned", "no number"],
)
def test_a_box_that_shows_nothing_is_named(host: Host, box: Any) -> None:
    with pytest.raises(DataError, match=r"a:1: image_box: the box \[.* 83 x 61 \(width x height"):
        pairs_of(host, pair(image_box=box))


def test_padding_is_part_of_the_frame() -> None:
    """Janus pads: a wide picture lies in the middle of its view, and so do its mask and box."""
    processor = JanusImageProcessor(size={"height": 33, "width": 33}, min_size=3)
    vision = CLIPVisionConfig(image_size=33, patch_size=3)
    preparer = PaddedImages.from_config(vision, processor)
    made = PairFraming(preparer, tuple(processor.image_mean), tuple(processor.image_std), 33)
    views, (geometry,) = made.view([Image.new("RGB", (66, 22), "white")])
    row = views[0, :, :, 16].mean(0)
    assert row[11:22].eq(1).all() and row[[0, 10, 22, 32]].lt(0.9).all()
    assert made.box((0, 0, 66, 22), geometry, "b") == pytest.approx([0, 1 / 3, 1, 2 / 3])


def test_the_target_is_framed_like_the_original(host: Host) -> None:
    image, target = picture(61, 83), picture(61, 83, seed=1)
    known = pair("t", image=image, target=target)
    found = pairs_of(host, pair(), known, target_size=SIDE)
    assert found.target_known.tolist() == [False, True]
    assert not found.target[0].any()
    as_original = pairs_of(host, pair(image=target)).original[0]
    assert torch.equal(found.target[1], as_original)
    smaller = pairs_of(host, known, target_size=7)
    means = found.target[1].unflatten(1, (7, 5)).unflatten(3, (7, 5)).mean((2, 4))
    assert smaller.target.shape == (1, 3, 7, 7)
    assert (smaller.target[0] - means).abs().mean() < 0.05
    with pytest.raises(DataError, match=r"t:1: target of 61 x 83 pixels .* has 83 x 61"):
        pairs_of(host, pair("t", image=image, target=picture(83, 61)))


def test_the_mask_has_the_size_of_the_picture_and_may_be_empty(host: Host) -> None:
    found = pairs_of(host, pair(hidden=ArrayMask(np.zeros((61, 83), bool))))
    assert found.hidden_known.all() and not found.hidden.any()
    with pytest.raises(DataError, match=r"a:1: hidden: mask of 53 x 71 pixels .* has 61 x 83"):
        pairs_of(host, pair(hidden=ArrayMask(np.ones((53, 71), bool))))


def test_a_batch_of_pairs_holds_what_single_batches_hold(host: Host) -> None:
    samples = [
        pair(str(index), image=picture(61 + index, 83, index), target=picture(61 + index, 83, 7))
        for index in range(3)
    ]
    whole = pairs_of(host, *samples)
    for index, sample in enumerate(samples):
        single = pairs_of(host, sample)
        assert torch.equal(whole.original[index], single.original[0])
        assert torch.equal(whole.target[index], single.target[0])
        assert whole.frames[index] == single.frames[0]


def test_pairs_and_others_do_not_mix(host: Host) -> None:
    alone = replace(pair("b"), pair=None)
    assert collate(host, alone).pairs is None
    with pytest.raises(DataError, match="b:1 has no reconstruction, while 1 of the batch's 2"):
        collate(host, pair(), alone)
    with pytest.raises(DataError, match="c:1 has 2 images beside its reconstruction"):
        two = replace(pair("c"), images=(plain(9, 9, 1), plain(9, 9, 2)))
        two = replace(two, turns=(Turn("user", (0, 1, "?")), two.turns[1]))
        collate(host, two)


def test_without_a_framing_the_reconstruction_is_not_read(host: Host) -> None:
    made = Collator(Prompter(host.tokenizer, host.image_token), host.preparer)
    assert made([pair(reconstruction="there is no such file.png")]).pairs is None


def test_a_framing_belongs_to_its_collator(host: Host) -> None:
    other = tiny_llava()
    with pytest.raises(InputError, match="another preparer than the collator"):
        Collator(Prompter(host.tokenizer, host.image_token), host.preparer, pairs=framing(other))
    made = Collator(Prompter(host.tokenizer, host.image_token), host.preparer, pairs=framing(host))
    # A loader process gets the collator as one pickle, in which both are still the same.
    copy = pickle.loads(pickle.dumps(made))
    assert copy.pairs is not None and copy.pairs.preparer is copy.preparer


def test_a_host_of_other_views_is_refused() -> None:
    qwen = tiny_qwen2_5_vl()
    with pytest.raises(InputError, match=r"makes \{'pixel_values': .*reads one square for each"):
        PairFraming(qwen.preparer, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 7)


def test_a_wrong_normalisation_is_refused(host: Host) -> None:
    with pytest.raises(InputError, match=r"undone, black is .* take image_mean and image_std"):
        framing(host, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="three values each"):
        framing(host, std=(0.5, 0.0, 0.5))
    unscaled = CLIPImageProcessor(
        size={"height": 21, "width": 21}, do_center_crop=False, do_normalize=False
    )
    preparer = SquareImages.from_config(CLIPVisionConfig(image_size=21, patch_size=3), unscaled)
    assert PairFraming(preparer, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 7).side == 21


def test_two_images_of_a_message_are_a_pair() -> None:
    first, second = picture(23, 29), picture(31, 37)
    content = [
        {"type": "text", "text": "Here is "},
        {"type": "image", "image": first},
        {"type": "text", "text": "and "},
        {"type": "image", "image": second},
        {"type": "text", "text": "what is it?"},
    ]
    system = {"role": "system", "content": "Be brief."}
    made = as_pair(read_messages([system, {"role": "user", "content": content}]))
    assert made.turns[1].parts == ("Here is ", 0, "and what is it?")
    assert made.turns[0].text == "Be brief."
    assert made.images == (first,)
    assert made.pair == Pair(reconstruction=second)
    assert as_pair(made) is made


@pytest.mark.parametrize("images", [(0,), (0, 1, 2)])
def test_other_counts_of_images_are_no_pair(images: tuple[int, ...]) -> None:
    sample = Sample("s", (Turn("user", (*images, "?")),), tuple(plain(9, 9, i) for i in images))
    message = rf"s has {len(images)} image\(s\), {len(images)} of them in its first user turn"
    with pytest.raises(DataError, match=message):
        as_pair(sample)


def test_a_reconstruction_in_a_later_turn_is_no_pair() -> None:
    turns = (Turn("user", (0, "?")), Turn("assistant", ("!",)), Turn("user", (1, "?")))
    with pytest.raises(DataError, match=r"2 image\(s\), 1 of them in its first user turn"):
        as_pair(Sample("s", turns, (plain(9, 9, 1), plain(9, 9, 2))))
