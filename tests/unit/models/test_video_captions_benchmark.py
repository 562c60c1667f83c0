"""The benchmark of captions: its rows and numbers, and states that are kept for the next call."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import video_captions
from benchmarks.video_captions import Videos, measure, score, watch
from chiasm.heads.captions import CaptionHeadConfig
from tests.tiny_videos import tiny_video


def told(*captions: str) -> Videos:
    return Videos(torch.zeros(len(captions), 1, 1), torch.ones(len(captions), 1), list(captions))


def test_words_are_scored_by_kind_as_often_as_they_stand_there() -> None:
    truth, last = "a red star moves, then the red star blinks", "a blue ring turns"
    same = score([truth, last], told(truth, last))
    assert same["rouge_l"] == pytest.approx(1) and same["acts"] == same["shapes"] == 1
    other = score(["a red ring moves, then a blue star moves", last], told(truth, last))
    assert other["colours"] == other["shapes"] == other["acts"] == 0.75


def test_rows_of_a_tiny_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(video_captions, "BATCH", 2)
    model = tiny_video(sampling={"kind": "uniform", "count": 5}, memory=3)
    config = CaptionHeadConfig(width=14, heads=2, layers=1, longest=64)
    counts = {"train": 3, "test": 2}
    found = measure(model, [0], 2, 1e-3, config, counts, tmp_path)
    assert list(found["rows"]) == ["frequent", "constant", "caption head", "shuffled", "no video"]
    assert all(set(row) == set(video_captions.NUMBERS) for [row] in found["rows"].values())
    kept, fresh = (watch(model, "test", 2, folder) for folder in (tmp_path, None))
    assert torch.equal(kept.states, fresh.states) and kept.captions == fresh.captions
    assert kept.states.shape[1] == 3
