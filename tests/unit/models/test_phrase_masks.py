"""The heads together: what belongs together, what they are called, what each of them gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chiasm.core.errors import ConfigError, InputError
from chiasm.heads.mask_refiner import MaskRefiner
from chiasm.heads.mask_unet import MaskUNetConfig
from chiasm.heads.sam import SamConfig, save_sam
from chiasm.heads.segment_anything import SegmentAnything
from chiasm.heads.text_layers import TextLayersConfig
from chiasm.language.phrase_maps import PhraseReading
from chiasm.models.phrase_masks import PhraseMasks
from tests.tiny_eyes import stretched
from tests.tiny_sams import tiny_sam

CHANNELS, LAYERS, WIDTH = 6, 3, 19
GEOMETRIES = (stretched(40, 60, 2, 3), stretched(60, 35, 4, 3))
IMAGES = torch.tensor([1, 0, 1])


def build(refines: bool = True, use_text: bool = True, sam: Any = None) -> PhraseMasks:
    torch.manual_seed(3)
    head = MaskUNetConfig(channels=CHANNELS, widths=(5, 7), least=16).build()
    if not refines:
        return PhraseMasks(mask_head=head).eval()
    text = TextLayersConfig(layers=LAYERS, width=WIDTH, prompt_width=24).build()
    refiner = MaskRefiner(sam=sam or tiny_sam(), use_text=use_text)
    text_layers = text if use_text else None
    return PhraseMasks(mask_head=head, refiner=refiner, text_layers=text_layers).eval()


def reading(seed: int = 5) -> PhraseReading:
    torch.manual_seed(seed)
    grids = [GEOMETRIES[image] for image in IMAGES.tolist()]
    maps = [torch.rand(CHANNELS, grid.rows, grid.columns) for grid in grids]
    return PhraseReading(maps, [torch.randn(LAYERS, tokens, WIDTH) for tokens in (2, 1, 3)])


def embeddings(masks: PhraseMasks) -> Any:
    torch.manual_seed(6)
    assert masks.refiner is not None
    sizes = [(one.original_height, one.original_width) for one in GEOMETRIES]
    side = masks.refiner.transform.side
    return masks.refiner.embed([torch.randn(3, side, side) for _ in sizes], sizes)


def test_names_parts_and_what_is_new() -> None:
    plain = build(refines=False)
    assert plain.names == ("coarse",)
    assert set(plain.parts) == plain.new_parts == {"mask_head"}
    assert plain.identity == {} and plain.transforms == {} and not plain.wants_states
    masks = build()
    assert masks.names == ("coarse", "refined")
    pieces = {f"refiner.{name}" for name in ("image_encoder", "prompt_encoder", "mask_decoder")}
    assert set(masks.parts) == masks.new_parts == {"mask_head", "text_layers"} | pieces
    assert set(masks.transforms) == {"refiner"} and masks.wants_states
    without = build(use_text=False)
    assert "text_layers" not in without.parts and not without.wants_states
    owned = [p for part in masks.parts.values() for p in part.parameters()]
    assert len({id(p) for p in owned}) == len(owned) == len(list(masks.parameters()))


def test_a_refiner_from_a_checkpoint_is_not_new_and_has_a_fingerprint(tmp_path: Any) -> None:
    random = tiny_sam()
    save_sam(random.model, random.transform, tmp_path)
    loaded = build(sam=SegmentAnything(SamConfig(path=str(tmp_path)).build()))
    assert loaded.new_parts == {"mask_head", "text_layers"}
    weights = loaded.identity["refiner"]["weights"]
    assert len(weights) > 30 and build().identity["refiner"]["weights"] == "random"
    with torch.no_grad():
        next(iter(loaded.parts["refiner.mask_decoder"].parameters())).add_(1)
    # It tells what was built on, whatever training did since.
    assert loaded.identity["refiner"]["weights"] == weights


@torch.no_grad()
def test_masks_lie_on_the_picture_of_their_phrase() -> None:
    masks, given = build(), reading()
    seen = embeddings(masks)
    outputs = masks.predict(given, IMAGES, GEOMETRIES, seen)
    assert [tuple(one.shape) for one in outputs.masks["refined"]] == [(60, 35), (40, 60), (60, 35)]
    for place, image in enumerate(IMAGES.tolist()):
        grid = GEOMETRIES[image]
        coarse = outputs.masks["coarse"][place]
        assert (coarse.shape[0] > coarse.shape[1]) == (grid.rows > grid.columns)
        alone = PhraseReading([given.maps[place]], [given.states[place]])
        single = masks.predict(alone, IMAGES[place : place + 1], GEOMETRIES, seen)
        torch.testing.assert_close(single.masks["coarse"][0], coarse, atol=1e-5, rtol=0)
        both = single.masks["refined"][0], outputs.masks["refined"][place]
        torch.testing.assert_close(*both, atol=1e-4, rtol=1e-4)
    assert outputs.named["refined.scores"].shape == (3,)
    again, scores = masks.refine(given, IMAGES, outputs.masks["coarse"], seen)
    assert torch.equal(scores, outputs.named["refined.scores"])
    assert all(map(torch.equal, again, outputs.masks["refined"]))
    coarse_alone = masks.predict(given, IMAGES, GEOMETRIES, None)
    assert set(coarse_alone.masks) == {"coarse"} and coarse_alone.named == {}


@torch.no_grad()
def test_words_prompt_the_refiner_only_where_it_uses_text() -> None:
    other = PhraseReading(reading().maps, [state + 1 for state in reading().states])
    for use_text in (True, False):
        masks = build(use_text=use_text)
        seen = embeddings(masks)
        one = masks.predict(reading(), IMAGES, GEOMETRIES, seen).masks
        two = masks.predict(other, IMAGES, GEOMETRIES, seen).masks
        assert all(map(torch.equal, one["coarse"], two["coarse"]))
        assert any(map(torch.equal, one["refined"], two["refined"])) != use_text


@pytest.mark.parametrize("which", ["text without refiner", "refiner without text", "unused text"])
def test_text_and_refiner_belong_together(which: str) -> None:
    head = MaskUNetConfig(channels=CHANNELS, widths=(5, 7)).build()
    text = TextLayersConfig(layers=LAYERS, width=WIDTH, prompt_width=24).build()
    refiner = None
    if which != "text without refiner":
        refiner = MaskRefiner(sam=tiny_sam(), use_text=which == "refiner without text")
    given = None if which == "refiner without text" else text
    with pytest.raises(ConfigError, match="belong together: give both or neither"):
        PhraseMasks(mask_head=head, refiner=refiner, text_layers=given)


def test_refining_without_a_refiner_says_what_to_train() -> None:
    masks = build(refines=False)
    coarse = [torch.zeros(3, 3)] * 3
    with pytest.raises(InputError, match=r"no refiner, so its masks are coarse; train one with"):
        masks.refine(reading(), IMAGES, coarse, None)
