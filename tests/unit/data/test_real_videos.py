"""Every real video decodes whole, with the duration, count and times that its packets tell."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from chiasm.data.video import open_video
from chiasm.data.video_index import index_video
from chiasm.data.video_sampling import UniformSampling
from tests.archives import unpack

av = pytest.importorskip("av", reason="the extra 'video' is not installed")

# Frames, and duration in seconds, as the packets of each file have them.
EXPECTED = {
    "01_dog.mp4": (289, Fraction(289 * 1001, 30000)),
    "03_blocks.mp4": (292, Fraction(292 * 1001, 30000)),
    "bedroom.mp4": (200, Fraction(200, 30)),
    "demo.mp4": (280, Fraction(10)),
    "demo_spatiotemporal_det.mp4": (57, Fraction(57, 6)),
    "test.mp4": (300, Fraction(10)),
    "1.mp4": (243, Fraction(243, 25)),
    "2.avi": (270, Fraction(270 * 12, 359)),
    "3.mp4": (146, Fraction(146 * 1001, 24000)),
}


@pytest.fixture(scope="module")
def videos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    archive = shared_data / "videos.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive.name} among the real data")
    folder = tmp_path_factory.mktemp("real")
    unpack(archive, folder)
    return {path.name: path for path in folder.rglob("*.*") if path.suffix in (".mp4", ".avi")}


def test_no_video_is_forgotten(videos: dict[str, Path]) -> None:
    assert set(videos) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_count_duration_and_times_are_those_of_the_packets(
    videos: dict[str, Path], name: str
) -> None:
    index = index_video(videos[name])
    with av.open(str(videos[name])) as container:
        stream = container.streams.video[0]
        packets = sorted(
            (packet.pts * stream.time_base, packet.duration * stream.time_base)
            for packet in container.demux(stream)
            if packet.size
        )
    assert [index.time(i) for i in range(len(index))] == [time for time, _ in packets]
    assert index.duration == packets[-1][0] + packets[-1][1] - packets[0][0]
    assert (len(index), index.duration) == EXPECTED[name]
    assert index.damage == ()


@pytest.mark.parametrize("name", EXPECTED)
def test_every_frame_decodes_and_lies_at_its_own_time(videos: dict[str, Path], name: str) -> None:
    video = open_video(videos[name], size=(47, 61))
    streamed = list(video.clips(64))
    assert sum(len(clip) for clip in streamed) == EXPECTED[name][0]
    with av.open(str(videos[name])) as container:
        stream = container.streams.video[0]
        decoded = [float(frame.pts * stream.time_base) for frame in container.decode(stream)]
    assert np.concatenate([clip.times for clip in streamed]).tolist() == decoded
    # The frames picked by seeking are those that reading through gives.
    picked = video.sample(UniformSampling(count=5))
    whole = np.concatenate([clip.frames for clip in streamed])
    assert np.array_equal(picked.frames, whole[picked.indices])
