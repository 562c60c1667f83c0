"""Grounding on every host family: against maps taken by hand, alone and together, read and said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chiasm.core.batch import IMAGE_TOKEN, Batch
from chiasm.core.errors import ConfigError, InputError
from chiasm.core.sampling import resample_cells
from chiasm.language.tap import tap
from chiasm.models.grounding import Grounding
from tests.tiny_grounders import (
    build_base,
    build_grounder,
    build_masks,
    build_on,
    conversations,
    only,
    pictures,
    said,
)
from tests.tiny_hosts import ALL_HOSTS, build_tiny

FAMILIES = sorted(ALL_HOSTS)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Grounding:
    return build_grounder(request.param)


def eager(model: Grounding, spliced: Any) -> Any:
    """The library's whole maps and hidden states."""
    host = model.host
    before = host.model.get_decoder().config._attn_implementation
    host.model.set_attn_implementation("eager")
    host.adapter.forget(host.model)
    output = host.model.base_model(
        input_ids=spliced.input_ids,
        attention_mask=spliced.attention_mask,
        position_ids=spliced.position_ids,
        mm_encoder_outputs=dict(spliced.mm_encoder_outputs),
        use_cache=False,
        output_attentions=True,
        output_hidden_states=True,
        **spliced.host_kwargs,
    )
    host.model.set_attn_implementation(before)
    return output


def find(ids: list[int], text: list[int]) -> list[int]:
    """Where a text stands in a row, found by its tokens; it must be there once."""
    starts = [i for i in range(len(ids)) if ids[i : i + len(text)] == text]
    assert len(starts) == 1, starts
    return list(range(starts[0], starts[0] + len(text)))


def by_hand(model: Grounding, batch: Batch, merge: str) -> tuple[list[Tensor], list[Tensor]]:
    """For each phrase its maps and its states, each number taken out of the whole maps."""
    host = model.host
    fused, extras = model.base.see(batch)
    cells = fused.tokens_per_cell
    spliced = host.splice(batch, fused.tokens, extras, cells)
    output = eager(model, spliced)
    owners = batch.image_rows.tolist()
    maps, states = [], []
    image_before = 0
    for row, sample in enumerate(batch.samples):
        columns = (spliced.token_types[row] == IMAGE_TOKEN).nonzero().flatten().tolist()
        own = [image for image, owner in enumerate(owners) if owner == row]
        for phrase in sample.phrases:
            text = sample.turns[phrase.turn].text[phrase.start : phrase.stop]
            wanted = host.tokenizer(text, add_special_tokens=False)["input_ids"]
            places = find(spliced.input_ids[row].tolist(), wanted)
            begin = sum(spliced.image_lengths[image] for image in own[: phrase.image])
            rows = torch.stack(
                [layer[row][:, place] for layer in output.attentions for place in places]
            )
            rows = rows.unflatten(0, (len(output.attentions), len(places)))
            rows = rows.mean(1) if merge == "mean" else rows.amax(1)
            weights = rows.flatten(0, 1)
            geometry = batch.geometries[own[phrase.image]]
            grids = host.adapter.grids(host.model.config, geometry, cells)
            laid = []
            for grid in grids:
                flat = torch.zeros(len(weights), grid.geometry.count)
                for cell, positions in enumerate(grid.positions.tolist()):
                    at = [columns[begin + position] for position in positions]
                    flat[:, cell] = weights[:, at].mean(1)
                shape = (grid.geometry.rows, grid.geometry.columns)
                laid.append(resample_cells(flat.unflatten(1, shape), grid.geometry, geometry))
            laid += laid[:1] * (host.adapter.most_grids - len(laid))
            maps.append(torch.cat(laid))
            states.append(torch.stack([layer[row][places] for layer in output.hidden_states[1:]]))
        image_before += len(own)
    assert image_before == len(batch.geometries)
    return maps, states


@pytest.mark.parametrize("merge", ["mean", "max"])
@torch.no_grad()
def test_what_is_read_is_what_the_library_attends_to(model: Grounding, merge: Any) -> None:
    batch = model.collator(conversations())
    maps, states = by_hand(model, batch, merge)
    model.merge = merge
    reading = model.read(batch)
    model.merge = "mean"
    assert len(reading.maps) == len(maps) == 6
    for found, expected in zip(reading.maps, maps, strict=True):
        # Measured: 4e-7.
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    for found, expected in zip(reading.states, states, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@torch.no_grad()
def test_forward_equals_its_steps_one_phrase_at_a_time(model: Grounding) -> None:
    """Heads on maps taken by hand, one phrase and one picture at a time."""
    batch = model.collator(conversations())
    assert batch.phrases is not None
    outputs = model(batch)
    maps, states = by_hand(model, batch, "mean")
    masks = model.masks
    assert masks.refiner is not None and masks.text_layers is not None
    for index, image in enumerate(batch.phrases.images.tolist()):
        geometry = batch.geometries[image]
        (head,) = masks.mask_head.predict([maps[index]])
        left, top, right, bottom = geometry.view_box()
        coarse = outputs.masks["coarse"][index]
        near_height = head.shape[0] * geometry.original_height / (bottom - top)
        near_width = head.shape[1] * geometry.original_width / (right - left)
        assert abs(coarse.shape[0] - near_height) <= 0.5 or coarse.shape[0] == 1
        assert abs(coarse.shape[1] - near_width) <= 0.5 or coarse.shape[1] == 1
        size = (geometry.original_height, geometry.original_width)
        embeddings = masks.refiner.embed([batch.encoder_images["refiner"][image]], [size])
        text = masks.text_layers.predict([states[index]])
        alone = masks.refiner.refine(embeddings, torch.tensor([0]), [coarse], text)
        assert outputs.masks["refined"][index].shape == size
        torch.testing.assert_close(
            outputs.masks["refined"][index], alone.logits[0], atol=1e-3, rtol=1e-3
        )
        torch.testing.assert_close(
            outputs.named["refined.scores"][index], alone.scores[0], atol=1e-4, rtol=1e-4
        )


WORDS = ["a cup", "the red one", "it", "two small boxes", "sky", "b", "left of it", "that"]


@torch.no_grad()
def test_sixteen_images_with_eight_phrases_each_equal_the_loop(model: Grounding) -> None:
    """All 128 in one forward; alone, for each image each phrase (families of one grid: in turn)."""
    samples = [said(f"s{n}", WORDS, pictures(1, n), asks="?" * (1 + n)) for n in range(16)]
    together = model(model.collator(samples))
    assert {len(masks) for masks in together.masks.values()} == {128}
    every = model.host.adapter.model_type in ("qwen2_5_vl", "llava_next")
    worst = dict.fromkeys(model.mask_heads, 0.0)
    for row, sample in enumerate(samples):
        for place in range(len(WORDS)) if every else (row % 8,):
            alone = model(model.collator([only(sample, place)]))
            for head in worst:
                (expected,) = alone.masks[head]
                found = together.masks[head][8 * row + place]
                assert found.shape == expected.shape
                worst[head] = max(worst[head], float((found - expected).abs().max()))
    # Measured over all families: 2.7e-6 and 8.1e-5.
    assert worst["coarse"] < 2e-5
    assert worst["refined"] < 2e-4


@torch.no_grad()
def test_pointing_after_a_prefix_equals_predicting_the_batch(model: Grounding) -> None:
    (image,) = pictures(1, 1)
    words = ["the red cup", "it", "a rather long phrase"]
    reading = model.read_picture(image)
    for head in model.mask_heads:
        found = model.point_at(reading, words, head)
        for text, (mask, score) in zip(words, found, strict=True):
            sample = said("one", [text], [image], asks=model.request)
            ((expected, expected_score),) = model.predict(model.collator([sample]), head)
            assert mask.shape == (image.height, image.width)
            assert (mask ^ expected).mean() < 0.002
            assert score == pytest.approx(expected_score, abs=1e-3)
    last = model.point(image, words)
    for (mask, score), (again, same) in zip(last, found, strict=True):
        assert np.array_equal(mask, again) and score == same


@contextmanager
def letters_only(host: Any) -> Iterator[None]:
    """Let a random host write letters, which read back as they were written."""
    letters = host.tokenizer("abcdefghijklmnopqrstuvwxyz")["input_ids"]

    def keep(module: Any, inputs: Any, scores: Tensor) -> Tensor:
        hidden = torch.full_like(scores, -1e4)
        hidden[..., letters] = 0
        return scores + hidden

    handle = host.model.get_output_embeddings().register_forward_hook(keep)
    yield
    handle.remove()


@torch.no_grad()
def test_text_read_again_gives_the_rows_of_writing_it(model: Grounding) -> None:
    """The rows of generated tokens, taken while they were decoded, are those of `ground_text`."""
    host = model.host
    (image,) = pictures(1)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What?"}]
    sample = said("one", ["x"], [image], asks="What?")
    batch = model.collator.collate([sample], generation=True)
    fused, extras = model.base.see(batch)
    spliced = host.splice(batch, fused.tokens, extras, fused.tokens_per_cell)
    columns = (spliced.token_types[0] == IMAGE_TOKEN).nonzero().flatten()
    with letters_only(host), tap(host.model, queries="decoded", keys=columns) as rows:
        (ids,) = host.generate(spliced, max_new_tokens=7, min_new_tokens=7)
    text = host.tokenizer.decode(ids)
    assert host.tokenizer(text)["input_ids"] == ids
    # The last token is written and not read.
    same = len(ids) - 1
    whole = said("one", [text], [image], asks="What?")
    follow = model.collator([whole])
    begun = host.splice(follow, fused.tokens, extras, fused.tokens_per_cell)
    start = spliced.input_ids.shape[1]
    assert torch.equal(begun.input_ids[:, :start], spliced.input_ids)
    queries = torch.arange(start, start + same)[None]
    with tap(host.model, queries=queries, keys=columns) as read:
        host.read(begun)
    for layer in range(len(read)):
        assert rows[layer].shape[2] == same == 6
        torch.testing.assert_close(read[layer], rows[layer], atol=2e-6, rtol=0)
    messages = [{"role": "user", "content": content}]
    found = model.ground_text(image, messages, text, [(0, len(text)), (0, 1)])
    expected = model.predict(model.collator([whole]))
    assert np.array_equal(found[0][0], expected[0][0])
    assert found[0][1] == pytest.approx(expected[0][1], abs=1e-5)
    assert len(found) == 2


def test_the_base_answers_bit_for_bit_as_before(model: Grounding) -> None:
    (image,) = pictures(1)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": content}]
    base = model.base
    plain = base.collator([said("one", ["x"], [image])])
    before, answer = base(plain).logits, base.chat(messages, max_new_tokens=7)
    model.point(image, ["it"])
    assert model.chat(messages, max_new_tokens=7) == answer
    assert base.chat(messages, max_new_tokens=7) == answer
    assert torch.equal(base(plain).logits, before)
    follow = model.collator([said("one", ["x"], [image])])
    assert torch.equal(base(follow).logits, before)
    asked = model.collator.collate([said("one", ["x"], [image])], generation=True)
    assert model.generate(asked, max_new_tokens=3) == base.generate(asked, max_new_tokens=3)


def test_the_probe_has_a_mask_of_each_head_and_repeats_bit_for_bit(model: Grounding) -> None:
    model.train()
    found, again = model.probe(), model.probe()
    assert model.training
    model.eval()
    names = {f"{name}.{head}" for name in ("gradient", "checker") for head in model.mask_heads}
    assert set(found) == names
    assert found["gradient.refined"].shape == (1, 56, 84)
    assert all(torch.equal(found[name], again[name]) for name in names)


def test_parts_are_disjoint_and_whole(model: Grounding) -> None:
    owned = [id(p) for part in model.parts.values() for p in part.parameters()]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in model.parameters()}
    assert model.new_parts == set(model.masks.parts)
    assert model.identity["refiner"] == {"name": "sam", "weights": "random"}
    assert model.identity["host"] == model.host.identity
    assert model.encoders is model.base.encoders and model.fusion is None
    assert "point" in model.senses


def test_several_pictures_share_one_text_and_each_phrase_means_its_own() -> None:
    """Exchanging what two phrases mean exchanges sizes, and changes what is read."""
    model = build_grounder("qwen2_5_vl")
    images = pictures(2, 1)
    one = model(model.collator([said("a", ["this", "that"], images, shown=[0, 1])]))
    other = model(model.collator([said("a", ["this", "that"], images, shown=[1, 0])]))
    sizes = [tuple(mask.shape) for mask in one.masks["refined"]]
    assert sizes == [(image.height, image.width) for image in images]
    assert [tuple(mask.shape) for mask in other.masks["refined"]] == sizes[::-1]


@torch.no_grad()
def test_rows_padded_on_the_left_are_the_same() -> None:
    model = build_grounder("qwen2_5_vl")
    right = model(model.collator(conversations()))
    model.collator.padding = "left"
    left = model(model.collator(conversations()))
    for head in ("coarse", "refined"):
        for one, other in zip(right.masks[head], left.masks[head], strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_a_batch_without_phrases_is_refused() -> None:
    model = build_grounder("qwen2_5_vl", refines=False)
    sample = said("one", ["x"], pictures(1))
    batch = model.collator.collate([sample], generation=True)
    for call in (model, model.read, model.predict):
        with pytest.raises(InputError, match="no phrase to point at; give samples with `phrases`"):
            call(batch)


def test_a_collator_without_the_refiners_images_is_refused() -> None:
    host = build_tiny("qwen2_5_vl")
    base = build_base(host)
    with pytest.raises(ConfigError, match=r"images for none, the model reads \['refiner'\]"):
        Grounding(base=base, masks=build_masks(host), collator=base.collator)
    build_on(base, build_masks(host))
