"""The refiner: prompts in the right frame, batches against loops, what learns and what rests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from chiasm.core.config import read_config
from chiasm.core.errors import ConfigError, InputError
from chiasm.heads.mask_refiner import (
    MaskRefiner,
    MaskRefinerConfig,
    box_prompt,
    mask_prompt,
)
from chiasm.heads.sam_images import SamTransform
from tests.tiny_sams import ARCHITECTURES, tiny_sam

SIZES = ((30, 50), (61, 37), (35, 35))
PADDED = SamTransform(side=40, mean=(0, 0, 0), deviation=(1, 1, 1), stretch=False)


def refiner(name: str = "sam", **settings: Any) -> MaskRefiner:
    return MaskRefiner(sam=tiny_sam(name), **settings).eval()


def images(one: MaskRefiner) -> list[Tensor]:
    rng = np.random.default_rng(0)
    return [
        one.transform(Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)))
        for size in SIZES
    ]


def phrases(count: int = 7) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    torch.manual_seed(5)
    owners = torch.tensor([0, 0, 1, 2, 2, 0, 1][:count])
    coarse = [torch.randn(5 + i % 2, 7 + 2 * (i % 3)) for i in range(count)]
    text = [torch.randn(1 + i % 3, 24) for i in range(count)]
    return owners, coarse, text


@pytest.mark.parametrize("name", ["sam", "sam2"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_text": False},
        {"use_mask": False},
        {"use_box": False},
        {"use_mask": False, "use_box": False},
        {"use_text": False, "use_box": False},
        {"multimask": True},
        {"at_once": 2, "resolution": "decoder"},
    ],
)
def test_one_call_for_many_images_and_phrases_equals_the_loop(
    name: str, settings: dict[str, Any]
) -> None:
    one = refiner(name, **settings)
    owners, coarse, text = phrases()
    with torch.no_grad():
        embeddings = one.embed(images(one), SIZES)
        together = one.refine(embeddings, owners, coarse, text)
        for index, owner in enumerate(owners.tolist()):
            own = one.embed([images(one)[owner]], [SIZES[owner]])
            alone = one.refine(own, torch.tensor([0]), [coarse[index]], [text[index]])
            # Measured at most 2e-6 of values about 1.
            torch.testing.assert_close(
                together.logits[index], alone.logits[0], rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(
                together.scores[index], alone.scores[0], rtol=1e-4, atol=1e-5
            )


def test_a_kept_embedding_serves_any_number_of_phrases() -> None:
    one = refiner()
    owners, coarse, text = phrases()
    with torch.no_grad():
        embeddings = one.embed(images(one), SIZES)
        together = one.refine(embeddings, owners, coarse, text)
        alone = one.refine(embeddings.of(1), torch.tensor([0]), coarse[2:3], text[2:3])
    assert len(embeddings) == 3
    assert len(embeddings.of(1)) == 1
    torch.testing.assert_close(together.logits[2], alone.logits[0], rtol=1e-4, atol=1e-5)


def test_masks_cover_the_original_image() -> None:
    owners, coarse, text = phrases()
    one = refiner()
    found = one.refine(one.embed(images(one), SIZES), owners, coarse, text)
    assert [tuple(m.shape) for m in found.logits] == [SIZES[i] for i in owners.tolist()]
    small = refiner(resolution="decoder")
    found = small.refine(small.embed(images(small), SIZES), owners, coarse, text)
    # 20 x 20 over 35 x 35: an image of 30 x 50 becomes 21 x 35 of them, so 12 x 20 values.
    assert tuple(found.logits[0].shape) == (12, 20)
    assert tuple(found.logits[3].shape) == (20, 20)
    assert found.scores.shape == (7,)


def test_no_phrase_gives_no_mask() -> None:
    one = refiner()
    found = one.refine(one.embed(images(one), SIZES), torch.zeros(0, dtype=torch.long), [], [])
    assert found.logits == ()
    assert found.scores.shape == (0,)


def test_each_prompt_changes_the_mask_when_it_is_on_and_only_then() -> None:
    owners, coarse, text = phrases(2)
    for name, switch in (("coarse", "use_mask"), ("text", "use_text")):
        for on in (True, False):
            one = refiner(**{switch: on}, use_box=False)
            embeddings = one.embed(images(one), SIZES)
            first = one.refine(embeddings, owners, coarse, text)
            other = [-t for t in coarse] if name == "coarse" else coarse
            words = [-t for t in text] if name == "text" else text
            second = one.refine(embeddings, owners, other, words)
            assert torch.equal(first.logits[0], second.logits[0]) != on, (name, on)
    boxed, free = refiner(use_mask=False), refiner(use_mask=False, use_box=False)
    embeddings = boxed.embed(images(boxed), SIZES)
    kept = boxed.refine(embeddings, owners, coarse, text).logits[0]
    assert not torch.equal(kept, free.refine(embeddings, owners, coarse, text).logits[0])


def test_candidates_are_chosen_by_the_coarse_mask() -> None:
    """The chosen candidate overlaps the coarse mask at least as well as the others do."""
    one = refiner(multimask=True, resolution="decoder", use_text=False)
    size = (35, 35)
    torch.manual_seed(7)
    chosen = set()
    for _ in range(12):
        coarse = torch.randn(20, 20)
        with torch.no_grad():
            embeddings = one.embed(images(one)[2:], [size])
            found = one.refine(embeddings, torch.tensor([0]), [coarse])
            prompts = mask_prompt(coarse, size, one.transform, 20)
            candidates, scores = one.sam.decode(embeddings, _prompts(one, coarse), True)
        wanted = prompts > 0
        overlaps = [
            float(((c > 0) & wanted).sum() / ((c > 0) | wanted).sum()) for c in candidates[0]
        ]
        best = int(np.argmax(overlaps))
        chosen.add(best)
        torch.testing.assert_close(found.logits[0], candidates[0, best])
        torch.testing.assert_close(found.scores[0], scores[0, best])
    assert len(chosen) > 1


def _prompts(one: MaskRefiner, coarse: Tensor) -> Any:
    from chiasm.heads.segment_anything import Prompts

    return Prompts(
        images=torch.tensor([0]),
        boxes=box_prompt(coarse, (35, 35), one.transform)[None],
        masks=mask_prompt(coarse, (35, 35), one.transform, 20)[None],
    )


def test_the_coarse_head_learns_through_the_mask_prompt_and_not_through_the_box() -> None:
    owners, coarse, text = phrases(2)
    coarse = [one.requires_grad_() for one in coarse]
    text = [one.requires_grad_() for one in text]
    boxed = refiner(use_mask=False)
    embeddings = boxed.embed(images(boxed), SIZES)
    boxed.refine(embeddings, owners, coarse, text).logits[0].sum().backward()
    assert coarse[0].grad is None
    assert text[0].grad is not None
    masked = refiner(use_box=False)
    masked.refine(masked.embed(images(masked), SIZES), owners, coarse, text).logits[
        0
    ].sum().backward()
    assert coarse[0].grad is not None
    assert bool(coarse[0].grad.any())
    assert coarse[1].grad is None or not bool(coarse[1].grad.any())


def test_frozen_image_encoders_get_no_gradient_and_the_other_parts_do() -> None:
    one = refiner()
    one.parts["image_encoder"].requires_grad_(False)
    owners, coarse, text = phrases()
    found = one.refine(one.embed(images(one), SIZES), owners, coarse, text)
    torch.stack([m.square().mean() for m in found.logits]).sum().backward()
    assert all(p.grad is None for p in one.parts["image_encoder"].parameters())
    for part in ("prompt_encoder", "mask_decoder"):
        assert any(p.grad is not None and p.grad.any() for p in one.parts[part].parameters())


def test_a_mask_prompt_is_resized_padded_and_resized() -> None:
    """20 x 30 logits over an image of 60 x 90: resized to 27 x 40, padded below, halved."""
    logits = torch.full((20, 30), 3.0)
    prompt = mask_prompt(logits, (60, 90), PADDED, 20)
    assert prompt.shape == (20, 20)
    assert (prompt[:13] == 3).all()
    assert prompt[13] == pytest.approx(torch.full((20,), 1.0))
    # Padding is min(-1, smallest logit).
    assert (prompt[14:] == -1).all()
    assert (mask_prompt(logits - 9, (60, 90), PADDED, 20)[14:] == -6).all()


def test_a_mask_prompt_is_what_two_bilinear_steps_give() -> None:
    logits = torch.randn(7, 11)
    grown = nn.functional.interpolate(logits[None, None], (40, 24), mode="bilinear")
    wide = torch.full((1, 1, 40, 40), min(-1.0, float(logits.min())))
    wide[..., :24] = grown
    wanted = nn.functional.interpolate(wide, (20, 20), mode="bilinear")[0, 0]
    assert torch.equal(mask_prompt(logits, (100, 61), PADDED, 20), wanted)


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(5, 90),
    width=st.integers(5, 90),
    edges=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_box_prompt_is_tight_with_far_edges_past_the_last_pixel(
    height: int, width: int, edges: tuple[float, float, float, float]
) -> None:
    top, bottom = sorted((int(edges[0] * (height - 1)), int(edges[1] * (height - 1))))
    left, right = sorted((int(edges[2] * (width - 1)), int(edges[3] * (width - 1))))
    logits = torch.full((height, width), -4.0)
    logits[top : bottom + 1, left : right + 1] = 4
    box = box_prompt(logits, (height, width), PADDED)
    resized = PADDED.resized((height, width))
    scale = torch.tensor([resized[1] / width, resized[0] / height] * 2)
    wanted = torch.tensor([left, top, right + 1, bottom + 1]) * scale
    torch.testing.assert_close(box, wanted.float())


def test_an_empty_mask_gives_the_box_of_the_whole_image() -> None:
    box = box_prompt(torch.full((5, 7), -2.0), (60, 90), PADDED)
    torch.testing.assert_close(box, torch.tensor([0.0, 0.0, 40.0, 27.0]))


def test_a_box_is_cut_where_probabilities_cross_one_half() -> None:
    """Probabilities are resized, not logits: a huge logit does not push its edge outwards."""
    logits = torch.tensor([[50.0, -1.0]])
    box = box_prompt(logits, (1, 40), PADDED)
    # From 1 at X = 10 to 0.269 at X = 30: one half at 23.7. Logits would cross 0 at 29.6.
    assert box.tolist() == [0.0, 0.0, 24.0, 1.0]


@settings(max_examples=40, deadline=None)
@given(height=st.integers(8, 200), width=st.integers(8, 200), stretch=st.booleans())
def test_where_the_decoders_mask_lies_is_known_to_the_pixel(
    height: int, width: int, stretch: bool
) -> None:
    """A mask that holds its own places, on the image: each pixel holds its own."""
    sam = tiny_sam("sam")
    sam.transform = SamTransform(side=40, mean=(0, 0, 0), deviation=(1, 1, 1), stretch=stretch)
    size = (height, width)
    resized = sam.transform.resized(size)
    across = (torch.arange(20).double() + 0.5) * 2 / resized[1] * width
    found = sam.to_images([across.float().expand(20, 20)], [size])[0]
    own = torch.arange(width) + 0.5
    inside = (own >= across[0]) & (own <= across[-1])
    assert found.shape == size
    assert ((found - own)[:, inside].abs() < 1e-3 * width / 40).all()


def test_faults_name_what_was_given() -> None:
    one = refiner()
    owners, coarse, text = phrases()
    embeddings = one.embed(images(one), SIZES)
    with pytest.raises(InputError, match="7 phrases, 7 coarse masks and 0 texts"):
        one.refine(embeddings, owners, coarse)
    with pytest.raises(InputError, match="7 phrases, 6 coarse masks and 7 texts"):
        one.refine(embeddings, owners, coarse[1:], text)
    with pytest.raises(ConfigError, match="nothing would prompt the refiner"):
        read_config(
            MaskRefinerConfig,
            {
                "sam": {"architecture": ARCHITECTURES["sam"]},
                "use_mask": False,
                "use_box": False,
                "use_text": False,
            },
            "refiner",
        )


def test_the_configuration_builds_it() -> None:
    config = MaskRefinerConfig.model_validate(
        {"sam": {"architecture": ARCHITECTURES["sam"]}, "multimask": True, "at_once": 3}
    )
    built = config.build()
    assert (built.multimask, built.at_once, built.resolution) == (True, 3, "image")
    assert list(built.parts) == ["image_encoder", "prompt_encoder", "mask_decoder"]


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_weights_of_a_half_type_refine_logits_of_float32(name: str) -> None:
    owners, coarse, text = phrases(3)
    with torch.no_grad():
        found = []
        for one in (refiner(name), refiner(name).to(torch.bfloat16)):
            found.append(one.refine(one.embed(images(one), SIZES), owners, coarse, text))
    whole, half = found
    assert {logits.dtype for logits in half.logits} == {torch.float32}
    for a, b in zip(whole.logits, half.logits, strict=True):
        # Pixels next to zero may fall on either side; random weights have many of them, and are
        # others on other processors.
        sure = a.abs() > a.std() / 2
        assert ((a > 0) == (b > 0))[sure].float().mean() > 0.97
