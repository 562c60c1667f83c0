"""Codes written into rows: where they stand, what they leave as it was, and how they are drawn."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.core.batch import IGNORE, IMAGE_TOKEN, Batch
from chiasm.core.errors import ConfigError, InputError
from chiasm.language.code_segment import CodeSegment, drop_prefix, states_at, write_codes
from chiasm.language.drawing import draw_codes
from chiasm.language.host import Host
from chiasm.language.painter import Painter, choose_codes
from chiasm.language.splice import Spliced
from chiasm.models.drawing import Drawing
from tests.tiny_hosts import build_tiny
from tests.tiny_pairs import pair_samples, tiny_pair_model

COUNT = 5


@pytest.fixture(scope="module")
def host() -> Host:
    model = tiny_pair_model()
    model.eval()
    host = copy.deepcopy(model.host)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # Random weights are so small that every picture would be of one code.
        for weight in host.parts["generation"].parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    return host


@pytest.fixture(scope="module")
def painter(host: Host) -> Painter:
    return Painter.of(host)


def segment(host: Host, place: Any) -> CodeSegment:
    return Drawing.of(host, place).segment


def spliced_rows(host: Host, generation: bool) -> tuple[Batch, Spliced]:
    model = tiny_pair_model()
    batch = model.collator.collate(pair_samples(3), generation=generation)
    tokens = host.encode({"pixel_values": batch.host_images["pixel_values"]}, batch.geometries)
    return batch, host.splice(batch, tokens.tokens)


def codes(rows: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, 37, (rows, COUNT), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("place", ["before_text", "after_text"])
def test_a_segment_stands_where_its_place_says(host: Host, painter: Painter, place: Any) -> None:
    batch, spliced = spliced_rows(host, generation=False)
    own = segment(host, place)
    written = write_codes(spliced, painter.embed(codes()), own)
    inner = written.spliced
    for row in range(3):
        ids = inner.input_ids[row][inner.attention_mask[row] == 1].tolist()
        before = spliced.input_ids[row][spliced.attention_mask[row] == 1].tolist()
        block = [own.begin, *[own.placeholder] * COUNT]
        if place == "after_text":
            assert ids == before + block
        else:
            closing = max(i for i, token in enumerate(before) if token == own.placeholder) + 1
            assert before[closing] == own.end
            assert ids == [*before[: closing + 1], *block, own.end, *before[closing + 1 :]]
        first = int(written.predicting[row, 0])
        assert inner.input_ids[row, first] == own.begin
    assert torch.equal(written.predicting.diff(dim=1), torch.ones(3, COUNT - 1, dtype=torch.long))
    assert (inner.labels != IGNORE).sum() == (batch.labels != IGNORE).sum()
    assert inner.image_lengths == tuple(size + COUNT for size in spliced.image_lengths)
    types = inner.token_types == IMAGE_TOKEN
    assert torch.equal(types.sum(1), torch.tensor(inner.image_lengths))
    real = inner.attention_mask == 1
    for row in range(3):
        positions = inner.position_ids[row][real[row]]
        assert torch.equal(positions, torch.arange(int(real[row].sum())))


@torch.no_grad()
def test_codes_after_the_text_leave_the_text_as_it_was(host: Host, painter: Painter) -> None:
    _, spliced = spliced_rows(host, generation=False)
    alone = host.supervised(spliced, host.read(spliced))
    written = write_codes(spliced, painter.embed(codes()), segment(host, "after_text"))
    both = host.supervised(written.spliced, host.read(written.spliced))
    assert torch.equal(alone[1], both[1])
    # Measured 5e-7: rows are longer, so matrix products are cut differently.
    torch.testing.assert_close(alone[0], both[0], atol=1e-5, rtol=0)
    middle = write_codes(spliced, painter.embed(codes()), segment(host, "before_text"))
    changed = host.supervised(middle.spliced, host.read(middle.spliced))[0]
    assert (changed - alone[0]).abs().max() > 1e-3


@torch.no_grad()
def test_padding_on_either_side_reads_alike(host: Host, painter: Painter) -> None:
    _, spliced = spliced_rows(host, generation=False)
    vectors, own = painter.embed(codes()), segment(host, "after_text")
    states = []
    for left in (False, True):
        written = write_codes(spliced, vectors, own, left=left)
        states.append(states_at(host.read(written.spliced), written.predicting))
    torch.testing.assert_close(states[0], states[1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_was_told_stands_before_the_codes(host: Host, painter: Painter) -> None:
    _, spliced = spliced_rows(host, generation=True)
    own = segment(host, "after_text")
    told = [[7, 8, 9], [], [5]]
    written = write_codes(spliced, painter.embed(codes())[:, :0], own, told, left=True)
    for row, said in enumerate(told):
        ending = written.spliced.input_ids[row].tolist()[-len(said) - 1 :]
        assert ending == [*said, own.begin]
        assert int(written.spliced.attention_mask[row, -1]) == 1


@torch.no_grad()
def test_a_dropped_prefix_is_not_seen(host: Host, painter: Painter) -> None:
    _, spliced = spliced_rows(host, generation=False)
    own = segment(host, "after_text")
    written = write_codes(spliced, painter.embed(codes()), own)
    rows = torch.tensor([True, False, True])
    dropped = drop_prefix(written, rows)
    states = states_at(host.read(dropped.spliced), dropped.predicting)
    whole = states_at(host.read(written.spliced), written.predicting)
    torch.testing.assert_close(states[1], whole[1], atol=1e-5, rtol=0)
    assert (dropped.spliced.labels[0] == IGNORE).all()
    assert (dropped.spliced.labels[1] != IGNORE).any()
    # Nothing is seen but the codes, so two rows with the same codes say the same.
    same = write_codes(spliced, painter.embed(codes()[:1].expand(3, -1)), own)
    blank = drop_prefix(same, torch.tensor([True] * 3))
    told = states_at(host.read(blank.spliced), blank.predicting)
    torch.testing.assert_close(told[0], told[1], atol=1e-5, rtol=0)


def test_rows_and_pictures_must_agree(host: Host, painter: Painter) -> None:
    _, spliced = spliced_rows(host, generation=False)
    with pytest.raises(InputError, match="3 rows with 3 images and the codes of 2 pictures"):
        write_codes(spliced, painter.embed(codes(2)), segment(host, "after_text"))
    lacking = replace(spliced, image_lengths=spliced.image_lengths[:2])
    with pytest.raises(InputError, match="3 rows with 2 images"):
        write_codes(lacking, painter.embed(codes()), segment(host, "after_text"))


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_drawing_equals_reading_everything_anew(
    host: Host, painter: Painter, guidance: float
) -> None:
    _, spliced = spliced_rows(host, generation=True)
    own = segment(host, "after_text")
    nothing = torch.zeros(3, 0, host.width)
    prompt = write_codes(spliced, nothing, own, left=True).spliced
    drawn = draw_codes(host, painter, prompt, own, count=COUNT, guidance=guidance, seed=7)
    slow = torch.zeros(3, 0, dtype=torch.long)
    generators = [torch.Generator().manual_seed(7) for _ in range(3)]
    for _ in range(COUNT):
        written = write_codes(spliced, painter.embed(slow), own)
        scores = []
        for hide in (False, True):
            rows = drop_prefix_for(written, hide, slow.shape[1])
            hidden = host.read(rows)
            ends = rows.attention_mask.shape[1] - 1 - rows.attention_mask.flip(1).argmax(1)
            scores.append(painter.score(hidden[torch.arange(3), ends]))
        told, blank = scores
        guided = blank + guidance * (told - blank) if guidance != 1 else told
        code = choose_codes(guided, temperature=1.0, top_k=0, generators=generators)
        slow = torch.cat([slow, code[:, None]], dim=1)
    assert torch.equal(drawn, slow)
    assert len(drawn.unique()) > 3


def drop_prefix_for(written: Any, hide: bool, count: int) -> Spliced:
    """The rows, or the rows without all that stands before the token that begins the codes."""
    if not hide:
        return written.spliced
    mask = written.spliced.attention_mask
    ends = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    return drop_prefix(
        replace(written, predicting=(ends - count)[:, None]), torch.ones(3) > 0
    ).spliced


@torch.no_grad()
def test_draws_repeat_by_seed_and_differ_by_it(host: Host, painter: Painter) -> None:
    _, spliced = spliced_rows(host, generation=True)
    own = segment(host, "after_text")
    prompt = write_codes(spliced, torch.zeros(3, 0, host.width), own, left=True).spliced
    draws = [draw_codes(host, painter, prompt, own, count=COUNT, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_k": -3}, "top_k is -3"),
        ({"top_k": 1.5}, "top_k is 1.5; .* whole number"),
        ({"guidance": 0.5}, "guidance is 0.5"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": "hot"}, "temperature is 'hot'; it must be 0"),
        ({"guidance": None}, "guidance is None; it must be 1"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
    ],
)
def test_settings_out_of_range_are_named(
    host: Host, painter: Painter, settings: dict[str, Any], message: str
) -> None:
    _, spliced = spliced_rows(host, generation=True)
    own = segment(host, "after_text")
    prompt = write_codes(spliced, torch.zeros(3, 0, host.width), own, left=True).spliced
    with pytest.raises(InputError, match=message):
        draw_codes(host, painter, prompt, own, count=2, **settings)


def test_chosen_codes_keep_to_the_likeliest() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.9], [5.0, 0.0, 0.0, 4.9]])
    torch.manual_seed(0)
    found = [choose_codes(scores, temperature=2.0, top_k=2, generators=None) for _ in range(60)]
    drawn = torch.stack(found)
    assert set(drawn[:, 0].tolist()) == {1, 3}
    assert set(drawn[:, 1].tolist()) == {0, 3}
    greedy = choose_codes(scores, temperature=0.0, top_k=0, generators=None)
    assert greedy.tolist() == [1, 0]
    everything = [
        int(choose_codes(scores[:1], temperature=50.0, top_k=0, generators=None)) for _ in range(80)
    ]
    assert set(everything) == {0, 1, 2, 3}


def test_gradient_passes_straight_through_the_codes(painter: Painter) -> None:
    latents = torch.randn(2, COUNT, painter.embeddings.embedding_dim, requires_grad=True)
    through = painter.embed(codes(2), latents)
    torch.testing.assert_close(through, painter.embed(codes(2)), atol=1e-6, rtol=0)
    through.square().sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().min() > 0
    with pytest.raises(InputError, match="code width of tokenizer and host must agree"):
        painter.embed(codes(2), latents[..., :-1])


def test_a_host_that_cannot_draw_says_so() -> None:
    with pytest.raises(ConfigError, match="family 'llava' draws no pictures"):
        Painter.of(build_tiny("llava, padded"))
