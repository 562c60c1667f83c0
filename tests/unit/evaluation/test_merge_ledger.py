"""The merge ledger: tokens add up, merging is timed by itself, memory is that of its stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from chiasm.core.config import read_config
from chiasm.core.errors import InputError
from chiasm.data.world.motion_worlds import MotionDataset
from chiasm.evaluation.merge_ledger import LedgerRow, MergeLedger, keep_ledger
from chiasm.evaluation.merge_ledger_page import render_ledgers, save_ledgers
from chiasm.evaluation.video_stages import LedgerStage, count_tokens, video_stages
from chiasm.recipes.objective_choice import ObjectiveChoice
from chiasm.recipes.video_choice import VideoChoice
from chiasm.recipes.video_models import build_video
from tests.unit.compression.clips import clip_tokens
from tests.unit.evaluation.watchers import COLUMNS, FRAMES, ROWS, Watcher, video

CELLS = FRAMES * ROWS * COLUMNS
NAMES = ["decode", "encode", "read", "predict", "total"]


def ledger(ratio: float | None, **options: Any) -> MergeLedger:
    model = Watcher(ratio)
    stages = video_stages(model, video(), **options)
    return keep_ledger(stages, video(), merging=model.reading, repeats=3, memory=False)


def test_tokens_without_merging() -> None:
    found = ledger(None)
    assert [row.name for row in found.rows] == NAMES
    assert [(row.tokens_in, row.tokens_out) for row in found.rows] == [
        (None, CELLS),
        (CELLS, CELLS),
        (CELLS, CELLS),
        (CELLS, None),
        (None, None),
    ]
    assert all(len(row.milliseconds) == 3 and row.peak is None for row in found.rows)


def test_merging_inside_of_the_encoder_has_a_row_of_its_own() -> None:
    found = ledger(0.4)
    assert [row.name for row in found.rows] == [*NAMES[:2], "merge", *NAMES[2:]]
    kept = round(0.4 * 6 * ROWS * COLUMNS) + round(0.4 * 5 * ROWS * COLUMNS)
    merge = found.row("merge")
    assert (merge.tokens_in, merge.tokens_out) == (CELLS, kept)
    assert (found.row("encode").tokens_in, found.row("encode").tokens_out) == (CELLS, kept)
    assert found.row("read").tokens_in == kept
    stages = [row.milliseconds for row in found.rows[:-1]]
    total = found.row("total").milliseconds
    assert [sum(times) for times in zip(*stages, strict=True)] == pytest.approx(list(total))
    assert found.milliseconds("encode", "merge") <= max(total)
    with pytest.raises(InputError, match=r"no stage 'fuse' in the ledger; it has decode, encode"):
        found.row("fuse")


def test_times_are_medians_over_runs_of_stages_together() -> None:
    first = LedgerRow("first", None, None, (1.0, 2.0, 9.0))
    second = LedgerRow("second", None, None, (5.0, 1.0, 1.0))
    found = MergeLedger((first, second))
    assert (first.median, second.median) == (2.0, 1.0)
    # 6, 3 and 10: neither the sum of medians nor a mean.
    assert found.milliseconds("first", "second") == 6.0


def test_a_stage_after_one_without_tokens_takes_none_in() -> None:
    stages = [
        LedgerStage("count", lambda x: x, lambda x: x),
        LedgerStage("say", str),
        LedgerStage("read", int, lambda x: x),
    ]
    found = keep_ledger(stages, 7, memory=False)
    counts = [(row.tokens_in, row.tokens_out) for row in found.rows]
    assert counts == [(None, 7), (7, None), (None, 7), (None, 7)]


def test_the_family_long_video_keeps_a_ledger() -> None:
    choice = {
        "frames": {"cell": 16, "stem": 5, "channels": [7], "width": 22},
        "reader": {"attention": "dense", "options": {}, "depth": 2, "heads": 2},
        "answer_head": {"depth": 1, "heads": 2},
        "sampling": {"kind": "uniform", "count": 23},
        "compression": {"kind": "similarity", "ratio": 0.5},
        "clip": 7,
        "by_domain": {"adapters": {"rank": 2}},
    }
    model = build_video(read_config(VideoChoice, choice, "video"), ObjectiveChoice(answers=1.0))
    sample = MotionDataset(world="motion", seed=3, count=1)[0]
    own = model.reading.compression
    found = keep_ledger(
        video_stages(model.eval(), sample), sample, merging=model.reading, repeats=1, memory=False
    )
    merge = found.row("merge")
    # Clips of 7, 7, 7 and 2 frames of 16 cells.
    assert (merge.tokens_in, merge.tokens_out) == (23 * 16, 3 * 56 + 16)
    assert found.row("read").tokens_in == merge.tokens_out
    assert model.reading.compression is own


class Slow:
    """A compression that takes its time."""

    def compress(self, tokens: Any, frames: Any = None, **options: Any) -> Any:
        time.sleep(0.02)
        return tokens


def test_the_time_of_merging_is_taken_out_of_the_encoders() -> None:
    model = Watcher()
    model.reading.compression = slow = Slow()
    stages = video_stages(model, video())
    found = keep_ledger(stages, video(), merging=model.reading, repeats=3, memory=False)
    # Two clips.
    assert found.row("merge").median >= 40
    assert found.row("encode").median < 30
    assert model.reading.compression is slow


class Clock:
    """Tells a second more each time that it is asked."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


class Recording:
    """A compression that keeps what it was given, and gives one token more each time."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    def compress(self, tokens: Any, frames: Any = None, **options: Any) -> Any:
        self.given.append({"tokens": tokens, "frames": frames, **options})
        return clip_tokens([(1, 1, len(self.given))], width=3)


class Encoder:
    """Merges in two calls, and then works as long as it is told to, run by run."""

    def __init__(self, clock: Clock, *work: float) -> None:
        self.clock, self.work = clock, list(work)
        self.compression: Any = Recording()
        self.options = {"importance": object(), "attention": object(), "progress": 0.375}

    def encode(self, tokens: Any) -> Any:
        for frames in ("first", "second"):
            merged = self.compression.compress(tokens, frames, **self.options)
        self.clock.now += self.work.pop(0)
        return merged


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("chiasm.evaluation.merge_ledger.perf_counter", clock)
    return clock


def test_looking_at_merging_and_the_warm_up_cost_nothing(clock: Clock) -> None:
    model = Encoder(clock, 1000, 200, 30)
    stages = [LedgerStage("encode", model.encode, count_tokens)]
    source = clip_tokens([(1, 5, 7)], width=3)
    found = keep_ledger(stages, source, merging=model, repeats=2, memory=False)
    # Two calls to merge: of each, a second inside, and one before and one after it for looking.
    # Between those three calls of the clock and the stage's own lie three seconds more.
    assert found.row("merge").milliseconds == (2000.0, 2000.0)
    assert found.row("encode").milliseconds == (203_000.0, 33_000.0)
    assert found.row("total").milliseconds == (205_000.0, 35_000.0)
    assert found.context["repeats"] == 2


def test_merging_is_told_all_that_it_would_be_told_unobserved(clock: Clock) -> None:
    model = Encoder(clock, 0, 0)
    own = model.compression
    source = clip_tokens([(1, 5, 7)], width=3)
    stages = [LedgerStage("encode", model.encode, count_tokens)]
    found = keep_ledger(stages, source, merging=model, repeats=1, memory=False)
    calls = [{"tokens": source, "frames": name, **model.options} for name in ("first", "second")]
    assert own.given == calls * 2
    # Counts are of the last run, as the stage's own are: 3 and 4 tokens, of which 4 went on.
    merge, encode = found.row("merge"), found.row("encode")
    assert (merge.tokens_in, merge.tokens_out, encode.tokens_out) == (70, 3 + 4, 4)


def test_the_total_takes_what_the_first_stage_takes_and_gives_what_the_last_one_gives() -> None:
    stages = [
        LedgerStage("count", lambda x: x, lambda x: x),
        LedgerStage("double", lambda x: 2 * x, lambda x: x),
        LedgerStage("more", lambda x: x + 3, lambda x: x),
    ]
    total = keep_ledger(stages, 7, repeats=1, memory=False).row("total")
    assert (total.tokens_in, total.tokens_out) == (None, 17)


def test_stages_run_without_a_model_and_what_is_said_is_finished() -> None:
    said: list[Any] = []
    assert ledger(0.4, finish=said.append).row("predict").tokens_out is None
    assert len(said) == 4 and set(said[0]) == {"mean"}
    stages = [LedgerStage("double", lambda x: 2 * x, lambda x: x)]
    assert keep_ledger(stages, 21, memory=False).row("double").tokens_out == 42


def test_memory_is_that_of_each_stage() -> None:
    # In a process of its own: a fork of one with threads may not be safe.
    program = """
import sys
from chiasm.evaluation.merge_ledger import keep_ledger
from chiasm.evaluation.video_stages import video_stages
from chiasm.recipes.objective_choice import ObjectiveChoice
from chiasm.recipes.video_choice import VideoChoice
from chiasm.recipes.video_models import build_video
from tests.unit.compression.clips import clip_tokens
from tests.unit.evaluation.watchers import Watcher, heavy, video

model = Watcher(0.4)
stages = [heavy("before", 48), *video_stages(model, video()), heavy("after", 24)]
found = keep_ledger(stages, video(), merging=model.reading, repeats=1)
sys.stdout.write(" ".join(f"{row.name} {row.peak}" for row in found.rows))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    peaks = dict(zip(words[::2], map(float, words[1::2]), strict=True))
    assert 46 <= peaks["before"] <= 56 and 22 <= peaks["after"] <= 32
    assert 46 <= peaks["total"] <= 60
    assert all(0 <= peaks[name] < 12 for name in ("decode", "encode", "merge", "read"))


def test_the_page_and_the_file(tmp_path: Path) -> None:
    ledgers = {"unmerged": ledger(None), "merged <to> 40 %": ledger(0.4)}
    path, page = save_ledgers(ledgers, tmp_path / "ledger.json")
    document = json.loads(path.read_text())
    assert document["merged <to> 40 %"]["rows"][2]["name"] == "merge"
    text = page.read_text()
    assert "merged &lt;to&gt; 40 %" in text and "<to>" not in text
    assert text.count("<table>") == 2 and text.count("times as fast</th>") == 1
    assert "http" not in text.replace("http://www.w3.org", "")
    one = render_ledgers({"unmerged": ledgers["unmerged"]})
    assert "times as fast</th>" not in one
    with pytest.raises(InputError, match="no ledger to write"):
        save_ledgers({}, tmp_path / "none.json")


def test_faults() -> None:
    model = Watcher(0.4)
    stages = video_stages(model, video())
    with pytest.raises(InputError, match=r"0 stages, 5 repeats, 1 for warm-up"):
        keep_ledger([], None)
    with pytest.raises(InputError, match=r"no stage 'fuse' to merge in; stages: decode, encode"):
        keep_ledger(stages, video(), merging=model.reading, within="fuse")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(InputError, match="2 threads for torch"):
            keep_ledger(stages, video(), merging=model.reading)
    finally:
        torch.set_num_threads(threads)
