"""The family video_language: videos of any length reach a host at a budget of tokens."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from chiasm.core.batch import IMAGE_TOKEN
from chiasm.core.errors import ConfigError, InputError, PlaceholderError, UnknownNameError
from chiasm.core.samples import Turn
from chiasm.models.long_video import LongVideo
from chiasm.models.video_language import VideoLanguage
from tests.tiny_hosts import build_tiny
from tests.tiny_tellers import BUDGET, tiny_teller, told
from tests.tiny_videos import noise

HOSTS = ["qwen2_5_vl", "qwen3_vl", "llava", "internvl", "deepseek_vl", "janus"]
LONG, SHORT = told(noise(13, 1), "What moved?", "a square"), told(noise(1, 2), "How often?", "two")


def logits(model: VideoLanguage, *samples: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model(model.collator(samples)).logits
    assert found is not None
    return torch.as_tensor(found)


@pytest.mark.parametrize("family", HOSTS)
def test_a_batch_equals_its_rows_one_by_one(family: str) -> None:
    model = tiny_teller(family)
    together = logits(model, LONG, SHORT)
    alone = torch.cat([logits(model, LONG), logits(model, SHORT)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", HOSTS)
def test_there_is_one_placeholder_a_state_and_never_more_than_the_budget(family: str) -> None:
    model = tiny_teller(family)
    batch = model.collator([LONG, SHORT])
    with torch.no_grad():
        states = model.see(batch)
        spliced = model.splice(batch, states)
    # 13 frames of 6 cells are brought down to the budget; one frame has 6 states and keeps them.
    assert states.mask.sum(1).tolist() == [BUDGET, 6]
    assert (spliced.token_types == IMAGE_TOKEN).sum(1).tolist() == [BUDGET, 6]
    assert (spliced.input_ids == model.host.image_token_id).sum(1).tolist() == [BUDGET, 6]
    assert spliced.image_lengths == (BUDGET, 6)
    assert (
        spliced.attention_mask.sum(1).tolist()
        == (batch.attention_mask.sum(1) - torch.tensor([0, BUDGET - 6])).tolist()
    )


@pytest.mark.parametrize("family", HOSTS)
def test_when_a_state_was_seen_changes_the_answer(family: str) -> None:
    model = tiny_teller(family)
    batch = model.collator([LONG])
    with torch.no_grad():
        states = model.see(batch)
        later = replace(states, times=states.times * 2)
        turned = replace(states, times=states.times.max() - states.times)
        found = [
            model.host.read(model.splice(batch, one))[:, -1] for one in (states, later, turned)
        ]
    assert (found[0] - found[1]).abs().max() > 1e-4
    assert (found[0] - found[2]).abs().max() > 1e-4


def test_only_the_projector_and_what_watches_move_and_the_host_stays_bit_for_bit() -> None:
    model = tiny_teller().train()
    model.host.requires_grad_(False)
    before = {name: value.clone() for name, value in model.host.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    moved = {name: [p.clone() for p in part.parameters()] for name, part in model.parts.items()}
    outputs = model(model.collator([LONG, SHORT]))
    torch.nn.functional.cross_entropy(outputs.logits, outputs.targets).backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []
    optimizer.step()
    assert all(torch.equal(before[n], value) for n, value in model.host.state_dict().items())
    for name in ("video_projector", "frame_encoder", "reader"):
        now = list(model.parts[name].parameters())
        assert any(not torch.equal(one, two) for one, two in zip(moved[name], now, strict=True))


def test_what_watches_and_is_frozen_watches_in_training_as_later() -> None:
    half = {
        "kind": "guided",
        "importance": {"motion": {"kind": "features"}},
        "schedule": {"points": [{"at": 0.0, "ratio": 0.25}, {"at": 1.0, "ratio": 1.0}]},
    }
    model = tiny_teller(compression=half, curriculum=7, budget=97)
    batch = model.collator([LONG])
    model.watcher.requires_grad_(False)
    later = model.see(batch)
    now = model.train().see(batch)
    assert model.training and model.watcher.training
    assert torch.equal(now.features, later.features)
    model.watcher.requires_grad_(True)
    assert model.see(batch).mask.sum() < later.mask.sum()


def test_a_video_asked_twice_is_read_once() -> None:
    model = tiny_teller()
    other = replace(LONG, turns=(Turn("user", ("Where?",)), LONG.turns[1]))
    batch = model.collator([LONG, other, SHORT])
    assert batch.videos is not None
    assert batch.videos.asked.tolist() == [0, 0, 1] and len(batch.videos) == 2
    alone = torch.cat([logits(model, one) for one in (LONG, other, SHORT)])
    torch.testing.assert_close(logits(model, LONG, other, SHORT), alone, rtol=0, atol=1e-5)


def test_a_host_that_writes_pictures_in_another_way_has_no_place_for_a_video() -> None:
    with pytest.raises(UnknownNameError, match="host family that can read videos 'llava_next'"):
        tiny_teller("llava_next")


def test_a_batch_without_videos_and_a_budget_too_small_are_named() -> None:
    model = tiny_teller()
    with pytest.raises(InputError, match="collate samples with a video by VideoPromptCollator"):
        model(replace(model.collator([LONG]), videos=None))
    batch = model.collator([LONG])
    states = tiny_teller(budget=BUDGET + 2).see(batch)
    with pytest.raises(PlaceholderError, match=rf"{BUDGET + 2} states of its video for {BUDGET}"):
        model.splice(batch, states)
    with pytest.raises(ConfigError, match="keeps all states of a video and the collator writes 11"):
        watcher = model.watcher
        assert isinstance(watcher, LongVideo)
        watcher.reading.memory = None
        VideoLanguage(
            host=build_tiny("llava"),
            watcher=watcher,
            projector=model.projector,
            collator=model.collator,
        )


@pytest.mark.parametrize("family", HOSTS)
def test_it_writes_what_follows_the_likeliest_token(family: str) -> None:
    model = tiny_teller(family)
    batch = model.collator.collate([LONG, SHORT], generation=True)
    with torch.no_grad():
        spliced = model.splice(batch, model.see(batch))
        first = model.host.logits(model.host.read(spliced)[:, -1]).argmax(-1).tolist()
        rows = model.host.generate(spliced, max_new_tokens=5, min_new_tokens=5)
    assert [row[0] for row in rows if row] == [
        one for one, row in zip(first, rows, strict=True) if row
    ]
    alone = [model.generate(model.collator.collate([one], True))[0] for one in (LONG, SHORT)]
    assert model.generate(batch) == alone


def test_questions_of_one_length_about_videos_of_several_are_answered_as_alone() -> None:
    """No row of the text has padding, and the row of the shorter video needs some."""
    model = tiny_teller("llava")
    asked = [replace(one, turns=LONG.turns[:1]) for one in (SHORT, LONG)]
    batch = model.collator.collate(asked, generation=True)
    assert bool(batch.attention_mask.all())
    alone = [model.generate(model.collator.collate([one], True))[0] for one in asked]
    assert model.generate(batch) == alone and len(set(alone)) == 2


def test_each_parameter_lies_in_one_part() -> None:
    model = tiny_teller()
    parts = [p for part in model.parts.values() for p in part.parameters()]
    assert len({id(p) for p in parts}) == len(parts)
    assert {id(p) for p in parts} == {id(p) for p in model.parameters()}
    assert model.new_parts == {"video_projector", "frame_encoder", "reader"}
    assert set(model.probe()) == {"moving", "blinking"}
