"""Samples of videos to batches: questions, answers, segments, dense truth, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chiasm.core.batch import IGNORE
from chiasm.core.errors import ConfigError, DataError
from chiasm.core.samples import Sample, Segment, Turn
from chiasm.data.video_collate import VideoCollator
from chiasm.data.video_sampling import RateSampling, UniformSampling
from chiasm.data.video_words import ACTIONS_REQUEST, VIDEO_REQUEST
from chiasm.data.vocabulary import UNKNOWN, Vocabulary
from chiasm.data.world.motion import ACTIONS
from chiasm.data.world.motion_cells import MOTION_LABELS, label_motion
from chiasm.data.world.motion_questions import MOTION_ANSWERS
from chiasm.data.world.motion_render import MotionFrames
from chiasm.data.world.motion_words import MOTION_WORDS
from chiasm.data.world.motion_worlds import TASKS, MotionDataset

WORDS = Vocabulary(MOTION_WORDS)


def collator(**changes: Any) -> VideoCollator:
    settings: dict[str, Any] = {"answers": MOTION_ANSWERS, "actions": tuple(ACTIONS)}
    return VideoCollator(WORDS, **{**settings, **changes})


def sample(**changes: Any) -> Sample:
    video = np.zeros((7, 10, 14, 3), np.uint8)
    turns = (Turn("user", ("What turned?",)), Turn("assistant", ("Red ",), supervised=True))
    return replace(Sample("one", turns, video=video, origin="file:3"), **changes)


def test_each_question_is_a_row_with_its_answer() -> None:
    asked = (*sample().turns, Turn("user", ("Hey what was that?",)))
    batch = collator()([sample(turns=asked), sample(turns=())])
    videos = batch.videos
    assert videos is not None
    assert videos.asked.tolist() == [0, 0, 1]
    assert videos.answers.tolist() == [MOTION_ANSWERS.index("red"), IGNORE, IGNORE]
    assert batch.attention_mask.sum(1).tolist() == [2, 4, 0]
    assert WORDS.words[batch.input_ids[0, 1] - 2] == "turned"
    assert batch.input_ids[1, 0] == UNKNOWN
    assert len(videos) == 2


def test_frames_are_those_of_the_rule_with_their_own_times() -> None:
    videos = collator(sampling=UniformSampling(count=3))([sample()]).videos
    assert videos is not None
    assert videos.frames[0].shape == (3, 10, 14, 3)
    torch.testing.assert_close(videos.times[0], torch.tensor([1.0, 3.0, 5.0]) / 25)
    assert videos.durations.tolist() == pytest.approx([7 / 25])
    assert collator(size=(5, 7))([sample()]).videos.frames[0].shape[1:3] == (5, 7)  # type: ignore[union-attr]


def test_segments_stand_by_video_and_unknown_ones_are_told_from_none() -> None:
    batch = collator()(
        [
            sample(),
            sample(segments=()),
            sample(segments=(Segment(1.0, 2.0, "turn"), Segment(0.5, 3.0, "move"))),
        ]
    )
    videos = batch.videos
    assert videos is not None
    assert videos.segments_known.tolist() == [False, True, True]
    assert videos.segment_rows.tolist() == [2, 2]
    assert videos.segments.tolist() == [[1.0, 2.0], [0.5, 3.0]]
    assert [tuple(ACTIONS)[place] for place in videos.segment_labels] == ["turn", "move"]


def test_features_come_from_files_or_arrays(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    np.save(tmp_path / "clip.npy", features)
    for video in (tmp_path / "clip.npy", str(tmp_path / "clip.npy"), features):
        videos = collator(feature_rate=2.0)([sample(video=video)]).videos
        assert videos is not None
        assert videos.frames == ()
        assert torch.equal(videos.features[0], torch.from_numpy(features))
        assert videos.times[0].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
        assert videos.durations.tolist() == [2.5]
    with pytest.raises(DataError, match="frames and features in one batch"):
        collator()([sample(video=features), sample()])


def test_what_no_list_holds_is_named() -> None:
    with pytest.raises(DataError, match=r"file:3 \(id one\): the answer 'red' is none of the 1"):
        collator(answers=("blue",))([sample()])
    with pytest.raises(DataError, match="the action 'jump' is none of the 6"):
        collator()([sample(segments=(Segment(0.0, 1.0, "jump"),))])
    with pytest.raises(DataError, match="the domain 'sea' is none of the 1"):
        collator(domains=("sky",))([sample(group="sea")])
    still = sample(video=np.zeros((1, 10, 14, 3), np.uint8))
    told = replace(still, segments=(Segment(0.0, 1.0, "turn"),))
    with pytest.raises(DataError, match=r"file:3 \(id one\): one frame of its video is looked at"):
        collator()([sample(), told])
    # Asked about, or by a model that learns no actions, it is a video as any other.
    assert collator()([still]).videos and collator(actions=())([told]).videos
    with pytest.raises(DataError, match="it has no video"):
        collator()([sample(video=None)])
    with pytest.raises(DataError, match="an empty list"):
        collator()([])


@pytest.mark.parametrize("task", TASKS)
def test_the_worlds_use_no_unknown_word(task: Any) -> None:
    for world in ("motion", "motion_recall"):
        dataset = MotionDataset(world=world, count=40, task=task, questions_per_video=6)
        texts = [turn.text for one in dataset for turn in one.turns]  # type: ignore[attr-defined]
        if task == "actions":
            texts = texts[::2]
        assert not {word for text in texts for word in WORDS.unknown(text)}


def test_words_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\['Red'\]"):
        Vocabulary(("Red", "blue"))
    with pytest.raises(ConfigError, match="stand there twice"):
        Vocabulary(("blue", "blue"))


def test_cells_of_a_world_say_what_lies_in_them() -> None:
    dataset = MotionDataset(world="motion", count=9)
    batch = collator(cells=(4, 4), sampling=RateSampling(rate=4))([dataset[4], dataset[5]])
    videos = batch.videos
    assert videos is not None
    labels = batch.targets
    assert labels["cells.act"].shape == (sum(map(len, videos.frames)), 4, 4)
    video = dataset[4].video
    assert isinstance(video, MotionFrames)
    for place, frame in enumerate(range(0, video.motion.frames, 2)):
        for thing, mover in enumerate(video.motion.movers):
            state = video.timeline.state(thing, frame)
            cell = (int(state.y // 16), int(state.x // 16))
            shape = int(labels["cells.shape"][place][cell])
            if state.scale < 0.3 or shape == IGNORE:
                continue
            others = [one.shape for one in video.motion.movers]
            assert MOTION_LABELS["shape"][shape - 1] in others
            near = [
                other
                for other in range(len(video.motion.movers))
                if _cell(video, other, frame) == cell
            ]
            if near == [thing]:
                assert MOTION_LABELS["shape"][shape - 1] == mover.shape
                act = int(labels["cells.act"][place][cell])
                doing = [a.kind for a in video.motion.acts if thing in a.things]
                doing = [
                    a.kind
                    for a in video.motion.acts
                    if thing in a.things and a.start <= frame < a.end
                ]
                assert (["none", *MOTION_LABELS["act"]][act]) == (doing or ["none"])[0]


def _cell(video: MotionFrames, thing: int, frame: int) -> tuple[int, int]:
    state = video.timeline.state(thing, frame)
    return int(state.y // 16), int(state.x // 16)


def test_rims_have_no_label_and_far_cells_show_nothing() -> None:
    video = MotionDataset(world="motion_single", count=1)[0].video
    assert isinstance(video, MotionFrames)
    # Cells of two pixels: one holds the centre, its neighbours are the rim of the thing.
    labels = label_motion(video.timeline, [0], 32, 32)["shape"][0]
    state = video.timeline.state(0, 0)
    row, column = int(state.y // 2), int(state.x // 2)
    if state.scale:
        assert labels[row, column] > 0
        assert labels[row, min(31, column + 1)] == IGNORE or column == 31
        assert labels[(row + 16) % 32, (column + 16) % 32] == 0


def test_a_batch_of_files_has_no_dense_truth() -> None:
    dataset = MotionDataset(world="motion", count=2)
    assert not collator(cells=(4, 4))([dataset[0], sample()]).targets


def test_requests_without_a_closed_answer_are_no_questions() -> None:
    """Actions told in words, and captions: the segments count, the words are in no closed set."""
    turns = (
        Turn("user", (ACTIONS_REQUEST,)),
        Turn("assistant", ("0.5 - 1 s: jumping",), supervised=True),
        Turn("user", (VIDEO_REQUEST,)),
        Turn("assistant", ("A ball jumps.",), supervised=True),
    )
    video = np.zeros((5, 14, 14, 3), np.uint8)
    batch = VideoCollator(Vocabulary(("red",)), answers=("red",))([Sample("a", turns, video=video)])
    assert batch.videos is not None
    assert batch.videos.answers.tolist() == [IGNORE]
    assert batch.videos.asked.tolist() == [0]
    assert not batch.attention_mask.any()
