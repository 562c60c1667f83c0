"""Moving scenes: states, frames, what is drawn when, and questions that only the past answers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from chiasm.core.errors import ConfigError, InputError, UnknownNameError
from chiasm.data.video import open_video
from chiasm.data.world import write
from chiasm.data.world.domains import DOMAINS
from chiasm.data.world.motion import (
    ACTIONS,
    BLINK_PERIOD,
    PUSH,
    REACH,
    Act,
    Motion,
    Mover,
    Timeline,
)
from chiasm.data.world.motion_questions import (
    MOTION_ANSWERS,
    MOTION_KINDS,
    ask_motion,
    tell,
)
from chiasm.data.world.motion_render import GLOW_LIGHT, MotionFrames
from chiasm.data.world.motion_sampling import MotionConfig, sample_motion
from chiasm.data.world.motion_worlds import MOTION_WORLDS, MotionDataset, draw_motion
from chiasm.data.world.sampling import SPLITS, is_held_out, stream

HEIGHT, WIDTH = 62, 86
RED = Mover("square", "red", "plain", 6, 16.0, 40.0, 14.0)
BLUE = Mover("circle", "blue", "plain", 6, 61.0, 40.0, 12.0)


def motion(*acts: Act, frames: int = 53, domain: str = "general", noise: float = 0.0) -> Motion:
    return Motion(HEIGHT, WIDTH, 8.0, frames, domain, (RED, BLUE), acts, noise=noise)


def drawn(world: str, split: str, index: int, seed: int = 3) -> Motion:
    return draw_motion(MOTION_WORLDS[world], split, seed, index).motion


def changed(frames: MotionFrames, first: int, second: int) -> np.ndarray:
    """Where two frames differ, bool (H, W)."""
    return (frames.frame(first) != frames.frame(second)).any(-1)


def test_segments_are_the_acts_in_seconds() -> None:
    (segment,) = motion(Act("turn", 0, 8, 20)).segments
    assert (segment.start, segment.end, segment.label) == (1.0, 2.5, "turn")
    assert motion().duration == 53 / 8


def test_a_move_is_a_straight_line_and_leaves_the_thing_there() -> None:
    timeline = Timeline(motion(Act("move", 0, 10, 20, to=(36.0, 20.0))))
    assert (timeline.state(0, 9).x, timeline.state(0, 9).y) == (16, 40)
    middle = [timeline.state(0, frame) for frame in (14, 15)]
    assert [state.x for state in middle] == [25, 27]
    assert [state.y for state in middle] == [31, 29]
    assert (timeline.state(0, 20).x, timeline.state(0, 52).y) == (36, 20)
    assert timeline.state(1, 15).x == BLUE.x


def test_a_turn_goes_once_around() -> None:
    timeline = Timeline(motion(Act("turn", 0, 10, 20)))
    angles = [timeline.state(0, frame).angle for frame in range(9, 21)]
    assert angles[0] == angles[-1] == 0
    steps = np.diff(angles[1:-1])
    assert np.allclose(steps, 2 * math.pi / 10)


def test_a_blink_goes_on_and_off() -> None:
    timeline = Timeline(motion(Act("blink", 0, 10, 22)))
    lit = [timeline.state(0, frame).lit for frame in range(9, 23)]
    half = BLINK_PERIOD // 2
    assert lit == [False, *([True] * half + [False] * half) * 3, False]


def test_a_thing_that_appears_was_not_there_before() -> None:
    timeline = Timeline(motion(Act("appear", 0, 10, 20)))
    assert timeline.state(0, 0).scale == timeline.state(0, 9).scale == 0
    assert timeline.state(0, 15).scale == 0.55
    assert timeline.state(0, 20).scale == 1
    assert timeline.state(1, 0).scale == 1


def test_things_that_collide_touch_and_return() -> None:
    timeline = Timeline(motion(Act("collide", 0, 10, 31, other=1)))
    gaps = [timeline.state(1, frame).x - timeline.state(0, frame).x for frame in range(10, 31)]
    touching = REACH * (RED.size + BLUE.size) / 2
    assert min(gaps) == pytest.approx(touching, abs=0.01)
    assert gaps.index(min(gaps)) == 10
    pushed = max(timeline.state(1, frame).x - BLUE.x for frame in range(10, 31))
    assert pushed == pytest.approx(PUSH * BLUE.size, rel=0.02)
    for frame in (9, 31):
        assert timeline.state(0, frame).x == RED.x
        assert timeline.state(1, frame).x == BLUE.x


def test_a_screen_hides_a_thing_and_nothing_else() -> None:
    frames = MotionFrames(motion(Act("hide", 0, 10, 30)))
    both, hidden = frames.frame(9), frames.frame(20)
    alone = MotionFrames(Motion(HEIGHT, WIDTH, 8.0, 53, "general", (BLUE,), ())).frame(20)
    differs = (hidden != alone).any(-1)
    # Where the thing was there is a grey square, and the rest is as if it had never been.
    grey = hidden[differs]
    assert len(np.unique(grey.reshape(-1, 3), axis=0)) == 1
    assert (differs & (both != alone).any(-1)).sum() == (both != alone).any(-1).sum()


def test_frames_show_what_the_truth_says() -> None:
    quiet = MotionFrames(motion())
    assert not changed(quiet, 0, 52).any()
    assert not np.array_equal(quiet.frame(0)[40, 16], quiet.frame(0)[5, 5])
    for kind in ("move", "turn", "blink", "appear", "hide", "collide"):
        to, other = ((30.0, 20.0) if kind == "move" else None, 1 if kind == "collide" else None)
        frames = MotionFrames(motion(Act(kind, 0, 10, 26, to=to, other=other)))
        assert not changed(frames, 0, 9).any(), kind
        assert changed(frames, 9, 18).any(), kind
        assert not changed(frames, 26, 52).any(), kind


def test_a_glow_is_white_around_the_thing_and_hides_the_background() -> None:
    frames = MotionFrames(motion(Act("blink", 1, 10, 22), domain="news"))
    lit, dark = frames.frame(10), frames.frame(9)
    ring = (40 - round(1.2 * BLUE.size / 2), 61)
    assert lit[ring].tolist() == [round(GLOW_LIGHT)] * 3
    assert dark[ring].max() < 120
    assert np.array_equal(lit[40, 61], dark[40, 61])


@pytest.mark.parametrize("place", [(30.0, 31.0), (30.25, 31.5), (30.5, 31.75), (30.9, 30.6)])
def test_things_lie_where_they_are_to_a_part_of_a_pixel(place: tuple[float, float]) -> None:
    mover = Mover("circle", "red", "plain", 6, *place, 14.0)
    alone = Motion(HEIGHT, WIDTH, 8.0, 1, "general", (mover,), ())
    empty = MotionFrames(dataclasses.replace(alone, movers=())).frame(0).astype(float)
    shown = np.abs(MotionFrames(alone).frame(0) - empty).sum(-1)
    shown /= shown.sum()
    x = (shown.sum(0) * (np.arange(WIDTH) + 0.5)).sum()
    y = (shown.sum(1) * (np.arange(HEIGHT) + 0.5)).sum()
    assert (x, y) == pytest.approx(place, abs=0.15)


def test_frames_are_the_same_whichever_way_they_are_asked_for() -> None:
    video = drawn("motion_busy", "train", 1)
    forwards = np.stack(list(MotionFrames(video)))
    again = MotionFrames(video)
    for index in (50, 3, 50, 17):
        assert np.array_equal(again.frame(index), forwards[index])
    assert np.array_equal(again.frames([7, 5]), forwards[[7, 5]])
    assert forwards.dtype == np.uint8
    assert len(again) == len(forwards) == len(again.times)
    with pytest.raises(InputError, match=r"frame 999 of \d+; indices go from 0"):
        again.frame(999)


def test_noise_changes_pixels_and_no_truth() -> None:
    plain, noisy = MotionFrames(motion()), MotionFrames(motion(noise=3.0))
    difference = noisy.frame(4).astype(int) - plain.frame(4)
    assert 2 < difference.std() < 4
    assert abs(difference.mean()) < 0.3
    assert changed(noisy, 4, 5).mean() > 0.9


def test_things_look_the_same_in_every_domain_but_for_their_colours() -> None:
    pictures = {name: MotionFrames(motion(domain=name)).frame(0).astype(int) for name in DOMAINS}
    for one, other in itertools.combinations(DOMAINS, 2):
        assert np.abs(pictures[one] - pictures[other]).mean() > 8, (one, other)
    with pytest.raises(UnknownNameError, match="unknown domain 'weather'"):
        MotionFrames(motion(domain="weather"))


def test_every_colour_stands_out_from_every_background() -> None:
    for name, domain in DOMAINS.items():
        back = domain.backdrop(np.random.default_rng(5), HEIGHT, WIDTH).mean((0, 1))
        palette = domain.palette()
        for colour, seen in palette.items():
            assert np.abs(back - seen).max() > 30, (name, colour)
        for one, other in itertools.combinations(palette, 2):
            assert np.abs(np.subtract(palette[one], palette[other])).max() > 20, (name, one, other)


def test_colours_move_between_domains_so_that_one_must_know_where_one_is() -> None:
    """In some domain a colour lies nearer to another word of a second domain than to its own."""
    confusions = 0
    for one, other in itertools.permutations(DOMAINS, 2):
        first, second = DOMAINS[one].palette(), DOMAINS[other].palette()
        for word, seen in first.items():
            nearest = min(second, key=lambda name: math.dist(second[name], seen))
            confusions += nearest != word
    assert confusions > 0


def test_drawing_is_a_pure_function_and_splits_share_nothing() -> None:
    assert drawn("motion", "train", 5) == drawn("motion", "train", 5)
    found = [drawn("motion", split, index) for split in SPLITS for index in range(7)]
    assert len({json.dumps(video.to_plain(), sort_keys=True) for video in found}) == len(found)


def test_domains_take_turns() -> None:
    found = [drawn("motion", "test", index).domain for index in range(8)]
    assert found == [*DOMAINS, *DOMAINS]


def test_acts_fit_into_the_video_and_nobody_does_two_things_at_once() -> None:
    kinds: Counter[str] = Counter()
    together = 0
    for index in range(60):
        video = drawn("motion_busy", "train", index)
        kinds.update(act.kind for act in video.acts)
        for act in video.acts:
            assert 0 <= act.start < act.end <= video.frames
        for one, other in itertools.combinations(video.acts, 2):
            overlap = one.start < other.end and other.start < one.end
            together += overlap
            assert not (overlap and set(one.things) & set(other.things))
    assert set(kinds) == set(ACTIONS)
    assert min(kinds.values()) > 0.2 * max(kinds.values())
    assert together > 20
    alone = [drawn("motion", "train", index).acts for index in range(30)]
    for acts in alone:
        assert all(one.end <= other.start for one, other in itertools.pairwise(acts))


def test_things_stay_on_the_canvas_and_apart_while_they_rest() -> None:
    for index in range(30):
        video = drawn("motion", "train", index)
        timeline = Timeline(video)
        for frame in (0, video.frames // 2, video.frames - 1):
            places = [timeline.rest(thing, frame) for thing in range(len(video.movers))]
            for (x, y), mover in zip(places, video.movers, strict=True):
                assert mover.size / 2 <= x <= video.width - mover.size / 2
                assert mover.size / 2 <= y <= video.height - mover.size / 2
        for (one, first), (other, second) in itertools.combinations(
            zip(video.movers, places, strict=True), 2
        ):
            assert math.dist(first, second) > (one.size + other.size) / 2 - 1


def test_compositions_are_held_out() -> None:
    for index in range(30):
        video = drawn("motion", "composition", index)
        held_out = [is_held_out(m.shape, m.colour, m.texture) for m in video.movers]
        assert sum(held_out) == 1
        item = draw_motion(MOTION_WORLDS["motion"], "composition", 3, index)
        assert item.focus == (held_out.index(True),)
        video = drawn("motion", "train", index)
        assert not any(is_held_out(m.shape, m.colour, m.texture) for m in video.movers)


def test_impossible_configurations_tell_all_faults() -> None:
    with pytest.raises(ValidationError) as caught:
        MotionConfig(
            acts=("fly",), things=(3, 2), sizes=(0.2, 0.5), moments=("collide",), height=63
        )
    told = str(caught.value)
    for words in ("acts: ['fly']", "things: (3, 2)", "sizes:", "moments:", "are even"):
        assert words in told, words
    with pytest.raises(ConfigError, match="2 things cannot all differ"):
        sample_motion(
            stream(0, "train", 0), MotionConfig(shapes=("ring",), things=(2, 2)), "train", 0
        )
    with pytest.raises(UnknownNameError, match="unknown split 'dev'"):
        sample_motion(stream(0, "train", 0), MotionConfig(), "dev", 0)


ACTS = (
    Act("blink", 1, 4, 12),
    Act("move", 0, 15, 20, to=(30.0, 20.0)),
    Act("blink", 0, 24, 32),
    Act("collide", 0, 35, 50, other=1),
)


def asked(kind: str, *acts: Act, seed: int = 0, **options: object) -> list[tuple[str, str]]:
    """All questions of a kind that 200 draws ask, with their answers, sorted."""
    found = set()
    for draw in range(200):
        chance = np.random.default_rng([seed, draw])
        for question in ask_motion(motion(*acts), chance, (kind,), 1, **options):  # type: ignore[arg-type]
            found.add((question.text, question.answer))
    return sorted(found)


def test_who_did_it() -> None:
    assert asked("colour", *ACTS) == [
        ("What color blinked first?", "blue"),
        ("What color blinked last?", "red"),
        ("What color is what blinked first?", "blue"),
        ("What color is what blinked last?", "red"),
        ("What color is what moved?", "red"),
        ("What color moved?", "red"),
    ]
    assert ("What shape blinked first?", "circle") in asked("shape", *ACTS)
    assert asked("colour", *ACTS, about=("move",)) == [
        ("What color is what moved?", "red"),
        ("What color moved?", "red"),
    ]
    assert all(answer == "blue" for _, answer in asked("colour", *ACTS, focus=(1,)))
    assert asked("colour", ACTS[3]) == []


def test_how_often_and_whether_and_in_which_order() -> None:
    counts = dict(asked("count", *ACTS))
    assert counts["How many times did something blink?"] == "two"
    assert counts["How many times did something move?"] == "one"
    assert counts["How many times was something hidden?"] == "zero"
    whether = dict(asked("whether", *ACTS))
    assert whether["Did the red square blink?"] == "yes"
    assert whether["Did the circle move?"] == "no"
    assert whether["Was the blue thing hidden?"] == "no"
    # Being run into is not doing it, and is never asked about.
    assert not any("collide" in text for text in whether)
    order = dict(asked("order", *ACTS))
    assert order["Did something blink before something moved?"] == "yes"
    assert order["Did something collide before something moved?"] == "no"
    acts = dict(asked("act", *ACTS))
    assert acts["What did the blue circle do first?"] == "blink"
    assert acts["What did the square do last?"] == "collide"
    assert "What did the blue circle do last?" not in acts


def test_answers_come_from_a_closed_set_and_are_balanced() -> None:
    found: dict[str, Counter[str]] = {kind: Counter() for kind in MOTION_KINDS}
    for index in range(400):
        item = draw_motion(MOTION_WORLDS["motion"], "train", 7, index)
        for question in item.questions:
            found[question.kind][question.answer] += 1
            assert question.answer in MOTION_ANSWERS
            assert question.answers[0] == question.answer
            assert 0 <= question.seen[0] < question.seen[1] <= item.motion.frames
    assert all(found.values())
    for kind in ("whether", "order"):
        yes, no = found[kind]["yes"], found[kind]["no"]
        assert 0.3 < yes / (yes + no) < 0.7, kind
    for kind, most in (("colour", 0.35), ("shape", 0.35), ("act", 0.4), ("count", 0.65)):
        assert max(found[kind].values()) / found[kind].total() < most, (kind, found[kind])


def test_the_answer_of_a_long_memory_lies_2000_frames_back_and_nowhere_else() -> None:
    answers = set()
    for index in range(6):
        item = draw_motion(MOTION_WORLDS["motion_memory"], "test", 1, index)
        (question,) = item.questions
        answers.add(question.answer)
        blinks = [act for act in item.motion.acts if act.kind == "blink"]
        assert [(act.start, act.end) for act in blinks] == [question.seen]
        assert item.motion.frames - question.seen[1] >= 2000
        assert "blinked" in question.text
        # After it everything acts, so that what acts tells nothing about what blinked.
        later = [act for act in item.motion.acts if act.start > question.seen[1]]
        assert {act.thing for act in later} == {0, 1, 2}
        assert max(act.end for act in later) > item.motion.frames - 80
    assert len(answers) > 2


def test_a_video_is_told_in_a_sentence() -> None:
    assert tell(motion(*ACTS)) == (
        "a blue circle blinks, then a red square moves, then the red square blinks, then the red "
        "square collides with the blue circle"
    )
    assert tell(motion(Act("hide", 1, 3, 9))) == "a blue circle is hidden"
    assert tell(motion()) == "nothing happens"


def test_the_dataset_holds_video_segments_and_truth() -> None:
    dataset = MotionDataset(world="motion", split="test", seed=3, count=5, questions_per_video=3)
    assert len(dataset) == 5
    sample = dataset[2]
    video = drawn("motion", "test", 2)
    assert sample.segments == video.segments
    assert sample.group == video.domain == "news"
    assert len(sample.turns) == 2 * len(sample.truth["answers"]) == 2 * len(sample.truth["kinds"])
    assert [turn.text for turn in sample.turns[1::2]] == [a[0] for a in sample.truth["answers"]]
    assert sample.turns[1].supervised
    clip = open_video(sample.video).read([0, 9])
    assert np.array_equal(clip.frames, MotionFrames(video).frames([0, 9]))
    assert clip.times.tolist() == [0, 9 / 8]
    captions = MotionDataset(world="motion", split="test", seed=3, count=5, task="captions")[2]
    assert captions.turns[1].text == tell(video) == captions.truth["captions"][0]
    actions = MotionDataset(world="motion", split="test", seed=3, count=5, task="actions")[2]
    first = video.segments[0]
    assert actions.turns[1].text.startswith(f"{first.start:g} - "[:3])
    assert actions.turns[1].text.count(" s: ") == len(video.segments)


def test_wrong_arguments_of_the_dataset_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown world 'motions'.*Did you mean 'motion'"):
        MotionDataset(world="motions")
    with pytest.raises(UnknownNameError, match="unknown split"):
        MotionDataset(world="motion", split="dev")
    with pytest.raises(InputError, match="task 'sing' is not allowed"):
        MotionDataset(world="motion", task="sing")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="count=0"):
        MotionDataset(world="motion", count=0)
    with pytest.raises(IndexError, match="sample 3 of 3"):
        MotionDataset(world="motion", count=3)[3]


def test_written_videos_are_the_painted_ones(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra 'video' is not installed")
    summary = write.make("motion", tmp_path / "w", 3, seed=3)
    assert summary["counts"] == {"train": 3, "validation": 1, "test": 1, "composition": 1}
    place = tmp_path / "w" / "training"
    read = {
        name: json.loads((place / "annotations" / f"{name}.json").read_text())
        for name in ("action_detection", "video_qa", "video_captioning")
    }
    for index in range(3):
        item = draw_motion(MOTION_WORLDS["motion"], "train", 3, index)
        video = open_video(place / "videos" / f"train-{index}.mp4")
        painted = np.stack(list(MotionFrames(item.motion)))
        assert len(video) == item.motion.frames
        assert np.allclose(video.times, MotionFrames(item.motion).times)
        assert video.duration == pytest.approx(item.motion.duration)
        shown = video.read(range(len(video))).frames
        # Half the colour resolution is lost, the rest is not told apart.
        assert np.abs(shown.astype(int) - painted).mean() < 4
        for records in read.values():
            assert records[index]["video_id"] == f"train-{index}"
            assert records[index]["domain"] == item.motion.domain
        assert read["action_detection"][index]["actions"] == [
            {"start": s.start, "end": s.end, "label": s.label} for s in item.motion.segments
        ]
        assert [q["answer"] for q in read["video_qa"][index]["qa_pairs"]] == [
            question.answer for question in item.questions
        ]
        assert read["video_captioning"][index]["captions"] == [tell(item.motion)]
