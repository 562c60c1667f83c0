"""The source's layout and annotation forms, in every spelling; all faults at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.core.errors import DataError
from chiasm.core.samples import Segment
from chiasm.data.check import OtherField, check
from chiasm.data.dataset import DatasetConfig, load_dataset
from chiasm.data.formats import WHOLE_FILES
from chiasm.data.splitting import split_by_image
from chiasm.data.video import open_video
from chiasm.data.video_writing import write_video
from chiasm.data.world import write
from chiasm.data.world.motion_worlds import MotionDataset
from tests.archives import unpack

pytest.importorskip("av", reason="the extra 'video' is not installed")

SECONDS = 3.0
ACTIONS = [
    {"start": 1.5, "end": 2.75, "label": "walking"},
    {"start_time": 0, "end_time": 1, "category": "running"},
]
SEGMENTS = (Segment(0.0, 1.0, "running"), Segment(1.5, 2.75, "walking"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The source's layout: two splits, each with a video."""
    for split, name in (("training", "vid_001"), ("test", "vid_002")):
        (tmp_path / split / "videos").mkdir(parents=True)
        (tmp_path / split / "annotations").mkdir()
        frames = [np.full((32, 46, 3), 9 * i, np.uint8) for i in range(21)]
        write_video(tmp_path / split / "videos" / f"{name}.mp4", frames, 7)
    return tmp_path


def annotate(folder: Path, name: str, content: Any, split: str = "training") -> Path:
    path = folder / split / "annotations" / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def record(**fields: Any) -> dict[str, Any]:
    return {"video_id": "vid_001", **fields}


@pytest.mark.parametrize("form", ["object", "list", "lines", "lines.json"])
def test_object_list_and_lines_are_read_alike(folder: Path, form: str) -> None:
    several = [record(actions=ACTIONS), record(actions=[])]
    content: Any = {
        "object": several[0],
        "list": several,
        "lines": "\n".join(map(json.dumps, several)),
        "lines.json": "\n".join(map(json.dumps, several)),
    }[form]
    path = annotate(folder, "a.jsonl" if form == "lines" else "a.json", content)
    dataset = load_dataset(path)
    assert dataset.format == "videos"
    assert len(dataset) == (1 if form == "object" else 2)
    sample = dataset[0]
    assert sample.segments == SEGMENTS
    assert sample.video == folder / "training/annotations/../videos/vid_001.mp4" or (
        sample.video == folder / "training" / "videos" / "vid_001.mp4"
    )
    assert sample.turns[0].text == "What happens in this video, and when?"
    assert sample.turns[1].text == "0 - 1 s: running; 1.5 - 2.75 s: walking"
    assert sample.turns[1].supervised
    if form != "object":
        assert dataset[1].segments == ()
        assert dataset[1].turns[1].text == "nothing"
        assert dataset[1].identifier == "vid_001/actions/2"


@pytest.mark.parametrize("name", ["actions", "annotations", "segments"])
def test_actions_may_be_called_differently(folder: Path, name: str) -> None:
    path = annotate(folder, "a.json", record(**{name: ACTIONS}))
    assert load_dataset(path)[0].segments == SEGMENTS


def test_questions_in_pairs_and_alone(folder: Path) -> None:
    pairs = [
        {"question": "Who?", "answer": "she", "kind": "who"},
        {"question": "What?", "answer": "walking", "answers": ["walking", "walks"], "kind": "what"},
    ]
    lines = [record(qa_pairs=pairs, domain="sports"), record(question="Why?", answer="for fun")]
    dataset = load_dataset(annotate(folder, "qa.jsonl", "\n".join(map(json.dumps, lines))))
    first, second = dataset
    assert [turn.text for turn in first.turns] == ["Who?", "she", "What?", "walking"]
    assert first.truth["answers"] == [["she"], ["walking", "walks"]]
    assert first.truth["kinds"] == ["who", "what"]
    assert first.group == "sports"
    assert first.segments is None
    assert [turn.text for turn in second.turns] == ["Why?", "for fun"]
    assert second.identifier == "vid_001/questions/2"
    unanswered = annotate(folder, "ask.json", record(question="Why?"))
    assert len(load_dataset(unanswered)[0].turns) == 1
    assert check(unanswered, prediction=True).faults == ()
    assert [fault.value for fault in check(unanswered).faults] == ["no supervised turn"]


def test_captions_one_and_several(folder: Path) -> None:
    texts = ["A woman walks.", "Somebody walks."]
    dataset = load_dataset(
        annotate(folder, "c.json", [record(captions=texts), record(caption=texts[0], id="mine")])
    )
    assert dataset[0].turns[0].text == "Describe this video."
    assert dataset[0].turns[1].text == texts[0]
    assert dataset[0].truth["answers"] == texts
    assert dataset[1].truth["answers"] == texts[:1]
    assert dataset[1].identifier == "mine"
    asked = load_dataset(
        annotate(folder, "c.json", record(caption="x")), caption_request="Tell me all."
    )
    assert asked[0].turns[0].text == "Tell me all."


def test_messages_with_a_marker(folder: Path) -> None:
    turns = [
        {"role": "user", "content": "<video>Why?"},
        {"role": "assistant", "content": "For fun."},
    ]
    path = annotate(folder, "m.json", {"videos": ["../videos/vid_001.mp4"], "messages": turns})
    (sample,) = load_dataset(path)
    assert [turn.text for turn in sample.turns] == ["Why?", "For fun."]
    assert open_video(sample.video or "").duration == SECONDS
    turns[0]["content"] = "Why <video>?"
    annotate(folder, "m.json", {"videos": ["../videos/vid_001.mp4"], "messages": turns})
    with pytest.raises(DataError, match="it opens the first user turn, once"):
        load_dataset(path)


def test_a_folder_is_all_its_splits(folder: Path) -> None:
    annotate(folder, "action_detection.json", record(actions=ACTIONS))
    annotate(folder, "video_qa.json", [record(question="Why?", answer="for fun")] * 2)
    annotate(folder, "video_captioning.json", {"video_id": "vid_002", "caption": "x"}, "test")
    dataset = load_dataset(folder)
    assert dataset.format == "videos"
    assert [(s.identifier, s.truth["split"]) for s in dataset] == [
        ("train/vid_001/actions", "train"),
        ("train/vid_001/questions", "train"),
        ("train/vid_001/questions/2", "train"),
        ("test/vid_002/captions", "test"),
    ]
    assert len(load_dataset(folder, split="test")) == 1
    alone = load_dataset(folder / "test")
    assert alone[0].truth["split"] == "test"
    built = DatasetConfig.model_validate({"type": "videos", "args": {"data_path": str(folder)}})
    assert len(built.build()) == 4
    report = check(folder)
    assert report.faults == ()
    assert (report.videos, report.distinct_videos, report.video_seconds) == (4, 2, 2 * SECONDS)
    assert report.document()["videos"] == 4
    # All samples of a video stay on one side.
    for seed in range(7):
        parts = split_by_image(dataset, {"a": 0.5, "b": 0.5}, seed)
        sides = [{str(part[i].video) for i in range(len(part))} for part in parts.values()]
        assert not sides[0] & sides[1]


def test_frames_and_features_stand_for_videos(folder: Path) -> None:
    (folder / "training" / "features").mkdir()
    np.save(folder / "training" / "features" / "seen.npy", np.ones((5, 3), np.float32))
    frames = folder / "training" / "frames" / "drawn"
    frames.mkdir(parents=True)
    write_frame(frames / "0.png")
    records = [{"video_id": name, "actions": ACTIONS} for name in ("seen", "drawn")]
    path = annotate(folder, "a.json", records)
    seen, drawn = load_dataset(path)
    assert Path(str(seen.video)).name == "seen.npy"
    assert Path(str(drawn.video)) == frames
    assert check(path).faults == ()


@pytest.mark.parametrize("place", ["shots/walk", "frames/walk"])
def test_a_path_may_lead_to_a_folder_of_frames(tmp_path: Path, place: str) -> None:
    frames = tmp_path / place
    frames.mkdir(parents=True)
    write_frame(frames / "0.png")
    (tmp_path / "empty").mkdir()
    path = tmp_path / "a.json"
    for name in (place, str(frames)):
        path.write_text(json.dumps({"id": "walk", "video": name, "actions": []}))
        assert load_dataset(path)[0].video == frames
        assert check(path).faults == ()
    path.write_text(json.dumps({"id": "walk", "video": "empty", "actions": []}))
    with pytest.raises(DataError, match="'empty' is no video, folder of frames or file of feat"):
        load_dataset(path)


def test_a_path_may_lead_to_a_file_of_any_suffix(folder: Path) -> None:
    video = folder / "training" / "videos" / "vid_001.mp4"
    other = video.rename(video.with_suffix(".m2ts"))
    path = annotate(folder, "a.json", {"id": "a", "video": "../videos/vid_001.m2ts", "actions": []})
    assert load_dataset(path)[0].video == path.parent / "../videos/vid_001.m2ts"
    assert check(path).faults == () and other.is_file()


def write_frame(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (13, 11)).save(path)


def test_every_fault_is_told_at_once(folder: Path) -> None:
    (folder / "training" / "videos" / "twice.mp4").touch()
    (folder / "training" / "videos" / "twice.avi").touch()
    wrong = [
        (record(actions=[{"start": 2, "end": 1, "label": "x"}]), "a segment ends after it starts"),
        (record(actions=[{"start": -1, "end": 1, "label": "x"}]), "actions[0].start: -1; seconds"),
        (record(actions=[{"start": 1, "end": "2", "label": "x"}]), "actions[0].end: '2'"),
        (record(actions=[{"start": 1, "end": 10**400, "label": "x"}]), "actions[0].end: 1000"),
        (record(actions=[{"start": 1, "end": 2}]), "give label or category"),
        (
            record(actions=[{"start": 1, "start_time": 1, "end": 2, "label": "x"}]),
            "actions[0].start: both given; give start or start_time",
        ),
        (record(actions=[{"start": 1, "end": 2, "label": " "}]), "actions[0].label: ' '"),
        (record(actions=["walking"]), "a segment is an object {start, end, label}"),
        (record(actions="walking"), "a list of segments is needed; empty for none"),
        (record(), "teaches nothing"),
        (record(actions=[], caption="x"), "teaches actions and captions"),
        (record(captions=[]), "at least one caption is needed"),
        (record(captions=[7]), "captions[0]: 7; a text is needed"),
        (record(qa_pairs=[{"answer": "x"}]), "qa_pairs[0].question: missing"),
        (record(question=7, answer="x"), "question: 7; a text is needed"),
        ({"video_id": "none", "caption": "x"}, "'none' is no video, folder of frames or file"),
        ({"video_id": "twice", "caption": "x"}, "'twice' is twice.avi, twice.mp4 in"),
        ({"caption": "x"}, "the id or the path of one video is needed"),
    ]
    path = annotate(folder, "a.json", [content for content, _ in wrong])
    with pytest.raises(DataError) as caught:
        load_dataset(path, "videos")
    assert len(caught.value.faults) == len(wrong)
    for line, (_, words) in zip(caught.value.faults, wrong, strict=True):
        assert words in line
    assert len(check(path, "videos").faults) == len(wrong)


def test_check_opens_videos_and_holds_segments_against_them(folder: Path) -> None:
    videos = folder / "training" / "videos"
    whole = (videos / "vid_001.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").touch()
    np.save(videos / "flat.npy", np.ones(5))
    long = {"start": 1, "end": 4, "label": "walking"}
    rounded = {"start": 1, "end": SECONDS + 0.04, "label": "walking"}
    path = annotate(
        folder,
        "a.json",
        [
            record(actions=[*ACTIONS, long]),
            record(actions=[rounded]),
            *({"video_id": name, "caption": "x"} for name in ("cut", "empty", "flat")),
        ],
    )
    report = check(path)
    told = [f"{fault.field}: {fault.value}; {fault.allowed}" for fault in report.faults]
    assert len(told) == 4
    assert "'walking' from 1 to 4 s lies outside; the video ends at 3 s" in told[0]
    assert "cannot be opened as a video" in told[1]
    assert "is empty (0 bytes)" in told[2]
    assert "allowed: floats (frames, width)" in told[3]
    assert (report.videos, report.distinct_videos) == (5, 1)


def test_fields_that_nothing_reads_are_named(folder: Path) -> None:
    told = record(question="What?", answer="This.", domains="news", source="a camera")
    found = check(annotate(folder, "a.json", told)).other_fields
    assert found == {"domains": OtherField(1, "domain"), "source": OtherField(1)}


def test_folders_without_annotations_or_of_other_sets_are_not_taken(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotations; needed: training/annotations"):
        WHOLE_FILES["videos"].read(tmp_path, None)  # type: ignore[arg-type]
    (tmp_path / "annotations").mkdir()
    assert not WHOLE_FILES["videos"].finds(tmp_path)
    (tmp_path / "videos").mkdir()
    assert WHOLE_FILES["videos"].finds(tmp_path)


def test_a_written_world_is_read_back(tmp_path: Path) -> None:
    write.make("motion", tmp_path / "w", 3, seed=5, questions_per_image=2)
    assert check(tmp_path / "w").faults == ()
    dataset = load_dataset(tmp_path / "w")
    assert len(dataset) == 3 * (3 + 1 + 1 + 1)
    made = MotionDataset(world="motion", seed=5, count=3, questions_per_video=2)
    for index in range(3):
        sample = made[index]
        read = {s.identifier: s for s in dataset}
        actions = read[f"train/train-{index}/actions"]
        assert actions.segments == tuple(
            sorted(sample.segments or (), key=lambda s: (s.start, s.end, s.label))
        )
        questions = read[f"train/train-{index}/questions"]
        assert questions.turns == sample.turns
        assert questions.truth["answers"] == sample.truth["answers"]
        assert questions.truth["kinds"] == sample.truth["kinds"]
        assert questions.group == sample.group
        captions = read[f"train/train-{index}/captions"]
        assert captions.truth["answers"] == sample.truth["captions"]
    splits = {sample.truth["split"] for sample in dataset}
    assert splits == {"train", "validation", "test", "composition"}


def test_the_real_annotation_file(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "videos.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive.name} among the real data")
    unpack(archive, tmp_path)
    path = tmp_path / "llamafactory_demo" / "data" / "mllm_video_demo.json"
    report = check(path)
    assert report.format == "videos"
    assert report.faults == ()
    assert report.distinct_videos == 3
    assert report.video_seconds == pytest.approx(9.72 + 9.025 + 6.089, abs=0.01)
    assert load_dataset(path)[1].turns[1].text == "She is cooking."
