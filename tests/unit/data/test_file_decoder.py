"""A recipe's decoder of video files reaches every place that opens them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chiasm.core.errors import MissingExtraError
from chiasm.core.samples import Sample
from chiasm.data.video_writing import write_video
from chiasm.inference.videos import ShownVideo
from chiasm.models.long_video import LongVideo
from tests.tiny_videos import noise, tiny_video

STREAMED: dict[str, Any] = {
    "frames": {"offsets": [-1]},
    "reader": {"attention": "linear", "causal": True},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_video(tmp_path / "a.mp4", noise(12), 5, quality=0)
    return tmp_path / "a.mp4"


def change_of(model: LongVideo, path: Path) -> NDArray[np.float32]:
    return ShownVideo.look(model, path).change.numpy()


@pytest.mark.parametrize("more", [{}, STREAMED])
def test_the_decoder_of_a_recipe_opens_files(path: Path, more: dict[str, Any]) -> None:
    model = tiny_video(file_decoder="torchcodec", **more)
    batches = [Sample("a", (), video=path)]
    if importlib.util.find_spec("torchcodec") is None:
        for read in (lambda: model.collator(batches), lambda: change_of(model, path)):
            with pytest.raises(MissingExtraError, match="torchcodec"):
                read()
        return
    assert np.abs(change_of(model, path) - change_of(tiny_video(**more), path)).max() < 3
    assert model.collator(batches).videos is not None
