"""A video set once: asked and watched, whole or clip by clip, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm.core.errors import DataError, InputError, MediaError
from chiasm.core.samples import Sample, Turn
from chiasm.data.video import ArrayFrames, Video
from chiasm.inference import kept_videos
from chiasm.inference.kept_videos import streams
from chiasm.inference.session import Session
from chiasm.inference.videos import ShownVideo
from chiasm.inference.watching import watch_samples
from tests.tiny_watchers import (
    FEATURES,
    FRAMES,
    RATE,
    STREAM,
    by_domain,
    moving_square,
    tiny_watcher,
    write_square,
)

CELLS = 6
"""Of a frame."""

QUESTION = "What color is the thing that moves?"


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_square(tmp_path_factory.mktemp("videos") / "square.mp4")


def watch(video: Any, **changes: Any) -> Session:
    session = Session(tiny_watcher(**changes))
    session.set(video=video)
    return session


def test_a_session_says_what_the_model_says_of_the_same_sample(square: Path) -> None:
    model = tiny_watcher()
    session = Session(model)
    session.set(video=square)
    sample = Sample("square", (Turn("user", (QUESTION,)),), video=square)
    batch = model.collator([sample])
    assert batch.videos is not None
    with torch.no_grad():
        named = model(batch).named
    shares = named["answers"][0].softmax(-1)
    answer = session.ask(QUESTION)
    assert answer.text == model.answers[int(shares.argmax())]
    assert answer.choice is not None
    assert answer.choice.likeliest[answer.text] == pytest.approx(float(shares.max()), abs=1e-6)
    assert list(answer.choice.likeliest.values()) == sorted(answer.choice.likeliest.values())[::-1]
    assert model.decoder is not None
    (found,) = model.decoder.decode(named, batch.videos.durations)
    segments = session.watch()
    assert len(segments) == len(found.segments) > 0
    for one, other in zip(segments, found.segments, strict=True):
        assert (one.label, one.start) == (other.label, pytest.approx(other.start, abs=1e-4))
        assert one.score == pytest.approx(other.score, abs=1e-5)
    assert all(0 <= one.start < one.end <= FRAMES / RATE for one in segments)


def test_clip_by_clip_is_the_same_as_whole(square: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = watch(square, **STREAM)
    assert session.video().streamed
    monkeypatch.setattr(kept_videos, "streams", lambda _: False)
    whole = watch(square, **STREAM)
    assert not whole.video().streamed
    one, other = session.ask(QUESTION).choice, whole.ask(QUESTION).choice
    assert one is not None and other is not None
    assert dict(one.likeliest) == pytest.approx(dict(other.likeliest), abs=1e-5)
    for first, second in zip(session.watch(), whole.watch(), strict=True):
        assert vars(first) == pytest.approx(vars(second), abs=1e-4)
    torch.testing.assert_close(session.video().change, whole.video().change)
    assert session.video().kept == whole.video().kept == FRAMES * CELLS


def test_a_stream_holds_one_clip_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames of a long video are never together, and what questions look at stays small."""
    lengths = []
    read = Video.pieces

    def spied(self: Video, *given: Any) -> Any:
        for clip in read(self, *given):
            lengths.append(len(clip))
            yield clip

    monkeypatch.setattr(Video, "pieces", spied)
    session = watch(moving_square(53), **STREAM, memory=19)
    assert lengths == [5] * 10 + [3]
    assert int(session.video().memory.mask.sum()) == 19
    assert session.video().memory.sizes.sum() == session.video().tokens == 53 * CELLS
    assert len(session.video().times) == len(session.video().change) == 53


def test_who_streams() -> None:
    assert streams(tiny_watcher(**STREAM))
    assert not streams(tiny_watcher())
    assert not streams(tiny_watcher(reader={"causal": True}))
    assert not streams(tiny_watcher(frames={"offsets": [-1]}))
    assert not streams(tiny_watcher(**FEATURES))


def test_senses_follow_the_heads() -> None:
    assert tiny_watcher().senses == {"video", "ask", "watch"}
    silent = watch(moving_square(), answer_head=None)
    with pytest.raises(InputError, match="no 'ask'; it has video, watch"):
        silent.ask(QUESTION)
    blind = watch(moving_square(), action_head=None)
    with pytest.raises(InputError, match="no 'watch'; it has ask, video"):
        blind.watch()


def test_every_kind_of_source_gives_the_same(square: Path, tmp_path: Path) -> None:
    frames = moving_square()
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index}.png")
    array = watch(frames).watch()
    assert watch(folder).watch() == watch(str(folder)).watch() == array
    slower = watch(ArrayFrames(frames, RATE))
    assert slower.video().duration == pytest.approx(FRAMES / RATE)
    assert watch(frames).video().duration == pytest.approx(FRAMES / 25)
    # The file is compressed, so it is only nearly the same.
    assert slower.video().change == pytest.approx(watch(square).video().change, abs=2.0)


def test_features_are_watched(tmp_path: Path) -> None:
    features = np.sin(np.arange(77, dtype=np.float32)).reshape(11, 7)
    np.save(tmp_path / "clip.npy", features)
    session = watch(tmp_path / "clip.npy", **FEATURES)
    assert session.watch() == watch(features, **FEATURES).watch()
    assert session.video().duration == 11 / 2
    expected = np.linalg.norm(np.diff(features, axis=0), axis=1)
    assert session.video().change[1:].numpy() == pytest.approx(expected, abs=1e-5)


def test_how_much_moves() -> None:
    frames = moving_square(7)
    change = watch(frames).video().change
    expected = np.abs(np.diff(frames.astype(float), axis=0)).mean((1, 2, 3))
    assert change[0] == 0
    assert change[1:].numpy() == pytest.approx(expected, abs=1e-4)


def test_one_frame_answers_and_shows_no_action() -> None:
    for changes in ({}, STREAM):
        session = watch(moving_square(1), **changes)
        assert session.ask(QUESTION).text
        with pytest.raises(InputError, match=r"video array: one frame of its 0\.04 s is looked at"):
            session.watch()


def test_words_that_mean_nothing_to_the_model_are_told() -> None:
    session = watch(moving_square())
    choice = session.ask("What color is the zeppelin, the zeppelin or the yacht?").choice
    assert choice is not None
    assert choice.unknown == ("zeppelin", "or", "yacht")
    document = session.ask(QUESTION).document()
    assert set(document) == {
        "text", "finish", "prompt_tokens", "new_tokens", "likeliest", "unknown_words",
    }  # fmt: skip
    said: list[str] = []
    answer = session.ask(QUESTION, on_text=said.append)
    assert said == [answer.text]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_what_cannot_be_watched_is_named(square: Path, tmp_path: Path) -> None:
    model = tiny_watcher()
    session = Session(model)
    with pytest.raises(InputError, match=r"no video to ask about; call set\(video=\.\.\.\)"):
        session.ask(QUESTION)
    (tmp_path / "bare").mkdir()
    np.save(tmp_path / "clip.npy", np.zeros((5, 7), np.float32))
    refused = {
        MediaError: (
            (tmp_path / "none.mp4", r"none\.mp4: does not exist"),
            (write(tmp_path / "empty.mp4", b""), r"empty\.mp4"),
            (write(tmp_path / "text.mp4", b"no video " * 99), r"text\.mp4"),
            (write(tmp_path / "cut.mp4", square.read_bytes()[:900]), r"cut\.mp4"),
            (tmp_path / "bare", "bare: holds no frame"),
            (np.zeros((0, 28, 42, 3), np.uint8), r"array uint8 \(0, 28, 42, 3\) is not allowed"),
            (np.zeros((3, 28, 42, 3), np.float32), "array float32"),
        ),
        InputError: (
            (tmp_path / "clip.npy", r"clip\.npy: holds features, and this model reads frames"),
            (17, "video is of type int; allowed: a path"),
        ),
    }
    for kind, cases in refused.items():
        for video, told in cases:
            with pytest.raises(kind, match=told):
                session.set(video=video)  # type: ignore[arg-type]


def test_features_of_another_kind_are_named(square: Path, tmp_path: Path) -> None:
    session = Session(tiny_watcher(**FEATURES))
    np.save(tmp_path / "wide.npy", np.zeros((5, 11), np.float32))
    with pytest.raises(InputError, match=r"wide\.npy: 5 frames of 11 features, .* reads 7 a frame"):
        session.set(video=tmp_path / "wide.npy")
    with pytest.raises(InputError, match=r"square\.mp4: holds frames, and this model reads fea"):
        session.set(video=square)


def test_too_short_videos_are_named() -> None:
    sampling = {"kind": "uniform", "count": 29}
    with pytest.raises(InputError, match="29 frames are asked for, it has 23"):
        watch(moving_square(), sampling=sampling)


def test_questions_that_a_closed_set_cannot_follow() -> None:
    session = watch(moving_square())
    for setting in ({"temperature": 0.5}, {"top_p": 0.5}, {"stop": ["x"]}, {"keep_history": True}):
        with pytest.raises(InputError, match="leave out keep_history, temperature, top_p and stop"):
            session.ask(QUESTION, **setting)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"'\?!' has no word"):
        session.ask("?!")
    with pytest.raises(InputError, match="question is of type int"):
        session.ask(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="question of 40 words; this head reads at most 32"):
        session.ask("what " * 40)


def test_pictures_are_refused_by_a_model_of_videos() -> None:
    session = Session(tiny_watcher())
    with pytest.raises(InputError, match="no 'image'; it has ask, video, watch"):
        session.set(image=np.zeros((5, 7, 3), np.uint8))


class Late:
    """Frames whose container's clock does not begin at zero."""

    def __init__(self, begins: float) -> None:
        self.plain = ArrayFrames(moving_square(), RATE)
        self.times = self.plain.times + begins
        self.duration = self.plain.duration

    def frames(self, indices: Sequence[int]) -> np.ndarray[Any, Any]:
        """Return frames."""
        return self.plain.frames(indices)


@pytest.mark.parametrize("changes", [{}, STREAM], ids=["whole", "stream"])
def test_a_video_that_begins_late_is_told_from_its_start(changes: dict[str, Any]) -> None:
    plain, late = watch(Late(0.0), **changes), watch(Late(100.0), **changes)
    torch.testing.assert_close(late.video().times, plain.video().times)
    assert len(late.watch()) == len(plain.watch()) > 0
    for one, other in zip(late.watch(), plain.watch(), strict=True):
        assert vars(one) == pytest.approx(vars(other), abs=1e-4)


@pytest.mark.parametrize("changes", [{}, STREAM], ids=["whole", "stream"])
def test_moments_of_a_frame_that_stays_differ(changes: dict[str, Any]) -> None:
    video = Late(0.0)
    # The first frame stays for eight seconds, as in a recording of a screen.
    video.times, video.duration = np.append(0.0, video.times[1:] + 8.0), video.duration + 8.0
    rate = {"kind": "rate", "rate": 4}
    session = watch(video, sampling=rate, **changes)
    found = session.video().times
    assert len(found) == np.ceil(video.duration * 4) and found[0] == 0
    ticks = torch.arange(len(found)) / 4
    assert (found.diff() > 0).all() and (found - ticks).abs().max() <= 0.25
    assert session.watch()
    still = watch(Still(), sampling=rate, **changes)
    torch.testing.assert_close(still.video().times, torch.arange(40) / 4)
    assert all(0 <= one.start < one.end <= 10 for one in still.watch()) and still.watch()


class Still:
    """One frame that stays for ten seconds."""

    times, duration = np.zeros(1), 10.0

    def frames(self, indices: Sequence[int]) -> np.ndarray[Any, Any]:
        """Return frames."""
        return moving_square(1)[list(indices)]


def test_a_video_is_read_through_the_domain_that_it_names(square: Path) -> None:
    model = by_domain()
    turns = (Turn("user", (QUESTION,)),)
    samples = [Sample(name, turns, video=square, group=name) for name in model.domains]
    lines = watch_samples(model, samples)
    assert [line["id"] for line in lines] == list(model.domains)
    for sample, line in zip(samples, lines, strict=True):
        with torch.no_grad():
            shares = model(model.collator([sample])).named["answers"][0].softmax(-1)
        assert line["likeliest"][line["text"]] == pytest.approx(float(shares.max()), abs=1e-4)
    assert len({max(line["likeliest"].values()) for line in lines}) == len(lines)


def test_a_video_whose_domain_is_needed_must_say_it(square: Path) -> None:
    with pytest.raises(InputError, match=r"square\.mp4: this model has parts for each domain \(sp"):
        watch_samples(by_domain(), [Sample("one", (), video=square)])
    with pytest.raises(DataError, match="the domain 'sea' is none of the 4"):
        ShownVideo.look(by_domain(), square, "sea")
    # Others do not read it.
    assert ShownVideo.look(tiny_watcher(), square, "sea").tokens == FRAMES * CELLS


def test_a_session_is_told_the_domain_where_none_is_found(square: Path) -> None:
    model = by_domain()
    said: list[float] = []
    session = Session(model)
    for name in model.domains:
        session.set(video=square, domain=name)
        answer = session.ask(QUESTION)
        assert answer.choice is not None and not session.video().streamed
        said.append(max(answer.choice.likeliest.values()))
        (line,) = watch_samples(
            model, [Sample(name, (Turn("user", (QUESTION,)),), video=square, group=name)]
        )
        assert max(line["likeliest"].values()) == pytest.approx(said[-1], abs=1e-4)
    assert len(set(said)) == len(model.domains)
    with pytest.raises(InputError, match=r"give the video's `domain`, beside it or in its record"):
        session.set(video=square)
    with pytest.raises(DataError, match="the domain 'sea' is none of the 4"):
        session.set(video=square, domain="sea")
    for other, shown in ((tiny_watcher(), square), (model, None)):
        with pytest.raises(InputError, match=r"domain 'news': told of a video, .* leave it out"):
            Session(other).set(video=shown, domain="news")


def test_what_streams_is_read_whole_where_it_differs_by_domain(square: Path) -> None:
    """Its route is of a whole video: a stream through the shared part alone would say less."""
    routed = tiny_watcher(**STREAM, by_domain={"adapters": {"rank": 2}})
    assert not ShownVideo.look(routed, square).streamed
    size = routed.collator.size
    assert size is not None
    frames = torch.zeros(3, *size, 3, dtype=torch.uint8)
    with pytest.raises(InputError, match="rows are read without a route through the adapters sp"):
        routed.reading.watch(frames, torch.arange(3.0), routed.reading.begin())


def test_a_still_of_a_file_is_asked_about_and_not_watched() -> None:
    turns = (Turn("user", (QUESTION,)),)
    still, clip = moving_square(1), moving_square(5)
    samples = [Sample("still", turns, video=still), Sample("clip", turns, video=clip)]
    lines = watch_samples(tiny_watcher(), samples)
    assert ["segments" in line for line in lines] == [False, True]
    assert all(line["text"] for line in lines)
    with pytest.raises(InputError, match="one frame of its"):
        watch_samples(tiny_watcher(), [Sample("still", (), video=still)])


def test_features_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    broken = np.full((5, 7), np.nan, np.float32)
    for features, told in (
        (broken, "feature array: 35 of its 35 features are infinite or no numbers"),
        (np.full((5, 7), 1e300), "35 of its 35 features are infinite"),
        (np.zeros((0, 7), np.float32), r"holds float32 \(0, 7\)"),
        (np.zeros((5, 7), np.int64), r"holds int64 \(5, 7\)"),
    ):
        with pytest.raises(MediaError, match=told):
            watch(features, **FEATURES)
    np.save(tmp_path / "clip.npy", np.ones((5, 7), np.float16))
    (tmp_path / "clip.npy").rename(tmp_path / "CLIP.NPY")
    assert watch(tmp_path / "CLIP.NPY", **FEATURES).video().tokens == 5
