"""Segment Anything as a part, against the models and image processors of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from chiasm.core.config import read_config
from chiasm.core.errors import CheckpointError, ConfigError, InputError
from chiasm.heads.sam import SamConfig, save_sam
from chiasm.heads.sam_images import SamTransform
from chiasm.heads.segment_anything import Prompts, SegmentAnything
from tests.tiny_sams import ARCHITECTURES, tiny_sam

NAMES = ("sam", "sam2")
SIZES = ((30, 50), (61, 37))


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels(sam: SegmentAnything) -> Tensor:
    return torch.stack([sam.transform(picture(*size, seed=i)) for i, size in enumerate(SIZES)])


def prompts(sam: SegmentAnything, kind: str) -> Prompts:
    torch.manual_seed(3)
    images, side = torch.tensor([0, 1]), sam.transform.side
    points = torch.rand(2, 3, 2) * side
    labels = torch.tensor([[1, 0, 1], [0, 1, 1]])
    boxes = torch.sort(torch.rand(2, 2, 2) * side, dim=1).values.flatten(1)
    masks = torch.randn(2, sam.mask_side, sam.mask_side)
    return {
        "box": Prompts(images, boxes=boxes),
        "points": Prompts(images, points=points, labels=labels),
        "mask_and_box": Prompts(images, boxes=boxes, masks=masks),
        "all": Prompts(images, points=points, labels=labels, boxes=boxes, masks=masks),
    }[kind]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["box", "points", "mask_and_box", "all"])
@pytest.mark.parametrize("multimask", [False, True])
def test_plain_prompts_give_the_librarys_masks_bit_for_bit(
    name: str, kind: str, multimask: bool
) -> None:
    sam = tiny_sam(name)
    given = prompts(sam, kind)
    with torch.no_grad():
        masks, scores = sam.decode(sam.embed(pixels(sam), SIZES), given, multimask)
        wanted = sam.model(
            pixel_values=pixels(sam),
            input_points=None if given.points is None else given.points[:, None],
            input_labels=None if given.labels is None else given.labels[:, None],
            input_boxes=None if given.boxes is None else given.boxes[:, None],
            input_masks=_library_masks(given, name),
            multimask_output=multimask,
        )
    # Measured difference 0: the same calls in the same process.
    assert torch.equal(masks, wanted.pred_masks[:, 0])
    assert torch.equal(scores, wanted.iou_scores[:, 0])
    assert masks.shape == (2, 3 if multimask else 1, sam.mask_side, sam.mask_side)


def test_a_mask_alone_gives_the_librarys_mask() -> None:
    """SAM decodes a mask without sparse prompts; SAM 2 of the library adds a point of its own."""
    sam = tiny_sam("sam")
    masks = torch.randn(2, 20, 20)
    with torch.no_grad():
        found, _ = sam.decode(
            sam.embed(pixels(sam), SIZES), Prompts(torch.tensor([0, 1]), masks=masks)
        )
        wanted = sam.model(
            pixel_values=pixels(sam), input_masks=masks[:, None], multimask_output=False
        )
    assert torch.equal(found, wanted.pred_masks[:, 0])


def _library_masks(given: Prompts, name: str) -> Tensor | None:
    return None if given.masks is None else given.masks[:, None]


@pytest.mark.parametrize("size", [(30, 50), (61, 37), (35, 35), (200, 113), (113, 200)])
def test_images_are_prepared_as_the_library_does(size: tuple[int, int]) -> None:
    sam = tiny_sam("sam")
    processor = transformers.models.sam.image_processing_pil_sam.SamImageProcessorPil(
        size={"longest_edge": 35}, pad_size={"height": 35, "width": 35}
    )
    found = processor(picture(*size), return_tensors="pt")
    # Measured at most 5e-7: float64 against float32 arithmetic.
    torch.testing.assert_close(
        sam.transform(picture(*size)), found["pixel_values"][0], rtol=0, atol=2e-6
    )
    assert sam.transform.resized(size) == tuple(found["reshaped_input_sizes"][0].tolist())


def test_sam2_stretches_as_the_library_does() -> None:
    """Its processor resizes by another implementation: at most two of 255 levels apart."""
    transform = tiny_sam("sam2").transform
    processor = transformers.Sam2ImageProcessor(size={"height": 64, "width": 64})
    found = processor(picture(90, 130), return_tensors="pt")["pixel_values"][0]
    ours = transform(picture(90, 130))
    # Measured 0.0175, one level of 255 over the smallest deviation, 0.224.
    assert (ours - found).abs().max() < 2 / 255 / 0.224


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_loads_here_and_in_the_library(name: str, tmp_path: Path) -> None:
    sam = tiny_sam(name)
    colours = SamTransform(
        side=sam.transform.side,
        mean=(0.4, 0.5, 0.6),
        deviation=(0.2, 0.3, 0.1),
        stretch=sam.transform.stretch,
    )
    save_sam(sam.model, colours, tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.suffix not in {".json", ".safetensors"}]
    again = SegmentAnything(SamConfig(path=str(tmp_path)).build())
    assert again.transform == colours
    assert again.pretrained
    library = type(sam.model).from_pretrained(tmp_path)
    given = prompts(sam, "mask_and_box")
    with torch.no_grad():
        wanted, _ = sam.decode(sam.embed(pixels(sam), SIZES), given)
        found, _ = again.decode(again.embed(pixels(sam), SIZES), given)
        theirs = library(
            pixel_values=pixels(sam),
            input_boxes=given.boxes[:, None],  # type: ignore[index]
            input_masks=given.masks[:, None],  # type: ignore[index]
            multimask_output=False,
        )
    assert torch.equal(found, wanted)
    assert torch.equal(theirs.pred_masks[:, 0], wanted)


@pytest.mark.parametrize("name", NAMES)
def test_parts_hold_every_parameter_once(name: str) -> None:
    sam = tiny_sam(name)
    owned = [id(p) for part in sam.parts.values() for p in part.parameters()]
    assert sorted(owned) == sorted(id(p) for p in sam.parameters())
    assert len(set(owned)) == len(owned)
    # Random positions are constants, not weights.
    assert not [n for n, _ in sam.named_parameters() if "positional_embedding" in n]
    assert "shared_embedding.positional_embedding" in sam.parts["prompt_encoder"].state_dict()


def test_random_weights_are_fit_for_training() -> None:
    """The library's own configuration would start vision at 1e-10 and scramble positions."""
    architecture: dict[str, Any] = {
        **ARCHITECTURES["sam"],
        "vision_config": {
            k: v for k, v in ARCHITECTURES["sam"]["vision_config"].items() if "init" not in k
        },
    }
    torch.manual_seed(0)
    model = SamConfig(architecture=architecture).build().model
    # 24 numbers of deviation 1, where the library would draw them with 13.
    assert 0.6 < model.prompt_encoder.shared_embedding.positional_embedding.std() < 1.5
    assert model.vision_encoder.patch_embed.projection.weight.std() > 0.015


def test_frozen_image_encoders_store_nothing_and_others_learn() -> None:
    sam = tiny_sam("sam")
    assert sam.embed(pixels(sam), SIZES).features.requires_grad
    with torch.no_grad():
        assert not sam.embed(pixels(sam), SIZES).features.requires_grad
    sam.parts["image_encoder"].requires_grad_(False)
    assert not sam.embed(pixels(sam), SIZES).features.requires_grad
    two = tiny_sam("sam2")
    two.parts["image_encoder"].requires_grad_(False)
    embeddings = two.embed(pixels(two), SIZES)
    # The projections of SAM 2's finer maps are the decoder's, which trains.
    assert not embeddings.features.requires_grad
    assert all(level.requires_grad for level in embeddings.finer)


def test_faults_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either `path`"):
        read_config(SamConfig, {}, "refiner")
    with pytest.raises(ConfigError, match=r"vision_config\.depth: unknown"):
        SamConfig(architecture={"vision_config": {"depth": 3}}).build()
    with pytest.raises(ConfigError, match=r"'sam3'; known: sam, sam2, sam2_video"):
        SamConfig(architecture={"model_type": "sam3"}).build()
    with pytest.raises(CheckpointError, match="no checkpoint can be read from"):
        SamConfig(path=str(tmp_path)).build()
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model"}')
    with pytest.raises(CheckpointError, match=r"model type 'clip_vision_model'; it reads sam"):
        SamConfig(path=str(tmp_path)).build()


def test_incomplete_checkpoints_are_refused(tmp_path: Path) -> None:
    sam = tiny_sam("sam")
    state = {n: t.clone() for n, t in sam.model.state_dict().items() if "iou_token" not in n}
    sam.model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, first 'mask_decoder\.iou_token"):
        SamConfig(path=str(tmp_path)).build()


def test_wrong_images_are_refused() -> None:
    sam = tiny_sam("sam")
    with pytest.raises(InputError, match=r"2 images of the shapes \[\(3, 35, 35\)\] and 1 sizes"):
        sam.embed(pixels(sam), SIZES[:1])
    with pytest.raises(InputError, match=r"shapes \[\(3, 34, 35\)\]"):
        sam.embed(pixels(sam)[:, :, 1:], SIZES)


def test_candidates_of_a_model_without_any_are_refused() -> None:
    architecture = ARCHITECTURES["sam"] | {
        "mask_decoder_config": {
            **ARCHITECTURES["sam"]["mask_decoder_config"],
            "num_multimask_outputs": 0,
        }
    }
    sam = SegmentAnything(SamConfig(architecture=architecture).build())
    given = prompts(sam, "box")
    embeddings = sam.embed(pixels(sam), SIZES)
    assert sam.decode(embeddings, given)[0].shape == (2, 1, 20, 20)
    with pytest.raises(InputError, match="num_multimask_outputs is 0"):
        sam.decode(embeddings, given, True)
