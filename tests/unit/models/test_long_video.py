"""The family long_video: whole and clip by clip, together and alone, merged and not."""

from typing import Any

import pytest
import torch

from chiasm.core.errors import ConfigError, InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.video_words import VIDEO_REQUEST
from chiasm.models.long_video import LongVideo
from chiasm.models.video_reading import Watched
from chiasm.objectives.captions import Captions
from tests.tiny_videos import asked, collated, noise, tiny_video

HALF: dict[str, Any] = {"kind": "guided", "importance": {"motion": {"kind": "features"}}}
STREAMED: dict[str, Any] = {
    "frames": {"offsets": [-1, -2]},
    "reader": {
        "attention": "cross_memory",
        "options": {"slots": 5, "segment": 6, "pool": 3},
        "causal": True,
    },
}


def scores(model: LongVideo, *samples: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(collated(model, *samples)).named["answers"]


@pytest.mark.parametrize("compression", [None, HALF, {"kind": "uniform", "ratio": 0.3}])
def test_videos_are_answered_together_as_alone(compression: Any) -> None:
    model = tiny_video(compression=compression)
    samples = [
        asked(noise(13, 1), "What moved?", "What color is the thing?"),
        asked(noise(7, 2), "Did something turn?"),
    ]
    together = scores(model, *samples)
    alone = torch.cat([scores(model, sample) for sample in samples])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_how_many_clips_are_encoded_at_once_changes_nothing(at_once: int) -> None:
    sample = asked(noise(17), "What moved?")
    other = tiny_video(compression=HALF, at_once=at_once)
    plain = tiny_video(compression=HALF, at_once=3)
    torch.testing.assert_close(scores(other, sample), scores(plain, sample), rtol=0, atol=1e-5)


def test_merging_at_ratio_one_is_no_merging() -> None:
    sample = asked(noise(9), "What moved?")
    merged = tiny_video(compression={**HALF, "budget": {"ratio": 1.0}})
    assert torch.equal(scores(merged, sample), scores(tiny_video(), sample))


def test_a_ratio_says_how_many_tokens_are_read() -> None:
    model = tiny_video(compression={**HALF, "budget": {"ratio": 0.3}})
    batch = collated(model, asked(noise(12), "What moved?"))
    assert batch.videos is not None
    with torch.no_grad():
        states = model.reading.read(batch.videos)
    # Clips of 5, 5 and 2 frames of 6 cells: 9, 9 and 4 tokens.
    assert states.mask.sum().item() == 22
    assert states.sizes.sum().item() == 72
    assert int(states.sources.max()) == 21


@pytest.mark.parametrize("compression", [None, HALF])
def test_clip_by_clip_is_the_whole(compression: Any) -> None:
    model = tiny_video(compression=compression, **STREAMED)
    frames = torch.from_numpy(noise(14))
    batch = collated(model, asked(noise(14), "What moved?"))
    assert batch.videos is not None
    times, watched, found = batch.videos.times[0], model.reading.begin(), []
    with torch.no_grad():
        whole = model.reading.read(batch.videos)
        for start in (0, 5, 10):
            states, watched = model.reading.watch(
                frames[start : start + 5], times[start : start + 5], watched
            )
            found.append(states.features)
        assert watched.memory is not None
        answered = model.answer(watched.memory, batch, batch.videos)
    torch.testing.assert_close(torch.cat(found, 1), whole.features, rtol=0, atol=1e-5)
    torch.testing.assert_close(answered, scores(model, asked(noise(14), "What moved?")))


def numbers_of(kept: Watched) -> int:
    """How many numbers a stream keeps."""
    memory = kept.memory
    assert memory is not None and kept.past is not None
    tensors = [memory.features, memory.cells, memory.sizes, memory.sources, memory.times, kept.past]
    tensors += [tensor for layer in kept.state for tensor in layer]
    return sum(tensor.numel() for tensor in tensors)


def test_what_stands_still_is_merged_alike_whole_and_clip_by_clip() -> None:
    """Cells of a still are equal but for rounding, which must not say which of them merge."""
    moving = {"motion": {"kind": "difference"}, "motion_weight": 1.0, "saliency_weight": 0.0}
    model = tiny_video(
        compression={"kind": "guided", "importance": moving},
        **{**STREAMED, "frames": {"offsets": [-1]}},
    )
    video = torch.from_numpy(noise(15))
    video[5:10], video[10:] = video[5].clone(), video[10].clone()
    video[12] = torch.from_numpy(noise(1, seed=9))[0]
    videos = collated(model, asked(video.numpy(), "What moved?")).videos
    assert videos is not None
    with torch.no_grad():
        whole = model.reading.encode(videos)
        whole = model.reading.think(whole)
        watched, states = model.reading.begin(), []
        for clip, times in zip(video.split(5), videos.times[0].split(5), strict=True):
            read, watched = model.reading.watch(clip, times, watched)
            states.append(read)
    assert torch.cat([one.sizes for one in states], 1).equal(whole.sizes)
    torch.testing.assert_close(
        torch.cat([one.features for one in states], 1), whole.features, rtol=0, atol=1e-5
    )


def test_a_stream_keeps_as_much_after_many_clips_as_after_few() -> None:
    model = tiny_video(compression=HALF, memory=23, **STREAMED)
    watched, kept = model.reading.begin(), []
    with torch.no_grad():
        for clip in range(12):
            frames = torch.from_numpy(noise(5, seed=clip))
            _, watched = model.reading.watch(frames, torch.arange(5) + 5.0 * clip, watched)
            kept.append(numbers_of(watched))
    # An unfinished segment of the reader comes and goes.
    assert max(kept[8:]) <= max(kept[3:8])
    assert watched.memory is not None
    assert watched.memory.sizes.sum().item() == 12 * 5 * 6


def test_a_stream_that_compares_no_frames_keeps_none() -> None:
    model = tiny_video(memory=23, frames={"offsets": []}, reader={"causal": True})
    watched = model.reading.begin()
    with torch.no_grad():
        for clip in range(3):
            frames = torch.from_numpy(noise(5, seed=clip))
            _, watched = model.reading.watch(frames, torch.arange(5) + 5.0 * clip, watched)
    assert watched.past is not None and len(watched.past) == 0


def test_a_memory_is_what_questions_look_at() -> None:
    model = tiny_video(memory=4)
    batch = collated(model, asked(noise(6), "What moved?"))
    assert batch.videos is not None
    with torch.no_grad():
        states = model.reading.read(batch.videos)
        memory = model.reading.remember(states)
    assert (states.mask.sum().item(), memory.mask.sum().item()) == (36, 4)
    assert memory.sizes.sum().item() == 36


def test_each_parameter_lies_in_one_part() -> None:
    model = tiny_video(cells=True, action_head={"hidden": 13, "borders": [4]})
    parts = [p for part in model.parts.values() for p in part.parameters()]
    assert len({id(p) for p in parts}) == len(parts)
    assert {id(p) for p in parts} == {id(p) for p in model.parameters()}
    assert model.new_parts == set(model.parts)


def test_heads_say_something_of_each_frame() -> None:
    model = tiny_video(cells=True, compression=HALF, action_head={"hidden": 13, "borders": [4]})
    samples = [asked(noise(9, 1), "What moved?"), asked(noise(4, 2), "What moved?")]
    with torch.no_grad():
        named = model(collated(model, *samples)).named
    assert named["cells.shape"].shape[:3] == (13, 2, 3)
    assert named["actions.mask"].sum(1).tolist() == [9 + 5, 4 + 2]
    assert set(named) >= {"answers", "cells.act", "actions.classes", "actions.offsets"}


def test_features_take_the_place_of_frames() -> None:
    model = tiny_video(features={"features": 7, "width": 22}, feature_rate=2.0)
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(n, 7, generator=generator).numpy() for n in (11, 5))
    samples = [asked(one, "What moved?"), asked(other, "Did something turn?")]
    together = scores(model, *samples)
    alone = torch.cat([scores(model, sample) for sample in samples])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert set(model.probe()) == {"sines.answers", "cosines.answers"}
    with pytest.raises(InputError, match="the model reads features, the batch holds frames"):
        scores(model, asked(noise(5), "What moved?"))


def test_a_probe_is_the_same_twice_and_leaves_training_on() -> None:
    model = tiny_video(compression=HALF).train()
    first, second = model.probe(), model.probe()
    assert set(first) == {"moving.answers", "blinking.answers"}
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert model.training


WRITING: dict[str, Any] = {"caption_head": {"width": 26, "heads": 2, "layers": 1, "longest": 9}}


def described(video: Any, caption: str) -> Sample:
    turns = (Turn("user", (VIDEO_REQUEST,)), Turn("assistant", (caption,), supervised=True))
    return Sample(identifier="video", turns=turns, video=video)


def test_captions_are_scored_by_what_is_remembered_of_their_own_video() -> None:
    model = tiny_video(memory=7, compression=HALF, **WRITING)
    one, other = noise(13, 1), noise(7, 2)
    told = [described(one, "A red square moves."), described(other, "the star turns")]
    # A video about which nobody says anything stands between them.
    batch = collated(model, told[0], asked(noise(5, 3), "What moved?"), told[1])
    with torch.no_grad():
        named = model(batch).named
        alone = [model(collated(model, sample)).named["captions.logits"] for sample in told]
    words = model.collator.captions
    assert words is not None and model.caption_head is not None
    end = model.caption_head.end
    expected = [*words.vocabulary.encode("a red square moves"), end]
    expected += [*words.vocabulary.encode("the star turns"), end]
    assert named["captions.targets"].tolist() == expected
    torch.testing.assert_close(named["captions.logits"], torch.cat(alone), rtol=0, atol=1e-5)
    with torch.no_grad():
        swapped = model(collated(model, described(other, "A red square moves."))).named
    assert (swapped["captions.logits"] - alone[0]).abs().max() > 1e-3
    states = model.reading.remember(model.reading.read(collated(model, told[0]).videos))  # type: ignore[arg-type]
    logits, _ = model.caption_head.predict(
        states.features,
        states.mask,
        [torch.tensor(words.vocabulary.encode("a red square moves"))],
        sizes=states.sizes,
    )
    torch.testing.assert_close(logits, alone[0], rtol=0, atol=1e-5)


def test_captions_teach_what_encodes_and_reads() -> None:
    model = tiny_video(**WRITING).train()
    batch = collated(model, described(noise(6), "a star blinks"))
    loss = Captions().score(model(batch), batch)["captions"]
    loss.backward()
    for name in ("frame_encoder", "reader", "caption_head"):
        slopes = [p.grad for p in model.parts[name].parameters() if p.grad is not None]
        assert any(bool(slope.abs().sum() > 0) for slope in slopes), name


def test_a_batch_without_captions_has_none() -> None:
    model = tiny_video(**WRITING)
    assert model.senses == {"video", "ask", "caption"}
    with torch.no_grad():
        named = model(collated(model, asked(noise(5), "What moved?"))).named
    assert not [name for name in named if name.startswith("captions")]
    assert set(model.probe()) == {
        f"{video}.{what}"
        for video in ("moving", "blinking")
        for what in ("answers", "captions.logits")
    }


def test_a_curriculum_merges_more_and_more_and_ends_where_it_says() -> None:
    schedule = {"points": [{"at": 0.0, "ratio": 1.0}, {"at": 0.5, "ratio": 0.5}]}
    model = tiny_video(compression={**HALF, "schedule": schedule}, curriculum=4)
    batch = collated(model, asked(noise(5), "What moved?"))
    assert batch.videos is not None
    found = []
    for training in (False, *[True] * 6):
        model.train(training)
        found.append(model.reading.encode(batch.videos).mask.sum().item())
    assert found == [15, 30, 30, 15, 15, 15, 15]
    again = tiny_video(compression={**HALF, "schedule": schedule}, curriculum=4)
    again.load_state_dict(model.state_dict())
    assert again.reading.progress.part(training=True) == 1.0


def test_a_cycle_goes_through_its_ratios_again() -> None:
    points = [{"at": 0.0, "ratio": 1.0}, {"at": 0.5, "ratio": 0.2}]
    compression = {**HALF, "schedule": {"points": points}}
    model = tiny_video(compression=compression, curriculum=2, cycle=True).train()
    batch = collated(model, asked(noise(5), "What moved?"))
    assert batch.videos is not None
    found = [model.reading.encode(batch.videos).mask.sum().item() for _ in range(5)]
    assert found == [30, 6, 30, 6, 30]


def test_what_cannot_be_streamed_or_asked_is_refused() -> None:
    ahead = tiny_video(frames={"offsets": [1]}, reader={"causal": True})
    with pytest.raises(ConfigError, match="offsets are all negative"):
        ahead.reading.watch(
            torch.from_numpy(noise(5)), torch.arange(5.0), Watched(ahead.reading.begin().state)
        )
    silent = tiny_video(answer_head=None, action_head={"hidden": 13, "borders": []})
    batch = collated(silent, asked(noise(5), "What moved?"))
    assert batch.videos is not None
    with torch.no_grad(), pytest.raises(InputError, match="this model answers no questions"):
        silent.answer(silent.reading.read(batch.videos), batch, batch.videos)
