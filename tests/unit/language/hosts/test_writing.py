"""How visual tokens stand in the text: order, repeats, grids, and what surrounds an image."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    DeepseekVLImageProcessor,
    GotOcr2ImageProcessor,
    LlavaNextImageProcessor,
)

from chiasm.core.errors import ConfigError, InputError, PlaceholderError
from chiasm.core.samples import Sample, Turn
from chiasm.core.tokens import VisualTokens
from chiasm.data.prompts import Prompter
from chiasm.language.host import Host
from chiasm.language.hosts.any_resolution_images import AnyResolutionImages
from chiasm.language.hosts.padded_images import PaddedImages
from chiasm.language.hosts.tiled_images import TiledImages
from tests.tiny import picture, tiny_batch
from tests.tiny_hosts import ALL_HOSTS, NEW_HOSTS, build_tiny, tiny_tokenizer


@pytest.fixture(scope="module", params=sorted(ALL_HOSTS))
def host(request: pytest.FixtureRequest) -> Host:
    return build_tiny(request.param)


IMAGES = [(41, 59), (30, 97), (23, 20), (149, 31)]


def numbered(tokens: VisualTokens, per_cell: int) -> list[Tensor]:
    """Rows whose first channel is the cell and whose second the token within it."""
    rows = []
    for geometry in tokens.geometries:
        row = torch.zeros(geometry.count, per_cell, tokens.width)
        row[..., 0] = torch.arange(geometry.count)[:, None] + 1000
        row[..., 1] = torch.arange(per_cell)
        rows.append(row.flatten(0, 1))
    return rows


@pytest.mark.parametrize("per_cell", [1, 2, 3])
@torch.no_grad()
def test_grids_find_each_cells_tokens_in_what_is_written(host: Host, per_cell: int) -> None:
    prepared = host.preparer.prepare([picture(*size) for size in IMAGES])
    seen = host.encode(prepared.tensors, prepared.geometries)
    out = host.adapter.write(numbered(seen.tokens, per_cell), seen.extras, per_cell)
    for index, geometry in enumerate(prepared.geometries):
        features = out.features[index]
        grids = host.adapter.grids(host.model.config, geometry, per_cell)
        assert grids[0].geometry == geometry
        fine = features[grids[0].positions]
        assert fine.shape[:2] == (geometry.count, per_cell)
        cells = torch.arange(geometry.count)[:, None].expand(-1, per_cell) + 1000.0
        assert torch.equal(fine[..., 0], cells)
        assert torch.equal(fine[..., 1], torch.arange(float(per_cell)).expand_as(cells))
        # No position belongs to two cells, and all lie inside the image.
        every = torch.cat([grid.positions.flatten() for grid in grids])
        assert len(every.unique()) == len(every)
        assert 0 <= int(every.min()) and int(every.max()) < len(features)
        assert len(out.repeats[index]) == prepared.token_counts[index]
        assert int(out.repeats[index].sum()) == len(features)
        # What no grid holds is a newline, at the end of each fine row of LLaVA-NeXT.
        left = len(features) - len(every)
        assert left == (geometry.rows if host.adapter.model_type == "llava_next" else 0)


def test_second_grids_see_the_whole_picture() -> None:
    for family, small in (("llava_next", 2), ("internvl", 1)):
        host = build_tiny(family)
        for size in IMAGES:
            geometry = host.preparer.prepare([picture(*size)]).geometries[0]
            grids = host.adapter.grids(host.model.config, geometry, 1)
            one_tile = family == "internvl" and geometry.count == 9
            assert len(grids) == (small if one_tile else 2), (family, size)
            box = grids[-1].geometry.view_box()
            assert box == pytest.approx((0, 0, size[1], size[0]))


@torch.no_grad()
def test_the_second_grids_tokens_are_those_of_the_small_picture() -> None:
    """The coarse tokens are what the tower says of the picture stretched to one tile."""
    for family in ("llava_next", "internvl"):
        host = build_tiny(family)
        prepared = host.preparer.prepare([picture(41, 149, 5)])
        seen = host.encode(prepared.tensors, prepared.geometries)
        out = host.adapter.write(seen.tokens.rows(), seen.extras, 1)
        grids = host.adapter.grids(host.model.config, prepared.geometries[0], 1)
        pixels = prepared.tensors["pixel_values"]
        small = pixels[0, :1] if family == "llava_next" else pixels[-1:]
        core = host.model.base_model
        states = core.vision_tower(small, output_hidden_states=True)
        if family == "llava_next":
            expected = core.multi_modal_projector(states.hidden_states[-2][:, 1:])[0]
        else:
            expected = core.get_image_features(small, return_dict=True).pooler_output[0]
        found = out.features[0][grids[1].positions[:, 0]]
        # Alone and among tiles the sums run in another order. Measured: 3e-6.
        torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)


def ask(host: Host, *images: Any) -> Sample:
    return Sample("asked", (Turn("user", (*range(len(images)), "Which?")),), images)


@pytest.mark.parametrize("family", sorted(NEW_HOSTS))
def test_the_prompter_writes_what_stands_around_an_image(family: str) -> None:
    host = build_tiny(family)
    around = {
        "internvl": ("<img>", "</img>"),
        "janus": ("<begin_of_image>", "<end_of_image>"),
    }.get(family)
    images = [picture(41, 59), picture(30, 97)]
    counts = host.preparer.prepare(images).token_counts
    prompter = Prompter(host.tokenizer, host.image_token, host.image_text)
    prompt = prompter.render(ask(host, *images), counts, add_generation_prompt=True)
    for (start, stop), count in zip(prompt.image_spans, counts, strict=True):
        assert prompt.input_ids[start:stop].tolist() == [host.image_token_id] * count
        beside = host.tokenizer.convert_ids_to_tokens(
            [prompt.input_ids[start - 1], prompt.input_ids[stop]]
        )
        assert around is None or tuple(beside) == around
        # The tokens around an image stand for the same piece of the text as the image.
        if around is not None:
            assert prompt.spans[start - 1] == prompt.spans[start] == prompt.spans[stop]
    assert len(prompt.spans) == len(prompt)


def test_a_prompter_can_be_sent_to_another_process_without_the_model() -> None:
    host = build_tiny("internvl")
    assert host.image_text.func.__self__ is host.adapter  # type: ignore[attr-defined]
    assert host.image_text(2) == "<img><IMG_CONTEXT><IMG_CONTEXT></img>"


def test_a_text_of_an_image_with_another_count_is_an_error() -> None:
    host = build_tiny("internvl")
    prompter = Prompter(host.tokenizer, host.image_token, lambda count: host.image_token * 2)
    image = picture(23, 20)
    with pytest.raises(InputError, match=r"2 placeholders '<IMG_CONTEXT>'.*must be 9 in a row"):
        prompter.render(ask(host, image), [9], add_generation_prompt=True)


def test_a_tokenizer_without_the_tokens_around_an_image_is_refused() -> None:
    host = build_tiny("janus")
    whole = host.tokenizer
    host.tokenizer = None
    bare = tiny_tokenizer("<image_placeholder>", without=("<begin_of_image>",))
    with pytest.raises(
        ConfigError, match=r"written as '<begin_of_image>.*does not know '<begin_of_image>'"
    ):
        Host(model=host.model, tokenizer=bare, image_processor=host.image_processor)
    Host(model=host.model, tokenizer=whole, image_processor=host.image_processor)


def test_a_missing_placeholder_is_named(host: Host) -> None:
    batch = tiny_batch(host, [["One ", picture(41, 59), "two", picture(30, 97)]])
    seen = host.encode(batch.host_images, batch.geometries)
    types, ids = batch.token_types.clone(), batch.input_ids.clone()
    last = int(types[0].nonzero()[-1])
    types[0, last] = 0
    ids[0, last] = host.tokenizer.convert_tokens_to_ids("a")
    broken = dataclasses.replace(batch, token_types=types, input_ids=ids)
    count = host.preparer.prepare([picture(30, 97)]).token_counts[0]
    with pytest.raises(
        PlaceholderError,
        match=f"image 1 of the row: {count - 1} placeholders in the text, {count} visual tokens",
    ):
        host.splice(broken, seen.tokens, seen.extras)


class TestProcessorsThatDoNotFit:
    def test_llava_next(self) -> None:
        config = build_tiny("llava_next").model.config
        processor = LlavaNextImageProcessor(
            size={"shortest_edge": 30},
            crop_size={"height": 30, "width": 30},
            image_grid_pinpoints=[[30, 61]],
            do_pad=False,
        )
        with pytest.raises(ConfigError) as error:
            AnyResolutionImages.from_config(config, processor)
        told = str(error.value)
        for piece in (
            "size: ",
            "crop_size: ",
            "do_pad: off",
            "the model has",
            "[30, 61] is no whole",
        ):
            assert piece in told

    def test_internvl(self) -> None:
        config = build_tiny("internvl").model.config
        processor = GotOcr2ImageProcessor(size={"height": 28, "width": 42}, do_resize=False)
        with pytest.raises(ConfigError) as error:
            TiledImages.from_config(config, processor)
        assert "size: {'height': 28, 'width': 42}, the tower reads 42 x 42" in str(error.value)
        assert "do_resize: off" in str(error.value)

    def test_deepseek_vl(self) -> None:
        config = build_tiny("deepseek_vl").model.config
        processor = DeepseekVLImageProcessor(size={"height": 30, "width": 30}, do_pad=False)
        with pytest.raises(ConfigError) as error:
            PaddedImages.from_config(config.vision_config, processor)
        assert "size: {'height': 30, 'width': 30}, the tower reads 35 x 35" in str(error.value)
        assert "do_pad: off" in str(error.value)

    def test_a_class_token_that_is_kept(self) -> None:
        host = build_tiny("llava_next")
        host.model.config.vision_feature_select_strategy = "full"
        with pytest.raises(ConfigError, match="does not give one token a patch; only 'default'"):
            host.adapter.preparer(host.model.config, CLIPImageProcessor())
