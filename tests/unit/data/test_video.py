"""Videos of every kind that the tests can write: true times, few decoded frames, named damage."""

from __future__ import annotations

import contextlib
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import InputError, MediaError, MissingExtraError, UnknownNameError
from chiasm.data.video import ArrayFrames, open_video
from chiasm.data.video_file import FileReader
from chiasm.data.video_index import index_video
from chiasm.data.video_sampling import (
    SAMPLINGS,
    AllSampling,
    KeyFrameSampling,
    RateSampling,
    TimesSampling,
    UniformSampling,
)
from chiasm.data.video_writing import write_video

av = pytest.importorskip("av", reason="the extra 'video' is not installed")

COUNT, HEIGHT, WIDTH, BETWEEN_KEYS = 47, 34, 58, 7
NTSC = Fraction(30000, 1001)


def grey(index: int) -> np.ndarray:
    """A frame whose brightness tells which one it is."""
    return np.full((HEIGHT, WIDTH, 3), 10 + 5 * index, np.uint8)


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames these are, by their brightness."""
    return [round((int(value) - 10) / 5) for value in frames[:, HEIGHT // 2, WIDTH // 2, 1]]


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "steady.mp4"
    written = write_video(path, map(grey, range(COUNT)), NTSC, key_frames=BETWEEN_KEYS)
    assert written == COUNT
    return path


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose header stands first, and whose frames take room."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(3)
    frames = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(COUNT)]
    write_video(folder / "late.mp4", frames, 25, key_frames=BETWEEN_KEYS)
    for name in ("first.mp4", "matroska.mkv"):
        copy_streams(folder / "late.mp4", folder / name)
    return folder


def copy_streams(source: Path, target: Path) -> None:
    options = {"movflags": "faststart"} if target.suffix == ".mp4" else {}
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = stream
                new.mux(packet)


def turned(path: Path, target: Path, cosine: int, sine: int, across: int = 1) -> Path:
    """Write the display matrix of a track by hand, as a phone held upright does.

    `across` is -1 for a mirror of left and right before the turn.
    """
    content = bytearray(path.read_bytes())
    place = content.find(b"tkhd") + 4 + 40
    one = 0x10000
    side = across * one
    matrix = (cosine * side, sine * side, 0, -sine * one, cosine * one, 0, 0, 0, 0x40000000)
    content[place : place + 36] = struct.pack(">9i", *matrix)
    target.write_bytes(content)
    return target


def test_times_duration_and_count_are_exact(steady: Path) -> None:
    index = index_video(steady)
    assert len(index) == COUNT
    assert [index.time(i) for i in range(COUNT)] == [i / NTSC for i in range(COUNT)]
    assert index.duration == COUNT / NTSC
    assert index.rate == NTSC
    assert index.constant_rate
    assert index.key_frames.tolist() == list(range(0, COUNT, BETWEEN_KEYS))
    video = open_video(steady)
    assert video.size == (HEIGHT, WIDTH)
    assert np.array_equal(video.times, [float(i / NTSC) for i in range(COUNT)])


def test_frames_come_as_asked_in_any_order_and_twice(steady: Path) -> None:
    video = open_video(steady)
    clip = video.read([46, 3, 3, 20])
    assert numbers(clip.frames) == [46, 3, 3, 20]
    assert clip.indices.tolist() == [46, 3, 3, 20]
    assert np.array_equal(clip.times, video.times[[46, 3, 3, 20]])
    assert clip.missing == ()
    assert numbers(video.frames([5, 4])) == [5, 4]


def test_variable_rate_keeps_its_own_times(tmp_path: Path) -> None:
    steps = np.random.default_rng(5).integers(1, 9, COUNT)
    times = [Fraction(int(tick), 90) for tick in np.cumsum(steps) - steps[0]]
    path = tmp_path / "variable.mp4"
    write_video(path, map(grey, range(COUNT)), 30, times=times, key_frames=BETWEEN_KEYS)
    index = index_video(path)
    assert [index.time(i) for i in range(COUNT)] == times
    assert not index.constant_rate
    video = open_video(path)
    moments = np.linspace(0, float(times[-1]), 13)
    expected = [max(i for i in range(COUNT) if float(times[i]) <= t + 1e-6) for t in moments]
    clip = video.sample(TimesSampling(times=tuple(moments)))
    assert clip.indices.tolist() == expected == numbers(clip.frames)
    # A rule that believed in 30 frames a second would be frames away.
    assert expected != [round(30 * moment) for moment in moments]


@pytest.mark.parametrize(("cosine", "sine", "turns"), [(0, 1, 3), (-1, 0, 2), (0, -1, 1)])
def test_rotation_is_honoured(
    steady: Path, tmp_path: Path, cosine: int, sine: int, turns: int
) -> None:
    corner = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    corner[: HEIGHT // 2, : WIDTH // 2] = 200
    write_video(tmp_path / "plain.mp4", [corner] * 3, 25)
    plain = open_video(tmp_path / "plain.mp4").read([1]).frames[0]
    path = turned(tmp_path / "plain.mp4", tmp_path / "turned.mp4", cosine, sine)
    video = open_video(path)
    assert video.size == ((WIDTH, HEIGHT) if turns % 2 else (HEIGHT, WIDTH))
    assert np.array_equal(video.read([1]).frames[0], np.rot90(plain, turns))
    small = open_video(path, size=(12, 22)).read([1]).frames[0]
    assert small.shape == (12, 22, 3)
    expected = np.asarray(Image.fromarray(np.rot90(plain, turns).copy()).resize((22, 12)))
    assert np.abs(small.astype(int) - expected).mean() < 12


@pytest.mark.parametrize(
    ("cosine", "sine", "turns"), [(1, 0, 0), (0, 1, 3), (-1, 0, 2), (0, -1, 1)]
)
def test_a_mirror_is_honoured(tmp_path: Path, cosine: int, sine: int, turns: int) -> None:
    """As the cameras beside a screen write it; a turn alone would stand on its head."""
    levels = np.add.outer(np.arange(HEIGHT) * 2, np.arange(WIDTH)).astype(np.uint8)
    picture = np.repeat(levels[..., None], 3, 2)
    write_video(tmp_path / "plain.mp4", [picture] * 3, 25)
    plain = open_video(tmp_path / "plain.mp4").read([1]).frames[0]
    path = turned(tmp_path / "plain.mp4", tmp_path / "turned.mp4", cosine, sine, across=-1)
    video = open_video(path)
    assert video.size == ((WIDTH, HEIGHT) if turns % 2 else (HEIGHT, WIDTH))
    assert np.array_equal(video.read([1]).frames[0], np.rot90(plain[:, ::-1], turns))


def test_rotation_by_a_phone_shows_the_sky_above(tmp_path: Path) -> None:
    """Matrix (0, 1, -1, 0): turn the stored frame clockwise, as players do."""
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[:, : WIDTH // 2] = 200  # The left of the stored frame becomes the top.
    write_video(tmp_path / "plain.mp4", [stored] * 3, 25)
    path = turned(tmp_path / "plain.mp4", tmp_path / "turned.mp4", 0, 1)
    shown = open_video(path).read([0]).frames[0]
    assert shown[: WIDTH // 2 - 2].mean() > 190
    assert shown[WIDTH // 2 + 2 :].mean() < 10


def test_few_frames_cost_few_decoded_ones(steady: Path) -> None:
    reader = FileReader(steady)
    assert [index for index, _ in reader.stream([22, 44])] == [22, 44]
    assert reader.seeks == 2
    assert reader.decoded <= 2 * (BETWEEN_KEYS + 2)


def test_one_seek_a_touched_group_and_none_when_most_are_touched(steady: Path) -> None:
    one_group = FileReader(steady)
    list(one_group.stream([21, 22, 24, 26]))
    assert one_group.seeks == 1
    most = FileReader(steady)
    wanted = list(range(2, COUNT, 4))
    found = dict(most.stream(wanted))
    assert numbers(np.stack([found[i] for i in wanted])) == wanted
    assert most.seeks == 0
    assert most.decoded <= COUNT


def test_clips_are_the_whole_video_in_order(steady: Path) -> None:
    video = open_video(steady)
    clips = list(video.clips(11))
    assert [len(clip) for clip in clips] == [11, 11, 11, 11, 3]
    assert numbers(np.concatenate([clip.frames for clip in clips])) == list(range(COUNT))
    assert np.array_equal(np.concatenate([clip.times for clip in clips]), video.times)
    some = list(video.clips(3, every=5, first=2, stop=30))
    assert [clip.indices.tolist() for clip in some] == [[2, 7, 12], [17, 22, 27]]


def test_sampling_rules(steady: Path) -> None:
    video = open_video(steady)
    assert video.sample(UniformSampling(count=3)).indices.tolist() == [7, 23, 39]
    assert UniformSampling(count=COUNT).choose(video).tolist() == list(range(COUNT))
    distinct = UniformSampling(count=COUNT - 3).choose(video)
    assert len(set(distinct.tolist())) == COUNT - 3
    rate = RateSampling(rate=float(NTSC) / 3).choose(video)
    assert rate.tolist() == list(range(0, COUNT, 3))
    assert RateSampling(rate=float(NTSC)).choose(video).tolist() == list(range(COUNT))
    doubled = RateSampling(rate=2 * float(NTSC)).choose(video)
    assert doubled.tolist() == [i // 2 for i in range(2 * COUNT)]
    assert KeyFrameSampling().choose(video).tolist() == list(range(0, COUNT, BETWEEN_KEYS))
    assert KeyFrameSampling(most=3).choose(video).tolist() == [7, 21, 35]
    assert AllSampling().choose(video).tolist() == list(range(COUNT))
    assert set(SAMPLINGS) == {"uniform", "rate", "times", "key_frames", "all"}
    assert all(kind.model_fields["kind"].default == name for name, kind in SAMPLINGS.items())


def test_uniform_sampling_of_uneven_times_has_no_frame_twice() -> None:
    class Uneven:
        name = "uneven"
        times = np.array([0.0, 0.1, 0.2, 0.3, 9.0])
        duration = 10.0
        key_frames = np.arange(5)

    found = UniformSampling(count=4).choose(Uneven())
    # All four middles fall on frame 3; there is room for one behind it.
    assert found.tolist() == [1, 2, 3, 4]


def test_short_videos_are_an_error_or_told(steady: Path) -> None:
    video = open_video(steady)
    with pytest.raises(InputError, match=f"{COUNT + 1} frames are asked for, it has {COUNT}"):
        video.sample(UniformSampling(count=COUNT + 1))
    assert len(UniformSampling(count=99, short="all").choose(video)) == COUNT
    assert len(UniformSampling(count=99, short="repeat").choose(video)) == 99
    with pytest.raises(InputError, match=r"48 frames at 30.5 a second, at most 13"):
        RateSampling(rate=30.5, most=13).choose(video)
    with pytest.raises(InputError, match=r"time 7 s is asked for \(1 outside\)"):
        video.sample(TimesSampling(times=(0.5, 7.0)))


def test_broken_files_are_named(steady: Path, tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("no video at all" * 99)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(steady.read_bytes()[:1500])
    told = {
        tmp_path / "none.mp4": "does not exist; correct the path",
        empty: r"is empty \(0 bytes\)",
        text: "cannot be opened as a video",
        cut: "cannot be opened as a video",
    }
    for path, words in told.items():
        with pytest.raises(MediaError, match=words) as caught:
            open_video(path)
        assert str(path) in str(caught.value)
        with pytest.raises(MediaError, match=words):
            open_video(path, damage="count")
    with pytest.raises(MediaError, match="holds no frame; allowed: images"):
        (tmp_path / "folder").mkdir()
        open_video(tmp_path / "folder")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        samples = np.zeros((1, 800), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="holds no video, only sound"):
        open_video(path)


@pytest.mark.parametrize("part", [0.31, 0.71, 0.93])
def test_a_file_cut_off_is_never_silently_short(noisy: Path, tmp_path: Path, part: float) -> None:
    content = (noisy / "first.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(MediaError, match=rf"frames are there of the {COUNT} its header") as caught:
        open_video(path)
    # What helps from anywhere comes before what helps in Python, which is named in full.
    assert "again, or write what is there anew, as `ffmpeg -i FILE NEW` does" in str(caught.value)
    assert "chiasm.data.video.open_video(FILE, damage='count') counts" in str(caught.value)
    video = open_video(path, damage="count")
    assert 5 < len(video) < COUNT
    assert any(f"of the {COUNT}" in fault for fault in video.faults)
    whole = open_video(noisy / "first.mp4").read(range(len(video)))
    clip = video.read(range(len(video)))
    # The frame that the cut went through is told as missing, all others are right.
    assert clip.missing == (len(video) - 1,)
    assert np.array_equal(clip.frames, whole.frames[:-1])
    streamed = list(video.clips(5))
    assert sum(len(part) for part in streamed) == len(video) - 1
    assert [index for part in streamed for index in part.missing] == [len(video) - 1]


def test_a_matroska_file_cut_off_is_noticed_by_its_duration(noisy: Path, tmp_path: Path) -> None:
    whole = open_video(noisy / "matroska.mkv")
    assert len(whole) == COUNT
    assert whole.faults == ()
    content = (noisy / "matroska.mkv").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(content[: int(len(content) * 0.8)])
    with pytest.raises(MediaError, match=r"seconds are there of the 1\.88 its header tells of"):
        open_video(path)
    video = open_video(path, damage="count")
    assert 30 < len(video) < 45
    assert len(video.faults) == 1


def test_a_frame_that_cannot_be_decoded_is_an_error_or_counted(noisy: Path, tmp_path: Path) -> None:
    content = bytearray((noisy / "first.mp4").read_bytes())
    start = int(len(content) * 0.6)
    for place in range(start, start + 400):
        content[place] ^= 0x5A
    path = tmp_path / "flipped.mp4"
    path.write_bytes(content)
    with pytest.raises(
        MediaError, match=r"frame \d+ at \d\.\d+ s cannot be decoded; downl.*ffmpeg"
    ):
        open_video(path).read(range(COUNT))
    clip = open_video(path, damage="count").read(range(COUNT))
    assert clip.missing
    assert len(clip) + len(clip.missing) == COUNT
    assert set(clip.indices) | set(clip.missing) == set(range(COUNT))
    with pytest.raises(MediaError, match=r"In Python, `Video\.read` leaves it out and counts it"):
        open_video(path, damage="count").frames(range(COUNT))


def plainly_decoded(path: Path) -> int:
    """How many frames a decoder gives without a flag when nothing is asked of it."""
    count = 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with contextlib.suppress(av.FFmpegError):
                count += sum(not frame.is_corrupt for frame in packet.decode())
    return count


def test_what_a_decoder_paints_over_is_noticed(noisy: Path, tmp_path: Path) -> None:
    """Decoders make up what they cannot read; plainly asked, they flag only some such frames."""
    whole = (noisy / "first.mp4").read_bytes()
    path = tmp_path / "flipped.mp4"
    ours = plain = 0
    for tenth in range(1, 10):
        content = bytearray(whole)
        start = len(content) * tenth // 10
        for place in range(start, start + 400):
            content[place] ^= 0x5A
        path.write_bytes(content)
        missing = open_video(path, damage="count").read(range(COUNT)).missing
        ours += len(missing)
        plain += COUNT - plainly_decoded(path)
    assert ours > plain > 0


def test_a_folder_of_frames_is_in_the_order_of_numbers(tmp_path: Path) -> None:
    for index in (2, 10, 9, 1):
        Image.fromarray(grey(index)).save(tmp_path / f"frame{index}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    video = open_video(tmp_path, rate=5)
    assert numbers(video.read(range(4)).frames) == [1, 2, 9, 10]
    assert video.times.tolist() == [0, 0.2, 0.4, 0.6]
    assert video.duration == 0.8
    assert open_video(tmp_path, size=(3, 5)).read([0]).frames.shape == (1, 3, 5, 3)
    Image.fromarray(grey(3)[:-1]).save(tmp_path / "frame3.png")
    with pytest.raises(MediaError, match=r"frame3.png: is 33 x 58 pixels"):
        open_video(tmp_path).read(range(5))


def test_arrays_and_programs(steady: Path) -> None:
    array = np.stack([grey(i) for i in range(13)])
    video = open_video(array, rate=2)
    assert video.duration == 6.5
    assert numbers(video.sample(RateSampling(rate=1)).frames) == list(range(0, 13, 2))
    program = open_video(ArrayFrames(array, 4))
    assert program.times[-1] == 3
    # A video is itself a source of frames.
    again = open_video(open_video(steady))
    assert numbers(again.read([4, 40]).frames) == [4, 40]
    with pytest.raises(MediaError, match=r"float32 \(13, 34, 58, 3\) is not allowed"):
        open_video(array.astype(np.float32))
    with pytest.raises(InputError, match="it says itself when its frames are shown"):
        open_video(ArrayFrames(array), rate=3)
    with pytest.raises(InputError, match="it says itself when its frames are shown"):
        open_video(steady, rate=3)


def test_wrong_arguments_are_named(steady: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown video decoder 'decord'"):
        open_video(steady, decoder="decord")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="damage 'ignore' is not allowed"):
        open_video(steady, damage="ignore")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rate -1 is not allowed"):
        open_video(steady, rate=-1)
    with pytest.raises(InputError, match=r"size \(0, 5\)"):
        open_video(steady, size=(0, 5))
    video = open_video(steady)
    for wrong in ([], [-1], [COUNT]):
        with pytest.raises(InputError, match=f"index from 0 to {COUNT - 1}"):
            video.read(wrong)
    with pytest.raises(InputError, match="clips of 0 frames"):
        next(video.clips(0))


def test_torchcodec_gives_the_same_frames_or_says_what_is_missing(steady: Path) -> None:
    try:
        video = open_video(steady, decoder="torchcodec")
    except MissingExtraError as error:
        assert "torchcodec" in str(error)
        pytest.skip("torchcodec is not installed")
    ours = open_video(steady).read([3, 30]).frames.astype(int)
    assert np.abs(video.read([3, 30]).frames.astype(int) - ours).max() <= 2


def test_writing_refuses_what_no_file_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "bad.mp4"
    with pytest.raises(InputError, match="no frame to write"):
        write_video(path, [], 25)
    with pytest.raises(InputError, match=r"frame 0 is uint8 \(33, 58, 3\)"):
        write_video(path, [grey(0)[:-1]], 25)
    with pytest.raises(InputError, match=r"frame 1 is \(32, 58\), the first one \(34, 58\)"):
        write_video(path, [grey(0), grey(1)[:-2]], 25)
    with pytest.raises(InputError, match=r"frame 1 lies at 0\.00000 s"):
        write_video(path, [grey(0), grey(1)], 25, times=[0.0, 0.0])
    # By then the encoder has given frames to the file.
    with pytest.raises(InputError, match=rf"frame {COUNT} is \(32, 58\)"):
        write_video(path, [*map(grey, range(COUNT)), grey(1)[:-2]], 25)
    # Neither the file nor a part of it is left behind.
    assert list(tmp_path.iterdir()) == []


def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    files = [tmp_path / "once.mp4", tmp_path / "again.mp4"]
    for file in files:
        write_video(file, map(grey, range(COUNT)), NTSC, key_frames=BETWEEN_KEYS)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_pieces_may_hold_a_frame_several_times(steady: Path) -> None:
    video = open_video(steady)
    pieces = list(video.pieces([0, 0, 3, 3, 3, 4], 4))
    assert [numbers(piece.frames) for piece in pieces] == [[0, 0, 3, 3], [3, 4]]
    assert [piece.indices.tolist() for piece in pieces] == [[0, 0, 3, 3], [3, 4]]
    for indices, length in (([3, 1], 4), ([], 4), ([0], 0), ([COUNT], 4), ([-1], 4)):
        with pytest.raises(InputError, match="pieces of at least 1 and ascending indices from 0"):
            list(video.pieces(indices, length))


def write_at(path: Path, ticks: list[int], codec: str, rate: int = 10) -> Path:
    """Write frames that are shown at some ticks of a clock of `rate` a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, tick in enumerate(ticks):
            noise = np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(noise)
            frame.pts, frame.time_base = tick, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_video_that_begins_late_is_not_damaged(tmp_path: Path) -> None:
    video = open_video(write_at(tmp_path / "late.mkv", list(range(50, 70)), "mpeg4"))
    assert (len(video), video.faults) == (20, ())
    assert (video.times[0], video.duration) == pytest.approx((5.0, 2.0), abs=2e-3)


def test_frames_that_a_format_leaves_empty_are_not_missing(tmp_path: Path) -> None:
    ticks = [0, 1, 2, 5, 6, 9, *range(12, 40)]
    path = write_at(tmp_path / "uneven.avi", ticks, "mpeg4")
    video = open_video(path)
    assert video.times == pytest.approx(np.array(ticks) / 10)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(MediaError, match="frames are there of the 40 its header tells of"):
        open_video(path)
